//! The sink's promise, from outside: every input position exactly once in the output, whatever the order of arrival, other
//! writers, lost answers and crashes.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod bucket;
mod faults;
mod faulty;
mod promises;
mod setup;
