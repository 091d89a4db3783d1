//! Exact search over raw f32 rows: the FLAT index, and the brute force for growing data.

use bytes::Bytes;
use redkite_types::{BitSet, MetricType};

use crate::buffer::{AlignedBuffer, view};
use crate::error::{Error, Result};
use crate::file::{Header, Section, Stored};
use crate::index::{Hit, VectorIndex, check_raw, check_rows};
use crate::params::{IndexType, RangeBounds, SearchParams};
use crate::raw::{ExactScorer, RawSlice, RawVectors, check_query, flip};
use crate::topk::TopK;
use redkite_types::StopFlag;

/// Rows scored between two looks at the stop flag, and kept in cache while several queries pass.
const BLOCK_ROWS: usize = 256;

/// Row numbers of the allowed rows below `rows`, in order.
pub(crate) fn allowed_rows(allow: Option<&BitSet>, rows: usize) -> impl Iterator<Item = u32> + '_ {
    let everything = rows.div_ceil(64);
    (0..everything).flat_map(move |word| {
        let bits = match allow {
            None => u64::MAX,
            Some(set) => set.words().get(word).copied().unwrap_or(0),
        };
        SetBits(bits)
            .map(move |bit| (word * 64 + bit) as u32)
            .filter(move |row| (*row as usize) < rows)
    })
}

/// The positions of the ones of a word.
struct SetBits(u64);

impl Iterator for SetBits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

/// Feeds every allowed row and its exact key to `visit`.
pub(crate) fn scan_exact(
    scorer: &ExactScorer<'_>,
    raw: &dyn RawVectors,
    inverse_norms: impl Fn(u32) -> f32,
    rows: impl Iterator<Item = u32>,
    stop: &StopFlag,
    mut visit: impl FnMut(u32, f32),
) -> Result<()> {
    for (count, row) in rows.enumerate() {
        if count % BLOCK_ROWS == 0 {
            stop.check()?;
        }
        visit(row, scorer.key(raw.row(row), inverse_norms(row)));
    }
    Ok(())
}

/// Finds the `k` nearest allowed rows for each of several queries, without any index.
///
/// Rows are walked in blocks that stay in cache while every query passes over them, and the norms
/// that cosine needs are computed once a row, not once a query.
///
/// # Shapes
/// `rows` `[rows, dim]` and `queries` `[nq, dim]` row-major; `out` receives `nq` lists of at most
/// `k` hits, best first, equal scores by row.
///
/// # Errors
/// `DimMismatch`, `NotFinite` for a query (the caller's fault) · `Cancelled`.
#[allow(
    clippy::too_many_arguments,
    reason = "each is borrowed from a different owner on the hot path"
)]
pub fn scan_topk(
    rows: &[f32],
    dim: usize,
    metric: MetricType,
    queries: &[f32],
    allow: Option<&BitSet>,
    k: usize,
    stop: &StopFlag,
    out: &mut Vec<Vec<Hit>>,
) -> Result<()> {
    scan_raw_topk(
        &RawSlice::new(rows, dim)?,
        metric,
        queries,
        allow,
        k,
        stop,
        out,
    )
}

/// As [`scan_topk`], of rows of any type; queries are given in theirs, widened.
///
/// # Errors
/// As [`scan_topk`].
pub fn scan_raw_topk(
    raw: &dyn RawVectors,
    metric: MetricType,
    queries: &[f32],
    allow: Option<&BitSet>,
    k: usize,
    stop: &StopFlag,
    out: &mut Vec<Vec<Hit>>,
) -> Result<()> {
    scan_together((raw, raw.rows(), &[]), metric, queries, allow, k, stop, out)
}

/// Rows, how many of them count, and their inverse norms where they are known already.
pub(crate) type NormedRows<'a> = (&'a dyn RawVectors, usize, &'a [f32]);

/// As [`scan_raw_topk`], without computing norms that are known.
pub(crate) fn scan_together(
    rows: NormedRows<'_>,
    metric: MetricType,
    queries: &[f32],
    allow: Option<&BitSet>,
    k: usize,
    stop: &StopFlag,
    out: &mut Vec<Vec<Hit>>,
) -> Result<()> {
    let mut best = collectors(queries.len() / rows.0.dim().max(1), k);
    scan(
        rows,
        metric,
        queries,
        allow,
        stop,
        &mut |query, row, key| {
            best[query].push(key, row);
        },
    )?;
    drain(best, metric, out);
    Ok(())
}

fn collectors(queries: usize, k: usize) -> Vec<TopK> {
    let mut best = Vec::with_capacity(queries);
    best.resize_with(queries, || TopK::with_k(k));
    best
}

