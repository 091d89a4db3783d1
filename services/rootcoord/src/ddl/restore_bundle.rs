//! RestoreExternalSnapshot: a new collection with the rows of a bundle, which are copied.

use std::{sync::Arc, time::Duration};

use redkite_proto::redkite::{
    datacoord::AttachSnapshotRequest, meta::BundlePlace, rootcoord::RestoreBundleRequest,
};
use redkite_runtime::Backoff;
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepCx, StepError, StepKey};
use redkite_types::{CollectionId, DatabaseId, Error, Result, Timestamp, name};
use serde::{Deserialize, Serialize};

use super::{
    collection,
    context::DdlContext,
    resolve,
    restore::{self, ALLOCATE, RestoreParams},
    restore_job::note_failure,
    steps,
};

/// How long copying may take.
pub(super) const COPY_WITHIN: Duration = Duration::from_secs(86_400);
/// How long copying is tried again while nothing can be copied.
const PATIENCE: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// By how much the clock that gave a bundle's rows their times may be ahead of this deployment's.
const MAX_AHEAD_MS: u64 = 60_000;

const COPY: StepKey<()> = StepKey::new("copy_files");

/// A bundle, as the saga's record has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bundle {
    root: String,
    endpoint: String,
    region: String,
    access_key: String,
    secret_key: Secret,
    path_style: Option<bool>,
    given: String,
    pub(super) token: String,
    /// No row and no delete is later.
    pub(super) latest: Timestamp,
}

/// A text that is not printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Bundle {
    /// Where it is.
    pub(super) fn place(&self) -> BundlePlace {
        BundlePlace {
            root: self.root.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            access_key: self.access_key.clone(),
            secret_key: self.secret_key.0.clone(),
            path_style: self.path_style,
            given: self.given.clone(),
        }
    }
}

/// Reads a request, and the bundle.
///
/// # Errors
/// Codes 1101, 1100 and 800 as for [`restore::params`]; 1000 and 1009 when there is no bundle or it is
/// damaged.
pub async fn params(
    context: &DdlContext,
    request: RestoreBundleRequest,
    now_ms: u64,
) -> Result<RestoreParams> {
    if request.collection.is_empty() {
        return Err(Error::missing_parameter(
            "target_collection_name is required for restore snapshot",
        ));
    }
    name::check_collection(&request.collection)?;
    let view = context.fresh_view().await?;
    let target = resolve::database(&view, &request.database)?;
    let target = (DatabaseId(target.id), target.name.clone());
    collection::check_new_name(context, &view, target.0, &request.collection)?;
    let place = request.place.unwrap_or_default();
    let read = context.announce.read_bundle(&place).await?;
    let (info, definition) = (
        read.info.unwrap_or_default(),
        read.definition.unwrap_or_default(),
    );
    let latest = Timestamp(read.latest_ts);
    let ahead = latest.physical_ms().saturating_sub(now_ms);
    if ahead > MAX_AHEAD_MS {
        return Err(Error::invalid_parameter(format!(
            "the bundle has rows that were written {ahead} ms later than it is now by this \
             deployment's clock"
        )));
    }
    Ok(RestoreParams {
        job: context.ids.alloc(1).await?,
        request_id: request.request_id,
        started_ms: now_ms,
        snapshot: info.snapshot_name,
        snapshot_id: definition.snapshot_id,
        source: CollectionId(0),
        database: target.0,
        database_name: target.1,
        name: request.collection,
        partitions: definition.partitions.len() as u32,
        indexes: definition.indexes.len() as u32,
        parts: read.parts,
        bundle: Some(Bundle {
            root: place.root,
            endpoint: place.endpoint,
            region: place.region,
            access_key: place.access_key,
            secret_key: Secret(place.secret_key),
            path_style: place.path_style,
            given: place.given,
            token: info.token,
            latest,
        }),
    })
}

/// allocate → begin_job → add_meta (creating) → copy_files (into the new collection's folder) →
/// attach_data (records of segments, delete files and indexes) → sync_querycoord → **commit** (with the
/// job's completion) → expire_proxy_caches.
pub struct RestoreBundle(pub Arc<DdlContext>);

impl Saga for RestoreBundle {
    const KIND: &'static str = "restore_bundle";
    const VERSION: u32 = 1;
    type Params = RestoreParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        restore::locks(params)
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        vec![
            restore::allocate(&self.0),
            restore::begin_job(&self.0),
            restore::add_meta(&self.0),
            copy(&self.0),
            restore::attach(&self.0),
            steps::sync_querycoord(&self.0, |cx: &StepCx<Self::Params>| {
                Ok(cx.get(ALLOCATE)?.collection)
            }),
            restore::commit(&self.0),
            steps::expire_proxy_caches(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        collection::check_new_name(&self.0, &view, params.database, &params.name)?;
        Ok(Check::Proceed)
    }

    fn budget(&self) -> Duration {
        restore::BUDGET
    }
}

/// Has the files of a snapshot copied, or compared, some at a time.
pub(super) async fn copied(
    context: &DdlContext,
    params: &RestoreParams,
    request: &AttachSnapshotRequest,
) -> std::result::Result<(), StepError> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut since = tokio::time::Instant::now();
    loop {
        let error = match context.announce.copy_bundle(request.clone()).await {
            Ok(true) => return Ok(()),
            Ok(false) => {
                since = tokio::time::Instant::now();
                backoff.reset();
                continue;
            }
            Err(error) => error,
        };
        if !error.retriable || since.elapsed() > PATIENCE {
            note_failure(context, params, &error).await?;
            return Err(StepError::Rejected(error));
        }
        backoff.wait().await;
    }
}

/// Has the files copied. How far that is stands in the job's record, so that it goes
/// on from there whoever asks next.
fn copy(context: &Arc<DdlContext>) -> Step<RestoreParams> {
    let (run, undo) = (context.clone(), context.clone());
    Step::call(COPY, move |cx: StepCx<RestoreParams>| {
        let context = run.clone();
        async move {
            let request = restore::attach_request(&cx.params, &cx.get(ALLOCATE)?);
            copied(&context, &cx.params, &request).await
        }
    })
    .undo_call(move |cx| {
        let context = undo.clone();
        async move {
            // Files without a record are garbage once the collection is gone.
            if let Some(made) = cx.find(ALLOCATE)? {
                context.announce.drop_data(made.collection, None).await?;
            }
            Ok(())
        }
    })
    .timeout(COPY_WITHIN)
}
