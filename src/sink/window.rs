//! Puts the items of one partition back into the order in which they were read.
//!
//! Order is by `seq`, which has no gaps, not by offset, which has. Only encoded bytes wait here.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::sample::{Item, Origin, Reference, Sample};

/// Memory of a row besides its images, about.
const ROW_BYTES: u64 = 1024;

/// The items of one epoch that arrived before their turn.
#[derive(Debug, Default)]
pub(crate) struct Window {
    next: u64,
    waiting: BTreeMap<u64, Item>,
    bytes: u64,
}

impl Window {
    /// Takes `item`; it must be of the window's epoch.
    pub(crate) fn push(&mut self, item: Item) -> Result<()> {
        if item.seq < self.next || self.waiting.contains_key(&item.seq) {
            return Err(Error::Bug(format!("item {} of {} came twice", item.seq, item.record.position)));
        }
        self.bytes += weight(&item);
        self.waiting.insert(item.seq, item);
        Ok(())
    }

    /// Lets `item` pass by if it is its turn; it comes back if not.
    pub(crate) fn pass(&mut self, item: Item) -> Result<Item, Item> {
        if item.seq != self.next {
            return Err(item);
        }
        self.next += 1;
        Ok(item)
    }

    /// The next item in order, if it is here.
    pub(crate) fn pop(&mut self) -> Option<Item> {
        let item = self.waiting.remove(&self.next)?;
        self.next += 1;
        self.bytes -= weight(&item);
        Some(item)
    }

    /// Number of items that came out.
    pub(crate) fn released(&self) -> u64 {
        self.next
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True if a row that could still be tried again waits here.
    pub(crate) fn provisional_above(&self, settled: Option<u64>) -> bool {
        self.waiting.values().any(|item| item.provisional > settled)
    }
}

/// Bytes of an item's rows.
pub(crate) fn weight(item: &Item) -> u64 {
    let record = item.record.bytes();
    item.samples.iter().map(|sample| row_weight(record, sample)).sum()
}

/// Bytes of one row of a record that holds `record` bytes: it stands in each of its rows.
pub(crate) fn row_weight(record: u64, sample: &Sample) -> u64 {
    ROW_BYTES + record + sample.encoded.bytes()
}

/// Drops what no column needs: pixels and source files.
pub(crate) fn lighten(item: &mut Item) {
    for sample in &mut item.samples {
        lighten_sample(sample);
    }
    if let Some(record) = Arc::get_mut(&mut item.record) {
        for reference in [Some(&mut record.reference), record.target.as_mut()].into_iter().flatten() {
            if let Reference::Inline { bytes, .. } = reference {
                *bytes = Bytes::new();
            }
        }
    }
}

/// Drops the pixels and source files of a sample whose images are encoded.
pub(crate) fn lighten_sample(sample: &mut Sample) {
    sample.image = None;
    sample.target = None;
    sample.output = None;
    sample.baseline = None;
    sample.target_origin = None;
    if let Some(origin) = sample.origin.as_mut().filter(|origin| !origin.bytes.is_empty() || origin.icc.is_some()) {
        let bare = |o: &Origin| Origin { bytes: Bytes::new(), icc: None, ..*o };
        *origin = Arc::new(bare(origin));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Partition, Position};
    use crate::sample::Record;

    fn item(seq: u64) -> Item {
        let position = Position { partition: Partition::of_file(0, 0), offset: seq * 3 };
        let record = Record::new(String::new(), Reference::Missing, position);
        let samples = vec![Sample::default()];
        Item { record: Arc::new(record), epoch: 0, seq, samples, attempts: 1, provisional: None }
    }

    #[test]
    fn items_come_out_in_order_and_once() {
        let mut window = Window::default();
        for seq in [2, 0, 3] {
            window.push(item(seq)).unwrap();
        }
        assert_eq!(window.pop().unwrap().seq, 0);
        assert!(window.pop().is_none());
        assert!(window.push(item(0)).is_err() && window.push(item(3)).is_err());
        window.push(item(1)).unwrap();
        assert_eq!(std::iter::from_fn(|| window.pop()).map(|i| i.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((window.released(), window.bytes()), (4, 0));
    }
}
