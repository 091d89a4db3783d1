//! AlterCollection (properties) and RenameCollection.

use std::sync::Arc;

use redkite_catalog::CollectionEntry;
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    convert::kv,
    milvus::{
        common::KeyValuePair,
        milvus::{AlterCollectionRequest, RenameCollectionRequest},
    },
    redkite::meta::CollectionInfo,
};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepKey};
use redkite_types::{CollectionId, DatabaseId, Error, ErrorCode, Result, name};
use serde::{Deserialize, Serialize};

use super::{context::DdlContext, isolation, rbac, resolve, steps};

/// Properties that would change what reads and writes do, and that nothing acts on yet.
const UNSUPPORTED: [&str; 1] = ["dynamicfield.enabled"];
/// For how long rows live; zero or less means for ever.
const TTL_SECONDS: &str = "collection.ttl.seconds";
/// Whether taking a snapshot flushes first.
const SNAPSHOT_FLUSH: &str = "snapshot.flush";
/// Whether what is loaded stays in files, mapped.
pub(super) const MMAP_ENABLED: &str = "mmap.enabled";

/// Refuses properties whose effect is missing, so that none is taken and then ignored, and values
/// that make no sense.
///
/// # Errors
/// Codes 3000 and 1100 that name the property.
pub fn check_properties(properties: &[(String, String)]) -> Result<()> {
    for (key, value) in properties {
        if UNSUPPORTED.contains(&key.as_str()) {
            return Err(Error::input(
                ErrorCode::UnsupportedOperation,
                format!("unsupported operation: collection property {key}={value} is not served"),
            ));
        }
        if key == MMAP_ENABLED {
            check_mmap(value)?;
        }
        if key == SNAPSHOT_FLUSH && value.parse::<bool>().is_err() {
            return Err(Error::invalid_parameter(format!(
                "invalid {SNAPSHOT_FLUSH} value: {value}, expected: true, false"
            )));
        }
        if key == TTL_SECONDS && value.parse::<i64>().is_err() {
            return Err(Error::invalid_parameter(format!(
                "{TTL_SECONDS} [{value}] is invalid, it should be a number of seconds"
            )));
        }
    }
    Ok(())
}

/// Checks a value of `mmap.enabled`.
///
/// # Errors
/// Code 1100 for one that is no boolean.
pub fn check_mmap(value: &str) -> Result<()> {
    match value.to_ascii_lowercase().parse::<bool>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid_parameter(format!(
            "invalid {MMAP_ENABLED} value: {value}, expected: true, false"
        ))),
    }
}

/// New properties of a collection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlterCollectionParams {
    database: DatabaseId,
    collection: CollectionId,
    name: String,
    set: Vec<(String, String)>,
    delete: Vec<String>,
}

/// Reads a request.
///
/// # Errors
/// Codes 800, 100 for what is absent; 1100 when nothing is to be changed; 104 for `mmap.enabled` of a
/// loaded collection, because it counts when segments are loaded; as [`isolation::check_change`].
pub async fn alter_params(
    context: &DdlContext,
    database: &str,
    request: AlterCollectionRequest,
) -> Result<AlterCollectionParams> {
    let view = context.fresh_view().await?;
    if request.properties.is_empty() && request.delete_keys.is_empty() {
        return Err(Error::invalid_parameter(
            "only support alter collection properties, but collection properties is empty",
        ));
    }
    let set: Vec<(String, String)> = request
        .properties
        .into_iter()
        .map(|pair| (pair.key, pair.value))
        .collect();
    check_properties(&set)?;
    if let Some((key, _)) = set
        .iter()
        .find(|(key, _)| request.delete_keys.contains(key))
    {
        return Err(Error::invalid_parameter(format!(
            "can not provide properties and deletekeys at the same time for key {key}"
        )));
    }
    let entry = resolve::collection(&view, database, &request.collection_name)?;
    isolation::check_change(entry, &request.collection_name, &set, &request.delete_keys)?;
    let changed = set.iter().map(|(key, _)| key).chain(&request.delete_keys);
    if entry.is_loaded() && changed.into_iter().any(|key| key == MMAP_ENABLED) {
        return Err(Error::input(
            ErrorCode::CollectionLoaded,
            format!(
                "can not alter mmap properties if collection loaded[collection={}]",
                request.collection_name
            ),
        ));
    }
    Ok(AlterCollectionParams {
        database: entry.database_id(),
        collection: entry.id(),
        name: request.collection_name,
        set,
        delete: request.delete_keys,
    })
}

const ALTER_META: StepKey<()> = StepKey::new("alter_meta");

/// **alter_meta** → expire_proxy_caches.
pub struct AlterCollection(pub Arc<DdlContext>);

impl Saga for AlterCollection {
    const KIND: &'static str = "alter_collection";
    const VERSION: u32 = 1;
    type Params = AlterCollectionParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![
            steps::share_database(params.database),
            steps::take_collection(params.collection),
        ]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::meta_async(ALTER_META, move |cx| {
                let context = context.clone();
                async move {
                    let mut info = current(&context, cx.params.collection, &cx.params.name).await?;
                    info.properties = altered(info.properties, &cx.params.set, &cx.params.delete);
                    info.updated_ts = context.timestamp().await?.0;
                    Ok(Txn::new().then(steps::put_collection(&info)))
                }
            })
            .pivot(),
            steps::expire_proxy_caches(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }
}

