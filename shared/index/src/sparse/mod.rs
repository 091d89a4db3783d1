//! Sparse vectors: exact search, and lists of rows by dimension.
//!
//! A row's score is its inner product with the query, summed in f64 and rounded once, so that every
//! algorithm and the scan agree to the last bit whatever the order of the terms. Rows that share no
//! dimension with the query are never found, as in Milvus, so an answer may be shorter than asked
//! for.
//!
//! With a drop ratio the smallest values are left out of the lists that candidates are found by
//! (`drop_ratio_build`), or of the query (`drop_ratio_search`). Candidates are scored with all of
//! them: what was left out of the lists stands in lists of its own.
//!
//! # Source
//! WAND: Broder et al. 2003. MaxScore: Turtle & Flood 1995.

mod daat;
mod params;
mod postings;
#[cfg(test)]
mod tests;

use std::io::Write;

use bytes::Bytes;
use redkite_types::{BitSet, MetricType, StopFlag, sparse};

pub use self::params::{SparseAlgorithm, SparseParams};
use self::{
    daat::{Best, Term},
    postings::Postings,
};
use crate::{
    allowed::Allowed,
    error::{Error, Result},
    file::{Header, Stored},
    flat::allowed_rows,
    index::{BuildOptions, Hit},
    params::{IndexType, RangeBounds, SearchParams},
    topk::TopK,
};

/// Rows scored between two looks at the stop flag.
const BLOCK_ROWS: usize = 1_024;

/// Candidates scored with all values, in multiples of `k`, when some were left out.
const REFINE: usize = 10;

/// Sparse vectors as they were inserted.
#[derive(Clone, Copy, Debug)]
pub struct SparseRows<'a> {
    rows: &'a [Bytes],
}

impl<'a> SparseRows<'a> {
    /// Takes rows of pairs, by index.
    pub fn new(rows: &'a [Bytes]) -> Self {
        Self { rows }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    fn pairs(&self, row: usize) -> impl Iterator<Item = (u32, f32)> + 'a {
        sparse::pairs(&self.rows[row])
    }
}

/// The inner product of two vectors whose pairs are by index.
fn product(row: impl Iterator<Item = (u32, f32)>, query: &[(u32, f32)]) -> f64 {
    let mut rest = query;
    let mut sum = 0.0;
    for (index, value) in row {
        while let [(dim, weight), behind @ ..] = rest {
            if *dim > index {
                break;
            }
            if *dim == index {
                sum += f64::from(value) * f64::from(*weight);
            }
            rest = behind;
        }
        if rest.is_empty() {
            break;
        }
    }
    sum
}

/// Compares every allowed row with every query; appends one list a query, best first.
///
/// # Errors
/// `InvalidParameter` for an empty range, the caller's fault · `Cancelled`.
pub(crate) fn scan(
    rows: &SparseRows<'_>,
    queries: &[Vec<(u32, f32)>],
    range: Option<&RangeBounds>,
    allow: Option<&BitSet>,
    k: usize,
    stop: &StopFlag,
    out: &mut Vec<Vec<Hit>>,
) -> Result<()> {
    if let Some(range) = range {
        range.validate(MetricType::Ip)?;
    }
    let mut best: Vec<Best<'_>> = Vec::with_capacity(queries.len());
    best.resize_with(queries.len(), || Best::new(k, range));
    for (at, row) in allowed_rows(allow, rows.rows()).enumerate() {
        if at % BLOCK_ROWS == 0 {
            stop.check()?;
        }
        for (query, best) in queries.iter().zip(&mut best) {
            best.offer(row, product(rows.pairs(row as usize), query));
        }
    }
    out.extend(best.into_iter().map(Best::into_hits));
    Ok(())
}

/// An index over the sparse vectors of one sealed segment. It holds all that a search needs.
pub struct SparseIndex {
    index_type: IndexType,
    algorithm: SparseAlgorithm,
    rows: usize,
    /// What candidates are found by.
    lists: Postings,
    /// What `drop_ratio_build` left out of them.
    dropped: Postings,
}