fn drain(best: Vec<TopK>, metric: MetricType, out: &mut Vec<Vec<Hit>>) {
    for mut topk in best {
        let mut hits = Vec::new();
        topk.drain_into(metric, &mut hits);
        out.push(hits);
    }
}

/// Finds the best `limit` allowed rows within a range, for each of several queries, without any
/// index. Shapes and order as [`scan_topk`].
///
/// # Errors
/// As [`scan_topk`]; `InvalidParameter` for an empty range.
#[allow(
    clippy::too_many_arguments,
    reason = "each is borrowed from a different owner on the hot path"
)]
pub fn scan_range(
    rows: &[f32],
    dim: usize,
    metric: MetricType,
    queries: &[f32],
    range: &RangeBounds,
    allow: Option<&BitSet>,
    limit: usize,
    stop: &StopFlag,
    out: &mut Vec<Vec<Hit>>,
) -> Result<()> {
    let raw = RawSlice::new(rows, dim)?;
    scan_raw_range(&raw, metric, queries, range, allow, limit, stop, out)
}

/// As [`scan_range`], of rows of any type; queries are given in theirs, widened.
///
/// # Errors
/// As [`scan_range`].
#[allow(
    clippy::too_many_arguments,
    reason = "each is borrowed from a different owner on the hot path"
)]
pub fn scan_raw_range(
    raw: &dyn RawVectors,
    metric: MetricType,
    queries: &[f32],
    range: &RangeBounds,
    allow: Option<&BitSet>,
    limit: usize,
    stop: &StopFlag,
    out: &mut Vec<Vec<Hit>>,
) -> Result<()> {
    range.validate(metric)?;
    let mut best = collectors(queries.len() / raw.dim().max(1), limit);
    let rows = (raw, raw.rows(), &[][..]);
    scan(
        rows,
        metric,
        queries,
        allow,
        stop,
        &mut |query, row, key| {
            if range.contains(metric, flip(metric, key)) {
                best[query].push(key, row);
            }
        },
    )?;
    drain(best, metric, out);
    Ok(())
}

/// Calls `visit(query, row, key)` for every query and allowed row; queries in order for each row.
fn scan(
    (raw, count, norms): NormedRows<'_>,
    metric: MetricType,
    queries: &[f32],
    allow: Option<&BitSet>,
    stop: &StopFlag,
    visit: &mut dyn FnMut(usize, u32, f32),
) -> Result<()> {
    let dim = raw.dim();
    if !queries.len().is_multiple_of(dim) {
        return Err(Error::DimMismatch {
            expected: dim,
            actual: queries.len(),
        });
    }
    let mut scorers = Vec::with_capacity(queries.len() / dim);
    for query in queries.chunks_exact(dim) {
        check_query(query, dim)?;
        scorers.push(ExactScorer::new(metric, query, raw.element()));
    }
    let mut block = Vec::with_capacity(BLOCK_ROWS);
    let mut pending = allowed_rows(allow, count);
    loop {
        stop.check()?;
        block.clear();
        block.extend(pending.by_ref().take(BLOCK_ROWS).map(|row| {
            let norm = match metric {
                MetricType::Cosine => match norms.get(row as usize) {
                    Some(norm) => *norm,
                    None => raw.row(row).inverse_norm(),
                },
                MetricType::L2 | MetricType::Ip | MetricType::Hamming | MetricType::Jaccard => 1.0,
            };
            (row, norm)
        }));
        if block.is_empty() {
            return Ok(());
        }
        for (query, scorer) in scorers.iter().enumerate() {
            for (row, norm) in &block {
                visit(query, *row, scorer.key(raw.row(*row), *norm));
            }
        }
    }
}

/// Exact search; the index itself holds one norm a row for cosine, and nothing otherwise.
pub struct FlatIndex {
    metric: MetricType,
    dim: usize,
    rows: usize,
    /// `[rows]` f32 for cosine, else empty.
    inverse_norms: Bytes,
}

impl FlatIndex {
    /// Prepares exact search over `[rows, dim]` vectors.
    ///
    /// # Errors
    /// As [`crate::build`].
    pub fn build(metric: MetricType, rows: &[f32], dim: usize) -> Result<Self> {
        Self::build_raw(metric, &RawSlice::new(rows, dim)?)
    }

    /// As [`FlatIndex::build`], of rows of any type.
    ///
    /// # Errors
    /// As [`crate::build`].
    pub fn build_raw(metric: MetricType, raw: &dyn RawVectors) -> Result<Self> {
        let count = check_rows(raw, u32::MAX as usize)?;
        Ok(Self {
            metric,
            dim: raw.dim(),
            rows: count,
            inverse_norms: inverse_norms(metric, raw),
        })
    }

