//! The rows a graph walks on: one aligned matrix of 8-bit codes, or of f32 where that is no larger.
//!
//! Keys order rows by distance to one prepared query, smaller is nearer; they are no scores, because
//! constants of the query are left out. Cosine is L2 on normalised rows, which orders the same.
//!
//! A finished graph keeps the halves of codes apart ([`halves`]), so that of most rows one half is read.

mod encode;
mod halves;
mod length;

use bytes::Bytes;
use redkite_types::MetricType;

use self::halves::HalfQuery;
pub(crate) use self::halves::Halves;
use crate::buffer::{Contents, view};
use crate::kernel::{DotRows, DotsAndSquares, LINE_BYTES, kernels, prefetch_each, prefetch_rows};
use crate::raw::inverse_norm;
use crate::scoring::Line;
use crate::sq8::{self, Quantizer, ZERO};

/// Up to this dimension a row of f32 fills no more than the cache line that padded codes would: so
/// low-dimensional rows, where 8 bits are coarse, are kept as they are.
pub(crate) const F32_DIM_MAX: usize = LINE_BYTES / 4;

/// Bytes of codes up to which a row's own length is computed anew rather than read.
const COMPUTED_UP_TO: usize = 2 * LINE_BYTES;

/// How rows are stored.
#[derive(Clone, Debug)]
pub(crate) enum Encoding {
    /// One byte a dimension.
    Sq8(Quantizer),
    /// Exact.
    F32,
}

/// Rows in the form the graph compares.
pub(crate) struct Codes {
    pub(crate) metric: MetricType,
    pub(crate) dim: usize,
    pub(crate) rows: usize,
    pub(crate) encoding: Encoding,
    /// `[rows, stride]` bytes, aligned to 64.
    pub(crate) data: Contents,
    /// `[rows]` f32, what a row adds to its keys: its squared norm in code units (L2, cosine), or
    /// minus its share of the inner product with the mean (IP, only while building). Empty for F32.
    pub(crate) add: Bytes,
    /// `[rows]` sums of signed codes; only while building.
    sums: Vec<i32>,
    /// Whether, and how, the halves of each code are apart.
    pub(crate) halves: Option<Halves>,
    /// How long all rows are, if they are equally long and that was asked for; of inner products only.
    length: Option<f32>,
}

/// A query, or a row taking the part of one, made ready for [`Codes::keys`]. Reused between queries.
#[derive(Default)]
pub(crate) struct Prepared {
    /// Signed codes, padded with zeros to the stride.
    codes: Vec<i8>,
    /// The vector itself, for [`Encoding::F32`].
    values: Vec<f32>,
    /// Key = `base + add[row]·use_add + factor · (dot − offset)`.
    factor: f32,
    base: f32,
    offset: i32,
    use_add: bool,
    dots: Vec<i32>,
    squares: Vec<i32>,
    /// Dots of low halves, and the rows that they are of, by number and by place.
    low_dots: Vec<i32>,
    near: Vec<u32>,
    near_at: Vec<u32>,
    /// Width of one step of the codes; of a query only.
    scale: f32,
    /// What is needed to compare it with halves; of a query only.
    halves: HalfQuery,
    /// What a key that is larger by one adds to an exact key, but for rounding; of a query only.
    pub(crate) unit: f32,
    /// What its keys of distances lack: the square of its own length, in code units; of a query only.
    start: f32,
    /// The square of its own length, and its inner product with the mean of the rows; of a query of inner products.
    square: f32,
    along_mean: f32,
}

/// Rows that a walk compares with a query: 8-bit codes, or product-quantised ones.
pub(crate) trait Comparable {
    /// A query that was made ready.
    type Query;
    /// Appends the key of each listed row to `keys`. Of a row whose key is likely above `limit`, an estimate that
    /// is above it, too, may stand for it.
    #[inline]
    fn keys(&self, query: &mut Self::Query, rows: &[u32], limit: f32, keys: &mut Vec<f32>) {
        self.begin_keys(query, rows, limit, keys);
        self.finish_keys(query, keys);
    }
    /// The first part of [`Comparable::keys`], after which some of the appended keys are not known yet: what they
    /// need is on its way from memory.
    fn begin_keys(&self, query: &mut Self::Query, rows: &[u32], limit: f32, keys: &mut Vec<f32>);
    /// The second part: `keys` ends with what the first one appended.
    fn finish_keys(&self, _query: &mut Self::Query, _keys: &mut [f32]) {}
    /// Asks for the cache lines that such keys of these rows will read first.
    fn prefetch(&self, rows: &[u32], limit: f32);
    /// How many of those lines there are of a row.
    fn lines(&self, limit: f32) -> usize;
}

