//! LoadCollection, LoadPartitions, ReleaseCollection and ReleasePartitions.

use std::{sync::Arc, time::Duration};

use redkite_catalog::{CollectionEntry, Role, keys};
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    milvus::milvus::{
        LoadCollectionRequest, LoadPartitionsRequest, ReleaseCollectionRequest,
        ReleasePartitionsRequest,
    },
    redkite::meta::{LoadInfo, PartitionLoadInfo, load_info::Kind},
};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepKey};
use redkite_types::{CollectionId, DatabaseId, Error, ErrorCode, PartitionId, Result};
use serde::{Deserialize, Serialize};

use super::{context::DdlContext, resolve, steps};

/// How long a load waits, so that a small collection is loaded when the answer arrives.
const LOAD_WITHIN: Duration = Duration::from_millis(500);
/// How long a release waits for memory to be given back.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);
/// The resource group that every node is in.
const DEFAULT_RESOURCE_GROUP: &str = "__default_resource_group";

/// What of a collection is to be served, or no longer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadParams {
    database: DatabaseId,
    collection: CollectionId,
    collection_name: String,
    /// By name; empty means all.
    partitions: Vec<String>,
}

/// What a load request says beside the names.
struct LoadOptions {
    replicas: i32,
    resource_groups: Vec<String>,
    fields: Vec<String>,
    skip_dynamic_field: bool,
}

/// Reads a request to load a collection.
///
/// # Errors
/// Codes 800, 100 for what is absent; 3000 for what is not served.
pub async fn load_collection_params(
    context: &DdlContext,
    database: &str,
    request: LoadCollectionRequest,
) -> Result<LoadParams> {
    let options = LoadOptions {
        replicas: request.replica_number,
        resource_groups: request.resource_groups,
        fields: request.load_fields,
        skip_dynamic_field: request.skip_load_dynamic_field,
    };
    load_params(
        context,
        database,
        request.collection_name,
        Vec::new(),
        &options,
    )
    .await
}

/// Reads a request to load partitions.
///
/// # Errors
/// Codes 800, 100, 200 for what is absent; 1100 when none is named; 3000 for what is not served.
pub async fn load_partitions_params(
    context: &DdlContext,
    database: &str,
    request: LoadPartitionsRequest,
) -> Result<LoadParams> {
    check_named(&request.partition_names)?;
    let options = LoadOptions {
        replicas: request.replica_number,
        resource_groups: request.resource_groups,
        fields: request.load_fields,
        skip_dynamic_field: request.skip_load_dynamic_field,
    };
    let names = request.partition_names;
    load_params(context, database, request.collection_name, names, &options).await
}

fn check_named(partitions: &[String]) -> Result<()> {
    if partitions.is_empty() {
        return Err(Error::invalid_parameter(
            "partition names should not be empty",
        ));
    }
    Ok(())
}

async fn load_params(
    context: &DdlContext,
    database: &str,
    collection: String,
    partitions: Vec<String>,
    options: &LoadOptions,
) -> Result<LoadParams> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &collection)?;
    let nodes = view.sessions(Role::QueryNode.name()).count();
    check_options(entry, options, nodes)?;
    Ok(LoadParams {
        database: entry.database_id(),
        collection: entry.id(),
        collection_name: collection,
        partitions,
    })
}

