//! Typed metadata on the metastore.
//!
//! Owns the one key layout, the codec of the values, and the immutable view of all metadata that
//! every service reads. Never decides anything: that is the services' work.
//!
//! - [`keys`]: where each record lives, in Milvus's layout
//! - [`view`]: everything at one revision, cheap to share and to change
//! - [`access`]: users, roles and grants in the view
//! - [`rights`]: what each user may do
//! - [`privileges`]: which privileges and built-in groups of them there are
//! - [`privilege_set`]: sets of them as bits
//! - [`collection`]: one collection in the view, with its partitions, indexes, load state, segments
//! - [`follow`]: keeps the newest view by following the metastore
//! - [`readable`]: records as people read them
//! - [`session`]: announces a running process and keeps its lease alive
//! - [`lease`]: until when the process may count on that, by its own clock
//! - [`office`]: the one process that acts as a coordinator, and the fence around its writes

pub mod access;
pub mod collection;
pub mod error;
pub mod follow;
pub mod keys;
pub mod lease;
pub mod office;
pub mod privilege_set;
pub mod privileges;
pub mod readable;
pub mod rights;
pub mod session;
pub mod view;

pub use access::Access;
pub use collection::{CollectionEntry, LIST_INT64, LIST_STRING, SegmentEntry, VIKINGDB_TYPE};
pub use error::{Error, Result};
pub use follow::Catalog;
pub use lease::Lease;
pub use office::{Fence, Office};
pub use privilege_set::{Privilege, PrivilegeSet};
pub use rights::Rights;
pub use session::{Role, Session};
pub use view::CatalogView;
