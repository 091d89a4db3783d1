//! TruncateCollection: every partition gives its name to a new one without rows.
//!
//! The rows that are gone are those written before one timestamp. To have one for all channels, the
//! old partitions are closed first: their owners refuse writes to them, which proxies hold back and
//! send again. The timestamp is taken once all owners do. One transaction then shows the new
//! partitions under the old names and hides the old ones, which are served for as long as a proxy may
//! still read them. Nobody can write to a new partition before that transaction.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use redkite_catalog::keys;
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    milvus::milvus::TruncateCollectionRequest,
    redkite::meta::{ObjectState, PartitionInfo, PartitionLoadInfo},
};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepCx, StepKey};
use redkite_types::{CollectionId, DatabaseId, PartitionId, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::{context::DdlContext, resolve, steps};

/// Partitions whose data is dropped at the same time.
const DROPS_AT_ONCE: usize = 16;

/// The collection whose rows are to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TruncateParams {
    database: DatabaseId,
    collection: CollectionId,
    name: String,
}

/// Reads a request.
///
/// # Errors
/// Codes 800, 100 for what is absent.
pub async fn params(
    context: &DdlContext,
    database: &str,
    request: TruncateCollectionRequest,
) -> Result<TruncateParams> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &request.collection_name)?;
    Ok(TruncateParams {
        database: entry.database_id(),
        collection: entry.id(),
        name: request.collection_name,
    })
}

/// A partition and the one that takes its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pair {
    name: String,
    old: PartitionId,
    old_created: Timestamp,
    new: PartitionId,
    /// Whether it is to be served.
    loaded: bool,
}

const ALLOCATE: StepKey<Vec<Pair>> = StepKey::new("allocate");
const CLOSE: StepKey<()> = StepKey::new("close");
const AWAIT_CLOSED: StepKey<()> = StepKey::new("await_closed");
const SWAP: StepKey<()> = StepKey::new("swap");
const LET_GO: StepKey<()> = StepKey::new("let_go");
const AWAIT_FORGOTTEN: StepKey<()> = StepKey::new("await_forgotten");
const DROP_DATA: StepKey<()> = StepKey::new("drop_data");
const REMOVE_META: StepKey<()> = StepKey::new("remove_meta");

/// allocate → close (new partitions are made beside the old ones, which take no writes) →
/// await_closed → **swap** (the new ones are seen, the old ones not) → expire_proxy_caches → let_go
/// (the old ones are not served any more) → await_forgotten → drop_data → remove_meta.
pub struct TruncateCollection(pub Arc<DdlContext>);