fn check_options(entry: &CollectionEntry, options: &LoadOptions, nodes: usize) -> Result<()> {
    let unsupported = |what: String| {
        Err(Error::input(
            ErrorCode::UnsupportedOperation,
            format!("unsupported operation: {what}"),
        ))
    };
    if options.replicas > 1 {
        if options.replicas.unsigned_abs() as usize > nodes {
            return Err(Error::input(
                ErrorCode::ResourceInsufficient,
                format!(
                    "service resource insufficient[currentNodeNum={nodes}][expected={}]",
                    options.replicas
                ),
            ));
        }
        return unsupported(format!(
            "{} replicas of a collection are not served",
            options.replicas
        ));
    }
    if let Some(group) = options
        .resource_groups
        .iter()
        .find(|group| *group != DEFAULT_RESOURCE_GROUP)
    {
        return unsupported(format!("resource group {group} is not served"));
    }
    if let Some(unknown) = options
        .fields
        .iter()
        .find(|name| entry.schema().field(name).is_none())
    {
        return Err(Error::input(
            ErrorCode::FieldNotFound,
            format!("field not found[field={unknown}]"),
        ));
    }
    let left_out = entry
        .schema()
        .fields
        .iter()
        .find(|field| !field.is_dynamic && !options.fields.contains(&field.name));
    match left_out {
        Some(field) if !options.fields.is_empty() => {
            return unsupported(format!(
                "loading without field {} is not served",
                field.name
            ));
        }
        _ => {}
    }
    if options.skip_dynamic_field && entry.schema().enable_dynamic_field {
        return unsupported("loading without the dynamic field is not served".to_owned());
    }
    Ok(())
}

/// Reads a request to release a collection.
///
/// # Errors
/// Codes 800, 100 for what is absent.
pub async fn release_collection_params(
    context: &DdlContext,
    database: &str,
    request: ReleaseCollectionRequest,
) -> Result<LoadParams> {
    plain_params(context, database, request.collection_name, Vec::new()).await
}

/// Reads a request to release partitions.
///
/// # Errors
/// Codes 800, 100, 200 for what is absent; 1100 when none is named.
pub async fn release_partitions_params(
    context: &DdlContext,
    database: &str,
    request: ReleasePartitionsRequest,
) -> Result<LoadParams> {
    check_named(&request.partition_names)?;
    plain_params(
        context,
        database,
        request.collection_name,
        request.partition_names,
    )
    .await
}

async fn plain_params(
    context: &DdlContext,
    database: &str,
    collection: String,
    partitions: Vec<String>,
) -> Result<LoadParams> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &collection)?;
    Ok(LoadParams {
        database: entry.database_id(),
        collection: entry.id(),
        collection_name: collection,
        partitions,
    })
}

impl LoadParams {
    fn locks(&self) -> Vec<LockKey> {
        vec![
            steps::share_database(self.database),
            steps::take_collection(self.collection),
        ]
    }

    /// The partitions that are meant: all visible ones where none is named.
    fn resolve(&self, entry: &CollectionEntry) -> Result<Vec<PartitionId>> {
        if self.partitions.is_empty() {
            return Ok(entry
                .visible_partitions()
                .map(|found| PartitionId(found.id))
                .collect());
        }
        self.partitions
            .iter()
            .map(|name| {
                entry
                    .partition(name)
                    .map(|found| PartitionId(found.id))
                    .ok_or_else(|| Error::partition_not_found(name))
            })
            .collect()
    }

    fn kind(&self) -> Kind {
        if self.partitions.is_empty() {
            Kind::Collection
        } else {
            Kind::Partitions
        }
    }
}

const PUT_META: StepKey<()> = StepKey::new("put_meta");
const REMOVE_META: StepKey<()> = StepKey::new("remove_meta");

/// **put_meta** → sync_querycoord (waits a little; the rest shows as progress) →
/// expire_proxy_caches.
pub struct Load(pub Arc<DdlContext>);

