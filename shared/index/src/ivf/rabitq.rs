//! One bit a dimension: the signs of what is left of a row when its list's centroid is taken off,
//! after a rotation that spreads every direction over all dimensions.
//!
//! The inner product of a query with the row is estimated from the signs without bias, scaled by how
//! well the signs stand for the row. As with product quantisation, a byte of signs is looked up in a
//! table of the query.
//!
//! # Source
//! Gao & Long 2024, "RaBitQ", §3; a rotation of sign flips and Hadamard transforms in place of a
//! dense one.

use bytes::Bytes;
use redkite_types::MetricType;

use super::coarse::Run;
use super::pq::{Lists, sum_bytes};
use crate::buffer::{AlignedBuffer, view};
use crate::error::Result;
use crate::random::split_mix;
use crate::raw::RawVectors;

/// Rounds of the rotation: with fewer, dimensions past the power of two would mix too little.
const ROUNDS: usize = 4;

/// Seed of the sign flips, a part of the file format.
const SIGNS: u64 = 0x5261_4269_7451;

/// An orthogonal map of `dim` dimensions, the same for every index.
pub(super) struct Rotation {
    /// `[ROUNDS, dim]`, 1 or −1.
    signs: Vec<f32>,
    dim: usize,
    /// The largest power of two within the dimensions.
    window: usize,
}

impl Rotation {
    pub(super) fn new(dim: usize) -> Self {
        let mut state = SIGNS;
        let signs = (0..ROUNDS * dim)
            .map(|_| {
                if split_mix(&mut state) >> 63 == 0 {
                    1.0
                } else {
                    -1.0
                }
            })
            .collect();
        Self {
            signs,
            dim,
            window: 1 << dim.ilog2(),
        }
    }

    /// Rotates in place.
    pub(super) fn apply(&self, values: &mut [f32]) {
        for (round, signs) in self.signs.chunks_exact(self.dim).enumerate() {
            values
                .iter_mut()
                .zip(signs)
                .for_each(|(x, sign)| *x *= sign);
            // By turns the first and the last dimensions, so that all meet.
            let start = if round % 2 == 0 {
                0
            } else {
                self.dim - self.window
            };
            hadamard(&mut values[start..start + self.window]);
        }
    }
}

/// The orthogonal Walsh-Hadamard transform of a power of two of values.
fn hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for block in values.chunks_exact_mut(2 * half) {
            let (left, right) = block.split_at_mut(half);
            for (x, y) in left.iter_mut().zip(right) {
                (*x, *y) = (*x + *y, *x - *y);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= scale);
}

/// Bytes of a row's signs.
pub(super) fn row_bytes(dim: usize) -> usize {
    dim.div_ceil(8)
}

/// The signs of all rows, in the order of the lists.
pub(super) struct Rabitq {
    pub(super) rotation: Rotation,
    /// `[rows, row_bytes]`, a bit is one for a positive value.
    pub(super) codes: Bytes,
    /// `[rows, 2]` f32: what a row adds to its key, and what its sum of signs is multiplied by.
    pub(super) factors: Bytes,
}

impl Rabitq {
    /// Encodes all rows.
    pub(super) fn build(
        metric: MetricType,
        dim: usize,
        raw: &dyn RawVectors,
        lists: &Lists<'_>,
        run: Run<'_>,
    ) -> Result<Self> {
        let rotation = Rotation::new(dim);
        let mut centroids = lists.centroids.to_vec();
        centroids
            .chunks_exact_mut(dim)
            .for_each(|centroid| rotation.apply(centroid));
        let width = row_bytes(dim);
        let mut codes = AlignedBuffer::zeroed(lists.rows.len() * width);
        let mut factors = AlignedBuffer::zeroed(lists.rows.len() * 2 * size_of::<f32>());
        let part = run.part(lists.rows.len());
        let slots = codes.as_mut().chunks_mut(part * width);
        let factors_of = factors.values_mut::<[f32; 2]>().chunks_mut(part);
        let parts = lists.rows.chunks(part).zip(slots).zip(factors_of);
        run.each(parts, |((rows, slots), factors)| {
            let mut values = vec![0f32; dim];
            let slots = slots.chunks_exact_mut(width).zip(factors);
            for (at, (row, (slot, factors))) in rows.iter().zip(slots).enumerate() {
                run.begin(at)?;
                raw.row(*row).normalised(metric, &mut values);
                rotation.apply(&mut values);
                let list = lists.list_of[*row as usize] as usize;
                let centroid = &centroids[list * dim..][..dim];
                *factors = encode(metric, &values, centroid, slot);
                run.end(at, rows.len());
            }
            Ok(())
        })?;
        Ok(Self {
            rotation,
            codes: codes.into_bytes(),
            factors: factors.into_bytes(),
        })
    }

