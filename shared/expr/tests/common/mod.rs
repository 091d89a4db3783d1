//! A schema, random rows and random filters, shared by the tests of this crate.

#![allow(
    dead_code,
    reason = "each test binary compiles this module and uses its own part of it"
)]

pub(crate) mod generate;
pub(crate) mod naive;

use std::hash::{BuildHasher, Hasher};

use bytes::Bytes;
use proptest::test_runner::{Config, RngSeed};
use redkite_types::{
    BitSet, CollectionSchema, Column, ColumnData, DataType, FieldId, FieldSchema, RowBatch,
};

/// Name and type of every scalar field; the last four may be null.
pub(crate) const FIELDS: [(&str, DataType); 13] = [
    ("id", DataType::Int64),
    ("flag", DataType::Bool),
    ("i8", DataType::Int8),
    ("i16", DataType::Int16),
    ("i32", DataType::Int32),
    ("f32", DataType::Float),
    ("f64", DataType::Double),
    ("text", DataType::VarChar),
    ("meta", DataType::Json),
    ("n64", DataType::Int64),
    ("nf", DataType::Double),
    ("ntext", DataType::VarChar),
    ("njson", DataType::Json),
];

/// A schema with every type, a vector and dynamic keys.
pub(crate) fn schema() -> CollectionSchema {
    let mut fields: Vec<FieldSchema> = FIELDS
        .iter()
        .map(|(name, data_type)| FieldSchema {
            is_primary_key: *name == "id",
            nullable: name.starts_with('n'),
            max_length: 100,
            ..FieldSchema::new(*name, *data_type)
        })
        .collect();
    fields.push(FieldSchema {
        dim: 2,
        ..FieldSchema::new("vector", DataType::FloatVector)
    });
    let schema = CollectionSchema {
        fields,
        enable_dynamic_field: true,
        ..CollectionSchema::default()
    };
    schema.prepare().expect("the test's schema is a good one")
}

/// Cases of a random test, with its seed printed and taken from `REDKITE_TEST_SEED`.
pub(crate) fn config(cases: u32) -> Config {
    let seed = match std::env::var("REDKITE_TEST_SEED") {
        Ok(text) => text.parse().expect("REDKITE_TEST_SEED must be a number"),
        Err(_) => std::hash::RandomState::new().build_hasher().finish(),
    };
    println!("seed={seed}");
    Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    }
}

/// A small random source for rows.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    fn int(&mut self, low: i64, high: i64) -> i64 {
        match self.below(10) {
            0 => low,
            1 => high,
            _ => self.below(12) as i64 - 4,
        }
    }

    fn float(&mut self) -> f64 {
        match self.below(12) {
            0 => self.one_of(&[
                f64::NAN,
                f64::INFINITY,
                -0.0,
                1e300,
                9_223_372_036_854_775_808.0,
            ]),
            1 => 0.1,
            _ => (self.below(20) as f64 - 8.0) / 2.0,
        }
    }

    fn text(&mut self) -> String {
        (0..self.below(4))
            .map(|_| self.one_of(&['a', 'b', 'é', '%', '"']))
            .collect()
    }

    fn json_scalar(&mut self) -> serde_json::Value {
        match self.below(8) {
            0 => serde_json::Value::Null,
            1 => self.below(2).eq(&0).into(),
            2 => self.int(i64::MIN, i64::MAX).into(),
            3 => ((self.below(20) as f64 - 8.0) / 2.0).into(),
            4 => self.text().into(),
            _ => (self.below(12) as i64 - 4).into(),
        }
    }

    fn json_value(&mut self) -> serde_json::Value {
        match self.below(6) {
            0 => (0..self.below(4)).map(|_| self.json_scalar()).collect(),
            1 => {
                let inner =
                    |dice: &mut Self| (0..dice.below(3)).map(|_| dice.json_scalar()).collect();
                (0..self.below(3))
                    .map(|_| inner(self))
                    .collect::<Vec<serde_json::Value>>()
                    .into()
            }
            2 => serde_json::json!({ "k": self.json_scalar() }),
            _ => self.json_scalar(),
        }
    }

    fn json_document(&mut self) -> Bytes {
        let mut document = serde_json::Map::new();
        for key in ["k", "list", "é\""] {
            if self.below(4) > 0 {
                document.insert(key.to_owned(), self.json_value());
            }
        }
        let document = match self.below(10) {
            0 => self.json_value(),
            _ => document.into(),
        };
        document.to_string().into()
    }
}

/// Random rows with nulls; now and then a nullable column is not there at all.
pub(crate) fn rows(seed: u64, rows: usize) -> RowBatch {
    let dice = &mut Dice(seed);
    let schema = schema();
    let mut columns = Vec::new();
    for field in &schema.fields {
        if field.nullable && dice.below(6) == 0 {
            continue;
        }
        let data = match field.data_type {
            DataType::Bool => ColumnData::Bool((0..rows).map(|_| dice.below(2) == 0).collect()),
            DataType::Int8 => {
                ColumnData::Int8((0..rows).map(|_| dice.int(-128, 127) as i8).collect())
            }
            DataType::Int16 => ColumnData::Int16(
                (0..rows)
                    .map(|_| dice.int(-32_768, 32_767) as i16)
                    .collect(),
            ),
            DataType::Int32 => {
                let (low, high) = (i64::from(i32::MIN), i64::from(i32::MAX));
                ColumnData::Int32((0..rows).map(|_| dice.int(low, high) as i32).collect())
            }
            DataType::Int64 => {
                ColumnData::Int64((0..rows).map(|_| dice.int(i64::MIN, i64::MAX)).collect())
            }
            DataType::Float => ColumnData::Float((0..rows).map(|_| dice.float() as f32).collect()),
            DataType::Double => ColumnData::Double((0..rows).map(|_| dice.float()).collect()),
            DataType::VarChar => ColumnData::VarChar((0..rows).map(|_| dice.text()).collect()),
            DataType::Json => ColumnData::Json((0..rows).map(|_| dice.json_document()).collect()),
            kind @ (DataType::BinaryVector
            | DataType::Float16Vector
            | DataType::BFloat16Vector
            | DataType::SparseFloatVector
            | DataType::Int8Vector) => {
                let mut data = ColumnData::empty(kind, field.dim);
                (0..rows).for_each(|_| data.push_placeholder());
                data
            }
            DataType::FloatVector => ColumnData::FloatVector {
                dim: 2,
                values: vec![0.0; rows * 2].into(),
            },
        };
        let valid = field
            .nullable
            .then(|| BitSet::from_fn(rows, |_| dice.below(4) > 0));
        columns.push(Column {
            field: field.id,
            data,
            valid,
        });
    }
    RowBatch::new(rows, columns).expect("every column has the same length")
}

/// The id of a field of [`schema`].
pub(crate) fn id(name: &str) -> FieldId {
    schema().field(name).expect("a field of the schema").id
}
