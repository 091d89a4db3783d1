//! Small rows for tests.

use std::sync::Arc;

use redkite_types::{
    CollectionId, CollectionSchema, Column, ColumnData, DataType, FieldId, FieldSchema,
    PartitionId, RowBatch, RowId, SegmentId, Timestamp,
};

use crate::segment::SegmentMeta;

pub(crate) const KEY: FieldId = FieldId(100);
pub(crate) const VECTOR: FieldId = FieldId(101);

pub(crate) fn meta() -> SegmentMeta {
    let schema = CollectionSchema {
        fields: vec![
            FieldSchema {
                is_primary_key: true,
                ..FieldSchema::new("id", DataType::Int64)
            },
            FieldSchema {
                dim: 2,
                ..FieldSchema::new("vector", DataType::FloatVector)
            },
        ],
        ..CollectionSchema::default()
    };
    SegmentMeta {
        collection: CollectionId(1),
        partition: PartitionId(2),
        segment: SegmentId(3),
        schema: Arc::new(schema.prepare().unwrap()),
    }
}

/// Rows of [`meta`]'s schema; the vector of key n is `[n, ts]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows(Vec<(i64, u64)>);

impl Rows {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn row(mut self, key: i64, ts: u64) -> Self {
        self.0.push((key, ts));
        self
    }

    pub(crate) fn batch(&self) -> RowBatch {
        let keys = self.0.iter().map(|(key, _)| *key).collect();
        let vectors = self
            .0
            .iter()
            .flat_map(|(key, ts)| [*key as f32, *ts as f32]);
        let columns = vec![
            Column::new(KEY, ColumnData::Int64(keys)),
            Column::new(
                VECTOR,
                ColumnData::FloatVector {
                    dim: 2,
                    values: vectors.collect(),
                },
            ),
        ];
        RowBatch::new(self.0.len(), columns).unwrap()
    }

    pub(crate) fn row_ids(&self) -> Vec<RowId> {
        (0..self.0.len() as i64).map(RowId).collect()
    }

    pub(crate) fn timestamps(&self) -> Vec<Timestamp> {
        self.0.iter().map(|(_, ts)| Timestamp(*ts)).collect()
    }
}
