//! A graph on disk: rows and their links lie in pages of a file that is mapped, and only 8-bit codes of
//! the rows are in memory.
//!
//! A walk compares codes and reads the pages of the nodes that it steps on. These hold the vectors
//! too, so scoring what the walk found reads nothing more. Raw vectors that are lent are not looked at.
//!
//! # Source
//! Subramanya et al. 2019, "DiskANN"; 8-bit codes in the place of product-quantised ones.

mod build;
mod pages;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use redkite_types::{BitSet, MetricType, StopFlag};

use self::build::{ENTRIES, nearest};
use self::pages::{Pages, Shape};
use crate::allowed::Allowed;
use crate::buffer::{Contents, aligned_copy, view};
use crate::codes::{Codes, Prepared};
use crate::error::{Error, Result};
use crate::file::{Header, Section, Stored};
use crate::hnsw::candidates::{Buffers, Graph, Reach, Wanted};
use crate::hnsw::find::Find;
use crate::hnsw::nearest::{Plan, Search};
use crate::hnsw::order;
use crate::hnsw::scratch::{MAX_NODES, PoolSize, Scratch, Walk, with_scratch};
use crate::hnsw::{scalar_sections, stored_codes};
use crate::index::{BuildOptions, Hit, VectorIndex, check_raw, check_rows};
use crate::params::{IndexParams, IndexType, SearchParams};
use crate::raw::{Element, ExactScorer, RawRow, RawSlice, RawVectors, RowRoom, check_query};

/// A graph in pages over one segment's vectors.
pub struct DiskIndex {
    metric: MetricType,
    /// In memory, wherever the pages are.
    codes: Codes,
    pages: Pages,
    /// Where a walk may begin.
    entries: Vec<u32>,
    /// Candidates considered for a row's links when it was built.
    list_size: usize,
}

impl DiskIndex {
    /// Builds the graph of row-major `[rows, dim]` vectors and lays it out in pages.
    ///
    /// # Errors
    /// As [`crate::build`].
    pub fn build(
        params: &IndexParams,
        rows: &[f32],
        dim: usize,
        options: &BuildOptions<'_>,
    ) -> Result<Self> {
        Self::build_raw(params, &RawSlice::new(rows, dim)?, options)
    }

    /// As [`DiskIndex::build`], of rows of any type.
    ///
    /// # Errors
    /// As [`crate::build`].
    pub fn build_raw(
        params: &IndexParams,
        raw: &dyn RawVectors,
        options: &BuildOptions<'_>,
    ) -> Result<Self> {
        let dim = raw.dim();
        params.validate()?;
        let count = check_rows(raw, MAX_NODES)?;
        options.stop.check()?;
        let metric = params.metric;
        let mut codes = Codes::of_raw(metric, raw, options.stop)?;
        let (degree, list_size) = (params.m, params.ef_construction);
        let (graph, entries) = build::build_graph(&codes, degree, list_size, options)?;
        codes.finish();
        let shape = Shape {
            dim,
            degree,
            rows: count,
        };
        Ok(Self {
            metric,
            codes,
            pages: Pages::write(shape, metric, raw, &graph),
            entries,
            list_size,
        })
    }

    /// Takes the index out of a file. Of one that is mapped, the codes are copied into memory.
    pub(crate) fn from_stored(mut stored: Stored) -> Result<Self> {
        let header = stored.header.clone();
        if !(1..=2048).contains(&header.m) || header.rows > MAX_NODES {
            return Err(Error::corrupt("graph shape"));
        }
        let mut codes = stored_codes(&header, &mut stored)?;
        if stored.is_mapped() {
            codes.data = Contents::Shared(aligned_copy(&codes.data));
            codes.add = aligned_copy(&codes.add);
        }
        let count = header.rows.min(ENTRIES);
        let entries = stored.take(Section::Entry, 0, count * 4)?;
        let entries = view::<u32>(&entries).to_vec();
        if entries.iter().any(|entry| *entry as usize >= header.rows) {
            return Err(Error::corrupt("an entry points nowhere"));
        }
        let shape = Shape {
            dim: header.dim,
            degree: header.m,
            rows: header.rows,
        };
        Ok(Self {
            metric: header.metric,
            codes,
            pages: Pages {
                shape,
                bytes: stored.take(Section::Pages, 0, shape.bytes())?,
            },
            entries,
            list_size: header.ef_construction,
        })
    }

