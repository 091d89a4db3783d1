//! Conversions between Milvus's messages and [`redkite_types`].
//!
//! Values move: a column of `i64`, `f32`, `f64` or `String` is taken out of the message as the
//! vector it already is. Every refusal is a [`redkite_types::Error`] about the caller's input that
//! names the field, and the row where there is one.
//!
//! - [`schema`]: collection and field schemas, default values
//! - [`columns`]: columns of rows, with Milvus's rules for nulls
//! - [`keys`]: primary keys
//! - [`kv`]: key-value pairs, the form of nearly every option
//! - [`template`]: values of a filter's templates
//! - [`vectors`]: query vectors, and vectors as little-endian bytes

pub mod columns;
pub mod keys;
pub mod kv;
pub mod schema;
pub mod template;
pub mod vectors;
