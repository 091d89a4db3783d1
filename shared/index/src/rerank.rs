//! Scoring candidates exactly.

use crate::error::Result;
use crate::index::Hit;
use crate::raw::{ExactScorer, RawVectors, RowRoom};
use crate::topk::TopK;
use redkite_types::MetricType;

/// Cache lines of a raw row fetched ahead; the processor follows on by itself.
pub(crate) const RAW_LINES_AHEAD: usize = 4;

/// Rows further on of which all lines are asked for while one is scored.
pub(crate) const RAW_ROWS_AHEAD: usize = 2;

/// Asks for the start of a raw row.
#[inline]
pub(crate) fn prefetch_raw(raw: &dyn RawVectors, row: u32) {
    raw.row(row).prefetch(RAW_LINES_AHEAD);
}

/// Scores the candidates exactly and appends the best `k`, best first; `norms` is empty unless the
/// metric divides by them.
///
/// # Errors
/// `Unread` when a row is read from a file and cannot be.
#[allow(
    clippy::too_many_arguments,
    reason = "each is borrowed from a different owner on the hot path"
)]
pub(crate) fn rerank(
    scorer: &ExactScorer<'_>,
    metric: MetricType,
    raw: &dyn RawVectors,
    norms: &[f32],
    candidates: impl Iterator<Item = u32> + Clone,
    k: usize,
    topk: &mut TopK,
    room: &mut RowRoom,
    out: &mut Vec<Hit>,
) -> Result<()> {
    if !raw.is_read() {
        for row in candidates.clone() {
            prefetch_raw(raw, row);
        }
    }
    topk.reset(k);
    for row in candidates {
        let norm = norms.get(row as usize).copied().unwrap_or(1.0);
        topk.push(scorer.key(raw.fetch(row, room)?, norm), row);
    }
    topk.drain_into(metric, out);
    Ok(())
}
