//! What may befall a run from outside: a full disk, no permission, refused credentials, hosts without an address, stores that
//! fail for a while, inputs that change. The run waits or stops with one clear message and the documented exit code, writes
//! no wrong row, and the next one goes on.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test file uses its own part")]
mod common;
mod disk;
mod inputs;
mod network;
mod s3;
