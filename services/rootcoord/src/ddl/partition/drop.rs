//! DropPartition.

use std::sync::Arc;

use redkite_catalog::keys;
use redkite_metastore::{Op, Txn};
use redkite_proto::redkite::meta::ObjectState;
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepCx, StepKey};
use redkite_types::{Error, ErrorCode, PartitionId, Result, limits};

use super::PartitionParams;
use crate::ddl::{context::DdlContext, resolve, steps};

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
