//! Has due index builds run by datanodes, and commits or retries them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prost::Message;
use redkite_catalog::{Catalog, CatalogView, CollectionEntry, keys};
use redkite_metastore::{Compare, Op, SharedKv, Txn, TxnOutcome};
use redkite_node::Peers;
use redkite_proto::{
    milvus::common::IndexState,
    redkite::{
        datanode::{BuildIndexRequest, BuildIndexResponse},
        meta::{IndexInfo, SegmentIndexInfo, SegmentInfo},
        rootcoord::AllocRequest,
    },
};
use redkite_runtime::{Backoff, Deadline, OnFailure, TaskGroup};
use redkite_types::{
    BuildId, CollectionId, Error, ErrorCode, IndexId, PartitionId, Result, Revision, SegmentId,
};
use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use crate::{
    gate::CommitGate,
    plan::{Due, due},
    progress::{BuildingNodes, Progress},
};

/// Builds that are given out at the same time; a datanode queues what its processors cannot take.
const CONCURRENT_BUILDS: usize = 4;
/// Pause after the first failure of a build; doubled after each further one.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How often work is looked for everywhere, whether it has changed or not.
const TICK: Duration = Duration::from_secs(1);

/// Has due index builds run.
pub struct Builder {
    kv: SharedKv,
    gate: Arc<CommitGate>,
    catalog: Arc<Catalog>,
    peers: Arc<Peers>,
    tasks: TaskGroup,
    /// Builds that run or are being recorded, by index and segment.
    running: Mutex<HashMap<(i64, i64), i64>>,
    /// Who is at them.
    nodes: BuildingNodes,
    permits: Arc<Semaphore>,
}

/// One index over one segment.
#[derive(Clone)]
struct Job {
    index: IndexInfo,
    segment: SegmentInfo,
}

impl Job {
    fn id(&self) -> (i64, i64) {
        (self.index.id, self.segment.id)
    }

    fn index_key(&self) -> String {
        keys::index(
            CollectionId(self.index.collection_id),
            IndexId(self.index.id),
        )
    }

    fn segment_key(&self) -> String {
        keys::segment(
            CollectionId(self.segment.collection_id),
            PartitionId(self.segment.partition_id),
            SegmentId(self.segment.id),
        )
    }

    fn build_key(&self, build: i64) -> String {
        keys::segment_index(
            CollectionId(self.segment.collection_id),
            PartitionId(self.segment.partition_id),
            SegmentId(self.segment.id),
            BuildId(build),
        )
    }

    fn record(&self, build_id: i64, state: IndexState) -> SegmentIndexInfo {
        SegmentIndexInfo {
            build_id,
            index_id: self.index.id,
            segment_id: self.segment.id,
            collection_id: self.segment.collection_id,
            partition_id: self.segment.partition_id,
            field_id: self.index.field_id,
            state: state.into(),
            rows: self.segment.rows,
            ..SegmentIndexInfo::default()
        }
    }
}

impl Builder {
    /// A builder that does nothing until [`Builder::run`].
    pub fn new(
        kv: SharedKv,
        gate: Arc<CommitGate>,
        catalog: Arc<Catalog>,
        peers: Arc<Peers>,
        tasks: TaskGroup,
    ) -> Arc<Self> {
        Arc::new(Self {
            kv,
            gate,
            catalog,
            peers,
            tasks,
            running: Mutex::default(),
            nodes: BuildingNodes::default(),
            permits: Arc::new(Semaphore::new(CONCURRENT_BUILDS)),
        })
    }

