//! Hierarchical navigable small-world graph, walked on 8-bit or product-quantised codes, answered in
//! exact scores.
//!
//! # Source
//! Malkov & Yashunin 2016.

pub(crate) mod build;
pub(crate) mod candidates;
mod dimension;
mod filtered;
pub(crate) mod find;
pub(crate) mod graph;
pub(crate) mod nearest;
pub(crate) mod order;
pub(crate) mod scratch;
mod search;
#[cfg(test)]
mod tests;
pub(crate) mod walk;

use bytes::Bytes;
use redkite_types::{BitSet, MetricType};

use self::find::Find as _;
use self::graph::{Layer as _, Level, LevelView, link_stride, max_links};
use self::scratch::{MAX_NODES, with_scratch};
use crate::allowed::Allowed;
use crate::buffer::{aligned_copy, view};
use crate::codes::{Codes, Encoding, Halves, stride};
use crate::error::{Error, Result};
use crate::file::{Header, Section, Stored};
use crate::flat::{inverse_norms, norm_section};
use crate::index::{BuildOptions, Hit, VectorIndex, check_raw, check_rows};
use crate::params::{IndexParams, IndexType, SearchParams};
use crate::product::ProductRows;
use crate::raw::{RawSlice, RawVectors, check_query};
use crate::sq8::Quantizer;
use redkite_types::StopFlag;

/// What the graph is walked on.
enum Rows {
    /// One byte a dimension, or f32 where that is no larger.
    Scalar(Codes),
    /// Product-quantised codes.
    Product(ProductRows),
}

impl Rows {
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Scalar(codes) => codes.memory_bytes(),
            Self::Product(codes) => codes.memory_bytes(),
        }
    }
}

/// A graph over the codes of one segment's vectors.
pub struct HnswIndex {
    index_type: IndexType,
    metric: MetricType,
    dim: usize,
    rows: usize,
    codes: Rows,
    /// `[rows]` f32 for cosine, else empty.
    inverse_norms: Bytes,
    /// Lowest first. The walk starts at node 0 of the last.
    levels: Vec<Level>,
    m: usize,
    ef_construction: usize,
    /// That of the rows, as [`dimension::dimension`] measures it, if it is known and a search can go by it.
    dimension: Option<f32>,
    /// Whether candidates are scored with the vectors, rather than by their codes.
    is_refined: bool,
}

impl HnswIndex {
    /// Builds the graph of row-major `[rows, dim]` vectors.
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

