//! Inverted lists: rows grouped by their nearest centroid, searched list by list.
//!
//! | type | what a list holds of a row |
//! | --- | --- |
//! | IVF_FLAT | its number; rows are scored exactly |
//! | IVF_SQ8 | one byte a dimension; the best are scored exactly |
//! | IVF_PQ, SCANN | product-quantised codes; the best are scored exactly |
//! | IVF_RABITQ | one bit a dimension; the best are scored exactly |
//!
//! SCANN and IVF_RABITQ can be built to do without the vectors; hits then have the scores of the codes.
//!
//! # Source
//! Jégou, Douze, Schmid 2011, §IV, for the lists.

mod batch;
mod by_codes;
mod coarse;
mod compare;
mod fast;
mod finish;
mod kmeans;
mod pq;
mod rabitq;
mod search;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use redkite_types::{BitSet, MetricType, StopFlag};

pub(crate) use self::coarse::Run;
use self::coarse::{effective_nlist, probe_metric};
pub(crate) use self::pq::{Layout, Lists, MAX_NBITS, Pq, Shape};
use self::rabitq::{Rabitq, Rotation};
use self::search::with_scratch;
use crate::allowed::Allowed;
use crate::buffer::{AlignedBuffer, aligned_copy, view};
use crate::codes::{Codes, Encoding, F32_DIM_MAX, stride};
use crate::error::{Error, Result};
use crate::file::{BY_CODES_VERSION, Header, Section, Stored};
use crate::flat::{inverse_norms, norm_section};
use crate::in_file::InFile;
use crate::index::{BuildOptions, Hit, VectorIndex, check_raw, check_rows};
use crate::params::{IndexParams, IndexType, SearchParams};
use crate::raw::{RawSlice, RawVectors, check_query};
use crate::sq8::Quantizer;

/// What the lists hold of the rows, in the order of the lists.
enum Payload {
    Flat,
    Sq8 {
        codes: Codes,
        /// Where the codes are read instead of looked at.
        in_file: Option<InFile>,
    },
    Pq {
        /// `[nlist, dim]` f32.
        centroids: Bytes,
        pq: Pq,
    },
    Rabitq {
        /// `[nlist, dim]` f32.
        centroids: Bytes,
        signs: Rabitq,
    },
}

/// Inverted lists over one segment's vectors.
pub struct IvfIndex {
    /// Of the file it was opened from, or the newest.
    version: u32,
    index_type: IndexType,
    metric: MetricType,
    dim: usize,
    rows: usize,
    /// `[rows]` f32 for cosine, else empty.
    inverse_norms: Bytes,
    /// The centroids, as a query is compared with them.
    coarse: Codes,
    /// `[nlist + 1]` u32, where each list begins.
    offsets: Bytes,
    /// `[rows]` u32, list by list, in order within each.
    list_rows: Bytes,
    payload: Payload,
    /// Whether candidates are scored with the vectors, rather than by their codes.
    is_refined: bool,
}

impl IvfIndex {
    /// Groups row-major `[rows, dim]` vectors.
    ///
    /// At most one list for every 39 rows is made, whatever `nlist` says.
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

    /// As [`IvfIndex::build`], of rows of any type.
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
        let count = check_rows(raw, u32::MAX as usize)?;
        options.stop.check()?;
        let metric = params.metric;
        let version = match params.is_refined {
            true => params.index_type.format_version(),
            false => BY_CODES_VERSION,
        };
        let run = Run {
            threads: options.threads.max(1),
            stop: options.stop,
            progress: options.progress,
        };
        let nlist = effective_nlist(params.nlist, count);
        let centroids = coarse::learn(metric, nlist, raw, options.seed, run)?;
        let mut list_of = vec![0u32; count];
        let row = |i: usize, out: &mut [f32]| raw.row(i as u32).normalised(metric, out);
        // A row counts when the last of what takes long is done with it.
        let assigning = match params.index_type {
            IndexType::IvfPq | IndexType::Scann | IndexType::IvfRabitq => run.uncounted(),
            _ => run,
        };
        coarse::assign(dim, &centroids, &row, &mut list_of, assigning)?;
        let (offsets, list_rows) = group(&list_of, centroids.len() / dim);
        let list_rows = list_rows.into_bytes();
        let in_order: &[u32] = view(&list_rows);

