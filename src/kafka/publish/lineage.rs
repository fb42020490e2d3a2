//! Where a message comes from, as its headers say, and what the last messages of a topic say of where to go on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::{Offset, TopicPartitionList};

use super::topic::Topic;
use crate::error::{Error, Result};
use crate::kafka::failed;

const INPUT: &str = "lm4lv.input";
const ROW: &str = "lm4lv.row";
const N: &str = "lm4lv.n";

/// Offsets that are looked at first from a partition's end: a message and the mark that ends its transaction.
const FIRST_STEP: i64 = 2;
/// How much further back each next look begins.
const FARTHER: i64 = 8;
/// No message and no end of a partition for so long: something is wrong.
const SILENCE: Duration = Duration::from_secs(30);

/// Where a message comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lineage {
    /// Which input, read how.
    pub(super) input: String,
    /// The row, counted over all files.
    pub(super) row: u64,
    /// The number of partitions that rows are spread over.
    pub(super) n: u64,
}

impl Lineage {
    /// What a message says, if it says it all.
    fn of(message: &BorrowedMessage<'_>) -> Option<Self> {
        let headers = message.headers()?;
        let text = |name: &str| {
            let header = headers.iter().find(|header| header.key == name)?;
            std::str::from_utf8(header.value?).ok()
        };
        Some(Self { input: text(INPUT)?.to_owned(), row: text(ROW)?.parse().ok()?, n: text(N)?.parse().ok()? })
    }

    /// Headers of the same input and number of partitions.
    pub(super) fn template(&self) -> Template {
        let n = self.n.to_string();
        let fixed = OwnedHeaders::new_with_capacity(4)
            .insert(Header { key: INPUT, value: Some(&self.input) })
            .insert(Header { key: N, value: Some(&n) });
        Template { fixed, typed: None }
    }
}