impl Saga for TruncateCollection {
    const KIND: &'static str = "truncate_collection";
    const VERSION: u32 = 1;
    type Params = TruncateParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![
            steps::share_database(params.database),
            steps::take_collection(params.collection),
        ]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let (pairs, swap, data) = (self.0.clone(), self.0.clone(), self.0.clone());
        let collection = |cx: &StepCx<Self::Params>| Ok(cx.params.collection);
        vec![
            Step::<Self::Params>::allocate(ALLOCATE, move |cx| {
                let context = pairs.clone();
                async move { allocate(&context, &cx.params).await }
            }),
            Step::<Self::Params>::meta(CLOSE, |cx| {
                let pairs = cx.get(ALLOCATE)?;
                Ok(pairs
                    .iter()
                    .fold(Txn::new(), |txn, pair| close(&cx.params, pair, txn)))
            })
            .undo_meta(|cx| {
                let pairs = cx.find(ALLOCATE)?.unwrap_or_default();
                Ok(pairs
                    .iter()
                    .fold(Txn::new(), |txn, pair| reopen(&cx.params, pair, txn)))
            }),
            steps::await_query_nodes(AWAIT_CLOSED, &self.0, collection),
            Step::<Self::Params>::meta_async(SWAP, move |cx| {
                let context = swap.clone();
                async move {
                    let at = context.timestamp().await?;
                    let pairs = cx.get(ALLOCATE)?;
                    let swapped = pairs.iter().fold(Txn::new(), |txn, pair| {
                        let new = pair.new_record(&cx.params, ObjectState::Created, at);
                        let old = pair.old_record(&cx.params, ObjectState::Dropping, true);
                        txn.then(new).then(old)
                    });
                    Ok(swapped)
                }
            })
            .pivot(),
            steps::expire_proxy_caches(&self.0),
            Step::<Self::Params>::meta(LET_GO, |cx| {
                let pairs = cx.get(ALLOCATE)?;
                let id = cx.params.collection;
                Ok(pairs.iter().fold(Txn::new(), |txn, pair| {
                    txn.then(pair.old_record(&cx.params, ObjectState::Dropping, false))
                        .then(Op::delete(keys::partition_load(id, pair.old)))
                }))
            }),
            steps::await_query_nodes(AWAIT_FORGOTTEN, &self.0, collection),
            Step::<Self::Params>::call(DROP_DATA, move |cx| {
                let context = data.clone();
                async move {
                    let id = cx.params.collection;
                    let old = cx.get(ALLOCATE)?.into_iter().map(|pair| pair.old);
                    let drops = old.map(|old| context.announce.drop_data(id, Some(old)));
                    let drops = stream::iter(drops).buffer_unordered(DROPS_AT_ONCE);
                    drops.try_collect::<Vec<()>>().await?;
                    Ok(())
                }
            }),
            Step::<Self::Params>::meta(REMOVE_META, |cx| {
                let pairs = cx.get(ALLOCATE)?;
                let id = cx.params.collection;
                Ok(pairs.iter().fold(Txn::new(), |txn, pair| {
                    txn.then(Op::delete(keys::partition(id, pair.old)))
                }))
            }),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        resolve::collection_by_id(&view, params.collection, &params.name)?;
        Ok(Check::Proceed)
    }
}

impl Pair {
    fn new_record(&self, params: &TruncateParams, state: ObjectState, at: Timestamp) -> Op {
        let info = PartitionInfo {
            id: self.new.0,
            name: self.name.clone(),
            created_ts: at.0,
            collection_id: params.collection.0,
            state: state.into(),
            closed: false,
        };
        steps::put(keys::partition(params.collection, self.new), &info)
    }

    fn old_record(&self, params: &TruncateParams, state: ObjectState, closed: bool) -> Op {
        let info = PartitionInfo {
            id: self.old.0,
            name: self.name.clone(),
            created_ts: self.old_created.0,
            collection_id: params.collection.0,
            state: state.into(),
            closed,
        };
        steps::put(keys::partition(params.collection, self.old), &info)
    }
}

/// The new ids follow each other as the old ones do: a partition key's slots are in that order.
async fn allocate(context: &DdlContext, params: &TruncateParams) -> Result<Vec<Pair>> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection_by_id(&view, params.collection, &params.name)?;
    let count = entry.visible_partitions().count() as u32;
    let first = context.ids.alloc(count).await?;
    Ok((first..)
        .zip(entry.visible_partitions())
        .map(|(new, old)| Pair {
            name: old.name.clone(),
            old: PartitionId(old.id),
            old_created: Timestamp(old.created_ts),
            new: PartitionId(new),
            loaded: entry.loaded_partitions.contains(&PartitionId(old.id)),
        })
        .collect())
}

fn close(params: &TruncateParams, pair: &Pair, mut txn: Txn) -> Txn {
    txn = txn
        .then(pair.old_record(params, ObjectState::Created, true))
        .then(pair.new_record(params, ObjectState::Creating, pair.old_created));
    if pair.loaded {
        let record = PartitionLoadInfo {
            collection_id: params.collection.0,
            partition_id: pair.new.0,
        };
        let key = keys::partition_load(params.collection, pair.new);
        txn = txn.then(steps::put(key, &record));
    }
    txn
}

fn reopen(params: &TruncateParams, pair: &Pair, txn: Txn) -> Txn {
    let id = params.collection;
    txn.then(pair.old_record(params, ObjectState::Created, false))
        .then(Op::delete(keys::partition(id, pair.new)))
        .then(Op::delete(keys::partition_load(id, pair.new)))
}