impl SparseIndex {
    /// Builds the index.
    ///
    /// # Errors
    /// `TooManyRows`, the caller's fault · `Cancelled`.
    pub fn build(
        params: &SparseParams,
        rows: &SparseRows<'_>,
        options: &BuildOptions<'_>,
    ) -> Result<Self> {
        let (count, limit) = (rows.rows(), u32::MAX as usize);
        if count > limit {
            return Err(Error::TooManyRows { rows: count, limit });
        }
        let least = least_kept(rows, params.drop_ratio_build, options.stop)?;
        let lists = Postings::build(rows, |value| value >= least, options)?;
        // Whose rows are counted already.
        let quiet = BuildOptions {
            progress: None,
            ..*options
        };
        let dropped = match params.drop_ratio_build > 0.0 {
            true => Postings::build(rows, |value| value < least, &quiet)?,
            false => Postings::default(),
        };
        let index_type = match params.index_type {
            IndexType::SparseWand => IndexType::SparseWand,
            _ => IndexType::SparseInverted,
        };
        Ok(Self {
            index_type,
            algorithm: params.algorithm,
            rows: count,
            lists,
            dropped,
        })
    }

    pub(crate) fn from_stored(mut stored: Stored) -> Result<Self> {
        let header = stored.header.clone();
        Ok(Self {
            index_type: header.index_type,
            algorithm: SparseAlgorithm::decode(header.m)
                .ok_or_else(|| Error::corrupt("algorithm"))?,
            rows: header.rows,
            lists: Postings::from_stored(&mut stored, 0, header.rows)?,
            dropped: Postings::from_stored(&mut stored, 1, header.rows)?,
        })
    }

    /// Appends the nearest allowed rows, best first, equal scores by row. With a range in `params`,
    /// only what lies in it. Without a drop ratio the answer is exact.
    ///
    /// # Errors
    /// `InvalidParameter` for an empty range, the caller's fault · `Cancelled`.
    pub fn search(
        &self,
        query: &[(u32, f32)],
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        let range = params.range.as_ref();
        if let Some(range) = range {
            range.validate(MetricType::Ip)?;
        }
        stop.check()?;
        let allowed = Allowed::of(allow, self.rows);
        if k == 0 || allowed.count == 0 {
            return Ok(());
        }
        let kept = largest(query, params.drop_ratio.unwrap_or(0.0));
        let is_exact = self.dropped.is_empty() && kept.len() == query.len();
        if is_exact {
            let best = self.find(&kept, Best::new(k, range), allowed, stop)?;
            out.extend(best.into_hits());
            return Ok(());
        }
        // A range counts for whole scores only.
        let pool = k.saturating_mul(REFINE).min(allowed.count);
        let candidates = self.find(&kept, Best::new(pool, None), allowed, stop)?;
        let mut best = Best::new(k, range);
        for hit in candidates.into_hits() {
            best.offer(hit.row, self.score(query, hit.row));
        }
        out.extend(best.into_hits());
        Ok(())
    }