    /// As [`HnswIndex::build`], of rows of any type.
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
        params.check_dim(dim)?;
        let count = check_rows(raw, MAX_NODES)?;
        options.stop.check()?;
        let mut codes = Codes::of_raw(params.metric, raw, options.stop)?;
        let levels = build::build_levels(&codes, params.m, params.ef_construction, &[], options)?;
        let (codes, dimension) = if params.index_type == IndexType::HnswPq {
            // The graph is built on 8 bits a dimension: better links cost a walk nothing.
            drop(codes);
            let (seed, stop) = (options.seed, options.stop);
            let codes = ProductRows::build(params, raw, seed, stop)?;
            (Rows::Product(codes), None)
        } else {
            let dimension = finish(&mut codes, raw, &levels, options.stop)?;
            (Rows::Scalar(codes), dimension)
        };
        Ok(Self {
            index_type: params.index_type,
            metric: params.metric,
            dim,
            rows: count,
            inverse_norms: inverse_norms(params.metric, raw),
            codes,
            levels,
            m: params.m,
            ef_construction: params.ef_construction,
            dimension,
            is_refined: params.is_refined,
        })
    }

    fn extend(
        &self,
        raw: &dyn RawVectors,
        options: &BuildOptions<'_>,
    ) -> Result<Option<Box<dyn VectorIndex>>> {
        let Rows::Scalar(codes) = &self.codes else {
            return Ok(None);
        };
        let count = check_rows(raw, MAX_NODES)?;
        if count < self.rows || raw.dim() != self.dim {
            return Err(Error::invalid(
                "an index is extended by more of the same rows",
            ));
        }
        let Some(mut codes) = codes.extended(raw, options.stop)? else {
            return Ok(None);
        };
        let (m, ef_construction, known) = (self.m, self.ef_construction, &self.levels);
        let levels = build::build_levels(&codes, m, ef_construction, known, options)?;
        let dimension = finish(&mut codes, raw, &levels, options.stop)?;
        Ok(Some(Box::new(Self {
            rows: count,
            dimension,
            inverse_norms: inverse_norms(self.metric, raw),
            codes: Rows::Scalar(codes),
            levels,
            ..*self
        })))
    }

    pub(crate) fn from_stored(mut stored: Stored) -> Result<Self> {
        let header = stored.header.clone();
        if !(2..=2048).contains(&header.m) || header.rows > MAX_NODES || header.upper_levels > 64 {
            return Err(Error::corrupt("graph shape"));
        }
        let inverse_norms = norm_section(&mut stored)?;
        let codes = if header.index_type == IndexType::HnswPq {
            Rows::Product(ProductRows::from_stored(&mut stored)?)
        } else {
            let mut codes = stored_codes(&header, &mut stored)?;
            if header.dimension.is_some() && header.metric == MetricType::Ip {
                codes.know_length();
            }
            Rows::Scalar(codes)
        };
        let levels = stored_levels(&header, &mut stored)?;
        Ok(Self {
            index_type: header.index_type,
            metric: header.metric,
            dim: header.dim,
            rows: header.rows,
            codes,
            inverse_norms,
            levels,
            m: header.m,
            ef_construction: header.ef_construction,
            dimension: header.dimension,
            is_refined: header.is_refined,
        })
    }

    fn view(&self, level: usize) -> LevelView<'_> {
        self.levels[level].view()
    }

    fn check(&self, query: &[f32], raw: &dyn RawVectors, stop: &StopFlag) -> Result<()> {
        check_query(query, self.dim)?;
        check_raw(raw, self.rows, self.dim)?;
        Ok(stop.check()?)
    }
}

/// Ends the building of the codes of `raw`, whose graph is finished; the dimension of their rows.
fn finish(
    codes: &mut Codes,
    raw: &dyn RawVectors,
    levels: &[Level],
    stop: &StopFlag,
) -> Result<Option<f32>> {
    let lowest = levels[0].view();
    codes.find_length(raw, stop)?;
    let dimension = dimension::dimension(codes, &lowest, stop)?;
    let neighbours = |row, out: &mut Vec<u32>| {
        out.extend_from_slice(lowest.neighbours(row, &mut Vec::new()));
    };
    codes.finish_in_halves(neighbours, stop)?;
    Ok(dimension)
}

/// Reads the rows out of a file.
pub(crate) fn stored_codes(header: &Header, stored: &mut Stored) -> Result<Codes> {
    let Header {
        rows, dim, metric, ..
    } = *header;
    let mut halves = None;
    let encoding = if header.is_sq8 {
        let numbers = if header.is_halved { dim + 4 } else { dim };
        let means = stored.take(Section::Mean, 0, numbers * 4)?;
        let (mean, rest) = view::<f32>(&means).split_at(dim);
        if let [slack, longest, least, step] = *rest {
            if !(slack >= 0.0 && longest >= 0.0 && least.is_finite() && step >= 0.0) {
                return Err(Error::corrupt("halves"));
            }
            halves = Some(Halves {
                slack,
                longest,
                least,
                step,
                adds: stored.take(Section::HighAdds, 0, rows)?,
            });
        }
        if !(header.scale > 0.0 && header.scale.is_finite()) {
            return Err(Error::corrupt("scale"));
        }
        Encoding::Sq8(Quantizer {
            mean: mean.to_vec(),
            scale: header.scale,
        })
    } else {
        Encoding::F32
    };
    if !header.is_sq8 && dim > crate::codes::F32_DIM_MAX {
        return Err(Error::corrupt("encoding"));
    }
    let data = stored.take(Section::Codes, 0, rows * stride(&encoding, dim))?;
    let adds = if header.is_sq8 && metric != MetricType::Ip {
        rows
    } else {
        0
    };
    let add = stored.take(Section::Add, 0, adds * 4)?;
    let codes = Codes::from_parts(metric, dim, rows, encoding, data, add);
    Ok(codes.with_halves(halves))
}

