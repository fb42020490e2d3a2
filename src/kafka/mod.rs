//! What speaks to a Kafka broker, through librdkafka: connections here; consuming in `source/kafka`, producing beside this.
//!
//! `rdkafka` is imported below this module and in `source/kafka` only.

pub(crate) mod brokers;
pub(crate) mod producer;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::{Error, Result};

pub mod publish;

/// How long one question to a broker may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// Where brokers are and how to talk to them.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// The section of the pipeline file, such as `source.kafka`, for complaints.
    pub section: &'a str,
    /// `host:port`, several with commas between.
    pub brokers: &'a str,
    /// librdkafka's properties, by its names (its `CONFIGURATION.md` lists them).
    pub properties: &'a BTreeMap<String, String>,
}

impl Connection<'_> {
    /// A client's configuration: `defaults`, which the user's properties override, then `fixed`, which must not be overridden
    /// because delivery rests on them. `Error::Config` names a property that librdkafka does not know, one that it cannot have,
    /// or one that is fixed.
    pub(crate) fn config(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> Result<ClientConfig> {
        let wrong = |key: &str, why: String| Err(Error::Config(format!("{}.properties.{key}: {why}", self.section)));
        if self.brokers.trim().is_empty() {
            return Err(Error::Config(format!("{}.brokers: is empty: name a broker as host:port", self.section)));
        }
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        for (key, value) in defaults {
            config.set(*key, *value);
        }
        for (key, value) in self.properties {
            if let Some((_, ours)) = fixed.iter().find(|(fixed, _)| fixed == key) {
                return wrong(key, format!("is always {ours}, since delivery rests on it: leave it out"));
            }
            if ["bootstrap.servers", "metadata.broker.list"].contains(&key.as_str()) {
                return wrong(key, format!("is given by {}.brokers: leave it out", self.section));
            }
            config.set(key, value);
            // One at a time, so that the complaint can name the place.
            let mut alone = ClientConfig::new();
            alone.set(key, value);
            if let Err(error) = alone.create_native_config() {
                return wrong(key, words(&error));
            }
        }
        for (key, value) in fixed {
            config.set(*key, *value);
        }
        config.set("bootstrap.servers", self.brokers);
        Ok(config)
    }
}

/// `Error::Config` at `key` if `topic` cannot be a topic's name.
pub(crate) fn check_topic(key: &str, topic: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
    if topic.is_empty() || topic.len() > 249 || topic == "." || topic == ".." || !topic.chars().all(legal) {
        let why = format!("`{topic}` is no topic's name: up to 249 letters, digits, dots, `_` and `-`");
        return Err(Error::Config(format!("{key}: {why}")));
    }
    Ok(())
}

/// librdkafka's complaint without the crate's frame around it.
pub(crate) fn words(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, ..) => why.clone(),
        KafkaError::ClientCreation(why) => why.clone(),
        other => match other.rdkafka_error_code() {
            Some(code) => code.to_string(),
            None => other.to_string(),
        },
    }
}

/// What an answer that is an error means for the run: wrong credentials, a missing topic or permission will not mend itself
/// (`Error::Config`), all else may (`Error::Unavailable`).
pub(crate) fn failed(what: &str, error: &KafkaError) -> Error {
    use RDKafkaErrorCode as Code;
    let reason = words(error);
    match error.rdkafka_error_code() {
        Some(
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::InvalidTopic
            | Code::SSL,
        ) => Error::Config(format!("{what}: {reason}")),
        _ => Error::Unavailable { what: what.to_owned(), reason },
    }
}

/// Hears what librdkafka says besides its answers, and keeps the last trouble for people to see.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    trouble: Mutex<Option<Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    reason: String,
    /// The brokers refuse us; waiting will not help.
    refused: bool,
}

impl Hearing {
    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was heard from a broker.
    pub(crate) fn well(&self) {
        if let Some(trouble) = self.trouble().take() {
            tracing::info!("the Kafka brokers answer again after {:.0} s", trouble.since.elapsed().as_secs_f64());
        }
    }

    /// Since when and why no broker answers, if none does.
    pub(crate) fn waits(&self) -> Option<(Duration, String)> {
        self.trouble().as_ref().map(|trouble| (trouble.since.elapsed(), trouble.reason.clone()))
    }

    /// Why the brokers refuse us, if they do.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.trouble().as_ref().filter(|trouble| trouble.refused).map(|trouble| trouble.reason.clone())
    }
}

impl ClientContext for Hearing {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", "{facility}: {message}");
            }
            // Each broken connection is one: said once, by `error`.
            _ => tracing::debug!(target: "librdkafka", "{facility}: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let refused = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL)
        );
        let down = refused
            || matches!(
                error.rdkafka_error_code(),
                Some(
                    RDKafkaErrorCode::AllBrokersDown
                        | RDKafkaErrorCode::BrokerTransportFailure
                        | RDKafkaErrorCode::Resolve
                )
            );
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
        if !down {
            return;
        }
        let mut trouble = self.trouble();
        match trouble.as_mut() {
            Some(trouble) => trouble.refused |= refused,
            None => {
                tracing::warn!("Kafka: {reason}");
                *trouble = Some(Trouble { since: Instant::now(), reason: reason.to_owned(), refused });
            }
        }
    }
}