    fn find<'a>(
        &self,
        query: &[(u32, f32)],
        best: Best<'a>,
        allowed: Allowed<'_>,
        stop: &StopFlag,
    ) -> Result<Best<'a>> {
        let lists = query.iter().filter(|(_, weight)| *weight > 0.0);
        let terms = lists.filter_map(|(dim, weight)| {
            let list = self.lists.list(*dim)?;
            Some(Term::new(list, f64::from(*weight)))
        });
        let terms: Vec<Term<'_>> = terms.collect();
        match self.algorithm {
            SparseAlgorithm::TaatNaive => taat(&terms, self.rows, best, allowed, stop),
            SparseAlgorithm::DaatWand => daat::wand(terms, best, allowed, stop),
            SparseAlgorithm::DaatMaxScore => daat::max_score(terms, best, allowed, stop),
        }
    }

    /// The whole score of a row.
    fn score(&self, query: &[(u32, f32)], row: u32) -> f64 {
        let terms = query.iter().map(|(dim, weight)| {
            let lists = [&self.lists, &self.dropped];
            let values = lists.into_iter().filter_map(|lists| lists.value(*dim, row));
            values.map(f64::from).sum::<f64>() * f64::from(*weight)
        });
        terms.sum()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The type as which it is stored.
    pub fn index_type(&self) -> IndexType {
        self.index_type
    }

    /// Bytes the index holds, mapped ones included.
    pub fn memory_bytes(&self) -> usize {
        self.lists.memory_bytes() + self.dropped.memory_bytes()
    }

    /// The index file, piece by piece; the large pieces are the index's own memory.
    pub fn parts(&self) -> Vec<Bytes> {
        let mut header = Header::new(self.index_type, MetricType::Ip, 0, self.rows);
        header.m = self.algorithm.encode();
        let mut sections = self.lists.sections(0);
        sections.extend(self.dropped.sections(1));
        crate::file::parts(&header, sections)
    }

    /// Writes the index file.
    ///
    /// # Errors
    /// `Io` when the writer fails.
    pub fn write(&self, out: &mut dyn Write) -> Result<()> {
        crate::file::write(&self.parts(), out)
    }
}

/// The smallest value that is not left out.
fn least_kept(rows: &SparseRows<'_>, ratio: f32, stop: &StopFlag) -> Result<f32> {
    if ratio <= 0.0 {
        return Ok(f32::MIN);
    }
    // Without growing: a vector that grows is there twice.
    let count = (0..rows.rows()).map(|row| rows.pairs(row).count()).sum();
    let mut values = Vec::with_capacity(count);
    for row in 0..rows.rows() {
        if row % BLOCK_ROWS == 0 {
            stop.check()?;
        }
        values.extend(rows.pairs(row).map(|(_, value)| value));
    }
    let left_out = (values.len() as f64 * f64::from(ratio)) as usize;
    if left_out == 0 || left_out >= values.len() {
        return Ok(f32::MIN);
    }
    let (_, least, _) = values.select_nth_unstable_by(left_out, f32::total_cmp);
    Ok(*least)
}

/// A query without a part of its values, the smallest ones.
fn largest(query: &[(u32, f32)], ratio: f32) -> Vec<(u32, f32)> {
    let left_out = (query.len() as f64 * f64::from(ratio)) as usize;
    let mut kept = query.to_vec();
    if left_out > 0 {
        kept.sort_by(|a, b| b.1.total_cmp(&a.1));
        kept.truncate(query.len() - left_out);
        kept.sort_by_key(|(dim, _)| *dim);
    }
    kept
}

/// Adds up one list after the other.
fn taat<'a>(
    terms: &[Term<'_>],
    rows: usize,
    mut best: Best<'a>,
    allowed: Allowed<'_>,
    stop: &StopFlag,
) -> Result<Best<'a>> {
    let mut scores = vec![0f64; rows];
    for term in terms {
        stop.check()?;
        for (row, value) in term.postings() {
            scores[row as usize] += value;
        }
    }
    stop.check()?;
    for row in allowed_rows(allowed.set, rows) {
        best.offer(row, scores[row as usize]);
    }
    Ok(best)
}

impl Best<'_> {
    fn into_hits(mut self) -> Vec<Hit> {
        let mut hits = Vec::new();
        self.topk.drain_into(MetricType::Ip, &mut hits);
        hits
    }
}

impl<'a> Best<'a> {
    fn new(k: usize, range: Option<&'a RangeBounds>) -> Self {
        Self {
            topk: TopK::with_k(k),
            floor: range.map_or(0.0, |range| f64::from(range.radius).max(0.0)),
            range,
        }
    }
}
