//! What came of the rows of a part: failures by code and the means of the scores, for the table at a run's end.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::sample::{FailureCode, Sample};

/// Failures and scores of some rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcomes {
    /// Failed rows by code.
    pub failures: BTreeMap<FailureCode, u64>,
    /// Each score column that a row had a finite value for.
    pub scores: Vec<ScoreMean>,
}

impl Outcomes {
    /// Counts one more row. Infinite scores (identical images) are left out: they have no mean.
    pub(crate) fn push(&mut self, sample: &Sample) {
        if let Some(failure) = &sample.failure {
            *self.failures.entry(failure.code).or_default() += 1;
        }
        for (column, value) in sample.scores.iter().filter(|(_, value)| value.is_finite()) {
            match self.scores.iter_mut().find(|mean| mean.column == **column) {
                Some(mean) => mean.push(*value),
                None => {
                    let mut mean = ScoreMean::new(column.to_string());
                    mean.push(*value);
                    self.scores.push(mean);
                }
            }
        }
    }

    /// Takes in those of other rows.
    pub fn merge(&mut self, other: &Self) {
        for (code, n) in &other.failures {
            *self.failures.entry(*code).or_default() += n;
        }
        for score in &other.scores {
            match self.scores.iter_mut().find(|mean| mean.column == score.column) {
                Some(mean) => mean.merge(score),
                None => self.scores.push(score.clone()),
            }
        }
    }
}

/// A score column's mean over rows; made by [`push`](Self::push)ing values, in any order up to rounding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoreMean {
    /// The column, such as `input_psnr_lm4lv`.
    pub column: String,
    /// Values.
    pub n: u64,
    /// Their mean, in the score's unit.
    pub mean: f64,
    /// Sum of squared distances from the mean (Welford's).
    #[serde(skip)]
    squares: f64,
}

impl ScoreMean {
    /// No value yet.
    pub fn new(column: impl Into<String>) -> Self {
        Self { column: column.into(), n: 0, mean: 0.0, squares: 0.0 }
    }

    /// Takes one more value.
    pub fn push(&mut self, value: f64) {
        self.n += 1;
        let distance = value - self.mean;
        self.mean += distance / self.n as f64;
        self.squares += distance * (value - self.mean);
    }

    /// Takes the values of `other` too (Chan's).
    pub fn merge(&mut self, other: &Self) {
        let n = self.n + other.n;
        if n == 0 {
            return;
        }
        let distance = other.mean - self.mean;
        let share = other.n as f64 / n as f64;
        self.mean += distance * share;
        self.squares += other.squares + distance * distance * self.n as f64 * share;
        self.n = n;
    }

    /// Standard error of the mean; `None` for fewer than two values.
    pub fn standard_error(&self) -> Option<f64> {
        (self.n > 1).then(|| (self.squares / ((self.n - 1) as f64 * self.n as f64)).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_errors() {
        let mut mean = ScoreMean::new("input_psnr_lm4lv");
        assert_eq!(mean.standard_error(), None);
        for value in [20.0, 22.0, 24.0, 26.0] {
            mean.push(value);
        }
        assert_eq!((mean.n, mean.mean), (4, 23.0));
        let mut halves = [ScoreMean::new("a"), ScoreMean::new("a")];
        for (half, values) in halves.iter_mut().zip([&[20.0][..], &[22.0, 24.0, 26.0]]) {
            values.iter().for_each(|value| half.push(*value));
        }
        let [mut merged, other] = halves;
        merged.merge(&other);
        assert!((merged.mean - 23.0).abs() < 1e-12 && merged.n == 4);
        assert!((merged.standard_error().unwrap() - mean.standard_error().unwrap()).abs() < 1e-12);
        // Sample deviation sqrt(20 / 3), over sqrt(4).
        assert!((mean.standard_error().unwrap() - (20.0_f64 / 3.0).sqrt() / 2.0).abs() < 1e-12);
    }
}
