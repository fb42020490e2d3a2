//! JPEG: what a baseline file of a quality does to pixels, byte for byte as libjpeg(-turbo) and hence Pillow (see
//! [`crate::image::jpeg`]). Fixtures made by Pillow pin it.

use serde::{Deserialize, Serialize};

use crate::image::Pixels;
use crate::image::jpeg::{self, Subsampling};
use crate::stream::Stream;

use super::Degradation;
use super::spec::{Kind, Param, Spec};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jpeg {
    quality: u8,
    subsampling: Subsampling,
}

impl Degradation for Jpeg {
    const SPEC: Spec = Spec {
        name: "jpeg",
        version: 1,
        doc: "Encodes as baseline JPEG and decodes again, to the byte as Pillow with libjpeg-turbo.",
        geometry: false,
        params: &[
            Param::required("quality", Kind::Whole(1, 100), "", "Quality, as libjpeg counts it."),
            Param::new(
                "subsampling",
                Kind::Word(&["4:2:0", "4:2:2", "4:4:4", "gray"]),
                "",
                r#""4:2:0""#,
                "Resolution of the colour planes; gray keeps the luma alone.",
            ),
        ],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Pixels, _: &mut Stream) -> Result<(), String> {
        jpeg::round_trip(image.levels(), self.quality, self.subsampling);
        Ok(())
    }
}