/// The properties after a change, in the order in which they were first set.
pub(super) fn altered(
    mut properties: Vec<KeyValuePair>,
    set: &[(String, String)],
    delete: &[String],
) -> Vec<KeyValuePair> {
    properties.retain(|pair| !delete.contains(&pair.key));
    for (key, value) in set {
        match properties.iter_mut().find(|pair| pair.key == *key) {
            Some(pair) => pair.value.clone_from(value),
            None => properties.push(kv::pair(key, value)),
        }
    }
    properties
}

async fn current(
    context: &DdlContext,
    collection: CollectionId,
    name: &str,
) -> Result<CollectionInfo> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection_by_id(&view, collection, name)?;
    entry
        .info()
        .map(|info| info.as_ref().clone())
        .ok_or_else(|| Error::collection_not_found("", name))
}

/// A new name, perhaps in another database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenameCollectionParams {
    database: DatabaseId,
    collection: CollectionId,
    name: String,
    new_database: DatabaseId,
    new_name: String,
}

/// Reads a request.
///
/// # Errors
/// Codes 800, 100 for what is absent; 1100 for a bad name; 65535 for an alias.
pub async fn rename_params(
    context: &DdlContext,
    database: &str,
    request: RenameCollectionRequest,
) -> Result<RenameCollectionParams> {
    let view = context.fresh_view().await?;
    name::check_collection(&request.new_name)?;
    let old = resolve::database(&view, database)?;
    let old_id = DatabaseId(old.id);
    let new_id = if request.new_db_name.is_empty() {
        old_id
    } else {
        DatabaseId(resolve::database(&view, &request.new_db_name)?.id)
    };
    if view.alias(old_id, &request.old_name).is_some() {
        return Err(Error::input(
            ErrorCode::Unexpected,
            format!(
                "unsupported use an alias to rename collection, alias:{}",
                request.old_name
            ),
        ));
    }
    let entry = view
        .collection_by_name(old_id, &request.old_name)
        .ok_or_else(|| Error::collection_not_found(&old.name, &request.old_name))?;
    Ok(RenameCollectionParams {
        database: old_id,
        collection: entry.id(),
        name: request.old_name,
        new_database: new_id,
        new_name: request.new_name,
    })
}

const RENAME_META: StepKey<()> = StepKey::new("rename_meta");

/// **rename_meta** → expire_proxy_caches.
pub struct RenameCollection(pub Arc<DdlContext>);

impl Saga for RenameCollection {
    const KIND: &'static str = "rename_collection";
    const VERSION: u32 = 1;
    type Params = RenameCollectionParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![
            steps::share_database(params.database),
            steps::share_database(params.new_database),
            steps::take_name(params.database, &params.name),
            steps::take_name(params.new_database, &params.new_name),
            steps::take_collection(params.collection),
        ]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::meta_async(RENAME_META, move |cx| {
                let context = context.clone();
                async move {
                    let params = &cx.params;
                    let mut info = current(&context, params.collection, &params.name).await?;
                    info.name.clone_from(&params.new_name);
                    info.database_id = params.new_database.0;
                    info.updated_ts = context.timestamp().await?.0;
                    let mut txn = Txn::new();
                    if params.database != params.new_database {
                        txn = txn.then(Op::delete(redkite_catalog::keys::collection(
                            params.database,
                            params.collection,
                        )));
                    }
                    let view = context.fresh_view().await?;
                    let old = (params.database, params.name.as_str());
                    let new = (params.new_database, params.new_name.as_str());
                    let grants = rbac::collections::rename(&view, old, new);
                    txn = txn.then(steps::put_collection(&info));
                    Ok(grants.into_iter().fold(txn, Txn::then))
                }
            })
            .pivot(),
            steps::expire_proxy_caches(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        let entry = resolve::collection_by_id(&view, params.collection, &params.name)?;
        if entry.name() != params.name {
            return Err(Error::collection_not_found("", &params.name));
        }
        let target = view
            .database_by_id(params.new_database)
            .ok_or_else(|| Error::database_not_found(&params.new_database.to_string()))?;
        check_target(&view, entry, params, &target.name)?;
        Ok(Check::Proceed)
    }
}

fn check_target(
    view: &redkite_catalog::CatalogView,
    entry: &CollectionEntry,
    params: &RenameCollectionParams,
    target: &str,
) -> Result<()> {
    if view
        .collection(params.new_database, &params.new_name)
        .is_some()
        || view.alias(params.new_database, &params.new_name).is_some()
    {
        return Err(Error::input(
            ErrorCode::Unexpected,
            format!(
                "duplicated new collection name {target}:{} with other collection name or alias",
                params.new_name
            ),
        ));
    }
    let has_alias = view
        .aliases(params.database)
        .any(|alias| alias.collection_id == entry.id().0);
    if has_alias && params.database != params.new_database {
        return Err(Error::input(
            ErrorCode::Unexpected,
            "fail to rename db name, must drop all aliases of this collection before rename",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_that_make_no_sense_are_refused_by_name() {
        let check =
            |key: &str, value: &str| check_properties(&[(key.to_owned(), value.to_owned())]);
        for value in ["true", "False", "TRUE"] {
            check("mmap.enabled", value).unwrap();
        }
        for (key, value, code) in [
            ("mmap.enabled", "1", 1100),
            ("mmap.enabled", "", 1100),
            ("collection.ttl.seconds", "soon", 1100),
            ("dynamicfield.enabled", "true", 3000),
        ] {
            let refused = check(key, value).unwrap_err();
            assert_eq!(refused.code.number(), code, "{refused}");
            assert!(refused.message.contains(key), "{refused}");
        }
        check("note", "anything").unwrap();
    }
}