        let payload = match params.index_type {
            IndexType::IvfSq8 => {
                let row = |at: usize, out: &mut [f32]| {
                    raw.row(in_order[at]).normalised(metric, out);
                };
                let mut codes = Codes::encode_rows(metric, dim, count, row, options.stop)?;
                codes.finish();
                Payload::Sq8 {
                    codes,
                    in_file: None,
                }
            }
            IndexType::IvfPq | IndexType::Scann => {
                let lists = Lists {
                    centroids: &centroids,
                    list_of: &list_of,
                    rows: in_order,
                };
                let shape = Shape {
                    dim,
                    m: params.parts(dim),
                    nbits: params.nbits,
                };
                let layout = Layout::of_lists(params.nbits, version);
                let pq = Pq::build(metric, shape, layout, raw, &lists, options.seed, run)?;
                Payload::Pq {
                    centroids: aligned_copy(&centroids),
                    pq,
                }
            }
            IndexType::IvfRabitq => {
                let lists = Lists {
                    centroids: &centroids,
                    list_of: &list_of,
                    rows: in_order,
                };
                Payload::Rabitq {
                    signs: Rabitq::build(metric, dim, raw, &lists, run)?,
                    centroids: aligned_copy(&centroids),
                }
            }
            _ => Payload::Flat,
        };
        let mut coarse = Codes::encode(probe_metric(metric), dim, &centroids, options.stop)?;
        coarse.finish();
        Ok(Self {
            version,
            index_type: params.index_type,
            metric,
            dim,
            rows: count,
            inverse_norms: inverse_norms(metric, raw),
            coarse,
            offsets: aligned_copy(&offsets),
            list_rows,
            payload,
            is_refined: params.is_refined,
        })
    }

    pub(crate) fn from_stored(mut stored: Stored) -> Result<Self> {
        let header = stored.header.clone();
        let Header {
            index_type,
            metric,
            dim,
            rows,
            nlist,
            ..
        } = header;
        if !(1..=65_536).contains(&nlist) {
            return Err(Error::corrupt("number of lists"));
        }
        let inverse_norms = norm_section(&mut stored)?;
        let coarse = stored_codes(&mut stored, probe_metric(metric), dim, nlist, CENTROIDS)?;
        let offsets = stored.take(Section::ListOffsets, 0, (nlist + 1) * 4)?;
        let list_rows = stored.take(Section::ListRows, 0, rows * 4)?;
        check_lists(view(&offsets), view(&list_rows), rows)?;
        let payload = match index_type {
            IndexType::IvfSq8 => {
                let in_file = stored.in_file(Section::Codes, ROWS);
                let codes = stored_codes(&mut stored, metric, dim, rows, ROWS)?;
                // Rows that are short enough to be kept as they are make no large lists.
                let in_file = in_file.filter(|_| matches!(codes.encoding, Encoding::Sq8(_)));
                Payload::Sq8 { codes, in_file }
            }
            IndexType::IvfPq | IndexType::Scann => Payload::Pq {
                centroids: stored.take(Section::Centroids, 0, nlist * dim * 4)?,
                pq: Pq::from_stored(
                    Shape {
                        dim,
                        m: header.m,
                        nbits: header.nbits,
                    },
                    Layout::of_lists(header.nbits, header.version),
                    &mut stored,
                )?,
            },
            IndexType::IvfRabitq => Payload::Rabitq {
                centroids: stored.take(Section::Centroids, 0, nlist * dim * 4)?,
                signs: Rabitq {
                    rotation: Rotation::new(dim),
                    codes: stored.take(Section::Signs, 0, rows * rabitq::row_bytes(dim))?,
                    factors: stored.take(Section::SignFactors, 0, rows * 8)?,
                },
            },
            _ => Payload::Flat,
        };
        Ok(Self {
            version: header.version,
            index_type,
            metric,
            dim,
            rows,
            inverse_norms,
            coarse,
            offsets,
            list_rows,
            payload,
            is_refined: header.is_refined,
        })
    }

    fn offsets(&self) -> &[u32] {
        view(&self.offsets)
    }

    fn nlist(&self) -> usize {
        self.coarse.rows
    }

    fn check(&self, query: &[f32], raw: &dyn RawVectors, stop: &StopFlag) -> Result<()> {
        check_query(query, self.dim)?;
        check_raw(raw, self.rows, self.dim)?;
        Ok(stop.check()?)
    }
}

/// Counting sort of the rows by list: where each list begins, and the rows in that order.
fn group(list_of: &[u32], nlist: usize) -> (Vec<u32>, AlignedBuffer) {
    let mut offsets = vec![0u32; nlist + 1];
    for list in list_of {
        offsets[*list as usize + 1] += 1;
    }
    for list in 0..nlist {
        offsets[list + 1] += offsets[list];
    }
    let mut next = offsets.clone();
    let mut buffer = AlignedBuffer::zeroed(size_of_val(list_of));
    let rows: &mut [u32] = buffer.values_mut();
    for (row, list) in list_of.iter().enumerate() {
        let at = &mut next[*list as usize];
        rows[*at as usize] = row as u32;
        *at += 1;
    }
    (offsets, buffer)
}

