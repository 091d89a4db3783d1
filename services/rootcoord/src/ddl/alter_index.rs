//! AlterIndex: how an index is loaded, not what it is.

use std::sync::Arc;

use redkite_catalog::{CollectionEntry, keys};
use redkite_metastore::Txn;
use redkite_proto::{milvus::milvus::AlterIndexRequest, redkite::meta::IndexInfo};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepKey};
use redkite_types::{CollectionId, DatabaseId, Error, ErrorCode, IndexId, Result, name};
use serde::{Deserialize, Serialize};

use super::{
    alter_collection::{MMAP_ENABLED, altered, check_mmap},
    context::DdlContext,
    resolve, steps,
};

/// Parameters that Milvus lets users alter and that nothing acts on here.
const UNSUPPORTED: [&str; 2] = ["indexoffsetcache.enabled", "warmup"];

/// Other parameters of an index.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlterIndexParams {
    database: DatabaseId,
    collection: CollectionId,
    name: String,
    index: String,
    set: Vec<(String, String)>,
    delete: Vec<String>,
}

/// Reads a request.
///
/// # Errors
/// Codes 800, 100, 700 for what is absent; 1100 for what cannot be altered; 3000 for what nothing
/// acts on; 104 while the collection is loaded, because it counts when segments are loaded.
pub async fn params(
    context: &DdlContext,
    database: &str,
    request: AlterIndexRequest,
) -> Result<AlterIndexParams> {
    let set: Vec<(String, String)> = request
        .extra_params
        .into_iter()
        .map(|pair| (pair.key, pair.value))
        .collect();
    check_keys(&set, &request.delete_keys)?;
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &request.collection_name)?;
    if request.index_name.is_empty() {
        return Err(Error::invalid_parameter("index name is empty"));
    }
    name::check_index(&request.index_name)?;
    let params = AlterIndexParams {
        database: entry.database_id(),
        collection: entry.id(),
        name: request.collection_name,
        index: request.index_name,
        set,
        delete: request.delete_keys,
    };
    params.altered(entry)?;
    Ok(params)
}

fn check_keys(set: &[(String, String)], delete: &[String]) -> Result<()> {
    match (set, delete) {
        ([], []) => {
            return Err(Error::invalid_parameter(
                "alter index requires either extra params or delete keys, both cannot be empty",
            ));
        }
        ([_, ..], [_, ..]) => {
            return Err(Error::invalid_parameter(
                "cannot provide both DeleteKeys and ExtraParams",
            ));
        }
        (_, _) => {}
    }
    for key in set.iter().map(|(key, _)| key).chain(delete) {
        if UNSUPPORTED.contains(&key.as_str()) {
            return Err(Error::input(
                ErrorCode::UnsupportedOperation,
                format!("unsupported operation: index property {key} is not served"),
            ));
        }
        if key != MMAP_ENABLED {
            return Err(Error::invalid_parameter(format!(
                "{key} is not a configable index property"
            )));
        }
    }
    set.iter().try_for_each(|(_, value)| check_mmap(value))
}

impl AlterIndexParams {
    /// The index after the change.
    fn altered(&self, entry: &CollectionEntry) -> Result<IndexInfo> {
        let index = entry.index(&self.index).ok_or_else(|| {
            Error::input(
                ErrorCode::IndexNotFound,
                format!("index not found[indexName={}]", self.index),
            )
        })?;
        if entry.is_loaded() {
            return Err(Error::input(
                ErrorCode::CollectionLoaded,
                format!(
                    "can't alter index on loaded collection, please release the collection first: \
                     {}[collection={}]",
                    ErrorCode::CollectionLoaded.text(),
                    self.name
                ),
            ));
        }
        let mut info = index.as_ref().clone();
        info.params = altered(info.params, &self.set, &self.delete);
        Ok(info)
    }
}

const ALTER_META: StepKey<()> = StepKey::new("alter_meta");

/// **alter_meta** → expire_proxy_caches.
pub struct AlterIndex(pub Arc<DdlContext>);

impl Saga for AlterIndex {
    const KIND: &'static str = "alter_index";
    const VERSION: u32 = 1;
    type Params = AlterIndexParams;
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
                    let params = &cx.params;
                    let view = context.fresh_view().await?;
                    let entry = resolve::collection_by_id(&view, params.collection, &params.name)?;
                    let info = params.altered(entry)?;
                    let key = keys::index(params.collection, IndexId(info.id));
                    Ok(Txn::new().then(steps::put(key, &info)))
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
        params.altered(entry)?;
        Ok(Check::Proceed)
    }
}