    /// Fills `table` with the sums of signed query values of each byte of signs: `[row_bytes, 256]`.
    ///
    /// With `bits` from 1 to 8 the query's values are first rounded to so many bits.
    pub(super) fn table(
        &self,
        query: &[f32],
        bits: usize,
        rotated: &mut Vec<f32>,
        table: &mut Vec<f32>,
    ) {
        rotated.clear();
        rotated.extend_from_slice(query);
        self.rotation.apply(rotated);
        if bits > 0 {
            round_to(rotated, bits);
        }
        rotated.resize(row_bytes(query.len()) * 8, 0.0);
        table.clear();
        table.resize(rotated.len() / 8 * 256, 0.0);
        let (eights, _) = rotated.as_chunks::<8>();
        for (values, sums) in eights.iter().zip(table.as_chunks_mut::<256>().0) {
            sums[0] = -values.iter().sum::<f32>();
            for byte in 1..256usize {
                let lowest = byte.trailing_zeros() as usize;
                sums[byte] = sums[byte & (byte - 1)] + 2.0 * values[lowest];
            }
        }
    }

    /// What the row at a position of the lists adds to its list's base key.
    #[inline]
    pub(super) fn key(&self, table: &[f32], dim: usize, at: usize) -> f32 {
        let width = row_bytes(dim);
        let factors: &[f32] = view(&self.factors);
        let (add, factor) = (factors[2 * at], factors[2 * at + 1]);
        add - factor * sum_bytes(table, &self.codes[at * width..][..width])
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.codes.len() + self.factors.len()
    }
}

/// Writes the signs of a rotated row less its rotated centroid; its two factors.
fn encode(metric: MetricType, values: &[f32], centroid: &[f32], slot: &mut [u8]) -> [f32; 2] {
    let (mut square, mut spread, mut along) = (0f32, 0f32, 0f32);
    for (at, (x, c)) in values.iter().zip(centroid).enumerate() {
        let rest = x - c;
        square += rest * rest;
        spread += rest.abs();
        if rest > 0.0 {
            slot[at / 8] |= 1 << (at % 8);
            along += c;
        } else {
            along -= c;
        }
    }
    // Along its own signs a row lies `spread / √dim` of its length: the estimate divides by that.
    let stretch = if spread > 0.0 { square / spread } else { 0.0 };
    if metric == MetricType::Ip {
        [0.0, stretch]
    } else {
        [square + 2.0 * stretch * along, 2.0 * stretch]
    }
}

/// Rounds values to `2^bits` even steps between the smallest and the largest.
fn round_to(values: &mut [f32], bits: usize) {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = (high - low) / ((1 << bits) - 1) as f32;
    if step > 0.0 {
        for value in values {
            *value = low + ((*value - low) / step).round() * step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::aligned_copy;
    use crate::testing::Rng;

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn the_rotation_keeps_lengths_and_angles_and_spreads_an_axis() {
        let mut rng = Rng::from_env();
        for dim in [1, 2, 3, 7, 8, 100, 384, 1000] {
            let rotation = Rotation::new(dim);
            let mut draw = || -> Vec<f32> { (0..dim).map(|_| rng.gaussian()).collect() };
            let (a, b) = (draw(), draw());
            let (mut p, mut q) = (a.clone(), b.clone());
            rotation.apply(&mut p);
            rotation.apply(&mut q);
            let slack = 1e-4 * (dim as f32);
            assert!((dot(&a, &a) - dot(&p, &p)).abs() <= slack, "{dim}");
            assert!((dot(&a, &b) - dot(&p, &q)).abs() <= slack, "{dim}");
            let mut axis = vec![0.0; dim];
            axis[dim - 1] = 1.0;
            rotation.apply(&mut axis);
            let largest = axis.iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!(dim < 100 || largest < 0.5, "{dim}: {largest}");
        }
    }

    #[test]
    fn the_estimate_is_near_the_distance() {
        let mut rng = Rng::from_env();
        let dim = 256;
        let rotation = Rotation::new(dim);
        let mut errors = 0f32;
        for _ in 0..50 {
            let mut draw = || -> Vec<f32> { (0..dim).map(|_| rng.gaussian()).collect() };
            let (x, c, q) = (draw(), draw(), draw());
            let exact: f32 = x.iter().zip(&q).map(|(x, y)| (x - y).powi(2)).sum();
            let base: f32 = q.iter().zip(&c).map(|(x, y)| (x - y).powi(2)).sum();
            let (mut rotated, mut centroid) = (x, c);
            rotation.apply(&mut rotated);
            rotation.apply(&mut centroid);
            let mut codes = vec![0u8; row_bytes(dim)];
            let factors = encode(MetricType::L2, &rotated, &centroid, &mut codes);
            let one = Rabitq {
                rotation: Rotation::new(dim),
                codes: codes.into(),
                factors: aligned_copy(&factors),
            };
            let (mut values, mut table) = (Vec::new(), Vec::new());
            for (bits, most) in [(0, 0.25), (8, 0.25), (4, 0.3)] {
                one.table(&q, bits, &mut values, &mut table);
                let error = (base + one.key(&table, dim, 0) - exact).abs() / exact;
                assert!(error < most, "{bits} bits: {error}");
                errors += error;
            }
        }
        assert!(errors / 150.0 < 0.08, "{}", errors / 150.0);
    }
}