    pub(crate) fn from_stored(mut stored: Stored) -> Result<Self> {
        let header = stored.header.clone();
        let norms = norm_section(&mut stored)?;
        Ok(Self {
            metric: header.metric,
            dim: header.dim,
            rows: header.rows,
            inverse_norms: norms,
        })
    }

    fn scan(
        &self,
        query: &[f32],
        raw: &dyn RawVectors,
        allow: Option<&BitSet>,
        stop: &StopFlag,
        visit: impl FnMut(u32, f32),
    ) -> Result<()> {
        check_query(query, self.dim)?;
        check_raw(raw, self.rows, self.dim)?;
        let scorer = ExactScorer::new(self.metric, query, raw.element());
        let norms: &[f32] = view(&self.inverse_norms);
        let norm = |row: u32| norms.get(row as usize).copied().unwrap_or(1.0);
        scan_exact(
            &scorer,
            raw,
            norm,
            allowed_rows(allow, self.rows),
            stop,
            visit,
        )
    }
}

/// The norms that cosine divides by, computed once.
pub(crate) fn inverse_norms(metric: MetricType, raw: &dyn RawVectors) -> Bytes {
    match metric {
        MetricType::L2 | MetricType::Ip | MetricType::Hamming | MetricType::Jaccard => Bytes::new(),
        MetricType::Cosine => {
            let mut norms = AlignedBuffer::zeroed(raw.rows() * size_of::<f32>());
            for (row, norm) in (0..).zip(norms.values_mut::<f32>()) {
                *norm = raw.row(row).inverse_norm();
            }
            norms.into_bytes()
        }
    }
}

/// The norms out of a file: one a row for cosine, none otherwise.
pub(crate) fn norm_section(stored: &mut Stored) -> Result<Bytes> {
    let expected = match stored.header.metric {
        MetricType::Cosine => stored.header.rows * 4,
        MetricType::L2 | MetricType::Ip | MetricType::Hamming | MetricType::Jaccard => 0,
    };
    stored.take(Section::InverseNorms, 0, expected)
}

impl VectorIndex for FlatIndex {
    fn search(
        &self,
        query: &[f32],
        raw: &dyn RawVectors,
        _params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        let mut topk = TopK::with_k(k);
        self.scan(query, raw, allow, stop, |row, key| topk.push(key, row))?;
        topk.drain_into(self.metric, out);
        Ok(())
    }

    fn search_many(
        &self,
        queries: &[f32],
        raw: &dyn RawVectors,
        _params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Vec<Hit>>,
    ) -> Result<()> {
        check_raw(raw, self.rows, self.dim)?;
        let rows = (raw, self.rows, view(&self.inverse_norms));
        scan_together(rows, self.metric, queries, allow, k, stop, out)
    }

    fn range_search(
        &self,
        query: &[f32],
        raw: &dyn RawVectors,
        params: &SearchParams,
        allow: Option<&BitSet>,
        limit: usize,
        stop: &StopFlag,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        let range = params.required_range(self.metric)?;
        let mut topk = TopK::with_k(limit);
        self.scan(query, raw, allow, stop, |row, key| {
            if range.contains(self.metric, flip(self.metric, key)) {
                topk.push(key, row);
            }
        })?;
        topk.drain_into(self.metric, out);
        Ok(())
    }

