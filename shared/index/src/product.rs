//! Product-quantised codes of single rows, as a graph walks on them.
//!
//! The mean of all rows is taken off first; the tables of a query are looked up row by row, for a walk
//! meets rows in no order.

use bytes::Bytes;
use redkite_types::{MetricType, StopFlag};

use crate::buffer::{aligned_copy, view};
use crate::codes::{Comparable, normalised};
use crate::error::Result;
use crate::file::{Header, Section, Stored};
use crate::ivf::{Layout, Lists, Pq, Run, Shape};
use crate::kernel::{LINE_BYTES, prefetch};
use crate::params::IndexParams;
use crate::raw::RawVectors;
use crate::scoring::Line;

/// Codes of all rows, in order.
pub(crate) struct ProductRows {
    pub(crate) pq: Pq,
    /// `[dim]` f32, the mean of all rows, if hits are to have the scores of the codes, else empty.
    mean: Bytes,
}

/// A query made ready for [`ProductRows`]; reused between queries.
#[derive(Default)]
pub(crate) struct ProductQuery {
    values: Vec<f32>,
    parts: Vec<f32>,
    table: Vec<f32>,
}

impl ProductRows {
    /// Learns the books from vectors and encodes them.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(crate) fn build(
        params: &IndexParams,
        raw: &dyn RawVectors,
        seed: u64,
        stop: &StopFlag,
    ) -> Result<Self> {
        let metric = params.metric;
        let shape = Shape {
            dim: raw.dim(),
            m: params.pq_m,
            nbits: params.nbits,
        };
        let mean = mean(metric, raw);
        let rows: Vec<u32> = (0..raw.rows() as u32).collect();
        let lists = Lists {
            centroids: &mean,
            list_of: &vec![0; rows.len()],
            rows: &rows,
        };
        let run = Run {
            threads: 1,
            stop,
            progress: None,
        };
        let pq = Pq::build(metric, shape, Layout::Rows, raw, &lists, seed, run)?;
        let mean = match params.is_refined {
            true => Bytes::new(),
            false => aligned_copy(&mean),
        };
        Ok(Self { pq, mean })
    }

    /// Takes books and codes out of a file.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn from_stored(stored: &mut Stored) -> Result<Self> {
        let Header {
            dim,
            parts: m,
            nbits,
            is_refined,
            ..
        } = stored.header;
        let mean = match is_refined {
            true => Bytes::new(),
            false => stored.take(Section::Mean, 0, dim * 4)?,
        };
        let shape = Shape { dim, m, nbits };
        Ok(Self {
            pq: Pq::from_stored(shape, Layout::Rows, stored)?,
            mean,
        })
    }

    /// The sections of a file.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (Section, usize, Bytes)> {
        let mean = (!self.mean.is_empty()).then(|| (Section::Mean, 0, self.mean.clone()));
        mean.into_iter().chain(self.pq.sections())
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.pq.memory_bytes() + self.mean.len()
    }

    /// What the keys of a query that was made ready say about scores.
    pub(crate) fn line(&self, metric: MetricType, query: &ProductQuery) -> Line {
        let mean: &[f32] = view(&self.mean);
        let pairs = query.values.iter().zip(mean);
        let pairs = pairs.map(|(x, mean)| (f64::from(*x), f64::from(*mean)));
        let common = match metric {
            MetricType::Ip => -pairs.map(|(x, mean)| x * mean).sum::<f64>(),
            _ => pairs.map(|(x, mean)| (x - mean).powi(2)).sum(),
        };
        Line::of_estimates(metric, common)
    }

    /// Makes a query ready. What the mean adds to a key is the same for all rows and left out.
    pub(crate) fn prepare(&self, metric: MetricType, query: &[f32], out: &mut ProductQuery) {
        out.values.resize(query.len(), 0.0);
        normalised(metric, query, &mut out.values);
        self.pq.table(&out.values, &mut out.parts, &mut out.table);
    }
}

impl Comparable for ProductRows {
    type Query = ProductQuery;

    fn begin_keys(&self, query: &mut ProductQuery, rows: &[u32], _limit: f32, keys: &mut Vec<f32>) {
        let (factor, table) = (self.pq.factor(), &query.table);
        let product = |row: &u32| factor * self.pq.product(table, *row as usize);
        match self.pq.adds() {
            [] => keys.extend(rows.iter().map(product)),
            add => keys.extend(rows.iter().map(|row| add[*row as usize] + product(row))),
        }
    }

    #[inline]
    fn lines(&self, _limit: f32) -> usize {
        self.pq.shape.row_bytes().div_ceil(LINE_BYTES) + 1
    }

    #[inline]
    fn prefetch(&self, rows: &[u32], _limit: f32) {
        for row in rows {
            let row = *row as usize;
            prefetch(self.pq.row(row));
            if let Some(add) = self.pq.adds().get(row..row + 1) {
                prefetch(add);
            }
        }
    }
}

/// The mean of all rows, as their metric compares them.
pub(crate) fn mean(metric: MetricType, raw: &dyn RawVectors) -> Vec<f32> {
    let dim = raw.dim();
    let (mut sums, mut values) = (vec![0f64; dim], vec![0f32; dim]);
    for row in 0..raw.rows() as u32 {
        raw.row(row).normalised(metric, &mut values);
        for (sum, value) in sums.iter_mut().zip(&values) {
            *sum += f64::from(*value);
        }
    }
    let count = raw.rows().max(1) as f64;
    sums.iter().map(|sum| (sum / count) as f32).collect()
}
