//! CreatePartition.

use std::sync::Arc;

use redkite_catalog::{CollectionEntry, keys};
use redkite_metastore::{Op, Txn};
use redkite_proto::redkite::meta::{ObjectState, PartitionInfo, PartitionLoadInfo, load_info};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepCx, StepKey};
use redkite_types::{Error, ErrorCode, PartitionId, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::PartitionParams;
use crate::ddl::{context::DdlContext, resolve, steps};

/// The new id and the time of the creation.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Allocated {
    partition: PartitionId,
    timestamp: Timestamp,
    /// Whether the collection is loaded as a whole, so that the new partition is served too.
    load: bool,
}

const ALLOCATE: StepKey<Allocated> = StepKey::new("allocate");
const ADD_META: StepKey<()> = StepKey::new("add_meta");
/// The query nodes serve it where the collection is loaded, and the data coordinator knows of it.
const ANNOUNCE: StepKey<()> = StepKey::new("announce");
const COMMIT: StepKey<()> = StepKey::new("commit");
/// Every proxy shows it.
const PUBLISH: StepKey<()> = StepKey::new("publish");

/// allocate → expire_proxy_caches → add_meta (creating; undone by forgetting the partition) →
/// announce (undone by releasing it) → **commit** (created) → publish.
///
/// The order is that of Milvus 2.3, with two differences: what a step may have done is undone if it
/// fails itself, and proxies are waited for again at the end, so that the answer means that all of them
/// know the partition.
pub struct CreatePartition(pub Arc<DdlContext>);

impl Saga for CreatePartition {
    const KIND: &'static str = "create_partition";
    const VERSION: u32 = 2;
    type Params = PartitionParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        params.locks()
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = &self.0;
        vec![
            allocate(context),
            expire_proxy_caches(context),
            add_meta(),
            steps::announce(ANNOUNCE, context, |cx: &StepCx<Self::Params>| {
                Ok(cx.params.collection)
            })
            .undo_meta(release),
            commit(),
            steps::await_proxies(PUBLISH, context),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        check(&self.0, params).await
    }
}

/// How it was done before proxies and the data coordinator were told: what such a process has begun is
/// brought to its end.
pub struct CreatePartitionV1(pub Arc<DdlContext>);

impl Saga for CreatePartitionV1 {
    const KIND: &'static str = CreatePartition::KIND;
    const VERSION: u32 = 1;
    type Params = PartitionParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        params.locks()
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = &self.0;
        vec![
            allocate(context),
            add_meta(),
            steps::sync_querycoord(context, |cx: &StepCx<Self::Params>| {
                Ok(cx.params.collection)
            }),
            commit(),
            steps::expire_proxy_caches(context),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        check(&self.0, params).await
    }
}

/// Refuses what is wrong; a partition that is there already is the answer.
async fn check(context: &DdlContext, params: &PartitionParams) -> Result<Check<()>> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
    if entry.partition(&params.partition).is_some() {
        return Ok(Check::Already(()));
    }
    let (count, limit) = (entry.partitions.len(), context.options.max_partition_num);
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

fn allocate(context: &Arc<DdlContext>) -> Step<PartitionParams> {
    let context = context.clone();
    Step::allocate(ALLOCATE, move |cx: StepCx<PartitionParams>| {
        let context = context.clone();
        async move {
            let params = &cx.params;
            // The locks are held since `check` has read: its view is still the newest of this collection.
            let view = context.catalog.view();
            let entry =
                resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
            Ok(Allocated {
                partition: PartitionId(context.ids.alloc(1).await?),
                timestamp: context.timestamp().await?,
                load: is_loaded_as_a_whole(entry),
            })
        }
    })
}

/// No proxy plans with anything older than what was checked. One that does not answer shows here,
/// before anything is written.
fn expire_proxy_caches(context: &Arc<DdlContext>) -> Step<PartitionParams> {
    let context = context.clone();
    Step::wait(steps::EXPIRE_PROXY_CACHES, move |_| {
        let context = context.clone();
        async move {
            let checked = context.catalog.view().revision();
            context.announce.proxies(checked).await
        }
    })
}

fn add_meta() -> Step<PartitionParams> {
    Step::<PartitionParams>::meta(ADD_META, |cx| {
        let made = cx.get(ALLOCATE)?;
        let mut txn = Txn::new().then(put_partition(&cx.params, &made, ObjectState::Creating));
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
        let key = keys::partition(cx.params.collection, made.partition);
        Ok(release(cx)?.then(Op::delete(key)))
    })
}

/// What releases it: query nodes let go of what has no load record.
fn release(cx: &StepCx<PartitionParams>) -> Result<Txn> {
    let Some(made) = cx.find(ALLOCATE)? else {
        return Ok(Txn::new());
    };
    let key = keys::partition_load(cx.params.collection, made.partition);
    Ok(Txn::new().then(Op::delete(key)))
}

fn commit() -> Step<PartitionParams> {
    Step::<PartitionParams>::meta(COMMIT, |cx| {
        let made = cx.get(ALLOCATE)?;
        Ok(Txn::new().then(put_partition(&cx.params, &made, ObjectState::Created)))
    })
    .pivot()
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