impl Comparable for Codes {
    type Query = Prepared;

    #[inline]
    fn begin_keys(&self, query: &mut Prepared, rows: &[u32], limit: f32, keys: &mut Vec<f32>) {
        match &self.halves {
            Some(halves) => self.begin_halves(halves, query, rows, limit, keys),
            None => self.keys_of(&self.data, self.adds(), query, rows, keys),
        }
    }

    #[inline]
    fn finish_keys(&self, query: &mut Prepared, keys: &mut [f32]) {
        if self.halves.is_some() {
            self.finish_halves(query, keys);
        }
    }

    #[inline]
    fn prefetch(&self, rows: &[u32], limit: f32) {
        match &self.halves {
            Some(halves) => self.prefetch_halves(halves, rows, limit),
            None => self.prefetch_whole(rows),
        }
    }

    #[inline]
    fn lines(&self, limit: f32) -> usize {
        let all = self.stride() / LINE_BYTES;
        match &self.halves {
            Some(_) if limit != f32::INFINITY => all / 2 + 1,
            _ => all + usize::from(self.computes_adds().is_none()),
        }
    }
}

/// A row as its metric compares it: cosine normalises once, here.
pub(crate) fn normalised(metric: MetricType, row: &[f32], out: &mut [f32]) {
    out.copy_from_slice(row);
    if metric == MetricType::Cosine {
        let inverse = inverse_norm(row);
        out.iter_mut().for_each(|value| *value *= inverse);
    }
}

/// What an exact key grows by for each one of a squared distance, or of an inner product, as the metric
/// compares rows.
pub(crate) fn key_share(metric: MetricType) -> f32 {
    match metric {
        // −cos = |a − b|² / 2 − 1, on normalised rows.
        MetricType::Cosine => 0.5,
        MetricType::L2 | MetricType::Ip | MetricType::Hamming | MetricType::Jaccard => 1.0,
    }
}

impl Codes {
    /// Puts together what a file holds; `data` and `add` have been checked for their lengths.
    pub(crate) fn from_parts(
        metric: MetricType,
        dim: usize,
        rows: usize,
        encoding: Encoding,
        data: Bytes,
        add: Bytes,
    ) -> Self {
        Self {
            metric,
            dim,
            rows,
            encoding,
            data: Contents::Shared(data),
            add,
            sums: Vec::new(),
            halves: None,
            length: None,
        }
    }

    /// Drops what only building needs.
    pub(crate) fn finish(&mut self) {
        self.sums = Vec::new();
        self.data.share();
        if self.metric == MetricType::Ip {
            self.add = Bytes::new();
        }
    }

    pub(crate) fn stride(&self) -> usize {
        stride(&self.encoding, self.dim)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let of_halves = self.halves.as_ref().map_or(0, |halves| halves.adds.len());
        self.data.len() + self.add.len() + of_halves + self.dim * 4
    }

