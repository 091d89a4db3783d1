//! Making codes: of all rows at once, or of more rows than there were.

use std::ops::Range;

use redkite_types::{MetricType, StopFlag, Stopped};

use super::{Codes, Encoding, F32_DIM_MAX, halves, normalised, stride};
use crate::buffer::{AlignedBuffer, Contents};
use crate::raw::RawVectors;
use crate::sq8::{self, Quantizer, ROWS_BETWEEN_LOOKS, ZERO};

impl Codes {
    /// Encodes `[rows, dim]` vectors.
    ///
    /// # Errors
    /// When the flag is raised.
    pub(crate) fn encode(
        metric: MetricType,
        dim: usize,
        vectors: &[f32],
        stop: &StopFlag,
    ) -> Result<Self, Stopped> {
        let row = |i: usize, out: &mut [f32]| {
            normalised(metric, &vectors[i * dim..][..dim], out);
        };
        Self::encode_rows(metric, dim, vectors.len() / dim, row, stop)
    }

    /// Encodes raw vectors of any type.
    ///
    /// # Errors
    /// When the flag is raised.
    pub(crate) fn of_raw(
        metric: MetricType,
        raw: &dyn RawVectors,
        stop: &StopFlag,
    ) -> Result<Self, Stopped> {
        let row = |i: usize, out: &mut [f32]| raw.row(i as u32).normalised(metric, out);
        Self::encode_rows(metric, raw.dim(), raw.rows(), row, stop)
    }

    /// Encodes the rows that `row(i, out)` writes, as [`normalised`] gives them.
    ///
    /// # Errors
    /// When the flag is raised.
    pub(crate) fn encode_rows(
        metric: MetricType,
        dim: usize,
        rows: usize,
        row: impl Fn(usize, &mut [f32]),
        stop: &StopFlag,
    ) -> Result<Self, Stopped> {
        let encoding = if dim <= F32_DIM_MAX {
            Encoding::F32
        } else {
            Encoding::Sq8(Quantizer::train(dim, rows, &row, stop)?)
        };
        let mut draft = Draft::new(metric, dim, rows, &encoding);
        draft.fill(0..rows, draft.encoder(row), stop)?;
        Ok(draft.into_codes())
    }

    /// The codes of `raw`, whose first rows are those of these codes, which are finished; to be built on again.
    /// `None` where too many values of the other rows lie beyond what these codes were made for.
    ///
    /// # Errors
    /// When the flag is raised.
    pub(crate) fn extended(
        &self,
        raw: &dyn RawVectors,
        stop: &StopFlag,
    ) -> Result<Option<Self>, Stopped> {
        let (metric, known) = (self.metric, 0..self.rows);
        let more = self.rows..raw.rows();
        let mut draft = Draft::new(metric, self.dim, raw.rows(), &self.encoding);
        let copy = |i: usize, out: &mut [u8]| match self.halves {
            Some(_) => halves::join_row(self.row(i as u32), out),
            None => out.copy_from_slice(self.row(i as u32)),
        };
        draft.fill(known, copy, stop)?;
        let row = |i: usize, out: &mut [f32]| raw.row(i as u32).normalised(metric, out);
        draft.fill(more.clone(), draft.encoder(row), stop)?;
        let codes = draft.into_codes();
        let fit = matches!(codes.encoding, Encoding::F32) || {
            let outermost = more.clone().map(|i| {
                let values = &codes.row(i as u32)[..codes.dim];
                values
                    .iter()
                    .filter(|code| sq8::is_outermost(**code))
                    .count()
            });
            let values = more.len() * codes.dim;
            outermost.sum::<usize>() as f64 <= values as f64 * OUTERMOST_SHARE
        };
        Ok(fit.then_some(codes))
    }
}

/// Codes that are being made, row by row.
struct Draft<'a> {
    metric: MetricType,
    dim: usize,
    rows: usize,
    encoding: &'a Encoding,
    data: AlignedBuffer,
    add: AlignedBuffer,
    sums: Vec<i32>,
}

impl<'a> Draft<'a> {
    fn new(metric: MetricType, dim: usize, rows: usize, encoding: &'a Encoding) -> Self {
        // Without growing: what a vector holds while it grows would be there twice.
        let numbers = match encoding {
            Encoding::F32 => 0,
            Encoding::Sq8(_) => rows,
        };
        Self {
            metric,
            dim,
            rows,
            encoding,
            data: AlignedBuffer::zeroed(rows * stride(encoding, dim)),
            add: AlignedBuffer::zeroed(numbers * size_of::<f32>()),
            sums: Vec::with_capacity(numbers),
        }
    }

    /// What writes the codes of rows that `row(i, out)` writes.
    fn encoder<R: Fn(usize, &mut [f32])>(
        &self,
        row: R,
    ) -> impl FnMut(usize, &mut [u8]) + use<'a, R> {
        let (dim, encoding) = (self.dim, self.encoding);
        let mut values = vec![0f32; dim];
        move |i, out| {
            row(i, &mut values);
            match encoding {
                Encoding::F32 => out[..dim * 4].copy_from_slice(bytemuck::cast_slice(&values)),
                Encoding::Sq8(quantizer) => {
                    out[dim..].fill(ZERO);
                    quantizer.encode(&values, out);
                }
            }
        }
    }

    /// Has the codes of the next rows written by `write(i, out)`.
    fn fill(
        &mut self,
        rows: Range<usize>,
        mut write: impl FnMut(usize, &mut [u8]),
        stop: &StopFlag,
    ) -> Result<(), Stopped> {
        let stride = stride(self.encoding, self.dim);
        let adds = self.add.values_mut::<f32>();
        let data = self.data.as_mut()[rows.start * stride..].chunks_exact_mut(stride);
        for (i, codes) in rows.zip(data) {
            if i.is_multiple_of(ROWS_BETWEEN_LOOKS) {
                stop.check()?;
            }
            write(i, codes);
            if let Encoding::Sq8(quantizer) = self.encoding {
                adds[i] = row_add(self.metric, quantizer, codes);
                let signed = codes.iter().map(|code| i32::from(*code) - 128);
                self.sums.push(signed.sum());
            }
        }
        Ok(())
    }

    fn into_codes(self) -> Codes {
        Codes {
            metric: self.metric,
            dim: self.dim,
            rows: self.rows,
            encoding: self.encoding.clone(),
            data: Contents::Changing(self.data),
            add: self.add.into_bytes(),
            sums: self.sums,
            halves: None,
            length: None,
        }
    }
}

/// Of the values of rows that codes are extended by, so many may be outermost or beyond: eight times as many as of
/// those that a quantizer is trained with.
const OUTERMOST_SHARE: f64 = 0.004;

/// What a row adds to its keys, in code units.
fn row_add(metric: MetricType, quantizer: &Quantizer, codes: &[u8]) -> f32 {
    let levels = codes.iter().map(|code| i32::from(*code) - 128);
    match metric {
        MetricType::L2 | MetricType::Cosine | MetricType::Hamming | MetricType::Jaccard => {
            levels.map(|level| level * level).sum::<i32>() as f32
        }
        // x·y = m·m + s(m·a + m·b) + s² a·b; each row brings its half of m·m and its m·a.
        MetricType::Ip => {
            let mut along_mean = 0f64;
            let mut half_square = 0f64;
            for (level, mean) in levels.zip(&quantizer.mean) {
                let mean = f64::from(*mean) / f64::from(quantizer.scale);
                along_mean += mean * f64::from(level);
                half_square += 0.5 * mean * mean;
            }
            -(along_mean + half_square) as f32
        }
    }
}
