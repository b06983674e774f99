//! How much each column of a matrix matters when it is packed.

use crate::error::Error;

/// Below this share of the mean a column's importance is raised to it: a column that the calibration text never used
/// must still decode to something near its weights.
const FLOOR: f32 = 1e-4;

/// One positive number for each column of a matrix `[rows, columns]`: the mean square of the activations that meet the
/// column, so that `Σ importance · (weight - decoded)²` estimates the error of the product.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance(Vec<f32>);

impl Importance {
    /// From the mean squares of the columns. They are scaled to a mean of 1 and raised to a small floor; all zero means
    /// that nothing is known and gives equal importance.
    ///
    /// # Errors
    /// [`Error::BadImportance`] for the first entry that is negative or not finite.
    pub fn new(mean_squares: &[f32]) -> Result<Self, Error> {
        if let Some(column) = mean_squares.iter().position(|&value| !(value.is_finite() && value >= 0.0)) {
            return Err(Error::BadImportance { column, value: mean_squares[column] });
        }
        let mean = mean_squares.iter().map(|&value| f64::from(value)).sum::<f64>() / mean_squares.len().max(1) as f64;
        if mean == 0.0 {
            return Ok(Self(vec![1.0; mean_squares.len()]));
        }
        Ok(Self(mean_squares.iter().map(|&value| ((f64::from(value) / mean) as f32).max(FLOOR)).collect()))
    }

    /// One entry for each column, finite and positive.
    pub fn values(&self) -> &[f32] {
        &self.0
    }
}
