//! Which rows a contact sheet shows: one pass over a dataset without its images, in memory that does not grow with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rows::{Address, Columns, Dataset, Row, score_column};
use crate::error::{Error, Result};

/// Rows of one record that are shown beside each other; a record with more variants shows the first of them.
pub(crate) const MAX_VARIANTS: usize = 8;

/// The order of a sheet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Order {
    /// Records from all over the dataset, evenly spread, in its order.
    #[default]
    Spread,
    /// Lowest value of a score column first (for PSNR and SSIM: the worst).
    Ascending(String),
    /// Highest value of a score column first.
    Descending(String),
}

/// Rows that belong together: variants of one record, or neighbours with the same key and the same source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) rows: Vec<Address>,
    /// Rows beyond [`MAX_VARIANTS`].
    pub(crate) more: usize,
}

/// What the pass over a dataset found.
#[derive(Debug, Default)]
pub(crate) struct Picked {
    /// The groups to show, in order.
    pub(crate) groups: Vec<Group>,
    /// All groups with at least one row that did not fail.
    pub(crate) group_count: u64,
    /// All rows.
    pub(crate) rows: u64,
    /// All failed rows.
    pub(crate) failed: u64,
    /// Mean of the finite values of each score column, in the order of the schema.
    pub(crate) means: Vec<(Arc<str>, f64)>,
}

/// Sums that are as exact for ten million rows as for ten (Neumaier).
#[derive(Default, Clone, Copy)]
struct Mean {
    sum: f64,
    lost: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        self.lost += if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.sum = sum;
        self.count += 1;
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| (self.sum + self.lost) / self.count as f64)
    }
}

/// A group while its rows come in.
struct Open {
    key: String,
    sha256: Option<String>,
    offset: u64,
    partition: crate::checkpoint::Partition,
    group: Group,
    /// The value to sort by: of the row that would come first.
    value: Option<f64>,
    shown: bool,
}

/// Keeps the wanted number of groups of a stream of groups.
struct Keeper<'o> {
    order: &'o Order,
    wanted: usize,
    /// `Spread`: every `step`-th group. Else: the best so far, by their place in the order and then in the dataset.
    step: u64,
    spread: Vec<Group>,
    best: BTreeMap<(Sortable, u64), Group>,
    seen: u64,
}

/// An `f64` in total order.
#[derive(PartialEq, Clone, Copy)]
struct Sortable(f64);

impl Eq for Sortable {}

impl PartialOrd for Sortable {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sortable {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Keeper<'_> {
    fn add(&mut self, group: Group, value: Option<f64>) {
        let number = self.seen;
        self.seen += 1;
        match self.order {
            Order::Spread => {
                if number.is_multiple_of(self.step) {
                    self.spread.push(group);
                }
                // Twice as many as wanted: keep every other one, and look half as often from here on.
                if self.spread.len() > 2 * self.wanted {
                    let mut index = 0;
                    self.spread.retain(|_| {
                        index += 1;
                        index % 2 == 1
                    });
                    self.step *= 2;
                }
            }
            Order::Ascending(_) | Order::Descending(_) => {
                let Some(value) = value else { return };
                let place = if matches!(self.order, Order::Descending(_)) { -value } else { value };
                self.best.insert((Sortable(place), number), group);
                if self.best.len() > self.wanted {
                    self.best.pop_last();
                }
            }
        }
    }

