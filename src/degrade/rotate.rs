//! Rotation about the image's middle. Multiples of 90 degrees move pixels and change none; width and height change places.
//! Other angles resample: nearest, bilinear, or bicubic (a = −½), pixels at half-integer places, `fill` outside.

use serde::{Deserialize, Serialize};

use crate::image::{Planes, Size};
use crate::stream::Stream;

use super::Degradation;
use super::flip::transpose;
use super::maths;
use super::spec::{Kind, Param, Spec};

/// A long thin image turned with `expand` can need thousands of times its pixels; more than both this many and four times
/// as many are refused.
const MOST_PIXELS: f64 = 8_388_608.0;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotate {
    angle: f64,
    filter: Filter,
    expand: bool,
    fill: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Filter {
    Nearest,
    Bilinear,
    Bicubic,
}

impl Degradation for Rotate {
    const SPEC: Spec = Spec {
        name: "rotate",
        version: 1,
        doc: "Turns the image clockwise, exactly at multiples of 90 degrees.",
        geometry: true,
        params: &[
            Param::new("angle", Kind::Real(-360.0, 360.0), "degrees", "90", "Angle, clockwise."),
            Param::new(
                "filter",
                Kind::Word(&["nearest", "bilinear", "bicubic"]),
                "",
                r#""bilinear""#,
                "How pixels between pixels are made, at angles that need it.",
            ),
            Param::new(
                "expand",
                Kind::Flag,
                "",
                "false",
                "Whether the image grows to hold all of the turned one, at angles that are no multiple of 90.",
            ),
            Param::new(
                "fill",
                Kind::Real(0.0, 255.0),
                "grey levels of 255",
                "0",
                "The value outside the turned image.",
            ),
        ],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Planes, _: &mut Stream) -> Result<(), String> {
        let w = |image: &Planes| image.size().width as usize;
        let h = |image: &Planes| image.size().height as usize;
        let quarters = self.angle / 90.0;
        if quarters.fract() != 0.0 {
            *image = self.resampled(image)?;
            return Ok(());
        }
        match quarters.rem_euclid(4.0) as u32 {
            1 => {
                *image = transpose(image)?;
                let w = w(image);
                image.data_mut().chunks_exact_mut(w).for_each(<[f32]>::reverse);
            }
            2 => (0..3).for_each(|channel| image.plane_mut(channel).reverse()),
            3 => {
                *image = transpose(image)?;
                let (w, h) = (w(image), h(image));
                for channel in 0..3 {
                    let (upper, lower) = image.plane_mut(channel).split_at_mut(h / 2 * w);
                    for (a, b) in upper.chunks_exact_mut(w).zip(lower.chunks_exact_mut(w).rev()) {
                        a.swap_with_slice(b);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Rotate {
    fn resampled(&self, image: &Planes) -> Result<Planes, String> {
        let (sin, cos) = maths::sin_cos_degrees(self.angle);
        let size = image.size();
        let (w, h) = (f64::from(size.width), f64::from(size.height));
        let (mut wide, mut high) = (w, h);
        if self.expand {
            // A hair less, so that rounding adds no column.
            wide = (w * cos.abs() + h * sin.abs() - 1e-6).ceil().max(1.0);
            high = (w * sin.abs() + h * cos.abs() - 1e-6).ceil().max(1.0);
            if wide * high > MOST_PIXELS.max(4.0 * w * h) {
                return Err(format!(
                    "{w}x{h} pixels turned by {} degrees need {wide}x{high}: set expand to false, or crop in load",
                    self.angle
                ));
            }
        }
        let turned =
            Turned { sin, cos, from: size, to: Size::new(wide as u32, high as u32), fill: (self.fill / 255.0) as f32 };
        match self.filter {
            Filter::Nearest => turned.sample(image, |at| (floor(at + 0.5), [1.0])),
            Filter::Bilinear => turned.sample(image, |at| {
                let below = floor(at);
                let t = at - below as f64;
                (below, [1.0 - t, t])
            }),
            Filter::Bicubic => turned.sample(image, |at| {
                let below = floor(at);
                let t = at - below as f64;
                (below - 1, [1.0 + t, t, 1.0 - t, 2.0 - t].map(cubic))
            }),
        }
    }
}

/// The greatest whole number not above `x`. (Without a vector unit for it, `f64::floor` is a slow call.)
fn floor(x: f64) -> i64 {
    let truncated = x as i64;
    truncated - i64::from(truncated as f64 > x)
}

/// Where the pixels of a turned image come from.
struct Turned {
    sin: f64,
    cos: f64,
    from: Size,
    to: Size,
    fill: f32,
}

impl Turned {
    /// Makes each pixel of N×N neighbours. `axis`: a place along an axis → the first neighbour, perhaps outside, and the
    /// weights of all. Neighbours outside count as `fill`.
    fn sample<const N: usize>(&self, image: &Planes, axis: impl Fn(f64) -> (i64, [f64; N])) -> Result<Planes, String> {
        let (w, h) = (i64::from(self.from.width), i64::from(self.from.height));
        let planes = [image.plane(0), image.plane(1), image.plane(2)];
        let mut data = vec![0.0; self.to.pixels() * 3];
        let (red, rest) = data.split_at_mut(self.to.pixels());
        let (green, blue) = rest.split_at_mut(self.to.pixels());
        let mut to = 0;
        for y in 0..self.to.height {
            let dy = f64::from(y) + 0.5 - f64::from(self.to.height) / 2.0;
            for x in 0..self.to.width {
                let dx = f64::from(x) + 0.5 - f64::from(self.to.width) / 2.0;
                let (left, across) = axis(self.cos * dx + self.sin * dy + w as f64 / 2.0 - 0.5);
                let (top, down) = axis(self.cos * dy - self.sin * dx + h as f64 / 2.0 - 0.5);
                let (across, down) = (across.map(|w| w as f32), down.map(|w| w as f32));
                let n = N as i64;
                let inside = left >= 0 && top >= 0 && left + n <= w && top + n <= h;
                let outside = left >= w || top >= h || left + n <= 0 || top + n <= 0;
                for (plane, out) in planes.iter().zip([&mut red[to], &mut green[to], &mut blue[to]]) {
                    let mut sum = 0.0;
                    if inside {
                        for (j, down) in down.iter().enumerate() {
                            let first = (top as usize + j) * w as usize + left as usize;
                            for (across, value) in across.iter().zip(&plane[first..first + N]) {
                                sum += down * across * value;
                            }
                        }
                    } else if outside {
                        sum = self.fill;
                    } else {
                        for (y, down) in (top..).zip(down) {
                            for (x, across) in (left..).zip(across) {
                                let seen = (0..w).contains(&x) && (0..h).contains(&y);
                                sum += down * across * if seen { plane[(y * w + x) as usize] } else { self.fill };
                            }
                        }
                    }
                    *out = sum;
                }
                to += 1;
            }
        }
        Planes::from_data(self.to, data).ok_or_else(|| "the turned image has a wrong size".into())
    }
}

/// Keys' cubic with a = −½, for distances 0 to 2.
pub(crate) fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 { ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0 } else { (((x - 5.0) * x + 8.0) * x - 4.0) * A }
}
