//! A schema with every type, random rows, and the seed of a random test.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod store;

use std::sync::Arc;

use bytes::Bytes;
use rand::{RngExt, rngs::StdRng};
use redkite_segment::SegmentMeta;
use redkite_types::{
    BitSet, CollectionId, CollectionSchema, Column, ColumnData, DataType, FieldId, FieldSchema,
    PartitionId, RowBatch, SegmentId, Value,
};

pub(crate) const DIM: usize = 4;
pub(crate) const PARTITION: PartitionId = PartitionId(20);

pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("REDKITE_TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => rand::random(),
    };
    println!("seed={seed}");
    seed
}

/// A field of each type.
pub(crate) fn schema(key: DataType) -> Arc<CollectionSchema> {
    let vector = |name: &str, kind, dim| FieldSchema {
        dim,
        ..FieldSchema::new(name, kind)
    };
    let others = vec![
        vector("bits", DataType::BinaryVector, 16),
        vector("half", DataType::Float16Vector, 3),
        vector("brain", DataType::BFloat16Vector, 5),
        vector("bytes", DataType::Int8Vector, 7),
        vector("sparse", DataType::SparseFloatVector, 0),
    ];
    schema_with(key, others)
}

/// A field of each type that version 1 of the files knew, and some more.
pub(crate) fn schema_with(key: DataType, others: Vec<FieldSchema>) -> Arc<CollectionSchema> {
    let plain = |name: &str, kind| FieldSchema {
        nullable: true,
        ..FieldSchema::new(name, kind)
    };
    let text = |name: &str| FieldSchema {
        max_length: 100,
        ..FieldSchema::new(name, DataType::VarChar)
    };
    let key_field = match key {
        DataType::VarChar => text("pk"),
        other => FieldSchema::new("pk", other),
    };
    let fields = vec![
        FieldSchema {
            is_primary_key: true,
            ..key_field
        },
        FieldSchema {
            dim: DIM,
            ..FieldSchema::new("vector", DataType::FloatVector)
        },
        plain("number", DataType::Int32),
        FieldSchema {
            nullable: true,
            ..text("text")
        },
        plain("flag", DataType::Bool),
        plain("tiny", DataType::Int8),
        plain("small", DataType::Int16),
        plain("long", DataType::Int64),
        plain("float", DataType::Float),
        plain("double", DataType::Double),
        plain("doc", DataType::Json),
    ];
    let schema = CollectionSchema {
        fields: fields.into_iter().chain(others).collect(),
        enable_dynamic_field: true,
        ..CollectionSchema::default()
    };
    Arc::new(schema.prepare().unwrap())
}

pub(crate) fn meta(schema: &Arc<CollectionSchema>, segment: i64) -> SegmentMeta {
    SegmentMeta {
        collection: CollectionId(10),
        partition: PARTITION,
        segment: SegmentId(segment),
        schema: schema.clone(),
    }
}

pub(crate) fn field(schema: &CollectionSchema, name: &str) -> FieldId {
    schema.field(name).unwrap().id
}

/// Rows with these keys and otherwise random values. Vectors have small integers, so that scores
/// are exact and often equal.
pub(crate) fn random_rows(schema: &CollectionSchema, keys: &[i64], rng: &mut StdRng) -> RowBatch {
    let rows = keys.len();
    let columns = schema.fields.iter().map(|field| {
        let mut data = ColumnData::with_capacity(field.data_type, field.dim, rows);
        let valid = field
            .nullable
            .then(|| BitSet::from_fn(rows, |_| rng.random_bool(0.8)));
        for (row, key) in keys.iter().enumerate() {
            if valid.as_ref().is_some_and(|valid| !valid.get(row)) {
                data.push_placeholder();
                continue;
            }
            let number = rng.random_range(-100..100i64);
            match &mut data {
                ColumnData::Bool(values) => values.push(number > 0),
                ColumnData::VarChar(values) if field.is_primary_key => {
                    values.push(format!("key {key:06}"));
                }
                ColumnData::Int64(values) if field.is_primary_key => values.push(*key),
                ColumnData::VarChar(values) => values.push(format!("text {number} é")),
                ColumnData::Json(values) => {
                    values.push(Bytes::from(format!("{{\"a\": {number}}}")));
                }
                ColumnData::FloatVector { values, .. } => {
                    let row = (0..DIM).map(|_| rng.random_range(-3..4i32) as f32);
                    values.make_mut().extend(row);
                }
                ColumnData::PackedVector { kind, dim, values } => {
                    // Small integers in each type.
                    for _ in 0..*dim {
                        let number = rng.random_range(-3..4i8);
                        match kind {
                            DataType::Float16Vector => {
                                let high = [0xc2, 0xc0, 0xbc, 0, 0x3c, 0x40, 0x42];
                                values.extend_from_slice(&[0, high[(number + 3) as usize]]);
                            }
                            DataType::BFloat16Vector => {
                                let bits = f32::from(number).to_bits() >> 16;
                                values.extend_from_slice(&(bits as u16).to_le_bytes());
                            }
                            DataType::Int8Vector => values.extend_from_slice(&[number as u8]),
                            _ => {}
                        }
                    }
                    if *kind == DataType::BinaryVector {
                        let row: Vec<u8> = (0..*dim / 8).map(|_| rng.random()).collect();
                        values.extend_from_slice(&row);
                    }
                }
                ColumnData::SparseVector(rows) => {
                    let dims = (0..40u32).filter(|_| rng.random_bool(0.2));
                    let dims: Vec<u32> = dims.collect();
                    let pairs = dims.iter().map(|dim| (dim * 9, rng.random_range(1..5u8)));
                    let pairs: Vec<(u32, f32)> =
                        pairs.map(|(dim, value)| (dim, f32::from(value))).collect();
                    rows.push(redkite_types::sparse::encode(&pairs));
                }
                ColumnData::Float(_) | ColumnData::Double(_) => {
                    assert!(data.push_value(&Value::Double(number as f64 / 4.0)));
                }
                _ => assert!(data.push_value(&Value::Int(number))),
            }
        }
        Column {
            field: field.id,
            data,
            valid,
        }
    });
    let columns = columns.collect();
    RowBatch::new(rows, columns).unwrap()
}
