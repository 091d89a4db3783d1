//! The index file: a header, a table of sections, and the sections as they lie in memory.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | magic `RKINDEX\n` |
//! | 8..12 | format version |
//! | 12..16 | CRC32C of the header and the table, this field as zero |
//! | 16..20 | number of sections |
//! | 20..24 | index type, metric, encoding (0 f32, 1 codes, 2 codes with their halves apart), from version 4 on flags, else zero: one byte each |
//! | 24..32 | rows |
//! | 32..36 | dim |
//! | 36..40 | M |
//! | 40..44 | efConstruction |
//! | 44..48 | scale of the codes, f32 |
//! | 48..52 | number of upper levels |
//! | 52..56 | lists of an inverted index, from version 2 on; dimension of the rows of a graph, f32, from version 6 on; else zero |
//! | 56..60 | bits of a product-quantised code, from version 2 on, else zero |
//! | 60..64 | parts of a product-quantised code of a graph, from version 3 on, else zero |
//! | 64.. | one entry of 32 bytes a section: kind u32, level u32, CRC32C u32, zero u32, offset u64, length u64 |
//!
//! All numbers are little-endian; every section starts on a multiple of 64 bytes, so a mapped file is
//! used in place. Changing anything here means a new version; the older ones stay readable, and
//! `tests/golden` keeps one file of each. Version 2 added index types: files of the types of version
//! 1 (FLAT, HNSW, AUTOINDEX) are still written as such, so that an older build reads them. Version 3
//! adds the indexes of binary and of sparse vectors, HNSW_PQ and DISKANN, whose pages start on a multiple
//! of 4096, and puts product codes of up to 4 bits (SCANN, IVF_PQ) into blocks of 32 rows. Version 4 has a
//! flag, 1, of indexes whose hits have the scores of the codes, and of HNSW_PQ the mean that such scores
//! need; other indexes are still written as before, and no older file has the flag. Version 5 keeps the halves of
//! codes of HNSW, HNSW_SQ and AUTOINDEX apart (encoding 2) where a row of them fills three cache lines or more. Version 6
//! has the dimension of their rows where it could be measured; a build that does not know it looks as far as `ef` alone.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use redkite_types::MetricType;

use crate::buffer::aligned;
use crate::error::{Error, Result};
use crate::in_file::{InFile, ReadAt};
use crate::kernel::LINE_BYTES;
use crate::params::IndexType;

/// The newest version this build reads and writes.
pub const VERSION: u32 = 6;

/// The version of indexes whose hits have the scores of the codes: an older build would give other scores.
pub(crate) const BY_CODES_VERSION: u32 = 4;

/// The flag of such an index.
const BY_CODES: u8 = 1;

/// The version of graphs whose codes have their halves apart.
const HALVES_VERSION: u32 = 5;

/// The version of graphs that know the dimension of their rows.
const DIMENSION_VERSION: u32 = 6;

/// Encodings of rows: f32, codes of 8 bits, and such codes with their halves apart.
const ENCODINGS: [(bool, bool); 3] = [(false, false), (true, false), (true, true)];

