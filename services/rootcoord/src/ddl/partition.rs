//! CreatePartition and DropPartition.

use std::sync::Arc;

use redkite_catalog::{CollectionEntry, keys};
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    milvus::milvus::{CreatePartitionRequest, DropPartitionRequest},
    redkite::meta::{ObjectState, PartitionInfo, PartitionLoadInfo, load_info},
};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepCx, StepKey};
use redkite_types::{
    CollectionId, DatabaseId, Error, ErrorCode, PartitionId, Result, Timestamp, limits, name,
};
use serde::{Deserialize, Serialize};

use super::{context::DdlContext, resolve, steps};

/// A partition by its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartitionParams {
    database: DatabaseId,
    collection: CollectionId,
    collection_name: String,
    partition: String,
}

/// Reads a request to create.
///
/// # Errors
/// Codes 800, 100 for what is absent; 1100 in partition-key mode; 65535 for a bad name.
pub async fn create_params(
    context: &DdlContext,
    database: &str,
    request: CreatePartitionRequest,
) -> Result<PartitionParams> {
    name::check_partition(&request.partition_name)?;
    params(
        context,
        database,
        request.collection_name,
        request.partition_name,
        "create",
    )
    .await
}

/// Reads a request to drop.
///
/// # Errors
/// Codes 800, 100 for what is absent; 1100 in partition-key mode and for the default partition.
pub async fn drop_params(
    context: &DdlContext,
    database: &str,
    request: DropPartitionRequest,
) -> Result<PartitionParams> {
    name::check_partition(&request.partition_name)?;
    params(
        context,
        database,
        request.collection_name,
        request.partition_name,
        "drop",
    )
    .await
}

async fn params(
    context: &DdlContext,
    database: &str,
    collection: String,
    partition: String,
    verb: &str,
) -> Result<PartitionParams> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &collection)?;
    if entry.schema().partition_key().is_some() {
        return Err(Error::input(
            ErrorCode::InvalidParameter,
            format!("disable {verb} partition if partition key mode is used"),
        ));
    }
    Ok(PartitionParams {
        database: entry.database_id(),
        collection: entry.id(),
        collection_name: collection,
        partition,
    })
}

impl PartitionParams {
    fn locks(&self) -> Vec<LockKey> {
        vec![
            steps::share_database(self.database),
            steps::take_collection(self.collection),
        ]
    }
}

/// The new id and the time of the creation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Allocated {
    partition: PartitionId,
    timestamp: Timestamp,
    /// Whether the collection is loaded as a whole, so that the new partition is served too.
    load: bool,
}

const ALLOCATE: StepKey<Allocated> = StepKey::new("allocate");
const ADD_META: StepKey<()> = StepKey::new("add_meta");
const COMMIT: StepKey<()> = StepKey::new("commit");

/// allocate → add_meta (creating) → sync_querycoord (undone by forgetting the partition) →
/// **commit** → expire_proxy_caches.
pub struct CreatePartition(pub Arc<DdlContext>);

impl Saga for CreatePartition {
    const KIND: &'static str = "create_partition";
    const VERSION: u32 = 1;
    type Params = PartitionParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        params.locks()
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::allocate(ALLOCATE, move |cx| {
                let context = context.clone();
                async move { allocate(&context, &cx.params).await }
            }),
            Step::<Self::Params>::meta(ADD_META, |cx| {
                let made = cx.get(ALLOCATE)?;
                let mut txn =
                    Txn::new().then(put_partition(&cx.params, &made, ObjectState::Creating));
                if made.load {
                    let id = cx.params.collection;
                    let record = PartitionLoadInfo {
                        collection_id: id.0,
                        partition_id: made.partition.0,
                    };
                    txn = txn.then(steps::put(
                        keys::partition_load(id, made.partition),
                        &record,
                    ));
                }
                Ok(txn)
            })
            .undo_meta(|cx| {
                let Some(made) = cx.find(ALLOCATE)? else {
                    return Ok(Txn::new());
                };
                let id = cx.params.collection;
                Ok(Txn::new()
                    .then(Op::delete(keys::partition_load(id, made.partition)))
                    .then(Op::delete(keys::partition(id, made.partition))))
            }),
            steps::sync_querycoord(&self.0, |cx: &StepCx<Self::Params>| {
                Ok(cx.params.collection)
            }),
            Step::<Self::Params>::meta(COMMIT, |cx| {
                let made = cx.get(ALLOCATE)?;
                Ok(Txn::new().then(put_partition(&cx.params, &made, ObjectState::Created)))
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
        let entry = resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
        if entry.partition(&params.partition).is_some() {
            return Ok(Check::Already(()));
        }
        let (count, limit) = (entry.partitions.len(), self.0.options.max_partition_num);
        if count >= limit {
            return Err(Error::input(
                ErrorCode::InvalidParameter,
                format!(
                    "partition number ({count}) exceeds max configuration ({limit}), collection: {}",
                    entry.name()
                ),
            ));
        }
        Ok(Check::Proceed)
    }
}

async fn allocate(context: &DdlContext, params: &PartitionParams) -> Result<Allocated> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
    Ok(Allocated {
        partition: PartitionId(context.ids.alloc(1).await?),
        timestamp: context.timestamp().await?,
        load: is_loaded_as_a_whole(entry),
    })
}

