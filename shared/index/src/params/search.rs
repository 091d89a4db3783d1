//! What a search is made with: its effort, and its range.

use redkite_types::MetricType;
use serde_json::{Map, Value};

use super::kind::IndexType;
use super::value::{INT_MAX, ratio, search_float, search_integer, unknown};
use crate::error::{Error, Result};

/// How much effort a search makes, and its range if it is a range search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchParams {
    /// Length of the candidate pool of HNSW; at least `k`. Larger under a filter that excludes what lies
    /// around the query, until it reaches past that.
    pub ef: Option<usize>,
    /// Effort of AUTOINDEX, 1 (fast) to 10 (thorough).
    pub level: Option<u8>,
    /// Candidates that AUTOINDEX keeps at the least, whatever its own parameters say, because so much effort
    /// was asked for in terms of another type of index; no more than its level 10 keeps.
    pub translated: Option<usize>,
    /// Lists visited of an inverted index, at least; 8 if not said. More under a filter, until as many rows
    /// were looked at as without one; where it excludes what lies around the query, until twice as many
    /// lists as before give no further result.
    pub nprobe: Option<usize>,
    /// Lists in a row without a result that end a range search; 2 if not said.
    pub max_empty_buckets: Option<usize>,
    /// Allowed candidates of SCANN scored exactly, at least `k`; 10 `k` if not said. Under a filter up to four
    /// times as many, and where it excludes what lies around the query as many as can count. Of an index
    /// built with `with_raw_data` false none is.
    pub reorder_k: Option<usize>,
    /// Candidates of HNSW_SQ, HNSW_PQ and IVF_RABITQ scored exactly, in multiples of `k`. At least 1.
    /// If not said, 10 for IVF_RABITQ, and all candidates of HNSW_PQ. More under a filter, as of `reorder_k`.
    /// Of an index built with `refine` false it is how many a walk looks for; IVF_RABITQ then looks at all
    /// rows of its lists anyway.
    pub refine_k: Option<f32>,
    /// Bits to which IVF_RABITQ rounds a query's values; 0, which is also the default, for none.
    pub query_bits: Option<usize>,
    /// Part of a sparse query's values, the smallest ones, that need not be looked at to find
    /// candidates; at least 0, below 1.
    pub drop_ratio: Option<f32>,
    /// Candidates of DISKANN, all of which are scored exactly; at least `k`. The larger of 16 and `k`
    /// if not said.
    pub search_list: Option<usize>,
    /// The range, if one was asked for.
    pub range: Option<RangeBounds>,
}

/// The scores that a range search returns.
///
/// # Units
/// As Milvus reports the metric. L2: `range_filter <= score < radius`. IP and COSINE:
/// `radius < score <= range_filter`. Without `range_filter` the near side is open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RangeBounds {
    /// The far side, not included.
    pub radius: f32,
    /// The near side, included.
    pub range_filter: Option<f32>,
}

impl RangeBounds {
    /// Whether a reported score lies in the range.
    pub fn contains(&self, metric: MetricType, score: f32) -> bool {
        let near_enough = if metric.larger_is_nearer() {
            score > self.radius
        } else {
            score < self.radius
        };
        near_enough && self.far_enough(metric, score)
    }

    /// Whether a reported score is not nearer than the near side.
    pub(crate) fn far_enough(&self, metric: MetricType, score: f32) -> bool {
        match self.range_filter {
            None => true,
            Some(near) if metric.larger_is_nearer() => score <= near,
            Some(near) => score >= near,
        }
    }