const MAGIC: &[u8; 8] = b"RKINDEX\n";
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
const CRC_FIELD: std::ops::Range<usize> = 12..16;
/// More sections than any index has; keeps a damaged count from being believed.
const MAX_SECTIONS: usize = 256;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Section {
    /// `[rows]` f32, `1 / |row|`; cosine only.
    InverseNorms = 1,
    /// `[dim]` f32, means of the quantiser; of HNSW_PQ whose hits have the scores of the codes, of the rows. Where
    /// the halves of codes are apart `[dim + 4]`: then the slack of estimates, the largest squared length of
    /// a row in steps of a code (inner products, else zero), and the least and the step of [`Section::HighAdds`].
    Mean = 2,
    /// `[rows, stride]` codes. Where their halves are apart, each row has the high ones of all its codes and then
    /// the low ones: of every 64 dimensions 32 bytes, the low half of each for one of the first 32, the high
    /// half for the dimension 32 further on.
    Codes = 3,
    /// `[rows]` f32, what each row adds to its key.
    Add = 4,
    /// `[nodes, link stride]` u32 of one level.
    Links = 5,
    /// `[nodes]` u32, row of each node of an upper level.
    NodeRows = 6,
    /// `[nodes]` u32, node of the level below.
    NodeBelow = 7,
    /// `[dim + 1]` f32, means and then the scale of a quantiser of an inverted index.
    Quantizer = 8,
    /// `[nlist + 1]` u32, where each list begins.
    ListOffsets = 9,
    /// `[rows]` u32, list by list.
    ListRows = 10,
    /// `[nlist, dim]` f32.
    Centroids = 11,
    /// `[m, dim / m, 2^nbits]` f32.
    Books = 12,
    /// `[rows, bytes]` product-quantised codes; from version 3 on, those of up to 4 bits as
    /// `[rows / 32, parts, 16]`: the low half of a byte is the code of one of a block's first 16 rows,
    /// the high half that of the row 16 further on; parts are padded to a multiple of 4.
    ProductCodes = 13,
    /// `[rows, dim / 8]` signs of rotated rows.
    Signs = 14,
    /// `[rows, 2]` f32, what a row adds and what its sum of signs is multiplied by.
    SignFactors = 15,
    /// `[nlist, dim / 8]` bytes, centroids of binary vectors.
    BinaryCentroids = 16,
    /// `[dims]` u32, the dimensions of sparse vectors that have a list, in order.
    SparseDims = 17,
    /// `[dims + 1]` u64, where each dimension's list begins.
    SparseOffsets = 18,
    /// `[postings]` u32, rows, in order in each list.
    SparseRows = 19,
    /// `[postings]` f32, their values.
    SparseValues = 20,
    /// `[dims]` f32, the largest value of each list.
    SparseMaxima = 21,
    /// `[rows]` u8, in how many steps what each row adds to an estimate lies above the least; where the halves of
    /// codes are apart.
    HighAdds = 22,
    /// `[rows, but 256 at most]` u32, rows at which a walk may begin; DISKANN.
    Entry = 40,
    /// Pages of rows with their links; DISKANN.
    Pages = 41,
}

impl Section {
    /// What the section's place in the file is a multiple of.
    fn alignment(self) -> usize {
        match self {
            Self::Pages => PAGE_BYTES,
            _ => LINE_BYTES,
        }
    }
}

/// More dimensions than any vector has; with no more, no size that a header leads to overflows.
const MAX_DIM: usize = 1 << 20;

/// What the system reads a mapped file by.
pub(crate) const PAGE_BYTES: usize = 4096;

/// What lies between sections.
static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// The fixed part of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    /// The version that the file has; a new one has that of its type.
    pub(crate) version: u32,
    pub(crate) index_type: IndexType,
    pub(crate) metric: MetricType,
    /// Whether rows are 8-bit codes rather than f32.
    pub(crate) is_sq8: bool,
    /// Whether those codes have their halves apart.
    pub(crate) is_halved: bool,
    /// Whether candidates are scored with the vectors, rather than by their codes.
    pub(crate) is_refined: bool,
    pub(crate) rows: usize,
    pub(crate) dim: usize,
    pub(crate) m: usize,
    pub(crate) ef_construction: usize,
    pub(crate) scale: f32,
    pub(crate) upper_levels: usize,
    pub(crate) nlist: usize,
    /// The dimension of a graph's rows, where it is known.
    pub(crate) dimension: Option<f32>,
    pub(crate) nbits: usize,
    pub(crate) parts: usize,
}

impl Header {
    pub(crate) fn new(index_type: IndexType, metric: MetricType, dim: usize, rows: usize) -> Self {
        Self {
            version: index_type.format_version(),
            index_type,
            metric,
            is_sq8: false,
            is_halved: false,
            is_refined: true,
            rows,
            dim,
            m: 0,
            ef_construction: 0,
            scale: 0.0,
            upper_levels: 0,
            nlist: 0,
            dimension: None,
            nbits: 0,
            parts: 0,
        }
    }