    fn finish(self) -> Vec<Group> {
        match self.order {
            Order::Spread => {
                let have = self.spread.len();
                let wanted = self.wanted.min(have);
                (0..wanted).map(|i| self.spread[i * have / wanted].clone()).collect()
            }
            Order::Ascending(_) | Order::Descending(_) => self.best.into_values().collect(),
        }
    }
}

/// Picks `wanted` groups of `dataset`. `Error::Config` where the score to sort by is no column.
pub(crate) async fn pick(dataset: &Dataset, wanted: usize, order: &Order) -> Result<Picked> {
    let mut picked = Picked::default();
    let mut means: Vec<(Arc<str>, Mean)> = Vec::new();
    let mut keeper = Keeper { order, wanted, step: 1, spread: Vec::new(), best: BTreeMap::new(), seen: 0 };
    let mut open: Option<Open> = None;
    let mut rows = dataset.rows(Columns::Facts);
    while let Some(row) = rows.next().await? {
        picked.rows += 1;
        picked.failed += u64::from(row.failure.is_some());
        if means.is_empty() {
            means = row.scores.iter().map(|(name, _)| (name.clone(), Mean::default())).collect();
            check(order, &row)?;
        }
        for (name, value) in &row.scores {
            let mean = means.iter_mut().find(|(known, _)| known == name);
            if let (Some((_, mean)), Some(value)) = (mean, value.filter(|value| value.is_finite())) {
                mean.add(value);
            }
        }
        let same = open.as_ref().is_some_and(|open| {
            let one_record = open.partition == row.position.partition && open.offset == row.position.offset;
            one_record || (open.key == row.key && open.sha256.is_some() && open.sha256 == row.sha256)
        });
        if !same && let Some(done) = open.take() {
            close(done, &mut keeper);
        }
        let open = open.get_or_insert_with(|| Open {
            key: row.key.clone(),
            sha256: row.sha256.clone(),
            offset: row.position.offset,
            partition: row.position.partition.clone(),
            group: Group { rows: Vec::new(), more: 0 },
            value: None,
            shown: false,
        });
        open.add(&row, order);
    }
    if let Some(done) = open {
        close(done, &mut keeper);
    }
    picked.group_count = keeper.seen;
    picked.groups = keeper.finish();
    picked.means = means.into_iter().filter_map(|(name, mean)| Some((name, mean.value()?))).collect();
    Ok(picked)
}

impl Open {
    fn add(&mut self, row: &Row, order: &Order) {
        if self.group.rows.len() < MAX_VARIANTS {
            self.group.rows.push(row.at);
        } else {
            self.group.more += 1;
        }
        self.sha256 = self.sha256.take().or_else(|| row.sha256.clone());
        self.shown |= row.failure.is_none();
        let (column, first): (_, fn(f64, f64) -> f64) = match order {
            Order::Spread => return,
            Order::Ascending(column) => (column, f64::min),
            Order::Descending(column) => (column, f64::max),
        };
        if let Some(value) = row.score(column) {
            self.value = Some(self.value.map_or(value, |so_far| first(so_far, value)));
        }
    }
}

fn close(done: Open, keeper: &mut Keeper<'_>) {
    if done.shown {
        keeper.add(done.group, done.value);
    }
}

/// Refuses to sort by what is no score column of this dataset.
fn check(order: &Order, row: &Row) -> Result<()> {
    let (Order::Ascending(column) | Order::Descending(column)) = order else { return Ok(()) };
    let known: Vec<&str> = row.scores.iter().map(|(name, _)| &**name).collect();
    if known.contains(&column.as_str()) {
        return Ok(());
    }
    let hint = match known.is_empty() {
        true => "this dataset has no scores (section `score` of the pipeline file)".to_owned(),
        false => format!("score columns are {}", known.join(", ")),
    };
    let shape = if score_column(column).is_some() { "" } else { " (an image column, a score and its profile)" };
    Err(Error::Config(format!("no score column `{column}`{shape} to sort by: {hint}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u64) -> Group {
        Group { rows: vec![Address { part: 0, row: number }], more: 0 }
    }

    fn keep(order: &Order, wanted: usize, values: impl Iterator<Item = f64>) -> Vec<u64> {
        let mut keeper = Keeper { order, wanted, step: 1, spread: Vec::new(), best: BTreeMap::new(), seen: 0 };
        for (number, value) in values.enumerate() {
            keeper.add(group(number as u64), Some(value));
            assert!(keeper.spread.len() <= 2 * wanted + 1 && keeper.best.len() <= wanted + 1);
        }
        keeper.finish().iter().map(|group| group.rows[0].row).collect()
    }

    #[test]
    fn spread_covers_everything_in_order() {
        for total in [1usize, 5, 8, 9, 16, 17, 100, 1000, 12345] {
            let kept = keep(&Order::Spread, 8, std::iter::repeat_n(0.0, total));
            assert_eq!(kept.len(), total.min(8), "of {total}");
            assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!(kept[0], 0);
            let last = kept[kept.len() - 1] as usize;
            assert!(last * 4 >= (total - 1) * 3 || total <= 8 && last == total - 1, "{kept:?} of {total}");
        }
    }

    #[test]
    fn sorted_keeps_the_ends_and_is_stable() {
        let values = [3.0, f64::INFINITY, 1.0, 2.0, 1.0, 7.0];
        assert_eq!(keep(&Order::Ascending("x".into()), 3, values.into_iter()), [2, 4, 3]);
        assert_eq!(keep(&Order::Descending("x".into()), 3, values.into_iter()), [1, 5, 0]);
    }

    #[test]
    fn means_do_not_drift() {
        let mut mean = Mean::default();
        (0..1_000_000).for_each(|_| mean.add(0.1));
        assert!((mean.value().unwrap() - 0.1).abs() < 1e-15);
        assert_eq!(Mean::default().value(), None);
    }
}
