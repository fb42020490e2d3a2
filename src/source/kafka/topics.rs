//! What there is to read: the topics with their ids, and for every partition where a dataset begins and a run ends.

use std::collections::BTreeMap;

use super::config::{KafkaConfig, Start, Until};
use crate::checkpoint::{Checkpoint, Partition};
use crate::error::{Error, Result};
use crate::kafka::brokers::Brokers;
use crate::plan::Topic;

/// Topics as they are now.
#[derive(Debug)]
pub(crate) struct Topics {
    /// In the order of the pipeline file. Where a plan stands, `starts` are not looked up and empty.
    pub(crate) topics: Vec<Topic>,
    /// Where this run ends in each partition; `None` if it does not.
    pub(crate) bounds: Option<Checkpoint>,
}

/// Asks the brokers for the topics of `config`; for the starts of a new dataset only if it `is_new`.
pub(crate) fn look(config: &KafkaConfig, is_new: bool) -> Result<Topics> {
    let mut client = config.client()?;
    client.remove("group.id");
    let brokers = Brokers::connect(&client)?;
    let mut topics = Vec::new();
    let mut bounds = Checkpoint::new();
    let mut named: Vec<&String> = match &config.start {
        Start::Offsets(offsets) => offsets.keys().collect(),
        _ => Vec::new(),
    };
    for name in &config.topic.0 {
        let count = brokers.partitions(name)?;
        named.retain(|named| !(0..count).any(|n| **named == *Partition::of_topic(name, n).as_str()));
        if let Some(ends) = ends(config, &brokers, name, count)? {
            bounds.extend(ends);
        }
        let starts = if is_new { starts(config, &brokers, name, count)? } else { Vec::new() };
        let id = brokers.topic_id(name)?.unwrap_or_default();
        topics.push(Topic { name: name.clone(), id, cluster: brokers.cluster(), starts });
    }
    if let Some(unknown) = named.first() {
        return Err(Error::Config(format!(
            "source.kafka.start.offsets: `{unknown}` is no partition of these topics: write <topic>-<number>"
        )));
    }
    Ok(Topics { topics, bounds: (config.until != Until::Never).then_some(bounds) })
}

fn starts(config: &KafkaConfig, brokers: &Brokers, topic: &str, count: i32) -> Result<Vec<u64>> {
    let times = config.start_ms()?.map(|ms| brokers.at_time(topic, count, ms)).transpose()?;
    (0..count)
        .map(|n| {
            let (low, high) = brokers.span(topic, n)?;
            Ok(match &config.start {
                Start::Earliest => low,
                Start::Latest => high,
                Start::Timestamp(_) => times.as_ref().and_then(|times| times[n as usize]).unwrap_or(high),
                Start::Offsets(offsets) => match offsets.get(Partition::of_topic(topic, n).as_str()) {
                    Some(at) if *at > high => {
                        return Err(Error::Config(format!(
                            "source.kafka.start.offsets.{topic}-{n}: {at} is behind the partition's end, which is {high}"
                        )));
                    }
                    Some(at) => *at,
                    None => low,
                },
            })
        })
        .collect()
}

fn ends(config: &KafkaConfig, brokers: &Brokers, topic: &str, count: i32) -> Result<Option<BTreeMap<Partition, u64>>> {
    if config.until == Until::Never {
        return Ok(None);
    }
    let times = config.until_ms()?.map(|ms| brokers.at_time(topic, count, ms)).transpose()?;
    let end = |n: i32| -> Result<(Partition, u64)> {
        let end = match times.as_ref().and_then(|times| times[n as usize]) {
            Some(offset) => offset,
            None => brokers.span(topic, n)?.1,
        };
        Ok((Partition::of_topic(topic, n), end))
    };
    (0..count).map(end).collect::<Result<_>>().map(Some)
}