    /// Says whether candidates are scored with the vectors.
    #[must_use]
    pub(crate) fn refined(mut self, is_refined: bool) -> Self {
        self.is_refined = is_refined;
        if !is_refined {
            self.version = BY_CODES_VERSION;
        }
        self
    }

    /// Says that rows are codes with their halves apart.
    pub(crate) fn halve(&mut self) {
        self.is_halved = true;
        self.version = self.version.max(HALVES_VERSION);
    }

    /// Says what the dimension of a graph's rows is.
    pub(crate) fn measured(&mut self, dimension: f32) {
        self.dimension = Some(dimension);
        self.version = DIMENSION_VERSION;
    }

    fn encode(&self, sections: usize) -> Vec<u8> {
        let index_type = match self.index_type {
            IndexType::Flat => 1,
            IndexType::Hnsw => 2,
            IndexType::AutoIndex => 3,
            IndexType::HnswSq => 4,
            IndexType::IvfFlat => 5,
            IndexType::IvfSq8 => 6,
            IndexType::IvfPq => 7,
            IndexType::Scann => 8,
            IndexType::IvfRabitq => 9,
            IndexType::BinFlat => 10,
            IndexType::BinIvfFlat => 11,
            IndexType::SparseInverted => 12,
            IndexType::SparseWand => 13,
            IndexType::HnswPq => 20,
            IndexType::DiskAnn => 21,
        };
        let metric = match self.metric {
            MetricType::L2 => 1,
            MetricType::Ip => 2,
            MetricType::Cosine => 3,
            MetricType::Hamming => 4,
            MetricType::Jaccard => 5,
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + sections * ENTRY_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(sections as u32).to_le_bytes());
        let flags = match self.is_refined {
            true => 0,
            false => BY_CODES,
        };
        let encoding = u8::from(self.is_sq8) + u8::from(self.is_halved);
        bytes.extend_from_slice(&[index_type, metric, encoding, flags]);
        bytes.extend_from_slice(&(self.rows as u64).to_le_bytes());
        for number in [self.dim, self.m, self.ef_construction] {
            bytes.extend_from_slice(&(number as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&self.scale.to_le_bytes());
        let lists = match self.dimension {
            Some(dimension) => dimension.to_bits(),
            None => self.nlist as u32,
        };
        let (levels, bits) = (self.upper_levels as u32, self.nbits as u32);
        for number in [levels, lists, bits, self.parts as u32] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.resize(HEADER_BYTES, 0);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let index_type = match bytes[20] {
            1 => IndexType::Flat,
            2 => IndexType::Hnsw,
            3 => IndexType::AutoIndex,
            4 => IndexType::HnswSq,
            5 => IndexType::IvfFlat,
            6 => IndexType::IvfSq8,
            7 => IndexType::IvfPq,
            8 => IndexType::Scann,
            9 => IndexType::IvfRabitq,
            10 => IndexType::BinFlat,
            11 => IndexType::BinIvfFlat,
            12 => IndexType::SparseInverted,
            13 => IndexType::SparseWand,
            20 => IndexType::HnswPq,
            21 => IndexType::DiskAnn,
            other => return Err(Error::corrupt(format!("index type {other}"))),
        };
        let metric = match bytes[21] {
            1 => MetricType::L2,
            2 => MetricType::Ip,
            3 => MetricType::Cosine,
            4 => MetricType::Hamming,
            5 => MetricType::Jaccard,
            other => return Err(Error::corrupt(format!("metric {other}"))),
        };
        let version = u32_at(bytes, 8);
        let is_refined = match (bytes[23], version < BY_CODES_VERSION) {
            (_, true) | (0, _) => true,
            (BY_CODES, _) if index_type.may_go_unrefined() => false,
            (other, _) => return Err(Error::corrupt(format!("flags {other}"))),
        };
        let (is_sq8, is_halved) = match (ENCODINGS.get(usize::from(bytes[22])), version) {
            (Some((_, true)), ..HALVES_VERSION) | (None, _) => {
                return Err(Error::corrupt(format!("encoding {}", bytes[22])));
            }
            (Some(encoding), _) => *encoding,
        };
        let (nlist, dimension) = match (u32_at(bytes, 52), version) {
            (lists, ..DIMENSION_VERSION) => (lists as usize, None),
            (dimension, _) => (0, Some(f32::from_bits(dimension))),
        };
        if dimension.is_some_and(|dimension| !(dimension >= 1.0 && dimension.is_finite())) {
            return Err(Error::corrupt("dimension of rows"));
        }
        let header = Self {
            version,
            index_type,
            metric,
            is_sq8,
            is_halved,
            is_refined,
            rows: u64_at(bytes, 24) as usize,
            dim: u32_at(bytes, 32) as usize,
            m: u32_at(bytes, 36) as usize,
            ef_construction: u32_at(bytes, 40) as usize,
            scale: f32::from_bits(u32_at(bytes, 44)),
            upper_levels: u32_at(bytes, 48) as usize,
            nlist,
            dimension,
            nbits: u32_at(bytes, 56) as usize,
            parts: u32_at(bytes, 60) as usize,
        };
        let fits_metric = match header.metric {
            MetricType::Hamming | MetricType::Jaccard => index_type.is_binary(),
            MetricType::Ip => !index_type.is_binary(),
            MetricType::L2 | MetricType::Cosine => index_type.is_dense(),
        };
        if !fits_metric {
            return Err(Error::corrupt("metric"));
        }
        let has_dim = header.dim > 0 || index_type.is_sparse();
        if !has_dim || header.dim > MAX_DIM || header.rows > u32::MAX as usize {
            return Err(Error::corrupt("shape"));
        }
        Ok(header)
    }
}

/// An opened file: verified, its sections not yet taken.
pub(crate) struct Stored {
    pub(crate) header: Header,
    /// The file that it is mapped from, if it is.
    mapped: Option<Arc<dyn ReadAt>>,
    sections: Vec<StoredSection>,
}

struct StoredSection {
    kind: u32,
    level: u32,
    crc: u32,
    /// Byte of the file at which it begins.
    offset: u64,
    bytes: Bytes,
}

impl Stored {
    /// Reads the header and the table and verifies every checksum.
    pub(crate) fn open(bytes: Bytes) -> Result<Self> {
        let stored = Self::open_verified(bytes)?;
        for section in &stored.sections {
            if crc32c::crc32c(&section.bytes) != section.crc {
                return Err(Error::corrupt(format!(
                    "checksum of section {} {}",
                    section.kind, section.level
                )));
            }
        }
        Ok(stored)
    }

    /// Reads the header and the table, and verifies their checksum only.
    pub(crate) fn open_verified(bytes: Bytes) -> Result<Self> {
        if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
            return Err(Error::corrupt("magic"));
        }
        let found = u32_at(&bytes, 8);
        if found == 0 || found > VERSION {
            return Err(Error::UnsupportedVersion {
                found,
                supported: VERSION,
            });
        }
        let count = u32_at(&bytes, 16) as usize;
        let table_end = HEADER_BYTES + count.min(MAX_SECTIONS) * ENTRY_BYTES;
        if count > MAX_SECTIONS || bytes.len() < table_end {
            return Err(Error::corrupt("section count"));
        }
        if header_crc(&bytes[..table_end]) != u32_at(&bytes, CRC_FIELD.start) {
            return Err(Error::corrupt("header checksum"));
        }
        let header = Header::decode(&bytes)?;
        let sections = bytes[HEADER_BYTES..table_end]
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| read_section(&bytes, entry))
            .collect::<Result<_>>()?;
        Ok(Self {
            header,
            mapped: None,
            sections,
        })
    }

