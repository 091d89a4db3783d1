//! A vector column as one Parquet page whose values start on a cache line of the file, so that they
//! are read, or mapped, as they are.
//!
//! The page is an ordinary one (data page version 1, PLAIN, not compressed) of a required list of
//! required floats, or, where vectors are no f32, of required byte arrays of one length, which have
//! neither repetition nor definition levels: any Parquet reader reads it. What ours adds is where the
//! values are, see [`VectorPart`].
//!
//! # Source
//! The Parquet format's `parquet.thrift`, `Encodings.md` (hybrid of runs and packed bits) and the
//! compact protocol of Thrift.

use redkite_types::FieldId;
use serde::{Deserialize, Serialize};

/// Where values start: a multiple of this, counted from the file's start.
pub(super) const ALIGNMENT: usize = 64;
/// Vectors that take more are written in pages of the library's choice: a page's size is an i32.
const MAX_BYTES: usize = 1 << 30;

const TYPE_I32: u8 = 5;
const TYPE_STRUCT: u8 = 12;
const ENCODING_RLE: i32 = 3;

/// Where the values of a vector column are in the file: `[rows, dim]`, row-major, little-endian,
/// nothing between them. Part of the file's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VectorPart {
    /// The field.
    pub(super) field: FieldId,
    /// Byte of the first value, a multiple of 64.
    pub(super) offset: u64,
    /// Number of rows.
    pub(super) rows: u64,
    /// Values in a row.
    pub(super) dim: u64,
    /// Bytes of a row; absent where values are f32, as in files that are older than other vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) row_bytes: Option<u64>,
}

impl VectorPart {
    /// The bytes of the values; `None` when no file is as long.
    pub(super) fn range(&self) -> Option<std::ops::Range<u64>> {
        let row = self.row_bytes.or_else(|| self.dim.checked_mul(4))?;
        let bytes = self.rows.checked_mul(row)?;
        Some(self.offset..self.offset.checked_add(bytes)?)
    }
}

/// Whether so many rows of so many bytes can be one page.
pub(super) fn fits(rows: usize, row_bytes: usize) -> bool {
    rows.saturating_mul(row_bytes) <= MAX_BYTES
}

/// The header of a page of rows that are byte arrays of one length.
pub(super) fn before_rows(rows: usize, row_bytes: usize) -> Vec<u8> {
    // `fits` keeps both far below an i32.
    let bytes = (rows * row_bytes) as i32;
    header(rows as i32, bytes, bytes)
}

/// Everything of the page that comes before the values: header, repetition and definition levels.
pub(super) fn before_values(rows: usize, dim: usize) -> Vec<u8> {
    let values = rows * dim;
    let levels = list_levels(std::iter::repeat_n(true, rows), dim, false);
    // `fits` keeps both far below an i32.
    let bytes = (levels.len() + values * 4) as i32;
    let mut page = header(values as i32, bytes, bytes);
    page.extend_from_slice(&levels);
    page
}

/// Repetition and definition levels of lists of `dim` required values, where there are lists at all; `is_optional` says
/// whether the column lets any be absent.
pub(crate) fn list_levels(
    rows: impl Iterator<Item = bool> + Clone,
    dim: usize,
    is_optional: bool,
) -> Vec<u8> {
    let entries = |is_there: bool| if is_there { dim } else { 1 };
    let all: usize = rows.clone().map(entries).sum();
    let mut levels = Vec::with_capacity(all / 8 + 64);
    level_run(&mut levels, |out| {
        // Packed bits, in groups of eight: zero where a row begins, one after.
        let groups = all.div_ceil(8);
        varint(out, (groups as u64) << 1 | 1);
        let start = out.len();
        out.resize(start + groups, u8::MAX);
        let mut first = 0;
        for row in rows.clone() {
            out[start + first / 8] &= !(1 << (first % 8));
            first += entries(row);
        }
    });
    level_run(&mut levels, |out| {
        // One run for rows side by side that are there, or not.
        let present = 1 + u8::from(is_optional);
        let mut run = (0, true);
        let mut end = |(length, is_there): (usize, bool)| {
            if length > 0 {
                varint(out, (length as u64) << 1);
                out.push(if is_there { present } else { 0 });
            }
        };
        for row in rows {
            if row != run.1 {
                end(run);
                run = (0, row);
            }
            run.0 += entries(row);
        }
        end(run);
    });
    levels
}

/// Writes levels behind their length.
fn level_run(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

/// `PageHeader` with a `DataPageHeader`; a page takes `plain` bytes, `stored` as it is compressed.
pub(crate) fn header(values: i32, plain: i32, stored: i32) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    int_field(&mut out, 1, 0);
    int_field(&mut out, 1, plain);
    int_field(&mut out, 1, stored);
    // Field 5, after field 3.
    out.push(2 << 4 | TYPE_STRUCT);
    int_field(&mut out, 1, values);
    int_field(&mut out, 1, 0);
    int_field(&mut out, 1, ENCODING_RLE);
    int_field(&mut out, 1, ENCODING_RLE);
    out.extend_from_slice(&[0, 0]);
    out
}

/// An i32 field, `after` fields after the one before.
fn int_field(out: &mut Vec<u8>, after: u8, value: i32) {
    out.push(after << 4 | TYPE_I32);
    let zigzag = (value << 1) ^ (value >> 31);
    varint(out, u64::from(zigzag as u32));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
