//! The pixels of an image cell, by the loader's own decoders.

use crate::image::Image;
use crate::load::{Icc, replay};

/// Decodes a file as it is, its colour profile left alone. `Err` says what is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<Image, String> {
    replay(&[], bytes, Icc::Keep).map_err(|failure| failure.message)
}
