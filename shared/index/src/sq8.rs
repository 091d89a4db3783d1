//! Mean-centred uniform scalar quantisation to one byte a dimension.
//!
//! A value becomes `round((x − mean) / scale)`, clamped to ±127, and is stored plus 128 as an unsigned
//! byte. One scale serves all dimensions, so that distances of codes are integer sums: the 99.95th
//! percentile of `|x − mean|` maps to 127, and the few values beyond it are clamped. Padding up to a
//! whole cache line is 128, a zero.
//!
//! # Source
//! One global scale as in LVQ's mean-centring (Aguerrebere et al. 2023, §3), without its per-vector
//! bounds.

use redkite_types::{StopFlag, Stopped};

use crate::topk::TopK;

/// Values sampled for the percentile: enough for five figures of it, small beside any segment.
const SAMPLE_VALUES: usize = 4_000_000;

/// Largest magnitude of a code.
const CODE_MAX: f32 = 127.0;

/// Rows that are encoded between two looks at a flag that ends a build.
pub(crate) const ROWS_BETWEEN_LOOKS: usize = 1_024;

/// The stored form of zero.
pub(crate) const ZERO: u8 = 128;

/// Whether a code stands for the largest magnitude, or for what was clamped to it.
pub(crate) fn is_outermost(code: u8) -> bool {
    (f32::from(code) - f32::from(ZERO)).abs() >= CODE_MAX
}

/// Turns rows into codes.
#[derive(Clone, Debug)]
pub(crate) struct Quantizer {
    /// Mean of each dimension.
    pub(crate) mean: Vec<f32>,
    /// Width of one step of a code.
    pub(crate) scale: f32,
}

impl Quantizer {
    /// Learns mean and scale from rows; `row(i, out)` writes row `i` of `rows` into `out`.
    ///
    /// # Errors
    /// When the flag is raised.
    pub(crate) fn train(
        dim: usize,
        rows: usize,
        row: impl Fn(usize, &mut [f32]),
        stop: &StopFlag,
    ) -> Result<Self, Stopped> {
        let mut values = vec![0f32; dim];
        let mut sums = vec![0f64; dim];
        for i in 0..rows {
            if i.is_multiple_of(ROWS_BETWEEN_LOOKS) {
                stop.check()?;
            }
            row(i, &mut values);
            for (sum, value) in sums.iter_mut().zip(&values) {
                *sum += f64::from(*value);
            }
        }
        let count = rows.max(1) as f64;
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / count) as f32).collect();

        let sampled = rows.min((SAMPLE_VALUES / dim).max(1));
        let mut spread = Spread::new(sampled * dim);
        for i in 0..sampled {
            if i.is_multiple_of(ROWS_BETWEEN_LOOKS) {
                stop.check()?;
            }
            row(i * rows / sampled, &mut values);
            for (value, mean) in values.iter().zip(&mean) {
                spread.push((value - mean).abs());
            }
        }
        let scale = spread.percentile() / CODE_MAX;
        Ok(Self { mean, scale })
    }

    /// Writes the codes of one row; `out` is as long as the stride and its padding is left alone.
    pub(crate) fn encode(&self, row: &[f32], out: &mut [u8]) {
        let step = 1.0 / self.scale;
        for ((value, mean), code) in row.iter().zip(&self.mean).zip(out) {
            let level = ((value - mean) * step).round().clamp(-CODE_MAX, CODE_MAX);
            *code = (level as i32 + i32::from(ZERO)) as u8;
        }
    }
}

/// The 99.95th percentile of a known number of values, of which it keeps those above it only: all of
/// them may be as many as the vectors have.
struct Spread {
    /// The largest, as negated keys.
    largest: TopK,
    most: f32,
}

impl Spread {
    fn new(values: usize) -> Self {
        let rank = ((values as f64 * 0.9995) as usize).min(values.saturating_sub(1));
        Self {
            largest: TopK::with_k(values - rank),
            most: 0.0,
        }
    }

    fn push(&mut self, value: f32) {
        self.largest.push(-value, 0);
        self.most = self.most.max(value);
    }

    /// The percentile, or the largest value if that is zero; never zero.
    fn percentile(&self) -> f32 {
        let value = -self.largest.limit();
        if value.is_finite() && value > f32::MIN_POSITIVE * CODE_MAX {
            return value;
        }
        // The floor keeps `1 / scale` finite; rows this close to each other are told apart by rerank.
        if self.most > f32::MIN_POSITIVE * CODE_MAX {
            self.most
        } else {
            1.0
        }
    }
}

/// A query as signed codes with a scale of its own, so that one far from the data is not clamped.
///
/// Writes to `out` (padded with zeros) and returns the scale.
pub(crate) fn encode_query(values: impl Iterator<Item = f32> + Clone, out: &mut [i8]) -> f32 {
    let largest = values
        .clone()
        .fold(0f32, |most, value| most.max(value.abs()));
    out.fill(0);
    if largest <= f32::MIN_POSITIVE * CODE_MAX {
        return 0.0;
    }
    let scale = largest / CODE_MAX;
    let step = CODE_MAX / largest;
    for (value, code) in values.zip(out) {
        // Rounded by cutting off, which many are at once: `round` is a call for each.
        let level = (value * step).clamp(-CODE_MAX, CODE_MAX);
        *code = (level + 0.5f32.copysign(level)) as i32 as i8;
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    fn trained(dim: usize, rows: usize, row: impl Fn(usize, &mut [f32])) -> Quantizer {
        Quantizer::train(dim, rows, row, &StopFlag::new()).unwrap()
    }

    #[test]
    fn codes_are_within_half_a_step_of_what_they_stand_for() {
        let mut rng = Rng::from_env();
        let (dim, rows) = (33, 500);
        let data: Vec<f32> = (0..dim * rows)
            .map(|i| (i % dim) as f32 + rng.gaussian())
            .collect();
        let quantizer = trained(dim, rows, |i, out| {
            out.copy_from_slice(&data[i * dim..][..dim]);
        });
        let mut codes = vec![ZERO; 64];
        let mut clamped = 0;
        for row in data.chunks(dim) {
            quantizer.encode(row, &mut codes);
            for ((value, mean), code) in row.iter().zip(&quantizer.mean).zip(&codes) {
                let level = i32::from(*code) - i32::from(ZERO);
                if level.abs() == 127 {
                    clamped += 1;
                } else {
                    let error = (mean + level as f32 * quantizer.scale - value).abs();
                    assert!(error <= quantizer.scale * 0.501, "{error}");
                }
            }
            assert!(codes[dim..].iter().all(|code| *code == ZERO));
        }
        assert!(clamped <= dim * rows / 500, "{clamped} clamped");
    }

    #[test]
    fn equal_rows_and_no_rows_give_a_usable_scale() {
        let same = trained(3, 4, |_, out| out.fill(7.0));
        assert!(same.scale > 0.0 && same.mean == [7.0; 3]);
        let none = trained(3, 0, |_, _| {});
        assert!(none.scale > 0.0);
        let mut out = [1; 4];
        assert_eq!(encode_query([0.0; 3].into_iter(), &mut out), 0.0);
        assert_eq!(out, [0; 4]);
    }

    #[test]
    fn one_outlier_among_equals_is_kept() {
        let quantizer = trained(1, 10_000, |i, out| out[0] = if i == 0 { 1.0 } else { 0.0 });
        assert!(quantizer.scale > 0.0 && quantizer.scale.is_finite());
    }
}
