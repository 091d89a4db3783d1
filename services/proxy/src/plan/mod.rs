//! What a read asks for, parsed and checked once.
//!
//! - [`params`]: the key-value pairs that clients send beside the message
//! - [`search`], [`hybrid`], [`query`]: the kinds of reads
//! - [`shape`]: a search without its vectors
//! - [`shapes`]: those that were parsed before
//! - [`group`]: how hits are grouped
//! - `order`: the order of a query's rows
//! - [`iterator`]: pages of a search iterator
//! - [`rank`]: how a hybrid search puts hits in order
//! - [`output`]: which fields come back, and under which names
//! - [`scope`]: which partitions are read
//! - [`consistency`]: how fresh the read must be

pub mod consistency;
pub mod group;
pub mod hybrid;
pub mod iterator;
mod order;
pub mod output;
pub mod params;
pub mod query;
pub mod rank;
pub mod scope;
pub mod search;
pub mod shape;
pub mod shapes;

pub use consistency::ReadTime;
pub use group::GroupPlan;
pub use hybrid::HybridPlan;
pub use iterator::PagePlan;
pub use output::OutputFields;
pub use query::QueryPlan;
pub use search::SearchPlan;
pub use shape::SearchShape;
pub use shapes::Shapes;

use redkite_catalog::CollectionEntry;
use redkite_expr::Plan;
use redkite_proto::{convert::template, milvus::schema::TemplateValue};
use redkite_types::{Error, Result};

/// Compiles a filter against the collection's schema.
///
/// # Errors
/// Code 1100 with the position and what was expected; never worth a retry.
pub fn compile_filter(
    entry: &CollectionEntry,
    text: &str,
    templates: std::collections::HashMap<String, TemplateValue>,
) -> Result<Plan> {
    let templates = template::from_proto(templates)?;
    redkite_expr::compile(text, &templates, entry.schema()).map_err(Error::from)
}

/// The plan as a query node takes it; empty for one that matches every row.
///
/// # Errors
/// Internal: a bug of ours.
pub fn encode_filter(plan: &Plan) -> Result<bytes::Bytes> {
    if plan.is_all() {
        return Ok(bytes::Bytes::new());
    }
    Ok(plan.encode().map_err(Error::from)?.into())
}
