//! Databases, collections and partitions by name, with Milvus's errors.

use std::sync::Arc;

use redkite_catalog::{CatalogView, CollectionEntry};
use redkite_proto::{
    milvus::common::ErrorCode as LegacyCode,
    redkite::meta::{DatabaseInfo, ObjectState, PartitionInfo},
};
use redkite_types::{CollectionId, DatabaseId, Error, Result, name};

/// The database of a name.
///
/// # Errors
/// Code 800.
pub fn database(view: &CatalogView, name: &str) -> Result<Arc<DatabaseInfo>> {
    view.database(name)
        .cloned()
        .ok_or_else(|| Error::database_not_found(name))
}

/// The visible collection of a name or an alias.
///
/// # Errors
/// Code 1100 for an impossible name, 800 for the database, 100 for the collection.
pub fn collection(view: &CatalogView, database: &str, name: &str) -> Result<Arc<CollectionEntry>> {
    name::check_collection(name)?;
    let id = DatabaseId(self::database(view, database)?.id);
    view.collection(id, name)
        .cloned()
        .ok_or_else(|| Error::collection_not_found(database, name))
}

/// The visible collection of a name or an alias or, where that is empty, of an id.
///
/// # Errors
/// As [`collection`]; an unknown id is code 100 too.
pub fn collection_or_id(
    view: &CatalogView,
    database: &str,
    name: &str,
    id: i64,
) -> Result<Arc<CollectionEntry>> {
    if name.is_empty() && id != 0 {
        return view
            .collection_by_id(CollectionId(id))
            .filter(|entry| entry.state() == ObjectState::Created)
            .cloned()
            .ok_or_else(|| Error::collection_not_found(database, &id.to_string()));
    }
    collection(view, database, name)
}

/// The visible partition of a name.
///
/// # Errors
/// Code 65535 for an impossible name, 200 when there is none.
pub fn partition(entry: &CollectionEntry, name: &str) -> Result<Arc<PartitionInfo>> {
    name::check_partition(name)?;
    entry
        .partition(name)
        .cloned()
        .ok_or_else(|| Error::partition_not_found(name))
}

/// Whether clients take an error for "there is no such collection".
pub fn is_absent(error: &Error) -> bool {
    error.code.legacy() == LegacyCode::CollectionNotExists as i32
}