    fn len(&self) -> usize {
        self.rows
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn metric(&self) -> MetricType {
        self.metric
    }

    fn index_type(&self) -> IndexType {
        IndexType::Flat
    }

    fn memory_bytes(&self) -> usize {
        self.inverse_norms.len()
    }

    fn parts(&self) -> Vec<Bytes> {
        let header = Header::new(IndexType::Flat, self.metric, self.dim, self.rows);
        let sections = vec![(Section::InverseNorms, 0, self.inverse_norms.clone())];
        crate::file::parts(&header, sections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Clusters, Rng};

    /// The definition, with nothing clever about it.
    fn naive(
        rows: &[f32],
        dim: usize,
        metric: MetricType,
        query: &[f32],
        allow: Option<&BitSet>,
    ) -> Vec<Hit> {
        let mut hits: Vec<Hit> = rows
            .chunks(dim)
            .enumerate()
            .filter(|(row, _)| allow.is_none_or(|set| set.get(*row)))
            .map(|(row, values)| {
                let pairs = || {
                    values
                        .iter()
                        .zip(query)
                        .map(|(x, y)| (f64::from(*x), f64::from(*y)))
                };
                let product: f64 = pairs().map(|(x, y)| x * y).sum();
                let norms = pairs().fold((0.0, 0.0), |(a, b), (x, y)| (a + x * x, b + y * y));
                let score = match metric {
                    MetricType::L2 | MetricType::Hamming | MetricType::Jaccard => {
                        pairs().map(|(x, y)| (x - y).powi(2)).sum()
                    }
                    MetricType::Ip => product,
                    MetricType::Cosine => product / (norms.0 * norms.1).sqrt(),
                };
                Hit {
                    row: row as u32,
                    score: score as f32,
                }
            })
            .collect();
        hits.sort_by(|a, b| metric.compare(a.score, b.score).then(a.row.cmp(&b.row)));
        hits
    }

    #[test]
    fn exact_search_agrees_with_the_definition() {
        let mut rng = Rng::from_env();
        for metric in [MetricType::L2, MetricType::Ip, MetricType::Cosine] {
            for (count, dim) in [(0, 3), (1, 1), (63, 5), (64, 16), (700, 33)] {
                let mut clusters = Clusters::new(dim, 4, Rng::new(rng.next()));
                let (rows, queries) = (clusters.rows(count), clusters.rows(3));
                let some = BitSet::from_fn(count, |_| rng.unit() < 0.3);
                for allow in [None, Some(&some)] {
                    let (stop, mut lists) = (StopFlag::new(), Vec::new());
                    scan_topk(&rows, dim, metric, &queries, allow, 10, &stop, &mut lists).unwrap();
                    let index = FlatIndex::build(metric, &rows, dim).unwrap();
                    let raw = RawSlice::new(&rows, dim).unwrap();
                    for (query, list) in queries.chunks(dim).zip(&lists) {
                        let mut truth = naive(&rows, dim, metric, query, allow);
                        truth.truncate(10);
                        assert_eq!(list.len(), truth.len());
                        for (hit, expected) in list.iter().zip(&truth) {
                            let tolerance = 1e-4 * (1.0 + expected.score.abs());
                            assert!((hit.score - expected.score).abs() <= tolerance);
                        }
                        let mut hits = Vec::new();
                        let params = SearchParams::default();
                        index
                            .search(query, &raw, &params, allow, 10, &stop, &mut hits)
                            .unwrap();
                        assert_eq!(&hits, list);
                    }
                }
            }
        }
    }

    #[test]
    fn a_range_scan_returns_what_lies_in_the_range() {
        let mut clusters = Clusters::new(6, 4, Rng::from_env());
        let (rows, queries) = (clusters.rows(300), clusters.rows(4));
        for metric in [MetricType::L2, MetricType::Ip, MetricType::Cosine] {
            for query in queries.chunks(6) {
                let all = naive(&rows, 6, metric, query, None);
                let range = RangeBounds {
                    radius: all[50].score,
                    range_filter: Some(all[10].score),
                };
                let mut lists = Vec::new();
                let stop = StopFlag::new();
                scan_range(
                    &rows, 6, metric, query, &range, None, 1000, &stop, &mut lists,
                )
                .unwrap();
                let hits = &lists[0];
                // The two scores at the sides may round to either side.
                assert!((39..=41).contains(&hits.len()), "{}", hits.len());
                assert!(hits.iter().all(|hit| range.contains(metric, hit.score)));
            }
        }
    }

    #[test]
    fn a_flat_file_keeps_its_norms() {
        let rows = Clusters::new(6, 4, Rng::from_env()).rows(300);
        let index = FlatIndex::build(MetricType::Cosine, &rows, 6).unwrap();
        let mut file = Vec::new();
        index.write(&mut file).unwrap();
        let opened = crate::open(file.into()).unwrap();
        assert_eq!((opened.len(), opened.memory_bytes()), (300, 1200));
        let raw = RawSlice::new(&rows, 6).unwrap();
        let mut hits = Vec::new();
        let (params, stop) = (SearchParams::default(), StopFlag::new());
        opened
            .search(&rows[..6], &raw, &params, None, 1, &stop, &mut hits)
            .unwrap();
        assert_eq!(hits[0].row, 0);
        assert!(hits[0].score > 0.999_999 && hits[0].score <= 1.0);
    }

    #[test]
    fn a_raised_flag_stops_a_scan_and_bad_queries_are_refused() {
        let stop = StopFlag::new();
        let scan = |query: &[f32]| {
            scan_topk(
                &[1.0; 8],
                2,
                MetricType::L2,
                query,
                None,
                1,
                &stop,
                &mut Vec::new(),
            )
        };
        assert!(matches!(scan(&[1.0]), Err(Error::DimMismatch { .. })));
        assert!(matches!(
            scan(&[1.0, f32::NAN]),
            Err(Error::NotFinite { .. })
        ));
        assert!(scan(&[1.0, 1.0]).is_ok());
        stop.stop();
        assert!(matches!(scan(&[1.0, 1.0]), Err(Error::Cancelled)));
    }
}