    /// Makes a query ready.
    pub(crate) fn prepare(&self, query: &[f32], out: &mut Prepared) {
        out.values.resize(self.dim, 0.0);
        normalised(self.metric, query, &mut out.values);
        let share = key_share(self.metric);
        let dot = kernels().ip_f32;
        out.start = 0.0;
        if self.metric == MetricType::Ip {
            (out.square, out.along_mean) = (dot(&out.values, &out.values), 0.0);
        }
        let Encoding::Sq8(quantizer) = &self.encoding else {
            out.unit = share;
            return;
        };
        out.codes.resize(self.stride(), 0);
        let query_scale = match self.metric {
            MetricType::Ip => {
                out.along_mean = dot(&out.values, &quantizer.mean);
                sq8::encode_query(out.values.iter().copied(), &mut out.codes)
            }
            MetricType::L2 | MetricType::Cosine | MetricType::Hamming | MetricType::Jaccard => {
                let centred = out
                    .values
                    .iter()
                    .zip(&quantizer.mean)
                    .map(|(x, mean)| x - mean);
                sq8::encode_query(centred, &mut out.codes)
            }
        };
        out.scale = query_scale;
        out.offset = 128 * out.codes.iter().map(|code| i32::from(*code)).sum::<i32>();
        out.base = 0.0;
        out.use_add = self.metric != MetricType::Ip;
        out.unit = match self.metric {
            MetricType::Ip => quantizer.scale * query_scale,
            MetricType::L2 | MetricType::Cosine | MetricType::Hamming | MetricType::Jaccard => {
                share * quantizer.scale * quantizer.scale
            }
        };
        out.factor = match self.metric {
            // Any positive factor orders inner products alike.
            MetricType::Ip => -1.0,
            // |c − q/s|² without its constant, in code units.
            MetricType::L2 | MetricType::Cosine | MetricType::Hamming | MetricType::Jaccard => {
                let ratio = query_scale / quantizer.scale;
                let levels = out.codes.iter().map(|code| i32::from(*code));
                out.start = ratio * ratio * levels.map(|level| level * level).sum::<i32>() as f32;
                -2.0 * ratio
            }
        };
        if let Some(halves) = &self.halves {
            out.halves = halves.prepare(self.metric, quantizer, self.length, out);
        }
    }

    /// What the keys of a query that was made ready say about scores. For distances its values are those that
    /// its codes stand for: then no distance is negative, and rounding the query matters least near it.
    pub(crate) fn line(&self, query: &Prepared) -> Line {
        let Encoding::Sq8(quantizer) = &self.encoding else {
            return Line::of_estimates(self.metric, 0.0);
        };
        let (scale, query_scale) = (f64::from(quantizer.scale), f64::from(query.scale));
        if self.metric == MetricType::Ip {
            let pairs = query.values.iter().zip(&quantizer.mean);
            let along_mean: f64 = pairs
                .map(|(x, mean)| f64::from(*x) * f64::from(*mean))
                .sum();
            return Line {
                slope: scale * query_scale,
                start: -along_mean,
            };
        }
        let levels = query.codes.iter().map(|code| i64::from(*code));
        let squares: i64 = levels.map(|level| level * level).sum();
        let estimates = Line::of_estimates(self.metric, query_scale.powi(2) * squares as f64);
        Line {
            slope: estimates.slope * scale.powi(2),
            ..estimates
        }
    }

    /// Makes a stored row ready to be compared with others; keys are those of [`Codes::pair`].
    pub(crate) fn prepare_row(&self, row: u32, out: &mut Prepared) {
        match &self.encoding {
            Encoding::F32 => {
                out.values.clear();
                out.values.extend_from_slice(self.f32_row(row));
            }
            Encoding::Sq8(_) => {
                out.codes.clear();
                out.codes
                    .extend(self.row(row).iter().map(|code| (code ^ ZERO) as i8));
                out.offset = 128 * self.sums[row as usize];
                out.base = self.adds()[row as usize];
                out.use_add = true;
                out.factor = self.pair_factor();
            }
        }
    }

    /// Appends the key of each listed row to `keys`.
    #[inline]
    pub(crate) fn keys(&self, prepared: &mut Prepared, rows: &[u32], keys: &mut Vec<f32>) {
        Comparable::keys(self, prepared, rows, f32::INFINITY, keys);
    }

    /// As [`Codes::keys`], of rows from number `first` on whose codes were read from the file; `rows` are
    /// counted from there.
    pub(crate) fn keys_from(
        &self,
        data: &[u8],
        first: usize,
        prepared: &mut Prepared,
        rows: &[u32],
        keys: &mut Vec<f32>,
    ) {
        let add = self.adds().get(first..).unwrap_or(&[]);
        self.keys_of(data, add, prepared, rows, keys);
    }

