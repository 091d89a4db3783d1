//! Milvus's names, ranges and error texts of index and search parameters.
//!
//! Every parameter is honoured or refused, none is ignored. What asks for less than is done anyway is
//! honoured by that: `refine_type`, any effort of FLAT, and `refine_k` and `reorder_k` of lists whose codes
//! have the last word.
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