/// Reads the levels out of a file and checks every link.
fn stored_levels(header: &Header, stored: &mut Stored) -> Result<Vec<Level>> {
    let mut levels = Vec::with_capacity(header.upper_levels + 1);
    let mut nodes_below = header.rows;
    for number in 0..=header.upper_levels {
        let link_stride = link_stride(max_links(header.m, number));
        let nodes = match number {
            0 => header.rows,
            _ => stored.len_of(Section::NodeRows, number)? / 4,
        };
        let numbers = if number == 0 { 0 } else { nodes * 4 };
        let level = Level {
            links: stored.take(Section::Links, number, nodes * link_stride * 4)?,
            node_rows: stored.take(Section::NodeRows, number, numbers)?,
            node_below: stored.take(Section::NodeBelow, number, numbers)?,
            stride: link_stride,
        };
        if nodes == 0 && number > 0 {
            return Err(Error::corrupt("empty level"));
        }
        level.check(header.rows, nodes_below)?;
        nodes_below = nodes;
        levels.push(level);
    }
    Ok(levels)
}

impl VectorIndex for HnswIndex {
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
        params.pool_size(k)?;
        let allowed = Allowed::of(allow, self.rows);
        if k == 0 || allowed.count == 0 {
            return Ok(());
        }
        with_scratch(|scratch| self.nearest(query, raw, params, allowed, k, stop, scratch, out))
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
        let allowed = Allowed::of(allow, self.rows);
        if limit == 0 || allowed.count == 0 {
            return Ok(());
        }
        let first = params.first_pool();
        with_scratch(|scratch| {
            self.within(query, raw, first, range, allowed, limit, stop, scratch, out)
        })
    }

    fn extended(
        &self,
        raw: &dyn RawVectors,
        options: &BuildOptions<'_>,
    ) -> Result<Option<Box<dyn VectorIndex>>> {
        self.extend(raw, options)
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
        self.index_type
    }

    fn memory_bytes(&self) -> usize {
        let links: usize = self.levels.iter().map(Level::memory_bytes).sum();
        self.codes.memory_bytes() + self.inverse_norms.len() + links
    }

    fn parts(&self) -> Vec<Bytes> {
        let mut header =
            Header::new(self.index_type, self.metric, self.dim, self.rows).refined(self.is_refined);
        header.m = self.m;
        header.ef_construction = self.ef_construction;
        header.upper_levels = self.levels.len() - 1;
        if let Some(dimension) = self.dimension {
            header.measured(dimension);
        }
        let mut sections = vec![(Section::InverseNorms, 0, self.inverse_norms.clone())];
        match &self.codes {
            Rows::Scalar(codes) => sections.extend(scalar_sections(codes, &mut header)),
            Rows::Product(codes) => {
                header.parts = codes.pq.shape.m;
                header.nbits = codes.pq.shape.nbits;
                sections.extend(codes.sections());
            }
        }
        for (number, level) in self.levels.iter().enumerate() {
            sections.push((Section::Links, number, level.links.clone()));
            sections.push((Section::NodeRows, number, level.node_rows.clone()));
            sections.push((Section::NodeBelow, number, level.node_below.clone()));
        }
        crate::file::parts(&header, sections)
    }
}

/// The sections of scalar codes, and their part of the header.
pub(crate) fn scalar_sections(codes: &Codes, header: &mut Header) -> Vec<(Section, usize, Bytes)> {
    let mut sections = Vec::new();
    if let Encoding::Sq8(quantizer) = &codes.encoding {
        header.is_sq8 = true;
        header.scale = quantizer.scale;
        let mut means = quantizer.mean.clone();
        if let Some(halves) = &codes.halves {
            header.halve();
            means.extend([halves.slack, halves.longest, halves.least, halves.step]);
            sections.push((Section::HighAdds, 0, halves.adds.clone()));
        }
        sections.push((Section::Mean, 0, aligned_copy(&means)));
    }
    sections.push((Section::Codes, 0, codes.data.bytes()));
    sections.push((Section::Add, 0, codes.add.clone()));
    sections
}
