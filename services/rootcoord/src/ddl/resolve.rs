//! Names to databases and collections, with Milvus's errors.

use std::sync::Arc;

use redkite_catalog::{CatalogView, CollectionEntry};
use redkite_proto::redkite::meta::DatabaseInfo;
use redkite_types::{CollectionId, DatabaseId, Error, Result, limits};

/// The database's name, `default` where it is empty.
pub fn database_name(name: &str) -> &str {
    if name.is_empty() {
        limits::DEFAULT_DATABASE
    } else {
        name
    }
}

/// The database of a name.
///
/// # Errors
/// Code 800 when it is absent.
pub fn database<'a>(view: &'a CatalogView, name: &str) -> Result<&'a Arc<DatabaseInfo>> {
    view.database(name)
        .ok_or_else(|| Error::database_not_found(database_name(name)))
}

/// The collection of a name or an alias.
///
/// # Errors
/// Code 800 or 100 when database or collection is absent.
pub fn collection<'a>(
    view: &'a CatalogView,
    database_name: &str,
    name: &str,
) -> Result<&'a Arc<CollectionEntry>> {
    let found = database(view, database_name)?;
    view.collection(DatabaseId(found.id), name)
        .ok_or_else(|| Error::collection_not_found(&found.name, name))
}

/// The collection of an id, still visible.
///
/// # Errors
/// Code 100 when it is gone.
pub fn collection_by_id<'a>(
    view: &'a CatalogView,
    id: CollectionId,
    name: &str,
) -> Result<&'a Arc<CollectionEntry>> {
    view.collection_by_id(id)
        .filter(|entry| entry.state() == redkite_proto::redkite::meta::ObjectState::Created)
        .ok_or_else(|| Error::collection_not_found("", name))
}