    /// Says that the bytes are mapped from a file.
    #[must_use]
    pub(crate) fn mapped_from(mut self, file: Arc<dyn ReadAt>) -> Self {
        self.mapped = Some(file);
        self
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.mapped.is_some()
    }

    /// Where to read a section that was not taken yet, if the file is mapped.
    pub(crate) fn in_file(&self, kind: Section, level: usize) -> Option<InFile> {
        let file = self.mapped.clone()?;
        let offset = self.sections[self.position(kind, level)?].offset;
        Some(InFile { file, offset })
    }

    fn position(&self, kind: Section, level: usize) -> Option<usize> {
        let is_it = |section: &StoredSection| {
            section.kind == kind as u32 && section.level as usize == level
        };
        self.sections.iter().position(is_it)
    }

    /// Takes a section that must have exactly `len` bytes.
    pub(crate) fn take(&mut self, kind: Section, level: usize, len: usize) -> Result<Bytes> {
        let at = self
            .position(kind, level)
            .ok_or_else(|| Error::corrupt(format!("section {kind:?} {level} is missing")))?;
        let StoredSection { bytes, .. } = self.sections.swap_remove(at);
        if bytes.len() == len {
            Ok(bytes)
        } else {
            Err(Error::corrupt(format!(
                "length of section {kind:?} {level}"
            )))
        }
    }

