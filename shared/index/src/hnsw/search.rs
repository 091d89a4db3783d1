//! What HNSW adds to the search of a graph: its upper levels, and what its rows are.

use redkite_types::StopFlag;

use super::candidates::{Buffers, Graph, Reach, Wanted};
use super::find::{Find, score_by_codes};
use super::graph::{LevelView, max_links};
use super::nearest::{Plan, Search};
use super::scratch::{PoolSize, Scratch, Walk};
use super::walk::greedy;
use super::{HnswIndex, Rows};
use crate::allowed::Allowed;
use crate::buffer::view;
use crate::codes::{Comparable, key_share};
use crate::error::Result;
use crate::index::Hit;
use crate::params::SearchParams;
use crate::raw::{ExactScorer, RawRow, RawVectors, RowRoom};
use crate::scoring::CodeScores;

impl HnswIndex {
    /// How much a walk for `k` results looks at, and how many candidates are scored exactly: as many as
    /// were asked for, and a few more to undo what rounding mixed up. Product codes mix up far more
    /// than 8 bits a dimension do, so all their candidates are scored unless so many were asked for. Where
    /// hits have the scores of the codes, only how much is looked at counts.
    fn breadth(
        &self,
        k: usize,
        params: &SearchParams,
        scratch: &Scratch,
    ) -> Result<(PoolSize, usize)> {
        let ef = params.pool_size(k)?;
        let refined = match (params.refine_k, &self.codes) {
            (Some(factor), _) => (f64::from(factor) * k as f64).ceil() as usize,
            (None, Rows::Scalar(_)) => k,
            (None, Rows::Product(_)) => ef,
        };
        let reranked = refined.max(k + k / 2 + 5);
        let expanded = ef.max(refined);
        let size = PoolSize {
            expanded,
            kept: ef.max(reranked),
            horizon: self.horizon(k, expanded, scratch),
        };
        Ok((size, reranked))
    }

    /// The `k` nearest allowed rows; everything was checked.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    pub(super) fn nearest(
        &self,
        query: &[f32],
        raw: &dyn RawVectors,
        params: &SearchParams,
        allowed: Allowed<'_>,
        k: usize,
        stop: &StopFlag,
        scratch: &mut Scratch,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        self.prepare(query, scratch);
        let (size, reranked) = self.breadth(k, params, scratch)?;
        let wanted = Wanted {
            allowed,
            size,
            needed: k,
            widened: 1.0,
        };
        if let Some(scores) = self.code_scores(query, scratch) {
            self.candidates(wanted, stop, scratch)?;
            score_by_codes(&scores, k, scratch, out);
            return Ok(());
        }
        let search = Search {
            index: self,
            scorer: &ExactScorer::new(self.metric, query, raw.element()),
            raw,
            plan: Plan {
                reranked,
                slope: match &self.codes {
                    Rows::Scalar(_) => scratch.prepared.unit,
                    Rows::Product(_) => key_share(self.metric),
                },
                // Product codes are too coarse, and who says how many are to be scored gets that.
                ends_early: matches!(self.codes, Rows::Scalar(_)) && params.refine_k.is_none(),
            },
            stop,
        };
        search.nearest(wanted, scratch, out)
    }

    /// One over a row's length, for cosine.
    #[inline]
    fn norm(&self, row: u32) -> f32 {
        let norms: &[f32] = view(&self.inverse_norms);
        norms.get(row as usize).copied().unwrap_or(1.0)
    }

    pub(super) fn graph<'a, C>(&'a self, codes: &'a C) -> Graph<'a, LevelView<'a>, C> {
        Graph {
            layer: self.view(0),
            codes,
            rows: self.rows,
            degree: max_links(self.m, 0),
        }
    }

    /// Goes down the upper levels to the entry of level 0.
    fn descend<C: Comparable>(&self, codes: &C, query: &mut C::Query, walk: &mut Walk) -> u32 {
        let mut entry = 0;
        for level in (1..self.levels.len()).rev() {
            let layer = self.view(level);
            entry = greedy(&layer, codes, query, walk, entry);
            entry = layer.below(entry);
        }
        entry
    }
}

impl Find for HnswIndex {
    fn prepare(&self, query: &[f32], scratch: &mut Scratch) {
        match &self.codes {
            Rows::Scalar(codes) => codes.prepare(query, &mut scratch.prepared),
            Rows::Product(codes) => codes.prepare(self.metric, query, &mut scratch.product),
        }
    }

    fn candidates(
        &self,
        wanted: Wanted<'_>,
        stop: &StopFlag,
        scratch: &mut Scratch,
    ) -> Result<Reach> {
        let Scratch {
            walk,
            prepared,
            product,
            topk,
            candidates,
            ..
        } = scratch;
        let mut buffers = Buffers {
            walk,
            topk,
            candidates,
        };
        match &self.codes {
            Rows::Scalar(codes) => self.graph(codes).candidates(
                prepared,
                |query, walk| self.descend(codes, query, walk),
                wanted,
                stop,
                &mut buffers,
            ),
            Rows::Product(codes) => self.graph(codes).candidates(
                product,
                |query, walk| self.descend(codes, query, walk),
                wanted,
                stop,
                &mut buffers,
            ),
        }
    }

    fn scan_all(
        &self,
        allowed: Allowed<'_>,
        stop: &StopFlag,
        scratch: &mut Scratch,
        see: &mut dyn FnMut(f32, u32) -> f32,
    ) -> Result<()> {
        let Scratch {
            walk,
            prepared,
            product,
            ..
        } = scratch;
        match &self.codes {
            Rows::Scalar(codes) => {
                let graph = self.graph(codes);
                graph.scan_codes(prepared, allowed, stop, walk, see)
            }
            Rows::Product(codes) => {
                let graph = self.graph(codes);
                graph.scan_codes(product, allowed, stop, walk, see)
            }
        }
    }

    fn code_scores<'a>(&'a self, query: &[f32], scratch: &Scratch) -> Option<CodeScores<'a>> {
        if self.is_refined {
            return None;
        }
        let line = match &self.codes {
            Rows::Scalar(codes) => codes.line(&scratch.prepared),
            Rows::Product(codes) => codes.line(self.metric, &scratch.product),
        };
        let norms = view(&self.inverse_norms);
        Some(CodeScores::new(self.metric, line, query, norms))
    }

    #[inline]
    fn exact<'a>(&'a self, raw: &'a dyn RawVectors, row: u32) -> (RawRow<'a>, f32) {
        (raw.row(row), self.norm(row))
    }

    #[inline]
    fn fetch<'a>(
        &'a self,
        raw: &'a dyn RawVectors,
        row: u32,
        room: &'a mut RowRoom,
    ) -> Result<(RawRow<'a>, f32)> {
        Ok((raw.fetch(row, room)?, self.norm(row)))
    }
}
