//! Plain domain types of Redkite: no IO, no async, no protobuf.
//!
//! Everything else in the workspace may depend on this crate, and it depends on none of ours.
//!
//! - [`ids`]: newtypes for every id, so that two of them cannot be swapped by mistake
//! - [`timestamp`]: the hybrid timestamp (46 bits of milliseconds, 18 bits of counter)
//! - [`name`]: validated names of collections, partitions, fields, databases
//! - [`schema`]: collection and field schemas with their invariants; [`evolve`]: how they may change
//! - [`stop`]: the flag that ends a long computation
//! - [`order`]: the order of rows by the values of fields
//! - [`value`]: one scalar value and one primary key
//! - [`column`]: typed columns of many rows
//! - [`floats`]: values of vectors, owned or a view of somebody's bytes
//! - [`bitset`]: fixed-length bit sets, the common form of a filter's answer
//! - [`error`]: Milvus's error codes and the error that reaches a user
//! - [`hash`]: Milvus's hash functions for shards and partition keys
//! - [`limits`]: Milvus's limits

pub mod bitset;
pub mod column;
pub mod error;
pub mod evolve;
pub mod floats;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod metric;
pub mod name;
pub mod order;
mod packed;
pub mod schema;
pub mod sparse;
pub mod stop;
pub mod timestamp;
pub mod value;

pub use bitset::BitSet;
pub use column::{Column, ColumnData, RowBatch};
pub use error::{Coded, Error, ErrorCode, Outcome, Result};
pub use floats::FloatBuffer;
pub use ids::{
    AliasName, BuildId, CollectionId, DatabaseId, FieldId, IndexId, NodeId, PartitionId, Revision,
    RowId, SagaId, SegmentId,
};
pub use metric::MetricType;
pub use packed::PackedBuffer;
pub use schema::{CollectionSchema, ConsistencyLevel, DataType, FieldSchema};
pub use stop::{StopFlag, StopOnDrop, Stopped};
pub use timestamp::Timestamp;
pub use value::{GroupKey, PrimaryKey, PrimaryKeys, Value};
