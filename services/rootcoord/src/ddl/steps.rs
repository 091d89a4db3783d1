//! Steps, locks and records that several sagas share.

use std::{sync::Arc, time::Duration};

use prost::Message;
use redkite_catalog::keys;
use redkite_metastore::Op;
use redkite_proto::redkite::meta::CollectionInfo;
use redkite_saga::{LockKey, Step, StepCx, StepError, StepKey};
use redkite_types::{CollectionId, DatabaseId, Error, ErrorCode, Result, Revision};

use super::context::DdlContext;

/// After the change: no proxy shows anything older any more.
pub const EXPIRE_PROXY_CACHES: StepKey<()> = StepKey::new("expire_proxy_caches");
/// The query nodes act on the change.
pub const SYNC_QUERYCOORD: StepKey<()> = StepKey::new("sync_querycoord");

/// How long the query nodes get for one attempt.
const QUERY_NODES_WITHIN: Duration = Duration::from_secs(2);

/// Shares a database: it cannot be dropped meanwhile.
pub fn share_database(database: DatabaseId) -> LockKey {
    LockKey::read(format!("database/{database}"))
}

/// Takes a database's name alone.
pub fn take_database_name(name: &str) -> LockKey {
    LockKey::write(format!("database-name/{name}"))
}

/// Takes a database alone.
pub fn take_database(database: DatabaseId) -> LockKey {
    LockKey::write(format!("database/{database}"))
}

/// Takes a name of a collection or an alias alone.
pub fn take_name(database: DatabaseId, name: &str) -> LockKey {
    LockKey::write(format!("name/{database}/{name}"))
}

/// Takes a collection alone.
pub fn take_collection(collection: CollectionId) -> LockKey {
    LockKey::write(format!("collection/{collection}"))
}

/// Waits until every live proxy shows what the saga has written. Only after the pivot.
pub fn expire_proxy_caches<P: Send + Sync + 'static>(context: &Arc<DdlContext>) -> Step<P> {
    await_proxies(EXPIRE_PROXY_CACHES, context)
}

/// As [`expire_proxy_caches`], under another name.
pub fn await_proxies<P: Send + Sync + 'static>(
    key: StepKey<()>,
    context: &Arc<DdlContext>,
) -> Step<P> {
    let context = context.clone();
    Step::call(key, move |cx| {
        let context = context.clone();
        async move { Ok(context.announce.proxies(cx.revision).await?) }
    })
}

/// Waits until the query nodes have acted on what the saga has written.
pub fn sync_querycoord<P, F>(context: &Arc<DdlContext>, collection: F) -> Step<P>
where
    P: Send + Sync + 'static,
    F: Fn(&StepCx<P>) -> Result<CollectionId> + Send + Sync + 'static,
{
    let context = context.clone();
    let collection = Arc::new(collection);
    Step::call(SYNC_QUERYCOORD, move |cx| {
        let (context, collection) = (context.clone(), collection.clone());
        async move { acted_upon(&context, cx.revision, collection(&cx)?).await }
    })
}

/// Waits until the query nodes have acted on what the saga has written, and the data coordinator knows
/// of it.
pub fn announce<P, F>(key: StepKey<()>, context: &Arc<DdlContext>, collection: F) -> Step<P>
where
    P: Send + Sync + 'static,
    F: Fn(&StepCx<P>) -> Result<CollectionId> + Send + Sync + 'static,
{
    let context = context.clone();
    let collection = Arc::new(collection);
    Step::call(key, move |cx| {
        let (context, collection) = (context.clone(), collection.clone());
        async move {
            let query = acted_upon(&context, cx.revision, collection(&cx)?);
            let data = context.announce.data_coord(cx.revision);
            let (query, data) = futures::join!(query, data);
            query.and(data.map_err(StepError::Unknown))
        }
    })
}

async fn acted_upon(
    context: &DdlContext,
    revision: Revision,
    id: CollectionId,
) -> std::result::Result<(), StepError> {
    let done = context
        .announce
        .query_nodes(revision, id, QUERY_NODES_WITHIN)
        .await?;
    if done {
        return Ok(());
    }
    Err(StepError::Unknown(Error::new(
        ErrorCode::ServiceUnavailable,
        format!("query nodes have not acted on collection {id} in time"),
    )))
}

/// Tells the query nodes of what the saga has written and waits a little, but goes on without them:
/// what is left to do shows as progress.
pub fn nudge_querycoord<P, F>(context: &Arc<DdlContext>, collection: F, within: Duration) -> Step<P>
where
    P: Send + Sync + 'static,
    F: Fn(&P) -> CollectionId + Send + Sync + 'static,
{
    let context = context.clone();
    let collection = Arc::new(collection);
    Step::call(SYNC_QUERYCOORD, move |cx| {
        let (context, collection) = (context.clone(), collection.clone());
        async move {
            let id = collection(&cx.params);
            // An unreachable coordinator finds the change in the metadata when it is back.
            if let Err(error) = context.announce.query_nodes(cx.revision, id, within).await {
                tracing::warn!(%error, collection = id.0, "query coordinator not told of a change");
            }
            Ok(())
        }
    })
}

/// Waits until the owners of a collection's channels know of what the saga has written; what they
/// load may take longer.
pub fn await_query_nodes<P, F>(
    key: StepKey<()>,
    context: &Arc<DdlContext>,
    collection: F,
) -> Step<P>
where
    P: Send + Sync + 'static,
    F: Fn(&StepCx<P>) -> Result<CollectionId> + Send + Sync + 'static,
{
    let context = context.clone();
    let collection = Arc::new(collection);
    Step::call(key, move |cx| {
        let (context, collection) = (context.clone(), collection.clone());
        async move {
            let id = collection(&cx)?;
            let told = context
                .announce
                .tell_query_nodes(cx.revision, id, QUERY_NODES_WITHIN);
            if told.await? {
                return Ok(());
            }
            Err(StepError::Unknown(Error::new(
                ErrorCode::ServiceUnavailable,
                format!("query nodes have not heard of collection {id} in time"),
            )))
        }
    })
}

/// Has the query nodes know of what the saga has written, loads left aside, and waits a little, but
/// goes on without them: whoever needs them to know has them say so.
pub fn tell_query_nodes<P, F>(context: &Arc<DdlContext>, collection: F, within: Duration) -> Step<P>
where
    P: Send + Sync + 'static,
    F: Fn(&P) -> CollectionId + Send + Sync + 'static,
{
    let context = context.clone();
    let collection = Arc::new(collection);
    Step::call(SYNC_QUERYCOORD, move |cx| {
        let (context, collection) = (context.clone(), collection.clone());
        async move {
            let id = collection(&cx.params);
            let told = context.announce.tell_query_nodes(cx.revision, id, within);
            // An unreachable coordinator finds the change in the metadata when it is back.
            if let Err(error) = told.await {
                tracing::warn!(%error, collection = id.0, "query coordinator not told of a change");
            }
            Ok(())
        }
    })
}

/// Writes a collection's record.
pub fn put_collection(info: &CollectionInfo) -> Op {
    Op::put(
        keys::collection(DatabaseId(info.database_id), CollectionId(info.id)),
        info.encode_to_vec(),
    )
}

/// Writes a record.
pub fn put(key: String, record: &impl Message) -> Op {
    Op::put(key, record.encode_to_vec())
}
