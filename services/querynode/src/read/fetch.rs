//! Output columns for the rows that won, as messages.

use redkite_proto::{convert::columns, milvus::schema::FieldData};
use redkite_segment::{RowAt, Segment, fetch};
use redkite_types::{
    CollectionSchema, Column, ColumnData, DataType, Error, ErrorCode, FieldId, FieldSchema,
    PrimaryKey, PrimaryKeys, Result,
};

/// The fields to read, each with its schema.
pub(super) struct Output(Vec<FieldSchema>);

impl Output {
    /// Looks the fields up.
    ///
    /// # Errors
    /// Code 1700 for one that is not there.
    pub(super) fn new(fields: &[i64], schema: &CollectionSchema) -> Result<Self> {
        let find = |id: &i64| match FieldId(*id) {
            FieldId::ROW_ID => Ok(hidden("RowID", FieldId::ROW_ID)),
            FieldId::TIMESTAMP => Ok(hidden("Timestamp", FieldId::TIMESTAMP)),
            id => schema.field_by_id(id).cloned().ok_or_else(|| {
                Error::new(
                    ErrorCode::FieldNotFound,
                    format!("field not found[field={id}]"),
                )
            }),
        };
        fields.iter().map(find).collect::<Result<_>>().map(Self)
    }

    /// Whether no field is to be read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Copies the fields of the given rows, in the order given.
    ///
    /// # Errors
    /// Code 5 when a row is not where it was found: a bug.
    pub(super) fn read(&self, segments: &[Segment], rows: &[RowAt]) -> Result<Vec<FieldData>> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        if rows.is_empty() {
            let empty = self.0.iter().map(|field| {
                let column = ColumnData::empty(field.data_type, field.dim);
                columns::to_proto(Column::new(field.id, column), field)
            });
            return Ok(empty.collect());
        }
        let ids: Vec<FieldId> = self.0.iter().map(|field| field.id).collect();
        let batch = fetch(segments, rows, &ids).map_err(super::coded)?;
        let read = batch.into_columns().into_iter().zip(&self.0);
        Ok(read
            .map(|(column, field)| columns::to_proto(column, field))
            .collect())
    }
}

fn hidden(name: &str, id: FieldId) -> FieldSchema {
    FieldSchema {
        id,
        ..FieldSchema::new(name, DataType::Int64)
    }
}

/// Keys of the collection's type.
pub(super) fn keys(
    schema: &CollectionSchema,
    keys: impl Iterator<Item = PrimaryKey>,
) -> PrimaryKeys {
    let kind = schema.primary_key().data_type;
    let mut all = PrimaryKeys::with_capacity(kind, keys.size_hint().0);
    for key in keys {
        all.push(key);
    }
    all
}