fn is_loaded_as_a_whole(entry: &CollectionEntry) -> bool {
    entry
        .load
        .as_ref()
        .is_some_and(|load| load.kind() == load_info::Kind::Collection)
}

fn put_partition(params: &PartitionParams, made: &Allocated, state: ObjectState) -> Op {
    let info = PartitionInfo {
        id: made.partition.0,
        name: params.partition.clone(),
        created_ts: made.timestamp.0,
        collection_id: params.collection.0,
        state: state.into(),
        ..PartitionInfo::default()
    };
    steps::put(keys::partition(params.collection, made.partition), &info)
}

const MARK_DROPPING: StepKey<PartitionId> = StepKey::new("mark_dropping");
const DROP_DATA: StepKey<()> = StepKey::new("drop_data");
const REMOVE_META: StepKey<()> = StepKey::new("remove_meta");

/// **mark_dropping** (nobody sees it any more) → expire_proxy_caches → sync_querycoord (its rows are
/// forgotten) → drop_data → remove_meta.
pub struct DropPartition(pub Arc<DdlContext>);

impl Saga for DropPartition {
    const KIND: &'static str = "drop_partition";
    const VERSION: u32 = 1;
    type Params = PartitionParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        params.locks()
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let (mark, data) = (self.0.clone(), self.0.clone());
        vec![
            Step::<Self::Params>::meta_async(MARK_DROPPING, move |cx| {
                let context = mark.clone();
                async move { mark_dropping(&context, &cx.params).await }
            })
            .pivot(),
            steps::expire_proxy_caches(&self.0),
            steps::sync_querycoord(&self.0, |cx: &StepCx<Self::Params>| {
                Ok(cx.params.collection)
            }),
            Step::<Self::Params>::call(DROP_DATA, move |cx| {
                let context = data.clone();
                async move {
                    let partition = cx.get(MARK_DROPPING)?;
                    let collection = cx.params.collection;
                    Ok(context
                        .announce
                        .drop_data(collection, Some(partition))
                        .await?)
                }
            }),
            Step::<Self::Params>::meta(REMOVE_META, |cx| {
                let key = keys::partition(cx.params.collection, cx.get(MARK_DROPPING)?);
                Ok(Txn::new().then(Op::delete(key)))
            }),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        let entry = resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
        if params.partition == limits::DEFAULT_PARTITION {
            return Err(Error::invalid_parameter(
                "default partition cannot be deleted",
            ));
        }
        let Some(partition) = entry.partition(&params.partition) else {
            return Ok(Check::Already(()));
        };
        if entry.is_loaded() && entry.loaded_partitions.contains(&PartitionId(partition.id)) {
            return Err(Error::input(
                ErrorCode::InvalidParameter,
                "partition cannot be dropped, partition is loaded, please release it first",
            ));
        }
        Ok(Check::Proceed)
    }
}

async fn mark_dropping(
    context: &DdlContext,
    params: &PartitionParams,
) -> Result<(Txn, PartitionId)> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
    let partition = entry
        .partition(&params.partition)
        .ok_or_else(|| Error::partition_not_found(&params.partition))?;
    let mut info = partition.as_ref().clone();
    info.state = ObjectState::Dropping.into();
    let id = PartitionId(info.id);
    Ok((
        Txn::new().then(steps::put(keys::partition(params.collection, id), &info)),
        id,
    ))
}
