//! What a run has to say at its end, and what reads a finished dataset: its rows, pictures of them, rows rebuilt, pixels
//! checked, and copies in other layouts.

mod batch;
mod canvas;
mod decode;
pub mod export;
pub mod failures;
pub mod figures;
pub(crate) mod json;
mod layout;
mod part;
mod pick;
pub mod pixels;
pub mod replay;
mod row;
pub mod rows;
pub mod sheet;
pub mod status;
pub mod summary;

pub use pick::Order;
