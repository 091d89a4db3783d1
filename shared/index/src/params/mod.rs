//! Milvus's names, ranges and error texts of index and search parameters.
//!
//! Every parameter is honoured or refused, none is ignored; with one exception, said at
//! [`SearchParams::parse`].
//!
//! - `kind`: the index types
//! - `build`, `search`: what an index is built and searched with
//! - `value`: values, their types and ranges

mod build;
mod kind;
mod memory;
mod search;
#[cfg(test)]
mod tests;
mod value;

pub use self::build::IndexParams;
pub(crate) use self::build::{DEFAULT_NLIST, MMAP_KEY, merged};
pub use self::kind::IndexType;
pub use self::search::{RangeBounds, SearchParams};
pub(crate) use self::value::{boolean, build_integer, ratio, unknown};