impl Saga for Load {
    const KIND: &'static str = "load";
    const VERSION: u32 = 1;
    type Params = LoadParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        params.locks()
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::meta_async(PUT_META, move |cx| {
                let context = context.clone();
                async move { put_load(&context, &cx.params).await }
            })
            .pivot(),
            steps::nudge_querycoord(
                &self.0,
                |params: &LoadParams| params.collection,
                LOAD_WITHIN,
            ),
            steps::expire_proxy_caches(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        let entry = resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
        let wanted = params.resolve(entry)?;
        for field in entry.schema().vector_fields() {
            if entry.index_on(field.id).is_none() {
                return Err(Error::input(
                    ErrorCode::IndexNotFound,
                    format!(
                        "there is no vector index on field: [{}], please create index first: \
                         index not found[collection={}]",
                        field.name,
                        entry.name()
                    ),
                ));
            }
        }
        let covered = wanted
            .iter()
            .all(|partition| entry.loaded_partitions.contains(partition));
        let whole = entry
            .load
            .as_ref()
            .is_some_and(|load| load.kind() == Kind::Collection);
        if entry.load.is_some() && covered && (whole || params.kind() == Kind::Partitions) {
            return Ok(Check::Already(()));
        }
        Ok(Check::Proceed)
    }
}

async fn put_load(context: &DdlContext, params: &LoadParams) -> Result<Txn> {
    let view = context.fresh_view().await?;
    let id = params.collection;
    let entry = resolve::collection_by_id(&view, id, &params.collection_name)?;
    let before = entry.load.as_ref();
    let whole = params.kind() == Kind::Collection
        || before.is_some_and(|load| load.kind() == Kind::Collection);
    let info = LoadInfo {
        collection_id: id.0,
        kind: if whole {
            Kind::Collection
        } else {
            Kind::Partitions
        }
        .into(),
        replica_number: 1,
        load_fields: Vec::new(),
        loaded_ts: match before {
            Some(load) => load.loaded_ts,
            None => context.timestamp().await?.0,
        },
    };
    let mut txn = Txn::new().then(steps::put(keys::load(id), &info));
    for partition in params.resolve(entry)? {
        if !entry.loaded_partitions.contains(&partition) {
            let record = PartitionLoadInfo {
                collection_id: id.0,
                partition_id: partition.0,
            };
            txn = txn.then(steps::put(keys::partition_load(id, partition), &record));
        }
    }
    Ok(txn)
}

/// **remove_meta** → expire_proxy_caches → sync_querycoord (waits a little for memory to be given
/// back).
pub struct Release(pub Arc<DdlContext>);

impl Saga for Release {
    const KIND: &'static str = "release";
    const VERSION: u32 = 1;
    type Params = LoadParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        params.locks()
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::meta_async(REMOVE_META, move |cx| {
                let context = context.clone();
                async move { remove_load(&context, &cx.params).await }
            })
            .pivot(),
            steps::expire_proxy_caches(&self.0),
            steps::nudge_querycoord(
                &self.0,
                |params: &LoadParams| params.collection,
                RELEASE_WITHIN,
            ),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        let entry = resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
        let named = params.resolve(entry)?;
        let any = named
            .iter()
            .any(|partition| entry.loaded_partitions.contains(partition));
        if entry.load.is_none() || (!any && !params.partitions.is_empty()) {
            return Ok(Check::Already(()));
        }
        Ok(Check::Proceed)
    }
}

async fn remove_load(context: &DdlContext, params: &LoadParams) -> Result<Txn> {
    let view = context.fresh_view().await?;
    let id = params.collection;
    let entry = resolve::collection_by_id(&view, id, &params.collection_name)?;
    let named = params.resolve(entry)?;
    let is_last = params.partitions.is_empty()
        || entry
            .loaded_partitions
            .iter()
            .all(|partition| named.contains(partition));
    if is_last {
        return Ok(Txn::new()
            .then(Op::delete(keys::load(id)))
            .then(Op::DeletePrefix {
                prefix: keys::partition_loads(id),
            }));
    }
    // What is left was not asked for as a whole any more: later partitions are not loaded by themselves.
    let mut txn = Txn::new();
    if let Some(load) = &entry.load {
        let mut info = load.as_ref().clone();
        info.kind = Kind::Partitions.into();
        txn = txn.then(steps::put(keys::load(id), &info));
    }
    for partition in named {
        txn = txn.then(Op::delete(keys::partition_load(id, partition)));
    }
    Ok(txn)
}
