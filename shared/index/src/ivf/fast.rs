//! Tables of bytes for 4-bit codes in blocks.

use super::pq::Shape;

/// What each code adds to a row's key, rounded to bytes: one scale for all parts, and the smallest
/// entry of each part taken off.
///
/// The scale is the finest for which no entry passes 255 and no sum of a row 65,535, so a sum never
/// wraps around; a key is off by half a step for each part at most. The candidates are scored exactly
/// afterwards.
#[derive(Default)]
pub(super) struct FastTable {
    /// `[parts, 16]`, parts padded to whole cache lines.
    pub(super) tables: Vec<u8>,
    /// What the smallest entries add up to.
    pub(super) base: f32,
    /// What one step of a sum is worth.
    pub(super) step: f32,
}

impl FastTable {
    pub(super) fn fill(&mut self, shape: Shape, factor: f32, products: &[f32]) {
        let places = shape.places();
        let (mut widest, mut total, mut base) = (0f32, 0f64, 0f64);
        for part in products.chunks_exact(places) {
            let (low, high) = ends(factor, part);
            widest = widest.max(high - low);
            total += f64::from(high - low);
            base += f64::from(low);
        }
        // Rounding adds up to half a step for each part.
        let room = f64::from(u16::MAX) - 0.5 * shape.m as f64 - 1.0;
        let scale = (255.0 / widest).min((room / total) as f32);
        let scale = if scale.is_finite() { scale } else { 0.0 };
        self.tables.clear();
        self.tables.resize(shape.block_bytes(), 0);
        let tables = self.tables.as_chunks_mut::<16>().0.iter_mut();
        for (part, table) in products.chunks_exact(places).zip(tables) {
            let (low, _) = ends(factor, part);
            for (product, entry) in part.iter().zip(table) {
                // A cast cuts off, and never leaves the byte.
                *entry = ((factor * product - low) * scale + 0.5) as u8;
            }
        }
        self.base = base as f32;
        self.step = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    }
}

/// The smallest and the largest of the products, times the factor.
fn ends(factor: f32, products: &[f32]) -> (f32, f32) {
    let scaled = products.iter().map(|product| factor * product);
    scaled.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

#[cfg(test)]
mod tests {
    use redkite_types::{MetricType, StopFlag};

    use super::super::coarse::Run;
    use super::super::pq::{Layout, Lists, Pq};
    use super::*;
    use crate::kernel::BLOCK_ROWS;
    use crate::raw::RawSlice;
    use crate::testing::{Clusters, Rng};

    /// Both layouts of the same codes; the lists are of no matter here, so there is one.
    fn both(metric: MetricType, shape: Shape, vectors: &[f32]) -> [Pq; 2] {
        let rows: Vec<u32> = (0..(vectors.len() / shape.dim) as u32).collect();
        let lists = Lists {
            centroids: &vec![0.1; shape.dim],
            list_of: &vec![0; rows.len()],
            rows: &rows,
        };
        let (raw, stop) = (RawSlice::new(vectors, shape.dim).unwrap(), StopFlag::new());
        let run = Run {
            threads: 1,
            stop: &stop,
            progress: None,
        };
        [Layout::Rows, Layout::Blocks]
            .map(|layout| Pq::build(metric, shape, layout, &raw, &lists, 5, run).unwrap())
    }

    #[test]
    fn keys_of_blocks_are_those_of_rows_but_for_half_a_step_a_part() {
        for (metric, m, nbits, scale) in [
            (MetricType::L2, 24, 4, 1.0),
            (MetricType::Ip, 24, 4, 1e-15),
            (MetricType::Cosine, 8, 4, 1.0),
            (MetricType::L2, 3, 3, 1e8),
            (MetricType::Ip, 1, 1, 1.0),
            (MetricType::L2, 384, 4, 1.0),
        ] {
            let dim = if m == 384 { 384 } else { 24 };
            let mut clusters = Clusters::new(dim, 9, Rng::from_env());
            // Neither a whole number of blocks nor of halves of one.
            let mut vectors = clusters.rows(333);
            let mut query = clusters.rows(1);
            vectors
                .iter_mut()
                .chain(&mut query)
                .for_each(|x| *x *= scale);
            let shape = Shape { dim, m, nbits };
            let [rows, blocks] = both(metric, shape, &vectors);
            let (mut parts, mut table) = (Vec::new(), Vec::new());
            rows.table(&query, &mut parts, &mut table);
            let mut fast = FastTable::default();
            blocks.fast_table(&query, &mut parts, &mut fast);
            let mut keys = [0f32; BLOCK_ROWS];
            for row in 0..333 {
                if row % BLOCK_ROWS == 0 {
                    blocks.score_block(row / BLOCK_ROWS, &fast, 0.0, f32::INFINITY, &mut keys);
                }
                let add = rows.adds().get(row).copied().unwrap_or(0.0);
                let exact = add + rows.factor() * rows.product(&table, row);
                let error = (keys[row % BLOCK_ROWS] - exact).abs();
                let slack = fast.step * 0.5 * m as f32 + 1e-5 * (exact.abs() + fast.base.abs());
                assert!(error <= slack, "{metric} {m} row {row}: {error} > {slack}");
            }
        }
    }

    #[test]
    fn no_sum_wraps_around_whatever_the_query_is() {
        let mut rng = Rng::from_env();
        for m in [1, 4, 257, 258, 400, 4096] {
            let shape = Shape {
                dim: m,
                m,
                nbits: 4,
            };
            for magnitude in [0.0, 1e-30, 1.0, 1e30, f32::INFINITY] {
                let mut products: Vec<f32> = (0..m * 16).map(|_| rng.gaussian()).collect();
                if rng.below(2) == 0 {
                    // All parts as wide as each other: the sums are as large as can be.
                    products.iter_mut().for_each(|x| *x = x.signum());
                }
                products.iter_mut().for_each(|x| *x *= magnitude);
                let mut table = FastTable::default();
                table.fill(shape, -2.0, &products);
                let largest = table
                    .tables
                    .chunks(16)
                    .map(|part| part.iter().max().copied());
                let sum: u32 = largest.map(|entry| u32::from(entry.unwrap_or(0))).sum();
                assert!(sum <= u32::from(u16::MAX), "{m} {magnitude}: {sum}");
                assert!(table.step.is_finite());
            }
        }
    }
}
