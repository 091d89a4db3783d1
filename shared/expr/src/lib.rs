//! The filter language of Milvus: text, checked against a schema, to a bitmap over columns.
//!
//! It owns the grammar, the type rules, the plan that is sent between processes, and the
//! evaluation over typed columns. It never does IO, never waits, knows no segment and no index, and
//! panics on no input.
//!
//! - `token`: text to tokens
//! - [`ast`], [`parse`]: tokens to a syntax tree, and a tree back to text
//! - `check`: tree, schema and template variables to a [`Plan`]; see [`compile`]
//! - `plan`: the checked filter, what callers can ask it, and its encoded form
//! - `isolation`: whether a filter says one value of the partition key
//! - `json`: single values out of JSON text
//! - `eval`: plan and columns to a bitmap; see [`eval()`]

pub mod ast;
mod check;
mod error;
mod eval;
mod isolation;
mod json;
pub mod parse;
mod plan;
mod token;

pub use check::{Templates, compile};
pub use error::{Error, Result};
pub use eval::{ColumnSource, eval, eval_among};
pub use isolation::check_isolation;
pub use parse::parse;
pub use plan::Plan;
