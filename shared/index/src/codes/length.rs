//! Rows that are all equally long: among them inner products order as distances do.
//!
//! Embeddings often are. For a query that is made as long as they are, `|q − x|² / 2 = |q||x| − q·x`, so a walk by
//! inner products can end by distance as well ([`crate::hnsw`]), however long the query is.

use redkite_types::{MetricType, StopFlag, Stopped};

use super::halves::join_row;
use super::{Codes, Encoding, Prepared};
use crate::raw::{RawVectors, inverse_norm};
use crate::sq8::{ROWS_BETWEEN_LOOKS, ZERO};

/// Lengths that differ by no more than this part are alike: those of rows that were normalised and then rounded to 16
/// bits are. What they differ by shifts distances, so it must be little beside those of neighbours.
const ALIKE: f32 = 0.001;

/// Rows whose codes tell how long all are: the middle one, since codes of a few rows are cut off.
const LOOKED_AT: usize = 63;

impl Codes {
    /// Finds out whether all rows are equally long, if that says something: of inner products only.
    ///
    /// # Errors
    /// When the flag is raised.
    pub(crate) fn find_length(
        &mut self,
        raw: &dyn RawVectors,
        stop: &StopFlag,
    ) -> Result<(), Stopped> {
        self.length = None;
        if self.metric != MetricType::Ip || raw.rows() == 0 {
            return Ok(());
        }
        let first = raw.row(0).inverse_norm();
        for row in 1..raw.rows() {
            if row.is_multiple_of(ROWS_BETWEEN_LOOKS) {
                stop.check()?;
            }
            let ratio = raw.row(row as u32).inverse_norm() / first;
            // It is not where a row is zero.
            let is_alike = (ratio - 1.0).abs() <= ALIKE;
            if !is_alike {
                return Ok(());
            }
        }
        self.know_length();
        Ok(())
    }

    /// Takes from the first rows how long all are.
    pub(crate) fn know_length(&mut self) {
        let (mut codes, mut values) = (vec![0; self.stride()], vec![0f32; self.dim]);
        let mut lengths: Vec<f32> = (0..self.rows.min(LOOKED_AT))
            .map(|row| {
                self.decode(row as u32, &mut codes, &mut values);
                inverse_norm(&values).recip()
            })
            .collect();
        let middle = lengths.len() / 2;
        lengths.sort_unstable_by(f32::total_cmp);
        self.length = lengths.get(middle).copied().filter(|length| *length > 0.0);
    }

    /// What a row's codes stand for.
    fn decode(&self, row: u32, codes: &mut [u8], values: &mut [f32]) {
        match &self.encoding {
            Encoding::F32 => values.copy_from_slice(self.f32_row(row)),
            Encoding::Sq8(quantizer) => {
                match self.halves {
                    Some(_) => join_row(self.row(row), codes),
                    None => codes.copy_from_slice(self.row(row)),
                }
                for ((value, code), mean) in values.iter_mut().zip(codes).zip(&quantizer.mean) {
                    let level = i32::from(*code) - i32::from(ZERO);
                    *value = mean + quantizer.scale * level as f32;
                }
            }
        }
    }

    /// How keys of a query that was made ready become distances; `None` where they say nothing about any.
    pub(crate) fn distances(&self, query: &Prepared) -> Option<Distances> {
        // A twelfth of a step for each dimension of both sides.
        let rounding = match &self.encoding {
            Encoding::Sq8(_) => self.dim as f32 / 6.0,
            Encoding::F32 => 0.0,
        };
        if self.metric != MetricType::Ip {
            return Some(Distances {
                start: query.start,
                rounding,
            });
        }
        // Neither without direction nor so short or long that it cannot be squared.
        let own = query.square.is_normal().then(|| query.square.sqrt())?;
        let length = self.length?;
        let (unit, scale) = match &self.encoding {
            Encoding::Sq8(quantizer) => (quantizer.scale * query.scale, quantizer.scale),
            Encoding::F32 => (1.0, 1.0),
        };
        // Of half a square of a query that is as long as the rows.
        let rounding = rounding * 0.5 * scale * scale * own / (length * unit);
        // One of both rows that are compared is longer than it is taken to be, and the other one is shorter.
        let unequal = 2.0 * ALIKE * own * length / unit;
        Some(Distances {
            start: (own * length - query.along_mean) / unit,
            rounding: rounding + unequal,
        })
    }

    /// What must be added to keys of two rows to get what is in proportion to a squared distance.
    pub(crate) fn start_of_rows(&self) -> Option<f32> {
        let unit = match &self.encoding {
            Encoding::Sq8(quantizer) => quantizer.scale,
            Encoding::F32 => 1.0,
        };
        match self.metric {
            MetricType::Ip => self.length.map(|length| (length / unit).powi(2)),
            MetricType::L2 | MetricType::Cosine | MetricType::Hamming | MetricType::Jaccard => {
                Some(0.0)
            }
        }
    }
}

/// How keys become what is in proportion to squared distances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distances {
    /// What must be added to a key.
    pub(crate) start: f32,
    /// What rounding, and what lengths differ by, adds to it, about.
    pub(crate) rounding: f32,
}