    fn graph(&self) -> Graph<'_, &Pages, Codes> {
        Graph {
            layer: &self.pages,
            codes: &self.codes,
            rows: self.codes.rows,
            degree: self.pages.shape.degree,
        }
    }

    fn check(&self, query: &[f32], raw: &dyn RawVectors, stop: &StopFlag) -> Result<()> {
        check_query(query, self.dim())?;
        check_raw(raw, self.len(), self.dim())?;
        Ok(stop.check()?)
    }
}

impl Find for DiskIndex {
    fn prepare(&self, query: &[f32], scratch: &mut Scratch) {
        self.codes.prepare(query, &mut scratch.prepared);
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
            topk,
            candidates,
            ..
        } = scratch;
        let mut buffers = Buffers {
            walk,
            topk,
            candidates,
        };
        let entry = |query: &mut Prepared, walk: &mut Walk| {
            nearest(&self.codes, query, &self.entries, &mut walk.keys)
        };
        self.graph()
            .candidates(prepared, entry, wanted, stop, &mut buffers)
    }

    fn scan_all(
        &self,
        allowed: Allowed<'_>,
        stop: &StopFlag,
        scratch: &mut Scratch,
        see: &mut dyn FnMut(f32, u32) -> f32,
    ) -> Result<()> {
        let Scratch { walk, prepared, .. } = scratch;
        self.graph().scan_codes(prepared, allowed, stop, walk, see)
    }

    #[inline]
    fn exact<'a>(&'a self, _raw: &'a dyn RawVectors, row: u32) -> (RawRow<'a>, f32) {
        let (values, norm) = self.pages.row(row);
        (RawRow::F32(values), norm)
    }

    /// The vectors are in the index's own pages.
    fn is_read(&self, _raw: &dyn RawVectors) -> bool {
        false
    }

    #[inline]
    fn fetch<'a>(
        &'a self,
        raw: &'a dyn RawVectors,
        row: u32,
        _room: &'a mut RowRoom,
    ) -> Result<(RawRow<'a>, f32)> {
        Ok(self.exact(raw, row))
    }

    /// The pages have the vectors as f32, whatever the column's type is.
    fn element(&self, _raw: &dyn RawVectors) -> Element {
        Element::F32
    }
}

impl VectorIndex for DiskIndex {
    fn search(
        &self,
        query: &[f32],
        raw: &dyn RawVectors,
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        self.check(query, raw, stop)?;
        let list_size = params.search_list_size(k)?;
        let allowed = Allowed::of(allow, self.len());
        if k == 0 || allowed.count == 0 {
            return Ok(());
        }
        // A little more than `k`, to undo what rounding to 8 bits mixed up.
        let size = PoolSize::of(list_size.max(k + k / 2 + 5));
        let wanted = Wanted {
            allowed,
            size,
            needed: k,
            widened: 1.0,
        };
        with_scratch(|scratch| {
            self.prepare(query, scratch);
            let search = Search {
                index: self,
                scorer: &ExactScorer::new(self.metric, query, Element::F32),
                raw,
                plan: Plan {
                    reranked: size.kept,
                    slope: scratch.prepared.unit,
                    ends_early: true,
                },
                stop,
            };
            search.nearest(wanted, scratch, out)
        })
    }

    fn search_many(
        &self,
        queries: &[f32],
        raw: &dyn RawVectors,
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Vec<Hit>>,
    ) -> Result<()> {
        order::search_many(self, queries, raw, params, allow, k, stop, out)
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
        self.check(query, raw, stop)?;
        let allowed = Allowed::of(allow, self.len());
        if limit == 0 || allowed.count == 0 {
            return Ok(());
        }
        let first = params.search_list;
        with_scratch(|scratch| {
            self.within(query, raw, first, range, allowed, limit, stop, scratch, out)
        })
    }

    fn len(&self) -> usize {
        self.codes.rows
    }

    fn dim(&self) -> usize {
        self.codes.dim
    }

    fn metric(&self) -> MetricType {
        self.metric
    }

    fn index_type(&self) -> IndexType {
        IndexType::DiskAnn
    }

    fn memory_bytes(&self) -> usize {
        self.pinned_bytes() + self.pages.bytes.len()
    }

    fn pinned_bytes(&self) -> usize {
        self.codes.memory_bytes() + self.entries.len() * 4
    }

    fn parts(&self) -> Vec<Bytes> {
        let mut header = Header::new(IndexType::DiskAnn, self.metric, self.dim(), self.len());
        header.m = self.pages.shape.degree;
        header.ef_construction = self.list_size;
        let mut sections = scalar_sections(&self.codes, &mut header);
        sections.push((Section::Entry, 0, aligned_copy(&self.entries)));
        sections.push((Section::Pages, 0, self.pages.bytes.clone()));
        crate::file::parts(&header, sections)
    }
}
