//! Mirror images: horizontal y(i, j) = x(i, W − 1 − j), vertical y(i, j) = x(H − 1 − i, j), transpose y(i, j) = x(j, i).

use serde::{Deserialize, Serialize};

use crate::image::Pixels;
use crate::image::orient::Turn;
use crate::stream::Stream;

use super::Degradation;
use super::spec::{Kind, Param, Spec};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flip {
    direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Direction {
    Horizontal,
    Vertical,
    Transpose,
}

impl Degradation for Flip {
    const SPEC: Spec = Spec {
        name: "flip",
        version: 1,
        doc: "Mirrors the image.",
        geometry: true,
        params: &[Param::new(
            "direction",
            Kind::Word(&["horizontal", "vertical", "transpose"]),
            "",
            r#""horizontal""#,
            "Exchange left and right, top and bottom, or rows and columns.",
        )],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Pixels, _: &mut Stream) -> Result<(), String> {
        image.turn(match self.direction {
            Direction::Horizontal => Turn::FlipHorizontal,
            Direction::Vertical => Turn::FlipVertical,
            Direction::Transpose => Turn::Transpose,
        });
        Ok(())
    }
}
