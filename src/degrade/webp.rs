//! Lossy WebP: encoded by libwebp at a quality, and decoded. The library is the one that is built in, at a fixed version
//! (its vector code gives the bytes of its plain code); another version may change pixels, and then this operation's
//! version goes up.

use serde::{Deserialize, Serialize};

use crate::image::Pixels;
use crate::stream::Stream;

use super::Degradation;
use super::spec::{Kind, Param, Spec};

/// The format's limit on either side, pixels.
const LONGEST: u32 = 16383;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Webp {
    quality: u32,
}

impl Degradation for Webp {
    const SPEC: Spec = Spec {
        name: "webp",
        version: 1,
        doc: "Encodes as lossy WebP (libwebp, method 4) and decodes again.",
        geometry: false,
        params: &[Param::required("quality", Kind::Whole(1, 100), "", "Quality, as libwebp counts it.")],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Pixels, _: &mut Stream) -> Result<(), String> {
        let size = image.size();
        if size.width > LONGEST || size.height > LONGEST {
            let (w, h) = (size.width, size.height);
            return Err(format!("an image of {w}x{h} pixels is too large: a WebP file holds at most {LONGEST} a side"));
        }
        let levels = image.levels();
        let file = webp::Encoder::from_rgb(levels.as_bytes(), size.width, size.height)
            .encode_simple(false, self.quality as f32)
            .map_err(|e| format!("the image cannot be encoded: {e:?}"))?;
        let decoded = webp::Decoder::new(&file).decode().ok_or("the encoded image cannot be decoded")?;
        if decoded.len() != levels.as_bytes().len() {
            return Err("the decoded image has another size".into());
        }
        levels.as_bytes_mut().copy_from_slice(&decoded);
        Ok(())
    }
}
