//! What speaks to Kafka, against real brokers (see `broker.rs`): publishers and workers that are stopped, frozen and killed, and
//! brokers that are, too. Where Java or Maven are missing these tests are skipped and say so; with `LM4LV_REQUIRE_KAFKA=1`
//! they fail instead.

#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod broker;
#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test file uses its own part")]
mod common;
mod group;
mod guard;
mod harness;
mod jars;
mod job;
mod messages;
mod outage;
mod publish;
mod restore;
mod runs;
mod soak;
mod worker;
