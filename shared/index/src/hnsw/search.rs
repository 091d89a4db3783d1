//! What HNSW adds to the search of a graph: its upper levels, and what its rows are.

use redkite_types::StopFlag;

use super::find::{Buffers, Find, Graph, Wanted};
use super::graph::{LevelView, max_links};
use super::scratch::{Scratch, Walk};
use super::walk::greedy;
use super::{HnswIndex, Rows};
use crate::allowed::Allowed;
use crate::buffer::view;
use crate::codes::Comparable;
use crate::error::Result;
use crate::index::Hit;
use crate::params::SearchParams;
use crate::raw::{ExactScorer, RawRow, RawVectors, RowRoom};

impl HnswIndex {
    /// Candidates to score exactly for `k` results, of a pool of so many: as many as were asked for,
    /// and enough to undo what rounding mixed up. Product codes mix up far more than 8 bits a dimension
    /// do, so all their candidates are scored unless so many were asked for.
    fn rerank_count(&self, k: usize, pool_size: usize, params: &SearchParams) -> usize {
        let refined = match (params.refine_k, &self.codes) {
            (Some(factor), _) => (f64::from(factor) * k as f64).ceil() as usize,
            (None, Rows::Scalar(_)) => k,
            (None, Rows::Product(_)) => pool_size,
        };
        (k + k / 2 + 5).max(refined)
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
        let pool_size = params.pool_size(k)?.min(allowed.count);
        let reranked = self.rerank_count(k, pool_size, params);
        let reranked = reranked.min(allowed.count.max(k));
        let wanted = Wanted {
            allowed,
            pool_size: pool_size.max(reranked),
            needed: k,
        };
        self.prepare(query, scratch);
        self.candidates(wanted, stop, scratch)?;
        scratch.candidates.truncate(reranked);
        let scorer = ExactScorer::new(self.metric, query, raw.element());
        self.rerank(&scorer, raw, k, scratch, out)
    }

    /// One over a row's length, for cosine.
    #[inline]
    fn norm(&self, row: u32) -> f32 {
        let norms: &[f32] = view(&self.inverse_norms);
        norms.get(row as usize).copied().unwrap_or(1.0)
    }

    fn graph<'a, C>(&'a self, codes: &'a C) -> Graph<'a, LevelView<'a>, C> {
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

    fn candidates(&self, wanted: Wanted<'_>, stop: &StopFlag, scratch: &mut Scratch) -> Result<()> {
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