    /// Follows the metadata until the task group stops.
    pub async fn run(self: Arc<Self>) {
        let stop = self.tasks.token();
        let mut revisions = self.catalog.subscribe();
        let mut seen: Arc<CatalogView> = Arc::default();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            revisions.mark_unchanged();
            let view = self.catalog.view();
            let changed = view.changed_since(&seen);
            for entry in changed.filter_map(|changed| changed.new) {
                self.start_due(entry);
            }
            seen = view;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = revisions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                _ = tick.tick() => seen = Arc::default(),
            }
        }
    }

    /// Starts a task for each thing that is due.
    fn start_due(self: &Arc<Self>, entry: &CollectionEntry) {
        let found = {
            let running = self.running.lock();
            due(entry, |build| running.values().any(|known| *known == build))
        };
        for due in found {
            let (job, build, needs_files) = match due {
                Due::Start {
                    index,
                    segment,
                    needs_files,
                } => (Job { index, segment }, None, needs_files),
                Due::Run {
                    index,
                    segment,
                    build,
                } => (Job { index, segment }, Some(build), true),
            };
            let known = build.as_ref().map_or(0, |build| build.build_id);
            {
                let mut running = self.running.lock();
                if running.contains_key(&job.id()) {
                    continue;
                }
                running.insert(job.id(), known);
            }
            let builder = self.clone();
            let name = format!("index {} of segment {}", job.index.id, job.segment.id);
            self.tasks
                .spawn_cancellable(name, OnFailure::Log, async move {
                    builder.carry_out(&job, build, needs_files).await;
                    builder.running.lock().remove(&job.id());
                });
        }
    }

    /// Records the build where it is new, runs it, and writes down how it ended.
    ///
    /// Only what is wrong with rows or parameters makes it fail for good. Everything else passes, a
    /// store that is away for an hour too: it is tried until it succeeds or is not wanted any more,
    /// and the record says why it is not done yet.
    async fn carry_out(&self, job: &Job, build: Option<SegmentIndexInfo>, needs_files: bool) {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        let mut record = match build {
            Some(record) => record,
            None => loop {
                match self.record_new(job, needs_files).await {
                    Ok(Some(record)) => break record,
                    Ok(None) => return,
                    Err(error) => warn!(%error, "index build not recorded, will retry"),
                }
                backoff.wait().await;
            },
        };
        while record.state() != IndexState::Finished && record.state() != IndexState::Failed {
            let next = self.attempt(job, &record).await;
            match self.write(job, &next).await {
                Ok(true) => record = next,
                Ok(false) => return,
                Err(error) => {
                    warn!(build = record.build_id, %error, "end of index build not recorded, will run again");
                }
            }
            if matches!(record.state(), IndexState::Finished | IndexState::Failed) {
                return;
            }
            backoff.wait().await;
        }
    }

    /// One try; the record that says how it ended.
    async fn attempt(&self, job: &Job, record: &SegmentIndexInfo) -> SegmentIndexInfo {
        let mut next = record.clone();
        next.attempts = next.attempts.saturating_add(1);
        match self.build(job, record.build_id).await {
            Ok(built) => {
                next.state = IndexState::Finished.into();
                next.files = built.files;
                next.rows = built.rows;
                next.format_version = built.format_version;
                next.fail_reason.clear();
                info!(
                    build = record.build_id,
                    segment = job.segment.id,
                    rows = built.rows,
                    "index built"
                );
            }
            Err(error) => {
                next.state = after_failure(&error).into();
                warn!(build = record.build_id, attempts = next.attempts, %error, "index build failed");
                next.fail_reason = error.message;
            }
        }
        next
    }

    async fn build(&self, job: &Job, build_id: i64) -> Result<BuildIndexResponse> {
        let _permit = self.permits.acquire().await;
        let nodes = self.peers.data_nodes();
        let count = nodes.len().max(1);
        let Some((node_id, node)) = nodes
            .into_iter()
            .nth(build_id.unsigned_abs() as usize % count)
        else {
            return Err(Error::new(
                ErrorCode::ServiceNotReady,
                "service not ready[no datanode is announced]",
            ));
        };
        let view = self.catalog.view();
        let field = view
            .collection_by_id(CollectionId(job.index.collection_id))
            .and_then(|entry| {
                entry
                    .schema()
                    .field_by_id(redkite_types::FieldId(job.index.field_id))
                    .cloned()
            })
            .ok_or_else(|| Error::internal("the indexed field is gone"))?;
        let request = BuildIndexRequest {
            build_id,
            segment: Some(job.segment.clone()),
            index: Some(job.index.clone()),
            field: Some(redkite_proto::convert::schema::field_to_proto(&field)),
        };
        let _at_node = self.nodes.begin(build_id, node_id, node.clone());
        let answer = node
            .build_index(tonic::Request::new(request))
            .await
            .map_err(|status| redkite_rpc::status::from_status(&status).error)?;
        Ok(answer.into_inner())
    }

    /// How far those of the builds are that a data node is at, as far as the nodes tell in time.
    pub async fn progress(&self, builds: &[i64], deadline: Deadline) -> Progress {
        self.nodes.progress(builds, deadline).await
    }

    /// Records a new build; `None` when the index or the segment is gone.
    async fn record_new(&self, job: &Job, needs_files: bool) -> Result<Option<SegmentIndexInfo>> {
        let answer = self
            .peers
            .root_coord()?
            .alloc_id(tonic::Request::new(AllocRequest { count: 1 }))
            .await
            .map_err(|status| redkite_rpc::status::from_status(&status).error)?;
        let build_id = answer.into_inner().first as i64;
        let state = if needs_files {
            IndexState::InProgress
        } else {
            IndexState::Finished
        };
        let record = job.record(build_id, state);
        self.running.lock().insert(job.id(), build_id);
        Ok(self.write(job, &record).await?.then_some(record))
    }

    /// Writes the record unless the index or the segment is gone; what it names must be there.
    async fn write(&self, job: &Job, record: &SegmentIndexInfo) -> Result<bool> {
        let txn = Txn::new()
            .when(Compare::Exists {
                key: job.index_key(),
            })
            .when(Compare::Exists {
                key: job.segment_key(),
            })
            .then(Op::put(
                job.build_key(record.build_id),
                record.encode_to_vec(),
            ));
        let outcome = self
            .gate
            .commit(self.kv.as_ref(), &record.files, txn)
            .await?;
        Ok(matches!(outcome, TxnOutcome::Applied { .. }))
    }

    /// The catalog that the builder follows.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Waits until the metadata of a revision has been seen.
    ///
    /// # Errors
    /// Code 2 when it is not seen in time; retry.
    pub async fn wait(&self, revision: Revision, within: Duration) -> Result<()> {
        self.catalog
            .at_least(revision, within)
            .await
            .map(|_| ())
            .map_err(|error| Error::from_coded(&error))
    }
}

/// What becomes of a build after a failure.
fn after_failure(error: &Error) -> IndexState {
    match error.is_input_error {
        true => IndexState::Failed,
        false => IndexState::Retry,
    }
}

#[cfg(test)]
mod tests {
    use redkite_types::ErrorCode;

    use super::*;

    #[test]
    fn only_wrong_input_makes_a_build_fail_for_good() {
        for code in [
            ErrorCode::IoFailed,
            ErrorCode::DataIntegrity,
            ErrorCode::ServiceNotReady,
            ErrorCode::Internal,
        ] {
            assert_eq!(after_failure(&Error::new(code, "x")), IndexState::Retry);
        }
        let wrong = Error::invalid_parameter("M is -1");
        assert_eq!(after_failure(&wrong), IndexState::Failed);
    }
}
