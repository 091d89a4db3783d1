//! DropCollection.

use std::sync::Arc;

use redkite_catalog::{CatalogView, keys};
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    milvus::milvus::DropCollectionRequest,
    redkite::meta::{ObjectState, restore_job_info},
};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepCx, StepKey};
use redkite_types::{CollectionId, DatabaseId, Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};

use super::{collection::remove_meta, context::DdlContext, rbac, resolve, steps};

/// What is to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DropCollectionParams {
    database: DatabaseId,
    collection: CollectionId,
    name: String,
}

const MARK_DROPPING: StepKey<()> = StepKey::new("mark_dropping");
const DROP_DATA: StepKey<()> = StepKey::new("drop_data");
const REMOVE_META: StepKey<()> = StepKey::new("remove_meta");

/// Reads a request; `None` when there is nothing to drop.
///
/// # Errors
/// Code 800 for an absent database; 65535 for an alias.
pub async fn params(
    context: &DdlContext,
    database: &str,
    request: DropCollectionRequest,
) -> Result<Option<DropCollectionParams>> {
    let view = context.fresh_view().await?;
    let found = resolve::database(&view, database)?;
    let (id, database) = (DatabaseId(found.id), &found.name);
    let name = request.collection_name;
    if view.alias(id, &name).is_some() {
        return Err(Error::input(
            ErrorCode::Unexpected,
            format!("cannot drop the collection via alias = {name}"),
        ));
    }
    let visible = view.collection_by_name(id, &name).map(|entry| entry.id());
    let found = visible.or_else(|| being_restored(&view, database, &name));
    Ok(found.map(|collection| DropCollectionParams {
        database: id,
        collection,
        name,
    }))
}

/// What nobody sees yet, but those who restore it know of: without it a drop that was answered would
/// be undone by the end of the restore. The restore has the name's lock, so the drop waits for its end.
fn being_restored(view: &CatalogView, database: &str, name: &str) -> Option<CollectionId> {
    let executing = restore_job_info::State::Executing;
    let mut jobs = view.restore_jobs();
    let job = jobs.find(|job| {
        job.state() == executing && job.database == database && job.collection == name
    })?;
    Some(CollectionId(job.collection_id))
}

/// **mark_dropping** (nobody sees it any more) → expire_proxy_caches → sync_querycoord (channels are
/// given up, logs removed) → drop_data → remove_meta.
pub struct DropCollection(pub Arc<DdlContext>);

impl Saga for DropCollection {
    const KIND: &'static str = "drop_collection";
    const VERSION: u32 = 1;
    type Params = DropCollectionParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![
            steps::share_database(params.database),
            steps::take_name(params.database, &params.name),
            steps::take_collection(params.collection),
        ]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let (mark, data) = (self.0.clone(), self.0.clone());
        vec![
            Step::<Self::Params>::meta_async(MARK_DROPPING, move |cx| {
                let context = mark.clone();
                async move {
                    let view = context.fresh_view().await?;
                    let params = &cx.params;
                    let entry = resolve::collection_by_id(&view, params.collection, &params.name)?;
                    let grants = rbac::collections::forget(&view, params.database, entry.name());
                    Ok(grants.into_iter().fold(mark_dropping(entry), Txn::then))
                }
            })
            .pivot(),
            steps::expire_proxy_caches(&self.0),
            steps::sync_querycoord(&self.0, |cx: &StepCx<Self::Params>| {
                Ok(cx.params.collection)
            }),
            Step::<Self::Params>::call(DROP_DATA, move |cx| {
                let context = data.clone();
                async move {
                    Ok(context
                        .announce
                        .drop_data(cx.params.collection, None)
                        .await?)
                }
            }),
            Step::<Self::Params>::meta(REMOVE_META, |cx| {
                Ok(remove_meta(cx.params.database, cx.params.collection))
            }),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        let Some(entry) = view
            .collection_by_id(params.collection)
            .filter(|entry| entry.state() == ObjectState::Created)
        else {
            return Ok(Check::Already(()));
        };
        let aliases: Vec<&str> = view
            .aliases(params.database)
            .filter(|alias| alias.collection_id == params.collection.0)
            .map(|alias| alias.alias.as_str())
            .collect();
        if !aliases.is_empty() {
            return Err(Error::input(
                ErrorCode::Unexpected,
                format!(
                    "unable to drop the collection [{}] because it has associated aliases [{}], \
                     please remove all aliases before dropping the collection",
                    entry.name(),
                    aliases.join(" ")
                ),
            ));
        }
        Ok(Check::Proceed)
    }
}

fn mark_dropping(entry: &redkite_catalog::CollectionEntry) -> Txn {
    let id = entry.id();
    let mut txn = Txn::new()
        .then(Op::delete(keys::load(id)))
        .then(Op::DeletePrefix {
            prefix: keys::partition_loads(id),
        });
    if let Some(info) = entry.info() {
        let mut info = info.as_ref().clone();
        info.state = ObjectState::Dropping.into();
        txn = txn.then(steps::put_collection(&info));
    }
    txn
}
