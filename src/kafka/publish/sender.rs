//! The producer: transactions under the one name that the topic's publishers share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::message::Form;
use super::topic::{CALL, refused, wrong};
use crate::error::{Error, Result};
use crate::kafka::{Connection, Hearing, failed};

/// Brokers may be away for so long while a transaction is open; then they have dropped it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Sends messages in transactions.
pub(super) struct Sender {
    producer: BaseProducer<Deliveries>,
    topic: String,
    /// When the open transaction began.
    open: Option<Instant>,
}

/// Hears, and keeps the first message that could not be delivered.
struct Deliveries {
    hearing: Arc<Hearing>,
    undelivered: Mutex<Option<(KafkaError, String)>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.hearing.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.hearing.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
            let mut undelivered = self.undelivered.lock().unwrap_or_else(PoisonError::into_inner);
            undelivered.get_or_insert_with(|| (error.clone(), key));
        }
    }
}

impl Sender {
    /// Becomes the topic's only publisher: from here on the brokers take nothing from one that was started before, and have
    /// dropped what it had not committed.
    pub(super) fn take_over(
        connection: &Connection<'_>,
        topic: &str,
        form: Form,
        hearing: &Arc<Hearing>,
    ) -> Result<Self> {
        let compression = match form {
            Form::Json => "lz4",
            // Image files do not become smaller.
            Form::Bytes => "none",
        };
        let defaults = [
            ("compression.codec", compression),
            ("linger.ms", "50"),
            ("message.max.bytes", "1000000000"),
            ("queue.buffering.max.kbytes", "131072"),
            ("queue.buffering.max.messages", "200000"),
        ];
        let id = format!("lm4lv-publish-{topic}");
        let fixed = [
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("transactional.id", id.as_str()),
            // A commit fails if one message did: successes need no report each.
            ("delivery.report.only.error", "true"),
        ];
        let config = connection.config(&defaults, &fixed)?;
        let context = Deliveries { hearing: hearing.clone(), undelivered: Mutex::new(None) };
        let producer = BaseProducer::from_config_and_context(&config, context).map_err(|error| wrong(&error))?;
        let sender = Self { producer, topic: topic.to_owned(), open: None };
        sender.patiently(|| sender.producer.init_transactions(CALL))?;
        Ok(sender)
    }

    /// Puts a message into the transaction, which it opens if need be. Waits while too much is under way.
    pub(super) fn send(&mut self, partition: i32, key: &str, payload: &[u8], headers: OwnedHeaders) -> Result<()> {
        if self.open.is_none() {
            self.producer.begin_transaction().map_err(|error| self.failed(&error))?;
            self.open = Some(Instant::now());
        }
        let mut record = BaseRecord::to(&self.topic).partition(partition).headers(headers);
        // No key and no value, rather than empty ones.
        record.key = (!key.is_empty()).then_some(key);
        record.payload = (!payload.is_empty()).then_some(payload);
        while let Err((error, back)) = self.producer.send(record) {
            // A producer that was shut out empties its queue no more.
            if error.rdkafka_error_code() != Some(Code::QueueFull) || self.is_over() {
                return Err(self.failed(&error));
            }
            record = back;
            self.producer.poll(Duration::from_millis(5));
            refused(&self.producer.context().hearing)?;
        }
        Ok(())
    }

    /// How long the transaction has been open.
    pub(super) fn age(&self) -> Duration {
        self.open.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends the transaction: all its messages are in the topic, for good.
    pub(super) fn commit(&mut self) -> Result<()> {
        if self.open.is_some() {
            self.patiently(|| self.producer.commit_transaction(CALL))?;
            self.open = None;
        }
        Ok(())
    }

    /// Calls `call` until it answers or there is no hope left.
    fn patiently(&self, call: impl Fn() -> Result<(), KafkaError>) -> Result<()> {
        let asked = Instant::now();
        loop {
            let error = match call() {
                Ok(()) => {
                    self.producer.context().hearing.well();
                    return Ok(());
                }
                Err(error) => error,
            };
            let is_waiting = match &error {
                KafkaError::Flush(_) => true,
                KafkaError::Transaction(error) => error.is_retriable() && !error.is_fatal(),
                _ => false,
            };
            self.producer.poll(Duration::ZERO);
            if !is_waiting || self.is_over() || asked.elapsed() > PATIENCE {
                return Err(self.failed(&error));
            }
            refused(&self.producer.context().hearing)?;
        }
    }

    /// True after an error that this producer cannot outlive.
    fn is_over(&self) -> bool {
        self.producer.client().fatal_error().is_some()
    }

    /// What an error means, once librdkafka was asked for the one behind it.
    fn failed(&self, error: &KafkaError) -> Error {
        self.producer.poll(Duration::ZERO);
        let what = format!("topic {}", self.topic);
        let context = self.producer.context();
        if let Err(refused) = refused(&context.hearing) {
            return refused;
        }
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        let undelivered = context.undelivered.lock().unwrap_or_else(PoisonError::into_inner).take();
        let codes = [fatal, error.rdkafka_error_code()];
        let is_fenced = |code| matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch);
        if codes.into_iter().flatten().any(is_fenced) {
            return Error::Config(format!(
                "{what}: this publisher was shut out, since another one was started, or since it was silent for longer than \
                 transaction.timeout.ms: nothing is lost or twice there; run one at a time, it goes on"
            ));
        }
        match undelivered {
            Some((error, key)) if error.rdkafka_error_code() == Some(Code::MessageSizeTooLarge) => {
                Error::Config(format!(
                    "{what}: the message of key {key}, or a batch with it, is larger than the topic takes: raise its \
                     max.message.bytes (rows before it are published, and stay so)"
                ))
            }
            Some((error, key)) => failed(&format!("{what}, key {key}"), &error),
            None => failed(&what, error),
        }
    }
}
