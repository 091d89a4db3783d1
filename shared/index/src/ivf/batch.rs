//! Many queries at once, list by list.

use redkite_types::StopFlag;

use super::IvfIndex;
use super::compare::{Asked, compare_blocks};
use super::finish::Search;
use super::search::{Scratch, Wanted, with_scratch};
use crate::allowed::Allowed;
use crate::effort::Met;
use crate::error::Result;
use crate::flat::scan_together;
use crate::index::Hit;
use crate::params::SearchParams;
use crate::raw::{ExactScorer, RawVectors};
use crate::together::{AllowedOfLists, BATCH_BYTES, ListVisits, parts};

/// A query of a batch.
struct Member<'a> {
    asked: Asked,
    scorer: ExactScorer<'a>,
    met: Met,
}

impl IvfIndex {
    /// What [`IvfIndex::nearest`] finds for each of the queries, `[nq, dim]`; everything was checked.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    pub(super) fn nearest_of_many(
        &self,
        queries: &[f32],
        raw: &dyn RawVectors,
        params: &SearchParams,
        allowed: Allowed<'_>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Vec<Hit>>,
    ) -> Result<()> {
        let wanted = self.wanted(params, allowed, k);
        if self.scans_instead(&wanted) {
            let norms = self.norms();
            let rows = (raw, self.rows, norms);
            return scan_together(rows, self.metric, queries, allowed.set, wanted.k, stop, out);
        }
        let mut lists = AllowedOfLists::new(allowed, self.offsets(), self.list_rows());
        let mut left = queries.chunks_exact(self.dim);
        while left.len() > 0 {
            stop.check()?;
            with_scratch(|scratch| {
                let (visits, mut members) =
                    self.gather_batch(&mut left, raw, params, &wanted, &mut lists, scratch);
                self.visit(visits, &lists, raw, &wanted, &mut members, stop, scratch)?;
                for member in &mut members {
                    let mut hits = Vec::new();
                    let Member { asked, scorer, met } = member;
                    let search = Search {
                        index: self,
                        wanted,
                        scorer,
                        raw,
                        stop,
                    };
                    search.finish(*met, asked, scratch, &mut hits)?;
                    out.push(hits);
                }
                Ok::<(), crate::error::Error>(())
            })?;
        }
        Ok(())
    }

    /// Prepares as many of the queries as there is memory for, one at least.
    fn gather_batch<'a>(
        &self,
        left: &mut std::slice::ChunksExact<'a, f32>,
        raw: &dyn RawVectors,
        params: &SearchParams,
        wanted: &Wanted<'_>,
        lists: &mut AllowedOfLists<'_>,
        scratch: &mut Scratch,
    ) -> (ListVisits, Vec<Member<'a>>) {
        let each = self.prepared_bytes() + wanted.wide_pool * size_of::<u64>();
        let (mut visits, mut members) = (ListVisits::default(), Vec::new());
        while members.is_empty() || members.len() * each + visits.bytes() < BATCH_BYTES {
            let Some(query) = left.next() else {
                break;
            };
            let mut asked = Asked::default();
            let Scratch { order, parts, .. } = &mut *scratch;
            self.prepare(query, params, parts, &mut asked);
            order.rank(&self.coarse, &asked.query, wanted.effort.nprobe);
            let nearest = |rank| order.get(rank);
            let met = visits.add(members.len(), wanted.effort, lists, nearest);
            asked.best.reset(wanted.wide_pool);
            members.push(Member {
                asked,
                scorer: ExactScorer::new(self.metric, query, raw.element()),
                met,
            });
        }
        (visits, members)
    }

    /// Compares each part of each list with the queries that visit it.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    fn visit(
        &self,
        mut visits: ListVisits,
        lists: &AllowedOfLists<'_>,
        raw: &dyn RawVectors,
        wanted: &Wanted<'_>,
        members: &mut [Member<'_>],
        stop: &StopFlag,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let mut bases = Vec::new();
        for (list, visitors) in visits.by_list() {
            stop.check()?;
            bases.clear();
            bases.extend(
                visitors
                    .clone()
                    .map(|at| self.base(list, &members[at].asked)),
            );
            for part in parts(lists.places(list)) {
                if self.in_blocks().is_none() {
                    self.gather_codes(part.clone(), wanted.allowed, &mut scratch.gathered)?;
                }
                for (at, base) in visitors.clone().zip(&bases) {
                    let Member { asked, scorer, .. } = &mut members[at];
                    match self.in_blocks() {
                        Some(pq) => {
                            let (rows, part) = (self.list_rows(), part.clone());
                            compare_blocks(pq, rows, part, *base, wanted.allowed, asked);
                        }
                        None => self.compare(*base, scorer, raw, &mut scratch.gathered, asked),
                    }
                }
            }
        }
        Ok(())
    }
}