    #[inline]
    fn keys_of(
        &self,
        data: &[u8],
        add: &[f32],
        prepared: &mut Prepared,
        rows: &[u32],
        keys: &mut Vec<f32>,
    ) {
        match &self.encoding {
            Encoding::F32 => {
                for row in rows {
                    let row = &data[*row as usize * LINE_BYTES..][..self.dim * 4];
                    keys.push(self.f32_key(&prepared.values, bytemuck::cast_slice(row)));
                }
            }
            Encoding::Sq8(_) => {
                let Prepared {
                    codes,
                    dots,
                    squares,
                    factor,
                    base,
                    offset,
                    ..
                } = prepared;
                let (stride, factor, base, offset) = (self.stride(), *factor, *base, *offset);
                let key = |add: f32, dot: &i32| base + add + factor * (dot - offset) as f32;
                dots.resize(rows.len(), 0);
                if let Some(dots_and_squares) = self.computes_adds() {
                    squares.resize(rows.len(), 0);
                    dots_and_squares(data, stride, rows, codes, dots, squares);
                    let pairs = squares.iter().zip(&*dots);
                    keys.extend(pairs.map(|(square, dot)| key(*square as f32, dot)));
                    return;
                }
                let dot_rows: DotRows = kernels().dot_rows;
                dot_rows(data, stride, rows, codes, dots);
                if prepared.use_add {
                    let pairs = rows.iter().zip(&*dots);
                    keys.extend(pairs.map(|(row, dot)| key(add[*row as usize], dot)));
                } else {
                    keys.extend(dots.iter().map(|dot| factor * (dot - offset) as f32));
                }
            }
        }
    }

    /// How to compute what a row adds to its keys, if that is faster than to read it: four bytes of each row are
    /// another cache line to wait for, of few lines.
    #[inline]
    fn computes_adds(&self) -> Option<DotsAndSquares> {
        match self.metric {
            MetricType::L2 | MetricType::Cosine if self.stride() <= COMPUTED_UP_TO => {
                kernels().dots_and_squares
            }
            _ => None,
        }
    }

    /// The key of two stored rows; only while building.
    #[inline]
    pub(crate) fn pair(&self, a: u32, b: u32) -> f32 {
        match &self.encoding {
            Encoding::F32 => self.f32_key(self.f32_row(a), self.f32_row(b)),
            Encoding::Sq8(_) => {
                let dot = (kernels().dot_codes)(self.row(a), self.row(b));
                let add = self.adds();
                let (add_a, add_b) = (add[a as usize], add[b as usize]);
                add_a + add_b + self.pair_factor() * (dot - 128 * self.sums[b as usize]) as f32
            }
        }
    }

    /// Asks for the cache lines that the keys of these rows will read.
    #[inline]
    pub(crate) fn prefetch_whole(&self, rows: &[u32]) {
        let stride = self.stride();
        prefetch_rows(&self.data, stride, 0, stride, rows);
        if self.computes_adds().is_none() && !self.add.is_empty() {
            prefetch_each(self.adds(), rows);
        }
    }

    fn pair_factor(&self) -> f32 {
        match self.metric {
            MetricType::Ip => -1.0,
            MetricType::L2 | MetricType::Cosine | MetricType::Hamming | MetricType::Jaccard => -2.0,
        }
    }

    fn f32_key(&self, a: &[f32], b: &[f32]) -> f32 {
        match self.metric {
            MetricType::Ip => -(kernels().ip_f32)(a, b),
            MetricType::L2 | MetricType::Cosine | MetricType::Hamming | MetricType::Jaccard => {
                (kernels().l2_f32)(a, b)
            }
        }
    }

    fn adds(&self) -> &[f32] {
        view(&self.add)
    }

    fn row(&self, row: u32) -> &[u8] {
        let stride = self.stride();
        &self.data[row as usize * stride..][..stride]
    }

    fn f32_row(&self, row: u32) -> &[f32] {
        bytemuck::cast_slice(&self.row(row)[..self.dim * 4])
    }
}

