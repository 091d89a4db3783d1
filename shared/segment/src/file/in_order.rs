//! All keys or all deletes of a file in their order, some at a time.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use redkite_storage::ObjectStore;
use redkite_types::{
    CollectionSchema, Column, ColumnData, DataType, FieldId, FieldSchema, PartitionId, PrimaryKeys,
    RowId, SegmentId, Timestamp,
};

use super::{
    CheckedFiles, FileEntry, hidden_name,
    pages::{Costs, divide},
    streamed::{Form, Piece, StreamedColumns, open_as},
};
use crate::{
    delete::DeleteBatch,
    error::{Error, Result},
};

/// Bytes and rows that are read and decoded at a time.
const AT_ONCE: (u64, usize) = (4 << 20, 32_768);
/// Rows that are divided at a time.
const WINDOW: u32 = 1 << 18;

/// The rows of a file in their order, of which keys and two numbers each are read.
#[derive(Debug)]
pub struct InOrder {
    columns: Arc<StreamedColumns>,
    fields: Vec<FieldSchema>,
    costs: Vec<Costs>,
    /// Rows that were divided.
    parts: VecDeque<Range<u32>>,
    /// The first row that was not.
    next: u32,
}

/// Keys of some rows that lie side by side in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRows {
    /// The first of the rows.
    pub first_row: u32,
    /// Their keys.
    pub keys: PrimaryKeys,
    /// Their ids, as many.
    pub row_ids: Vec<RowId>,
    /// When they were written, as many.
    pub timestamps: Vec<Timestamp>,
}

impl StreamedColumns {
    /// All keys of a segment, with row ids and times.
    ///
    /// # Errors
    /// `Corrupt`
    pub fn keys_in_order(self: &Arc<Self>) -> Result<InOrder> {
        let key = self
            .schema()
            .fields
            .iter()
            .find(|field| field.is_primary_key);
        let key = key.ok_or_else(|| Error::corrupt(self.path(), "it has no primary key"))?;
        let number = |id: FieldId| FieldSchema {
            id,
            ..FieldSchema::new(hidden_name(id), DataType::Int64)
        };
        let fields = vec![
            key.clone(),
            number(FieldId::ROW_ID),
            number(FieldId::TIMESTAMP),
        ];
        InOrder::new(self, fields)
    }
}

/// Opens a file with the columns `pk`, `ts` and `partition`, after checking its checksum.
///
/// # Errors
/// `Storage` · `Corrupt` · `UnsupportedVersion`, of a version after `newest`
pub(crate) async fn deletes_in_order(
    store: &dyn ObjectStore,
    file: &FileEntry,
    key: DataType,
    checked: &CheckedFiles,
    newest: u32,
) -> Result<InOrder> {
    let columns = [
        ("pk", key),
        ("ts", DataType::Int64),
        ("partition", DataType::Int64),
    ];
    let fields = columns
        .iter()
        .zip(0..)
        .map(|((name, kind), id)| FieldSchema {
            id: FieldId(id),
            ..FieldSchema::new(*name, *kind)
        });
    let schema = CollectionSchema {
        fields: fields.collect(),
        ..CollectionSchema::default()
    };
    let (schema, form) = (Arc::new(schema), Form::Table(newest));
    let columns = open_as(store, file, schema.clone(), checked, SegmentId(0), form).await?;
    InOrder::new(&columns, schema.fields.clone())
}

impl InOrder {
    fn new(columns: &Arc<StreamedColumns>, fields: Vec<FieldSchema>) -> Result<Self> {
        Ok(Self {
            costs: columns.costs(&fields)?,
            columns: columns.clone(),
            fields,
            parts: VecDeque::new(),
            next: 0,
        })
    }

    /// The next rows; `None` behind the last one.
    ///
    /// # Errors
    /// `Storage` · `Corrupt`
    pub fn read<'a>(
        &'a mut self,
        store: &'a dyn ObjectStore,
    ) -> BoxFuture<'a, Result<Option<Piece>>> {
        let read = async move {
            let Some(part) = self.next_part() else {
                return Ok(None);
            };
            let rows: Vec<u32> = part.collect();
            let piece = self
                .columns
                .piece(store, &rows, self.fields.clone())
                .await?;
            Ok(Some(piece))
        };
        read.boxed()
    }

    fn next_part(&mut self) -> Option<Range<u32>> {
        if self.parts.is_empty() {
            let first = self.next;
            // `open_as` has checked that row numbers fit.
            let last = first.saturating_add(WINDOW).min(self.columns.rows() as u32);
            let rows: Vec<u32> = (first..last).collect();
            let parts = divide(&rows, &self.costs, AT_ONCE.0, AT_ONCE.1).into_iter();
            let parts = parts.map(|part| first + part.start as u32..first + part.end as u32);
            self.parts = parts.collect();
            self.next = last;
        }
        self.parts.pop_front()
    }
}

impl Piece {
    /// The rows as keys of a segment. Computes.
    ///
    /// # Errors
    /// `Corrupt`
    pub fn into_keys(self) -> Result<KeyRows> {
        let first_row = self.first_row();
        let (keys, ids, times) = self.into_numbered()?;
        Ok(KeyRows {
            first_row,
            keys,
            row_ids: ids.into_iter().map(RowId).collect(),
            timestamps: times.into_iter().map(|ts| Timestamp(ts as u64)).collect(),
        })
    }

    /// The rows as deletes. Computes.
    ///
    /// # Errors
    /// `Corrupt`
    pub fn into_deletes(self) -> Result<DeleteBatch> {
        let (keys, times, partitions) = self.into_numbered()?;
        Ok(DeleteBatch {
            keys,
            timestamps: times.into_iter().map(|ts| Timestamp(ts as u64)).collect(),
            partitions: partitions.into_iter().map(PartitionId).collect(),
        })
    }

    fn into_numbered(self) -> Result<(PrimaryKeys, Vec<i64>, Vec<i64>)> {
        let columns = self.columns().clone();
        let corrupt = || Error::corrupt(columns.path(), "its keys cannot be told");
        let mut decoded = self.decode()?.into_columns().into_iter();
        let mut next = || match decoded.next() {
            Some(Column {
                data, valid: None, ..
            }) => Ok(data),
            Some(_) | None => Err(corrupt()),
        };
        let keys = match next()? {
            ColumnData::Int64(keys) => PrimaryKeys::Int(keys),
            ColumnData::VarChar(keys) => PrimaryKeys::Str(keys),
            _ => return Err(corrupt()),
        };
        match (next()?, next()?) {
            (ColumnData::Int64(one), ColumnData::Int64(other)) => Ok((keys, one, other)),
            _ => Err(corrupt()),
        }
    }
}
