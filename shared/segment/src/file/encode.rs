//! Rows to a Parquet file.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array};
use bytes::Bytes;
use redkite_types::{CollectionSchema, FieldId};

use super::{
    FORMAT_VERSION, METADATA_PREFIX,
    arrow::{ColumnSpec, hidden_spec, parquet_bytes, to_array, user_spec},
};
use crate::{
    chunk::Chunk,
    error::{Error, Result},
    segment::SegmentMeta,
};

/// The data file of a segment.
pub(super) fn data_file(meta: &SegmentMeta, chunks: &[Arc<Chunk>]) -> Result<Bytes> {
    let failed = |source| Error::Encode {
        segment: meta.segment,
        source,
    };
    let schema = serde_json::to_string(&*meta.schema).map_err(|error| failed(error.into()))?;
    let entries = vec![
        ("format_version", FORMAT_VERSION.to_string()),
        ("schema", schema),
        ("collection", meta.collection.to_string()),
        ("partition", meta.partition.to_string()),
        ("segment", meta.segment.to_string()),
    ];
    let entries = entries
        .into_iter()
        .map(|(key, value)| (format!("{METADATA_PREFIX}{key}"), value))
        .collect();
    let batches = chunks.iter().map(|chunk| arrays(chunk));
    parquet_bytes(specs(&meta.schema), entries, batches).map_err(failed)
}

/// Every field, then the hidden columns.
fn specs(schema: &CollectionSchema) -> Vec<ColumnSpec> {
    let user = schema.fields.iter().map(user_spec);
    let hidden = [FieldId::ROW_ID, FieldId::TIMESTAMP].map(hidden_spec);
    user.chain(hidden).collect()
}

fn arrays(chunk: &Chunk) -> Result<Vec<ArrayRef>, Box<dyn std::error::Error + Send + Sync>> {
    let mut arrays = Vec::with_capacity(chunk.batch().columns().len() + 2);
    for column in chunk.batch().columns() {
        arrays.push(to_array(column)?);
    }
    let ids = chunk.row_ids().iter().map(|id| id.0);
    arrays.push(Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef);
    let times = chunk.timestamps().iter().map(|ts| ts.0 as i64);
    arrays.push(Arc::new(Int64Array::from_iter_values(times)) as ArrayRef);
    Ok(arrays)
}
