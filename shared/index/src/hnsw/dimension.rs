//! How many rows lie within a multiple of a distance: the dimension of the rows around one of them.
//!
//! In `d` dimensions a ball that is larger by a factor holds that factor to the power of `d` times as many rows. Real
//! rows fill fewer dimensions than they have, so a build measures theirs, and a search for `k` rows that is to look at
//! `ef` looks as far as `(ef / k)^(1 / d)` times the `k`-th distance: around a usual query these are `ef` rows.
//!
//! `ef` rows on the average, that is: around some rows many more are within the same multiple than around others, so
//! it is a mean of counts that is measured, of a walk that ends where a search would.
//!
//! # Source
//! Local intrinsic dimensionality (Houle 2013; Amsaleg et al. 2015), here of many rows together.

use redkite_types::StopFlag;

use super::graph::LevelView;
use super::scratch::{Horizon, MOST_TIMES, PoolSize, Scratch, Walk};
use super::walk::beam;
use super::{HnswIndex, Rows};
use crate::codes::{Codes, Prepared};
use crate::error::Result;

/// The multiple that is measured: of the distance of this neighbour, within which are so many on the average.
const NEAR: usize = 10;
const FAR: usize = 64;

/// Of fewer rows most are among the neighbours.
const LEAST_ROWS: usize = 512;

/// One row of so many is looked at, but of few rows more and of many fewer.
const ROWS_A_SAMPLE: usize = 64;
const LEAST_SAMPLED: usize = 16;
const MOST_SAMPLED: usize = 256;

/// Rows of more dimensions are all as far away from each other.
const MOST_DIMENSIONS: f32 = 1000.0;

/// The dimension of the rows of a graph, if it can be told and a walk can go by it.
///
/// # Errors
/// `Cancelled`.
pub(super) fn dimension(
    codes: &Codes,
    lowest: &LevelView<'_>,
    stop: &StopFlag,
) -> Result<Option<f32>> {
    // Inner products are no distances, unless all rows are equally long.
    let Some(start) = codes.start_of_rows().filter(|_| codes.rows >= LEAST_ROWS) else {
        return Ok(None);
    };
    let sampled = (codes.rows / ROWS_A_SAMPLE).clamp(LEAST_SAMPLED, MOST_SAMPLED);
    let (mut walk, mut row) = (Walk::default(), Prepared::default());
    let (mut multiples, mut counted) = (Vec::new(), 0);
    for number in 0..sampled {
        let entry = (number * codes.rows / sampled) as u32;
        codes.prepare_row(entry, &mut row);
        // One more: it finds itself.
        let size = PoolSize::of(MOST_TIMES * FAR + 1);
        beam(lowest, codes, &mut row, &mut walk, entry, size, stop)?;
        let others = || walk.pool.iter().filter(|(_, node)| *node != entry);
        let mut squares = others().map(|(key, _)| key + start);
        if let Some(near) = squares.nth(NEAR - 1).filter(|near| *near > 0.0) {
            multiples.extend(others().map(|(key, _)| (key + start) / near));
            counted += 1;
        }
    }
    let far = FAR * counted;
    // Rows that are each there many times over have no dimension.
    if counted < LEAST_SAMPLED / 2 || far >= multiples.len() {
        return Ok(None);
    }
    let (_, square, _) = multiples.select_nth_unstable_by(far, f32::total_cmp);
    let dimension = 2.0 * (FAR as f32 / NEAR as f32).ln() / square.ln();
    Ok((dimension >= 1.0).then(|| dimension.min(MOST_DIMENSIONS)))
}

impl HnswIndex {
    /// How far a search for `k` rows that is to look at `ef` looks, for the query that was made ready.
    pub(super) fn horizon(&self, k: usize, ef: usize, scratch: &Scratch) -> Option<Horizon> {
        let (Some(dimension), Rows::Scalar(codes)) = (self.dimension, &self.codes) else {
            return None;
        };
        let distances = codes.distances(&scratch.prepared)?;
        // How near the very nearest is says little about how many others are.
        let nearest = k.max(NEAR).min(ef);
        Some(Horizon {
            nearest,
            square: (ef as f32 / nearest as f32).powf(2.0 / dimension),
            start: distances.start,
            slack: distances.rounding,
        })
    }
}
