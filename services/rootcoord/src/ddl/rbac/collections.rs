//! Grants of a collection that is dropped or renamed.
//!
//! A grant names its collection. So that a later collection of the same name starts without the
//! privileges of an earlier one, they go with it; under a new name they stay with it. As in Milvus.

use redkite_catalog::{Access, CatalogView, keys};
use redkite_metastore::Op;
use redkite_proto::redkite::meta::GrantInfo;
use redkite_types::DatabaseId;

use crate::ddl::steps;

/// Removes what was granted on a collection, under no other name.
pub fn forget(view: &CatalogView, database: DatabaseId, name: &str) -> Vec<Op> {
    let database = database_name(view, database);
    on_collection(view.access(), database, name)
        .map(|grant| Op::delete(key(grant)))
        .collect()
}

/// Moves what was granted on a collection to its new database and name.
pub fn rename(view: &CatalogView, old: (DatabaseId, &str), new: (DatabaseId, &str)) -> Vec<Op> {
    let (database, new_database) = (database_name(view, old.0), database_name(view, new.0));
    on_collection(view.access(), database, old.1)
        .flat_map(|grant| {
            let moved = GrantInfo {
                db_name: new_database.to_owned(),
                object_name: new.1.to_owned(),
                ..grant.clone()
            };
            [Op::delete(key(grant)), steps::put(key(&moved), &moved)]
        })
        .collect()
}

fn database_name(view: &CatalogView, database: DatabaseId) -> &str {
    view.database_by_id(database)
        .map_or("", |found| found.name.as_str())
}

fn on_collection<'a>(
    access: &'a Access,
    database: &'a str,
    name: &'a str,
) -> impl Iterator<Item = &'a GrantInfo> {
    access
        .grants()
        .map(AsRef::as_ref)
        .filter(move |grant: &&GrantInfo| {
            grant.object_type != "User" && grant.db_name == database && grant.object_name == name
        })
}

fn key(grant: &GrantInfo) -> String {
    keys::grant(
        &grant.role_name,
        &grant.object_type,
        &grant.db_name,
        &grant.object_name,
        &grant.privilege,
    )
}