    /// Checks that the two sides leave room for a score, and that both are numbers.
    ///
    /// # Errors
    /// `InvalidParameter` with Milvus's text; the caller's fault.
    pub fn validate(&self, metric: MetricType) -> Result<()> {
        let radius = self.radius;
        let near = self.range_filter.unwrap_or(0.0);
        if radius.is_nan() || near.is_nan() {
            return Err(Error::invalid("radius and range_filter must be numbers"));
        }
        match self.range_filter {
            Some(near) if metric.larger_is_nearer() && radius >= near => {
                Err(Error::invalid(format!(
                    "range_filter must be greater than radius for IP/COSINE, \
                     range_filter:{near:.6}, radius:{radius:.6}"
                )))
            }
            Some(near) if !metric.larger_is_nearer() && radius <= near => {
                Err(Error::invalid(format!(
                    "range_filter must be less than radius for L2/HAMMING/JACCARD, \
                     range_filter:{near:.6}, radius:{radius:.6}"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Candidates of DISKANN when nothing is said.
const DEFAULT_SEARCH_LIST: usize = 16;

/// Effort of AUTOINDEX when no level is given, and of HNSW when no `ef` is.
const DEFAULT_LEVEL: u8 = 3;

/// The most candidates that the effort of another type of index asks AUTOINDEX for, those of level 10: some
/// visit a thousand lists as a matter of habit.
const MOST_TRANSLATED: usize = 452;

/// Candidates of a graph that make up for a list that is visited: 8 lists, and 40 candidates, are what is
/// done when nothing is said.
const CANDIDATES_PER_LIST: usize = 5;

impl SearchParams {
    /// A search with a pool of `ef` candidates.
    pub fn with_ef(ef: usize) -> Self {
        Self {
            ef: Some(ef),
            ..Self::default()
        }
    }

    /// Parses what a client sends as search parameters of an index of this type.
    ///
    /// HNSW, HNSW_SQ and HNSW_PQ take `ef`, the latter two `refine_k`; the inverted indexes `nprobe`
    /// and `max_empty_result_buckets`, SCANN `reorder_k`, IVF_RABITQ `refine_k` and
    /// `rbq_bits_query`; DISKANN takes `search_list`, or `search_list_size`; AUTOINDEX takes `level`
    /// and `ef`; all take `radius` and `range_filter`.
    ///
    /// FLAT and AUTOINDEX also take the effort parameters of other types, as clients send them whatever
    /// the index is. FLAT is exact, so it does no less than any of them asks for. AUTOINDEX keeps as many
    /// candidates as `search_list` or `reorder_k` says, and five for each list of `nprobe`: at least what it
    /// does without, and at most what its level 10 does.
    ///
    /// # Errors
    /// `InvalidParameter` for a parameter that is unknown, of the wrong type or out of range, with
    /// Milvus's text; the caller's fault.
    pub fn parse(index_type: IndexType, params: &Map<String, Value>) -> Result<Self> {
        let mut parsed = Self::default();
        let (mut radius, mut range_filter) = (None, None);
        for (key, value) in params {
            match (key.as_str(), index_type) {
                ("metric_type" | "index_type", _) => {}
                ("radius", _) => radius = Some(search_float(key, value)?),
                ("range_filter", _) => range_filter = Some(search_float(key, value)?),
                ("ef", IndexType::Flat | IndexType::BinFlat) => {
                    search_integer(key, value, 1, INT_MAX)?;
                }
                ("ef", kind) if kind.is_graph() => {
                    parsed.ef = Some(search_integer(key, value, 1, INT_MAX)? as usize);
                }
                ("search_list" | "search_list_size", IndexType::DiskAnn) => {
                    let number = search_integer("search_list_size", value, 1, INT_MAX)?;
                    parsed.search_list = Some(number as usize);
                }
                ("refine_k", kind) if kind.takes_refine() => {
                    parsed.refine_k = Some(refine_k(key, value)?);
                }
                ("rbq_bits_query", IndexType::IvfRabitq) => {
                    parsed.query_bits = Some(search_integer(key, value, 0, 8)? as usize);
                }
                ("nprobe", kind) if kind.is_ivf() => {
                    parsed.nprobe = Some(search_integer(key, value, 1, 65_536)? as usize);
                }
                ("max_empty_result_buckets", kind) if kind.is_ivf() => {
                    let number = search_integer(key, value, 1, 65_535)?;
                    parsed.max_empty_buckets = Some(number as usize);
                }
                ("reorder_k", IndexType::Scann) => {
                    parsed.reorder_k = Some(search_integer(key, value, 1, INT_MAX)? as usize);
                }
                ("drop_ratio_search", kind) if kind.is_sparse() => {
                    parsed.drop_ratio = Some(ratio(key, value)?);
                }
                ("level", IndexType::AutoIndex) => {
                    parsed.level = Some(search_integer(key, value, 1, 10)? as u8);
                }
                (
                    key @ ("nprobe" | "search_list" | "reorder_k"),
                    IndexType::Flat | IndexType::BinFlat | IndexType::AutoIndex,
                ) => {
                    let asked = search_integer(key, value, 1, INT_MAX)? as usize;
                    if index_type == IndexType::AutoIndex {
                        parsed.translate(key, asked);
                    }
                }
                _ => return Err(unknown(key, index_type)),
            }
        }
        parsed.range = match (radius, range_filter) {
            (Some(radius), range_filter) => Some(RangeBounds {
                radius,
                range_filter,
            }),
            (None, None) => None,
            (None, Some(_)) => return Err(Error::invalid("range_filter needs a radius")),
        };
        Ok(parsed)
    }

    /// Takes note of the effort of another type of index.
    fn translate(&mut self, key: &str, asked: usize) {
        let candidates = match key {
            "nprobe" => asked.saturating_mul(CANDIDATES_PER_LIST),
            _ => asked,
        };
        let most = self.translated.unwrap_or(0).max(candidates);
        self.translated = Some(most.min(MOST_TRANSLATED));
    }

    /// Candidates with which a range search of a graph begins at the least, if that was said.
    pub(crate) fn first_pool(&self) -> Option<usize> {
        self.ef.max(self.translated)
    }

    /// The range of a range search.
    pub(crate) fn required_range(&self, metric: MetricType) -> Result<RangeBounds> {
        let range = self
            .range
            .ok_or_else(|| Error::invalid("range search needs a radius"))?;
        range.validate(metric)?;
        Ok(range)
    }

    /// Checks that a `reorder_k` leaves room for `k` results.
    pub(crate) fn check_reorder(&self, k: usize) -> Result<()> {
        match self.reorder_k {
            Some(reorder_k) if reorder_k < k => Err(Error::invalid(format!(
                "reorder_k({reorder_k}) should be larger than k({k})"
            ))),
            _ => Ok(()),
        }
    }

    /// Candidates of DISKANN for `k` results.
    ///
    /// # Errors
    /// `InvalidParameter` when an explicit `search_list` is smaller than `k`.
    pub(crate) fn search_list_size(&self, k: usize) -> Result<usize> {
        match self.search_list {
            Some(size) if size < k => Err(Error::invalid(format!(
                "search_list_size({size}) should be larger than k({k})"
            ))),
            Some(size) => Ok(size),
            None => Ok(k.max(DEFAULT_SEARCH_LIST)),
        }
    }

    /// Candidates to keep for `k` results.
    ///
    /// A level doubles the effort about every second step: level 1 keeps 20 candidates, 3 keeps 40,
    /// 10 keeps 452, and never fewer than 1.5 `k`.
    ///
    /// # Errors
    /// `InvalidParameter` when an explicit `ef` is smaller than `k`.
    pub(crate) fn pool_size(&self, k: usize) -> Result<usize> {
        let own = match self.ef {
            Some(ef) if ef < k => {
                return Err(Error::invalid(format!(
                    "out of range in json: ef({ef}) should be larger than k({k})"
                )));
            }
            Some(ef) => ef,
            None => {
                let level = f64::from(self.level.unwrap_or(DEFAULT_LEVEL));
                let effort = 20.0 * 2f64.powf((level - 1.0) / 2.0);
                (effort as usize).max(k + k / 2)
            }
        };
        Ok(own.max(self.translated.unwrap_or(0)))
    }
}

fn refine_k(key: &str, value: &Value) -> Result<f32> {
    let factor = search_float(key, value)?;
    if factor >= 1.0 && factor.is_finite() {
        return Ok(factor);
    }
    Err(Error::invalid(format!(
        "Out of range in json: param '{key}' ({factor}) should be in range [1, {:.6e}]",
        f32::MAX
    )))
}