/// Checks that the lists hold each row once, so that no search can leave the arrays.
fn check_lists(offsets: &[u32], list_rows: &[u32], rows: usize) -> Result<()> {
    let is_whole = offsets.first() == Some(&0)
        && offsets.last().map(|end| *end as usize) == Some(rows)
        && offsets.is_sorted();
    let mut seen = BitSet::new(rows);
    for row in list_rows {
        if *row as usize >= rows {
            return Err(Error::corrupt("a list points nowhere"));
        }
        seen.set(*row as usize);
    }
    if is_whole && seen.count_ones() == rows {
        Ok(())
    } else {
        Err(Error::corrupt("a row is in no list"))
    }
}

/// Which sections hold a code matrix.
const ROWS: usize = 0;
const CENTROIDS: usize = 1;

/// The sections of a code matrix; the quantiser is its means and then its scale.
fn code_sections(codes: &Codes, number: usize) -> Vec<(Section, usize, Bytes)> {
    let mut sections = Vec::new();
    if let Encoding::Sq8(quantizer) = &codes.encoding {
        let mut numbers = quantizer.mean.clone();
        numbers.push(quantizer.scale);
        sections.push((Section::Quantizer, number, aligned_copy(&numbers)));
    }
    sections.push((Section::Codes, number, codes.data.bytes()));
    sections.push((Section::Add, number, codes.add.clone()));
    sections
}

fn stored_codes(
    stored: &mut Stored,
    metric: MetricType,
    dim: usize,
    rows: usize,
    number: usize,
) -> Result<Codes> {
    let encoding = if dim <= F32_DIM_MAX {
        Encoding::F32
    } else {
        let numbers = stored.take(Section::Quantizer, number, (dim + 1) * 4)?;
        let numbers: &[f32] = view(&numbers);
        let scale = numbers[dim];
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(Error::corrupt("scale"));
        }
        Encoding::Sq8(Quantizer {
            mean: numbers[..dim].to_vec(),
            scale,
        })
    };
    let data = stored.take(Section::Codes, number, rows * stride(&encoding, dim))?;
    let has_add = dim > F32_DIM_MAX && metric != MetricType::Ip;
    let add = stored.take(Section::Add, number, if has_add { rows * 4 } else { 0 })?;
    Ok(Codes::from_parts(metric, dim, rows, encoding, data, add))
}

impl VectorIndex for IvfIndex {
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
        params.check_reorder(k)?;
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
        for query in queries.chunks(self.dim) {
            self.check(query, raw, stop)?;
        }
        params.check_reorder(k)?;
        let allowed = Allowed::of(allow, self.rows);
        let count = queries.len() / self.dim;
        if k == 0 || allowed.count == 0 {
            out.extend(std::iter::repeat_n(Vec::new(), count));
            return Ok(());
        }
        if count == 1 {
            let mut hits = Vec::new();
            self.search(queries, raw, params, allow, k, stop, &mut hits)?;
            out.push(hits);
            return Ok(());
        }
        self.nearest_of_many(queries, raw, params, allowed, k, stop, out)
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
        with_scratch(|scratch| {
            self.within(
                query, raw, params, range, allowed, limit, stop, scratch, out,
            )
        })
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
        let payload = match &self.payload {
            Payload::Flat => 0,
            Payload::Sq8 { codes, .. } => codes.memory_bytes(),
            Payload::Pq { centroids, pq } => centroids.len() + pq.memory_bytes(),
            Payload::Rabitq { centroids, signs } => centroids.len() + signs.memory_bytes(),
        };
        let lists = self.offsets.len() + self.list_rows.len();
        self.coarse.memory_bytes() + self.inverse_norms.len() + lists + payload
    }

    fn parts(&self) -> Vec<Bytes> {
        let mut header = Header::new(self.index_type, self.metric, self.dim, self.rows);
        header.version = self.version;
        header.is_refined = self.is_refined;
        header.nlist = self.nlist();
        let mut sections = vec![
            (Section::InverseNorms, 0, self.inverse_norms.clone()),
            (Section::ListOffsets, 0, self.offsets.clone()),
            (Section::ListRows, 0, self.list_rows.clone()),
        ];
        sections.extend(code_sections(&self.coarse, CENTROIDS));
        match &self.payload {
            Payload::Flat => {}
            Payload::Sq8 { codes, .. } => {
                header.is_sq8 = matches!(codes.encoding, Encoding::Sq8(_));
                sections.extend(code_sections(codes, ROWS));
            }
            Payload::Pq { centroids, pq } => {
                header.m = pq.shape.m;
                header.nbits = pq.shape.nbits;
                sections.push((Section::Centroids, 0, centroids.clone()));
                sections.extend(pq.sections());
            }
            Payload::Rabitq { centroids, signs } => {
                sections.push((Section::Centroids, 0, centroids.clone()));
                sections.push((Section::Signs, 0, signs.codes.clone()));
                sections.push((Section::SignFactors, 0, signs.factors.clone()));
            }
        }
        crate::file::parts(&header, sections)
    }
}
