//! Gaussian noise: y = x + n, n normal with standard deviation sigma / 255.
//!
//! `correlated` is the coloured noise of BSRGAN (<https://arxiv.org/abs/2103.14006>): the three channels of a pixel have
//! covariance (sigma / 255)² · |Uᵀ D U| (absolute values entry by entry), U a random rotation, D diagonal with entries
//! uniform in [0, 1), both drawn once an image.

use serde::{Deserialize, Serialize};

use crate::image::{Pixels, Planes};
use crate::stream::Stream;
use crate::vectors::vectorised;

use super::Degradation;
use super::spec::{Kind, Param, Spec};

/// Values are made in runs of this many, so that they stay in the nearest cache.
const RUN: usize = 2048;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GaussianNoise {
    sigma: f64,
    mode: Mode,
    clip: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    PerChannel,
    Gray,
    Correlated,
}

impl Degradation for GaussianNoise {
    const SPEC: Spec = Spec {
        name: "gaussian_noise",
        version: 1,
        doc: "Adds normal noise to each pixel.",
        geometry: false,
        params: &[
            Param::required("sigma", Kind::Real(0.0, 75.0), "grey levels of 255", "Standard deviation of the noise."),
            Param::new(
                "mode",
                Kind::Word(&["per_channel", "gray", "correlated"]),
                "",
                r#""per_channel""#,
                "Noise of its own for each channel, one for all three, or coloured noise (BSRGAN).",
            ),
            Param::new(
                "clip",
                Kind::Flag,
                "",
                "true",
                "Whether values are held in 0 to 255 at once, not only at the end.",
            ),
        ],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Pixels, noise: &mut Stream) -> Result<(), String> {
        let image = image.planes();
        let sigma = (self.sigma / 255.0) as f32;
        match self.mode {
            Mode::PerChannel => self.add_to_each(sigma, image, noise),
            Mode::Gray => self.add(&[[sigma, 0.0, 0.0]; 3], 1, image, noise),
            Mode::Correlated => self.add(&mixing(sigma, noise), 3, image, noise),
        }
        Ok(())
    }
}

impl GaussianNoise {
    fn add_to_each(&self, sigma: f32, image: &mut Planes, noise: &mut Stream) {
        let mut normals = [0.0; RUN];
        for run in image.data_mut().chunks_mut(RUN) {
            let normals = &mut normals[..run.len()];
            noise.fill_normals(normals);
            add(run, sigma, normals);
            self.clip(run);
        }
    }

    /// Adds `mixing` · (the first `sources` of three normals) to each pixel.
    fn add(&self, mixing: &[[f32; 3]; 3], sources: usize, image: &mut Planes, noise: &mut Stream) {
        let mut normals = [[0.0; RUN]; 3];
        let pixels = image.size().pixels();
        for from in (0..pixels).step_by(RUN) {
            let to = (from + RUN).min(pixels);
            for normals in &mut normals[..sources] {
                noise.fill_normals(&mut normals[..to - from]);
            }
            let [a, b, c] = &normals;
            for (channel, weights) in mixing.iter().enumerate() {
                let run = &mut image.plane_mut(channel)[from..to];
                match sources {
                    1 => add(run, weights[0], a),
                    _ => add_mixed(run, weights, [a, b, c]),
                }
                self.clip(run);
            }
        }
    }

    fn clip(&self, run: &mut [f32]) {
        if self.clip {
            clip(run);
        }
    }
}

vectorised! {
    fn add(values: &mut [f32], sigma: f32, normals: &[f32]) {
        for (value, normal) in values.iter_mut().zip(normals) {
            *value += sigma * normal;
        }
    }

    fn add_mixed(values: &mut [f32], weights: &[f32; 3], normals: [&[f32; RUN]; 3]) {
        let [a, b, c] = normals;
        for (((value, a), b), c) in values.iter_mut().zip(a).zip(b).zip(c) {
            *value += weights[0] * a + weights[1] * b + weights[2] * c;
        }
    }

    fn clip(values: &mut [f32]) {
        for value in values {
            *value = value.clamp(0.0, 1.0);
        }
    }
}

/// A lower triangular matrix L with L · Lᵀ = sigma² · |Uᵀ D U|: its Cholesky factor, times independent normals, has that
/// covariance. (Absolute values keep a 3×3 matrix positive semidefinite.)
fn mixing(sigma: f32, noise: &mut Stream) -> [[f32; 3]; 3] {
    let d: [f64; 3] = std::array::from_fn(|_| noise.unit());
    let u = random_rotation(noise);
    let mut covariance = [[0.0; 3]; 3];
    for i in 0..3 {
        for j in 0..3 {
            covariance[i][j] = (0..3).map(|k| u[k][i] * d[k] * u[k][j]).sum::<f64>().abs();
        }
    }
    let mut lower = [[0.0f64; 3]; 3];
    for i in 0..3 {
        for j in 0..=i {
            let rest = covariance[i][j] - (0..j).map(|k| lower[i][k] * lower[j][k]).sum::<f64>();
            lower[i][j] = match i == j {
                true => rest.max(0.0).sqrt(),
                false if lower[j][j] > 1e-9 => rest / lower[j][j],
                false => 0.0,
            };
        }
    }
    lower.map(|row| row.map(|entry| entry as f32 * sigma))
}

/// Three orthonormal rows: Gram and Schmidt's method on normal vectors.
fn random_rotation(noise: &mut Stream) -> [[f64; 3]; 3] {
    let mut rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    for i in 0..3 {
        let mut row: [f64; 3] = std::array::from_fn(|_| noise.normal());
        for earlier in &rows[..i] {
            let along: f64 = row.iter().zip(earlier).map(|(a, b)| a * b).sum();
            for (a, b) in row.iter_mut().zip(earlier) {
                *a -= along * b;
            }
        }
        let length = row.iter().map(|a| a * a).sum::<f64>().sqrt();
        if length > 1e-6 {
            rows[i] = row.map(|a| a / length);
        }
    }
    rows
}
