//! A JSON array with one row a line.

use bytes::{BufMut as _, Bytes, BytesMut};
use redkite_types::{Column, ColumnData, RowBatch};
use serde::Serialize;
use serde_json::Value;

use super::columns::{
    ExportColumn, ListKind, failure, list_of, no_form, not_a_list, paired, widened,
};
use crate::error::Result;

pub(super) struct JsonFile {
    columns: Vec<ExportColumn>,
    ready: BytesMut,
    taken: u64,
    is_first: bool,
}

impl JsonFile {
    pub(super) fn new(columns: Vec<ExportColumn>) -> Self {
        Self {
            columns,
            ready: BytesMut::from("["),
            taken: 0,
            is_first: true,
        }
    }

    pub(super) fn write(&mut self, rows: &RowBatch) -> Result<()> {
        let columns = paired(&self.columns, rows)?;
        for row in 0..rows.len() {
            let separator = if self.is_first { "\n" } else { ",\n" };
            self.is_first = false;
            self.ready.extend_from_slice(separator.as_bytes());
            object(&mut self.ready, &columns, row)?;
        }
        Ok(())
    }

    pub(super) fn take(&mut self) -> Bytes {
        self.taken += self.ready.len() as u64;
        self.ready.split().freeze()
    }

    pub(super) fn size(&self) -> u64 {
        self.taken + self.ready.len() as u64
    }

    pub(super) fn finish(mut self) -> Bytes {
        self.ready.extend_from_slice(b"\n]\n");
        self.ready.freeze()
    }
}

pub(super) fn rows(columns: &[ExportColumn], rows: &RowBatch) -> Result<Vec<String>> {
    let columns = paired(columns, rows)?;
    let text = |row| {
        let mut out = BytesMut::new();
        object(&mut out, &columns, row)?;
        String::from_utf8(out.to_vec()).map_err(failure)
    };
    (0..rows.len()).map(text).collect()
}

fn object(out: &mut BytesMut, columns: &[(&ExportColumn, &Column)], row: usize) -> Result<()> {
    out.extend_from_slice(b"{");
    for (index, (column, values)) in columns.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        put(out, &column.field.name)?;
        out.extend_from_slice(b": ");
        cell(out, column, values, row)?;
    }
    out.extend_from_slice(b"}");
    Ok(())
}

fn cell(out: &mut BytesMut, column: &ExportColumn, values: &Column, row: usize) -> Result<()> {
    if !values.is_valid(row) {
        return put(out, &Value::Null);
    }
    if let Some(kind) = column.list {
        let list = list_of(column, values, row)?;
        let fits = |value: &Value| match kind {
            ListKind::Int => value.is_i64(),
            ListKind::Text => value.is_string(),
        };
        if !list.iter().flatten().all(fits) {
            return Err(not_a_list(column));
        }
        return put(out, &list);
    }
    match &values.data {
        ColumnData::Bool(values) => put(out, &values[row]),
        ColumnData::Int8(values) => put(out, &values[row]),
        ColumnData::Int16(values) => put(out, &values[row]),
        ColumnData::Int32(values) => put(out, &values[row]),
        ColumnData::Int64(values) => put(out, &values[row]),
        // JSON has no infinities and no NaN: they are null.
        ColumnData::Float(values) => put(out, &values[row]),
        ColumnData::Double(values) => put(out, &values[row]),
        ColumnData::VarChar(values) => put(out, &values[row]),
        ColumnData::Json(values) => put(out, &String::from_utf8_lossy(&values[row])),
        ColumnData::FloatVector { dim, values } => put(out, &values[row * dim..(row + 1) * dim]),
        ColumnData::PackedVector { .. } => put(out, &*widened(values, row..row + 1)?),
        ColumnData::SparseVector(_) => Err(no_form(values)),
    }
}

fn put<T: Serialize + ?Sized>(out: &mut BytesMut, value: &T) -> Result<()> {
    serde_json::to_writer(out.writer(), value).map_err(failure)
}
