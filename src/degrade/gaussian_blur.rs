//! Gaussian blur: convolution with G(u) ∝ exp(−½ uᵀ Σ⁻¹ u) on a k×k grid, ΣG = 1, borders `reflect101`.
//!
//! Σ has the variances sigma_x², sigma_y² along axes turned by theta (BasicSR's `bivariate_Gaussian`). Where the axes lie
//! along the image's, the kernel is a product of two rows and is applied as such. The kernel's values come from our own
//! `exp`, so no `libm` is in the pixels.

use serde::{Deserialize, Serialize};

use crate::image::Pixels;
use crate::stream::Stream;

use super::Degradation;
use super::filter::{self, Taps};
use super::maths;
use super::spec::{Kind, Param, Spec};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GaussianBlur {
    k: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sigma: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sigma_x: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sigma_y: Option<f64>,
    theta: f64,
}

const SIGMA: Kind = Kind::Real(0.1, 10.0);

impl Degradation for GaussianBlur {
    const SPEC: Spec = Spec {
        name: "gaussian_blur",
        version: 1,
        doc: "Blurs with a Gaussian kernel; give sigma, or sigma_x and sigma_y.",
        geometry: false,
        params: &[
            Param::new("k", Kind::Odd(3, 41), "pixels", "15", "Side of the kernel."),
            Param::optional("sigma", SIGMA, "pixels", "Standard deviation in every direction."),
            Param::optional("sigma_x", SIGMA, "pixels", "Standard deviation along the first axis."),
            Param::optional("sigma_y", SIGMA, "pixels", "Standard deviation along the second axis."),
            Param::new(
                "theta",
                Kind::Real(-180.0, 180.0),
                "degrees",
                "0",
                "Angle from the image's rows to the first axis, clockwise as seen.",
            ),
        ],
        check: |given| {
            let has = |name| given.contains(&name);
            match (has("sigma"), has("sigma_x"), has("sigma_y")) {
                (true, false, false) | (false, true, true) => Ok(()),
                (true, ..) => Err("sigma is for every direction: leave out sigma_x and sigma_y, or sigma"),
                (false, false, false) => {
                    Err("it needs `sigma`, or `sigma_x` and `sigma_y`; allowed is 0.1 to 10 pixels")
                }
                (false, ..) => Err("sigma_x and sigma_y go together: give both, or sigma alone"),
            }
        },
    };

    fn apply(&self, image: &mut Pixels, _: &mut Stream) -> Result<(), String> {
        let image = image.planes();
        let (sigma_x, sigma_y) = match (self.sigma, self.sigma_x, self.sigma_y) {
            (Some(sigma), None, None) => (sigma, sigma),
            (None, Some(x), Some(y)) => (x, y),
            _ => return Err("it needs sigma, or sigma_x and sigma_y".into()),
        };
        let k = self.k as usize;
        let (sin, cos) = maths::sin_cos_degrees(self.theta);
        if sigma_x == sigma_y || sin == 0.0 {
            filter::separable(image, &half(sigma_x, k), &half(sigma_y, k));
        } else if cos == 0.0 {
            filter::separable(image, &half(sigma_y, k), &half(sigma_x, k));
        } else {
            filter::symmetric(image, &kernel(sigma_x, sigma_y, sin, cos, k), k);
        }
        Ok(())
    }
}

/// One row of a product kernel, from its centre outwards.
fn half(sigma: f64, k: usize) -> Taps {
    let weights: Vec<f64> = (0..=k / 2).map(|i| maths::exp(-0.5 * (i * i) as f64 / (sigma * sigma))).collect();
    let sum = weights[0] + 2.0 * weights[1..].iter().sum::<f64>();
    Taps::new(&weights.iter().map(|w| w / sum).collect::<Vec<_>>())
}

/// The whole k×k kernel, axes turned by the angle of `sin` and `cos`.
fn kernel(sigma_x: f64, sigma_y: f64, sin: f64, cos: f64, k: usize) -> Vec<f64> {
    let centre = (k / 2) as f64;
    let mut kernel = Vec::with_capacity(k * k);
    for i in 0..k {
        for j in 0..k {
            let (x, y) = (j as f64 - centre, i as f64 - centre);
            let (along, across) = ((cos * x + sin * y) / sigma_x, (cos * y - sin * x) / sigma_y);
            kernel.push(maths::exp(-0.5 * (along * along + across * across)));
        }
    }
    let sum: f64 = kernel.iter().sum();
    kernel.iter_mut().for_each(|w| *w /= sum);
    kernel
}