/// The headers of one message after another.
pub(super) struct Template {
    fixed: OwnedHeaders,
    typed: Option<(&'static str, OwnedHeaders)>,
}

impl Template {
    /// The headers of `row`'s message.
    pub(super) fn of(&mut self, row: u64, content_type: &'static str) -> OwnedHeaders {
        if self.typed.as_ref().is_none_or(|(typed, _)| *typed != content_type) {
            let headers = self.fixed.clone().insert(Header { key: "content-type", value: Some(content_type) });
            self.typed = Some((content_type, headers));
        }
        let headers = self.typed.as_ref().map_or(&self.fixed, |(_, headers)| headers);
        headers.clone().insert(Header { key: ROW, value: Some(&row.to_string()) })
    }
}

/// The last message of a partition that counts.
#[derive(Debug, PartialEq, Eq)]
struct Last {
    offset: i64,
    lineage: Option<Lineage>,
}

/// The row to go on with in each partition of `topic`, for the input and number of partitions of `ours`. With `append`,
/// messages of others are passed by.
pub(super) fn resume(topic: &Topic, ours: &Lineage, append: bool) -> Result<Vec<u64>> {
    let (last, lows) = last_messages(topic, |lineage| !append || lineage.is_some_and(|its| its.input == ours.input))?;
    next_rows(&topic.name, &last, &lows, ours, append)
}

/// What the last messages mean. `lows` are the offsets where partitions begin.
fn next_rows(topic: &str, last: &BTreeMap<u64, Last>, lows: &[i64], ours: &Lineage, append: bool) -> Result<Vec<u64>> {
    let n = ours.n;
    let mut rows = BTreeMap::new();
    for (&p, Last { offset, lineage }) in last {
        let Some(lineage) = lineage else {
            return Err(Error::Config(format!(
                "topic {topic} holds messages that `lm4lv publish` did not write (the last of partition {p}, offset {offset}): \
                 publish to a topic of its own, or behind them with --append"
            )));
        };
        if lineage.input != ours.input {
            return Err(Error::Config(format!(
                "topic {topic} ends with rows of another input, or of this one with other columns or another --message \
                 (partition {p}, offset {offset}): publish to a topic of its own, or behind them with --append"
            )));
        }
        if lineage.n != n {
            return Err(Error::Config(format!(
                "topic {topic} has {n} partitions and had {} when publishing began, so its rows lie elsewhere: publish to a \
                 new topic",
                lineage.n
            )));
        }
        if lineage.row % n != p {
            return Err(Error::DataLoss(format!(
                "topic {topic}, partition {p}, offset {offset}: says that it is row {}, which belongs to partition {}: \
                 did somebody copy messages? Publish to a new topic",
                lineage.row,
                lineage.row % n
            )));
        }
        rows.insert(p, lineage.row);
    }
    let newest = rows.values().copied().max();
    let next = |(p, &low): (u64, &i64)| match (rows.get(&p), newest) {
        (Some(row), _) => Ok(row + n),
        // All rows up to the newest were sent in whole transactions; retention has taken this partition's since.
        (None, Some(newest)) if low > 0 => Ok(newest + 1 + (p + n - (newest + 1) % n) % n),
        (None, None) if low > 0 && !append => Err(Error::DataLoss(format!(
            "topic {topic}: retention has taken all messages of partition {p}, so nothing says which rows were published: \
             publish to a new topic"
        ))),
        (None, _) => Ok(p),
    };
    (0..).zip(lows).map(next).collect()
}

/// The last message of each partition whose lineage `counts`, and where each partition begins. Looks back from the ends in
/// growing steps, since marks of transactions and aborted messages may lie there.
fn last_messages(topic: &Topic, counts: impl Fn(Option<&Lineage>) -> bool) -> Result<(BTreeMap<u64, Last>, Vec<i64>)> {
    let what = format!("topic {}", topic.name);
    let mut lows = Vec::new();
    // By partition: look from the first offset on for messages below the second.
    let mut open: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for p in 0..topic.partitions as i32 {
        let (low, high) = topic.watermarks(p)?;
        lows.push(low);
        if high > low {
            open.insert(p, ((high - FIRST_STEP).max(low), high));
        }
    }
    let mut found = BTreeMap::new();
    let mut step = FIRST_STEP;
    while !open.is_empty() {
        let mut list = TopicPartitionList::new();
        for (&p, &(from, _)) in &open {
            list.add_partition_offset(&topic.name, p, Offset::Offset(from)).map_err(|error| failed(&what, &error))?;
        }
        topic.consumer.assign(&list).map_err(|error| failed(&what, &error))?;
        let mut reading = open.clone();
        let mut heard = Instant::now();
        while !reading.is_empty() {
            match topic.consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let p = message.partition();
                    let Some(&(_, end)) = reading.get(&p) else { continue };
                    if message.offset() < end {
                        let lineage = Lineage::of(&message);
                        if counts(lineage.as_ref()) {
                            found.insert(p as u64, Last { offset: message.offset(), lineage });
                        }
                    }
                    if message.offset() + 1 >= end {
                        reading.remove(&p);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(p))) => {
                    heard = Instant::now();
                    reading.remove(&p);
                }
                Some(Err(error)) if heard.elapsed() > SILENCE => return Err(topic.failed(&error)),
                None if heard.elapsed() > SILENCE => {
                    let reason = format!("no messages came for {} s", SILENCE.as_secs());
                    return Err(Error::Unavailable { what, reason });
                }
                Some(Err(_)) | None => topic.refused()?,
            }
        }
        step = step.saturating_mul(FARTHER);
        open.retain(|&p, (from, end)| {
            let low = lows.get(p as usize).copied().unwrap_or(0);
            let again = !found.contains_key(&(p as u64)) && *from > low;
            *end = *from;
            *from = from.saturating_sub(step).max(low);
            again
        });
    }
    Ok((found, lows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(n: u64) -> Lineage {
        Lineage { input: "a".into(), row: 0, n }
    }

    fn last(rows: &[(u64, u64)], n: u64) -> BTreeMap<u64, Last> {
        let lineage = |row| Some(Lineage { input: "a".into(), row, n });
        rows.iter().map(|&(p, row)| (p, Last { offset: 9, lineage: lineage(row) })).collect()
    }

    #[test]
    fn each_partition_goes_on_behind_its_last_row() {
        let next = |rows: &[(u64, u64)], lows: &[i64]| next_rows("t", &last(rows, 3), lows, &ours(3), false).unwrap();
        assert_eq!(next(&[], &[0, 0, 0]), [0, 1, 2]);
        assert_eq!(next(&[(0, 6), (1, 7), (2, 5)], &[0, 0, 0]), [9, 10, 8]);
        // One row in the topic yet.
        assert_eq!(next(&[(0, 0)], &[0, 0, 0]), [3, 1, 2]);
        // Retention emptied two of three: the rows up to 7 were there.
        assert_eq!(next(&[(1, 7)], &[4, 2, 4]), [9, 10, 8]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |last: &BTreeMap<u64, Last>, n: u64, append: bool| {
            next_rows("t", last, &[0, 5, 0], &ours(n), append).unwrap_err()
        };
        let foreign = BTreeMap::from([(0, Last { offset: 3, lineage: None })]);
        assert!(matches!(refused(&foreign, 3, false), Error::Config(why) if why.contains("partition 0, offset 3")));
        let mut other = last(&[(0, 3)], 3);
        other.get_mut(&0).unwrap().lineage.as_mut().unwrap().input = "b".into();
        assert!(matches!(refused(&other, 3, false), Error::Config(why) if why.contains("another input")));
        assert!(matches!(refused(&last(&[(0, 2)], 2), 3, true), Error::Config(why) if why.contains("had 2")));
        assert!(matches!(refused(&last(&[(0, 2)], 3), 3, true), Error::DataLoss(why) if why.contains("row 2")));
        assert!(matches!(refused(&BTreeMap::new(), 3, false), Error::DataLoss(why) if why.contains("partition 1")));
        assert_eq!(next_rows("t", &BTreeMap::new(), &[0, 5, 0], &ours(3), true).unwrap(), [0, 1, 2]);
    }
}