    /// Length of a section that says how many nodes there are.
    pub(crate) fn len_of(&self, kind: Section, level: usize) -> Result<usize> {
        self.position(kind, level)
            .map(|at| self.sections[at].bytes.len())
            .ok_or_else(|| Error::corrupt(format!("section {kind:?} {level} is missing")))
    }
}

fn read_section(file: &Bytes, entry: &[u8]) -> Result<StoredSection> {
    let (kind, level, crc) = (u32_at(entry, 0), u32_at(entry, 4), u32_at(entry, 8));
    let (start, len) = (u64_at(entry, 16) as usize, u64_at(entry, 24) as usize);
    let end = start
        .checked_add(len)
        .filter(|end| *end <= file.len())
        .ok_or_else(|| Error::corrupt(format!("section {kind} {level} is cut short")))?;
    Ok(StoredSection {
        kind,
        level,
        crc,
        offset: start as u64,
        bytes: aligned(file.slice(start..end)),
    })
}

/// A whole file in pieces, the sections among them as they are.
pub(crate) fn parts(header: &Header, sections: Vec<(Section, usize, Bytes)>) -> Vec<Bytes> {
    let mut head = header.encode(sections.len());
    let table_end = HEADER_BYTES + sections.len() * ENTRY_BYTES;
    let mut offset = table_end;
    let mut gaps = Vec::with_capacity(sections.len());
    for (kind, level, bytes) in &sections {
        let start = offset.next_multiple_of(kind.alignment());
        gaps.push(start - offset);
        head.extend_from_slice(&(*kind as u32).to_le_bytes());
        head.extend_from_slice(&(*level as u32).to_le_bytes());
        head.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&(start as u64).to_le_bytes());
        head.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        offset = start + bytes.len();
    }
    let crc = header_crc(&head).to_le_bytes();
    head[CRC_FIELD].copy_from_slice(&crc);
    let mut parts = vec![head.into()];
    for ((_, _, bytes), gap) in sections.into_iter().zip(gaps) {
        parts.push(Bytes::from_static(&ZEROS[..gap]));
        parts.push(bytes);
    }
    // A file ends with a whole line, as it always did.
    let rest = offset.next_multiple_of(LINE_BYTES) - offset;
    parts.push(Bytes::from_static(&ZEROS[..rest]));
    parts.retain(|part| !part.is_empty());
    parts
}

/// Writes the pieces of a file.
///
/// # Errors
/// `Io` when the writer fails.
pub(crate) fn write(parts: &[Bytes], out: &mut dyn Write) -> Result<()> {
    for part in parts {
        out.write_all(part).map_err(|source| Error::Io {
            action: "cannot be written",
            source,
        })?;
    }
    Ok(())
}

/// The version that the header says which a file begins with; none if it is shorter than that.
pub fn version_of(head: &[u8]) -> Option<u32> {
    (head.len() >= HEADER_BYTES).then(|| u32_at(head, 8))
}

/// Checksum of header and table, with the checksum's own field as zero.
fn header_crc(head: &[u8]) -> u32 {
    let before = crc32c::crc32c(&head[..CRC_FIELD.start]);
    let zeroed = crc32c::crc32c_append(before, &[0; 4]);
    crc32c::crc32c_append(zeroed, &head[CRC_FIELD.end..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
