//! Reference → bytes → pixels.
//!
//! [`Loader`] fetches: it parses the reference, opens a file below the root, asks a host that the
//! [`Guard`] lets through, or an object store, with retries, slots, a deadline and a budget of memory. [`Prepare`] then decodes, turns,
//! resizes and crops. The first waits and the second computes, so they run on different threads.

mod body;
pub mod config;
mod decode;
pub mod fetch;
mod file;
mod guard;
mod http;
mod inline;
mod object;
mod prepare;
mod reference;
mod slots;
pub mod storm;

pub use config::{CentreCrop, Crop, Headers, Icc, LoadConfig, Per, RandomCrop, Resize, ResizeMode, Sides};
pub use decode::{Format, is_decoding};
pub use fetch::{Fetched, Loader};
pub use guard::{Guard, Lookup, SystemLookup};
pub use prepare::{Prepare, replay};
pub(crate) use reference::fits;
pub use reference::{Place, Refused, parse};