/// Bytes from one row to the next.
pub(crate) fn stride(encoding: &Encoding, dim: usize) -> usize {
    match encoding {
        Encoding::Sq8(_) => dim.next_multiple_of(LINE_BYTES),
        Encoding::F32 => LINE_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use redkite_types::StopFlag;

    use super::*;
    use crate::raw::{Element, ExactScorer, RawRow};
    use crate::testing::{Clusters, Rng};

    /// Keys must order rows as exact scores do, but for rounding.
    fn assert_ordered_alike(approximate: &[f32], exact: &[f32], rows: &[u32], what: &str) {
        let spread = exact.iter().copied().fold(f32::MIN, f32::max)
            - exact.iter().copied().fold(f32::MAX, f32::min);
        let mut order: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
        order.sort_by(|a, b| approximate[*a].total_cmp(&approximate[*b]));
        for pair in order.windows(2) {
            let back = exact[pair[0]] - exact[pair[1]];
            assert!(back <= spread * 0.05, "{what}: {back} of {spread}");
        }
    }

    /// Rows without a clamped value: what clamping takes off a value is not rounding, it has no
    /// bound, and it is meant for the 0.05 % of values furthest out.
    fn unclamped(codes: &Codes) -> Vec<u32> {
        let is_whole = |row: &u32| match &codes.encoding {
            Encoding::F32 => true,
            Encoding::Sq8(_) => codes.row(*row).iter().all(|code| (2..=254).contains(code)),
        };
        (0..codes.rows as u32).filter(is_whole).collect()
    }

    /// On processors that compute what a row adds, keys are the same bits as on those that read it.
    #[test]
    fn keys_are_those_of_what_is_stored() {
        for metric in [MetricType::L2, MetricType::Cosine, MetricType::Ip] {
            for dim in [17, 64, 100, 128, 129, 384] {
                let mut clusters = Clusters::new(dim, 5, Rng::from_env());
                let vectors = clusters.rows(50);
                let codes = Codes::encode(metric, dim, &vectors, &StopFlag::new()).unwrap();
                let rows: Vec<u32> = (0..50).collect();
                let mut query = Prepared::default();
                for of_row in [false, true] {
                    match of_row {
                        true => codes.prepare_row(7, &mut query),
                        false => codes.prepare(&clusters.rows(1), &mut query),
                    }
                    let mut keys = Vec::new();
                    codes.keys(&mut query, &rows, &mut keys);
                    let stored = |row: &u32| {
                        let pairs = codes.row(*row).iter().zip(&query.codes);
                        let dot: i32 = pairs.map(|(c, q)| i32::from(*c) * i32::from(*q)).sum();
                        let around = query.factor * (dot - query.offset) as f32;
                        match query.use_add {
                            true => query.base + codes.adds()[*row as usize] + around,
                            false => around,
                        }
                    };
                    let expected: Vec<f32> = rows.iter().map(stored).collect();
                    assert_eq!(keys, expected, "{metric} {dim} of a row: {of_row}");
                }
            }
        }
    }

    #[test]
    fn keys_order_rows_as_exact_scores_do() {
        for metric in [MetricType::L2, MetricType::Ip, MetricType::Cosine] {
            for dim in [2, 16, 17, 64, 100, 384] {
                let mut clusters = Clusters::new(dim, 5, Rng::from_env());
                let vectors = clusters.rows(200);
                let query = clusters.rows(1);
                let codes = Codes::encode(metric, dim, &vectors, &StopFlag::new()).unwrap();
                let rows: Vec<u32> = (0..200).collect();
                let row = |i: u32| &vectors[i as usize * dim..][..dim];
                let exact = |query: &[f32]| -> Vec<f32> {
                    let scorer = ExactScorer::new(metric, query, Element::F32);
                    rows.iter()
                        .map(|i| scorer.key(RawRow::F32(row(*i)), inverse_norm(row(*i))))
                        .collect()
                };
                let whole = unclamped(&codes);
                assert!(
                    whole.len() >= 100,
                    "{metric} {dim}: {} unclamped",
                    whole.len()
                );
                let one = whole[7];
                let (mut prepared, mut keys) = (Prepared::default(), Vec::new());
                codes.prepare(&query, &mut prepared);
                codes.keys(&mut prepared, &rows, &mut keys);
                assert_ordered_alike(
                    &keys,
                    &exact(&query),
                    &whole,
                    &format!("{metric} {dim} query"),
                );

                keys.clear();
                codes.prepare_row(one, &mut prepared);
                codes.keys(&mut prepared, &rows, &mut keys);
                assert_ordered_alike(
                    &keys,
                    &exact(row(one)),
                    &whole,
                    &format!("{metric} {dim} row"),
                );
                let largest = keys.iter().fold(1f32, |most, key| most.max(key.abs()));
                for i in &rows {
                    let key = keys[*i as usize];
                    let slack = largest * 1e-5;
                    assert!((key - codes.pair(one, *i)).abs() <= slack, "{metric} {dim}");
                    assert!((key - codes.pair(*i, one)).abs() <= slack, "{metric} {dim}");
                }
            }
        }
    }
}
