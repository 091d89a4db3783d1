//! From a request to its saga, and from the saga's end to the answer.

use std::{sync::Arc, time::Duration};

use redkite_catalog::CatalogView;
use redkite_proto::redkite::meta::RestoreJobInfo;
use redkite_proto::redkite::rootcoord::{
    DdlRequest, RestoreBundleRequest, RestoreSnapshotRequest, ddl_request::Command,
};
use redkite_saga::{Registry, Saga, SagaExecutor};
use redkite_types::{Error, ErrorCode, Result, Revision};

use super::{
    alias, alter_collection, alter_index, alter_schema, collection, context::DdlContext, database,
    drop_collection, index, load, partition, rbac, restore, restore_bundle, truncate,
};

/// How long the answer to a restore waits for its end, which is near as a rule.
const RESTORED_WITHIN: Duration = Duration::from_secs(1);
/// How long it takes at most until a job that is under way is on record.
const JOB_WITHIN: Duration = Duration::from_secs(30);

/// The one entrance of all DDL.
pub struct DdlGate {
    context: Arc<DdlContext>,
    executor: SagaExecutor,
}

/// Every saga in every version that a record may name.
///
/// # Errors
/// Only when a saga's list of steps contradicts itself: a bug.
pub fn registry(context: &Arc<DdlContext>) -> redkite_saga::Result<Registry> {
    let mut registry = Registry::new();
    registry.register(database::CreateDatabase(context.clone()))?;
    registry.register(database::AlterDatabase(context.clone()))?;
    registry.register(database::DropDatabase(context.clone()))?;
    registry.register(collection::CreateCollection(context.clone()))?;
    registry.register(drop_collection::DropCollection(context.clone()))?;
    registry.register(alter_collection::AlterCollection(context.clone()))?;
    registry.register(alter_collection::RenameCollection(context.clone()))?;
    registry.register(alter_schema::AddField(context.clone()))?;
    registry.register(alter_schema::AlterField(context.clone()))?;
    registry.register(partition::CreatePartitionV1(context.clone()))?;
    registry.register(partition::CreatePartition(context.clone()))?;
    registry.register(partition::DropPartition(context.clone()))?;
    registry.register(alias::PutAlias(context.clone()))?;
    registry.register(alias::DropAlias(context.clone()))?;
    registry.register(index::CreateIndex(context.clone()))?;
    registry.register(index::DropIndex(context.clone()))?;
    registry.register(alter_index::AlterIndex(context.clone()))?;
    registry.register(truncate::TruncateCollection(context.clone()))?;
    registry.register(load::Load(context.clone()))?;
    registry.register(load::Release(context.clone()))?;
    registry.register(restore::RestoreSnapshot(context.clone()))?;
    registry.register(restore_bundle::RestoreBundle(context.clone()))?;
    rbac::register(&mut registry, context)?;
    Ok(registry)
}

impl DdlGate {
    /// Opens the gate to an executor that has recovered.
    pub fn new(context: Arc<DdlContext>, executor: SagaExecutor) -> Self {
        Self { context, executor }
    }

    /// The executor behind it.
    pub fn executor(&self) -> &SagaExecutor {
        &self.executor
    }

    /// Runs a DDL to its end; the revision shows its effect, zero when there was nothing to do. Asked
    /// for again under its request id, it is not run again: the answer is that of the first run.
    ///
    /// # Errors
    /// Milvus's code and text of what is wrong; code 2 when it may or may not happen, ask again
    /// with the same request id.
    pub async fn submit(&self, request: DdlRequest) -> Result<Revision> {
        let command = request
            .command
            .ok_or_else(|| Error::invalid_parameter("a DDL without a command"))?;
        // The command's own database stands before the one of the connection.
        let fallback = request.database;
        let pick = |own: &str| {
            if own.is_empty() {
                fallback.clone()
            } else {
                own.to_owned()
            }
        };
        let id = request.request_id;
        // Before anything is looked up by name: what was asked for may be done by now, and then its
        // names mean something else.
        if let Some(running) = self.executor.find::<()>(&id) {
            return Ok(running.wait().await.map_err(into_user_error)?.revision);
        }
        let context = &self.context;
        match command {
            Command::CreateDatabase(command) => {
                self.run::<database::CreateDatabase>(database::create_params(command)?, &id)
                    .await
            }
            Command::DropDatabase(command) => {
                let params = database::drop_params(context, &command.db_name).await?;
                self.run_some::<database::DropDatabase>(params, &id).await
            }
            Command::AlterDatabase(command) => {
                let params = database::alter_params(context, command).await?;
                self.run::<database::AlterDatabase>(params, &id).await
            }
            Command::CreateCollection(command) => {
                let params = collection::params(context, &pick(&command.db_name), command).await?;
                self.run::<collection::CreateCollection>(params, &id).await
            }
            Command::DropCollection(command) => {
                let params =
                    drop_collection::params(context, &pick(&command.db_name), command).await?;
                self.run_some::<drop_collection::DropCollection>(params, &id)
                    .await
            }
            Command::RenameCollection(command) => {
                let database = pick(&command.db_name);
                let params = alter_collection::rename_params(context, &database, command).await?;
                self.run::<alter_collection::RenameCollection>(params, &id)
                    .await
            }
            Command::AlterCollection(command) => {
                let database = pick(&command.db_name);
                let params = alter_collection::alter_params(context, &database, command).await?;
                self.run::<alter_collection::AlterCollection>(params, &id)
                    .await
            }
            command => self.submit_within_collection(command, &fallback, &id).await,
        }
    }

    /// Begins to restore a snapshot; answers the job and a revision that shows it. What goes wrong
    /// once the job is on record is the job's to tell.
    ///
    /// # Errors
    /// Milvus's code and text of what is wrong; code 2 when it may or may not happen, ask again with
    /// the same request id.
    pub async fn restore(&self, request: RestoreSnapshotRequest) -> Result<(i64, Revision)> {
        let id = request.request_id;
        let command = request.command.unwrap_or_default();
        if let Some(known) = self.known_restore(&id).await? {
            return Ok(known);
        }
        let database = match command.db_name.as_str() {
            "" => request.database,
            given => given.to_owned(),
        };
        let now = self.context.tso.now_ms();
        let params = restore::params(&self.context, &database, &command, &id, now).await?;
        self.begin_restore::<restore::RestoreSnapshot>(params, &id)
            .await
    }

    /// [`DdlGate::restore`] from a bundle.
    ///
    /// # Errors
    /// As [`DdlGate::restore`].
    pub async fn restore_bundle(&self, request: RestoreBundleRequest) -> Result<(i64, Revision)> {
        let id = request.request_id.clone();
        if let Some(known) = self.known_restore(&id).await? {
            return Ok(known);
        }
        let now = self.context.tso.now_ms();
        let params = restore_bundle::params(&self.context, request, now).await?;
        self.begin_restore::<restore_bundle::RestoreBundle>(params, &id)
            .await
    }

    /// The job that a request has begun already.
    async fn known_restore(&self, id: &str) -> Result<Option<(i64, Revision)>> {
        let view = self.context.fresh_view().await?;
        let mut jobs = view.restore_jobs();
        let known = jobs.find(|job| job.request_id == id && !id.is_empty());
        Ok(known.map(|job| (job.job_id, view.revision())))
    }

    async fn begin_restore<S>(
        &self,
        params: restore::RestoreParams,
        id: &str,
    ) -> Result<(i64, Revision)>
    where
        S: Saga<Params = restore::RestoreParams, Output = ()>,
    {
        // Asked again after a failover, the saga of the first time goes on, whose job has another id.
        let own = params.job();
        let job_in = |view: &CatalogView| {
            let mut jobs = view.restore_jobs();
            let is_it = |job: &&Arc<RestoreJobInfo>| {
                job.job_id == own || (!id.is_empty() && job.request_id == id)
            };
            jobs.find(is_it).map(|job| job.job_id)
        };
        let handle = self
            .executor
            .submit::<S>(params, id)
            .map_err(into_user_error)?;
        let ended = handle.wait();
        tokio::pin!(ended);
        let first = tokio::time::timeout(RESTORED_WITHIN, &mut ended).await;
        let view = self.context.fresh_view().await?;
        if let Some(job) = job_in(&view) {
            return Ok((job, view.revision()));
        }
        if let Ok(ended) = first {
            // A job without a record is one that was over long ago.
            return match ended {
                Ok(_) => Ok((own, view.revision())),
                Err(error) => Err(into_user_error(error)),
            };
        }
        // It waits for a lock, or for the data coordinator.
        let mut revisions = self.context.catalog.subscribe();
        let is_there = || job_in(&self.context.catalog.view()).is_some();
        let began = async { revisions.wait_for(|_| is_there()).await.is_ok() };
        let error = tokio::select! {
            done = ended => done.err().map(into_user_error),
            true = began => None,
            () = tokio::time::sleep(JOB_WITHIN) => None,
        };
        let view = self.context.fresh_view().await?;
        match (job_in(&view), error) {
            (Some(job), _) => Ok((job, view.revision())),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::new(
                ErrorCode::ServiceUnavailable,
                format!("restore job {own} has not begun yet, ask again"),
            )),
        }
    }

    async fn submit_within_collection(
        &self,
        command: Command,
        fallback: &str,
        id: &str,
    ) -> Result<Revision> {
        let pick = |own: &str| {
            if own.is_empty() {
                fallback.to_owned()
            } else {
                own.to_owned()
            }
        };
        let context = &self.context;
        match command {
            Command::CreatePartition(command) => {
                let database = pick(&command.db_name);
                let params = partition::create_params(context, &database, command).await?;
                self.run::<partition::CreatePartition>(params, id).await
            }
            Command::DropPartition(command) => {
                let database = pick(&command.db_name);
                let params = partition::drop_params(context, &database, command).await?;
                self.run::<partition::DropPartition>(params, id).await
            }
            Command::AddCollectionField(command) => {
                let database = pick(&command.db_name);
                let params = alter_schema::add_params(context, &database, command).await?;
                self.run::<alter_schema::AddField>(params, id).await
            }
            Command::AlterCollectionField(command) => {
                let database = pick(&command.db_name);
                let params = alter_schema::alter_params(context, &database, command).await?;
                self.run::<alter_schema::AlterField>(params, id).await
            }
            Command::CreateAlias(command) => {
                let (database, target) = (pick(&command.db_name), &command.collection_name);
                let params =
                    alias::put_params(context, &database, target, &command.alias, false).await?;
                self.run::<alias::PutAlias>(params, id).await
            }
            Command::AlterAlias(command) => {
                let (database, target) = (pick(&command.db_name), &command.collection_name);
                let params =
                    alias::put_params(context, &database, target, &command.alias, true).await?;
                self.run::<alias::PutAlias>(params, id).await
            }
            Command::DropAlias(command) => {
                let database = pick(&command.db_name);
                let params = alias::drop_params(context, &database, &command.alias).await?;
                self.run::<alias::DropAlias>(params, id).await
            }
            Command::CreateIndex(command) => {
                let database = pick(&command.db_name);
                let params = index::create_params(context, &database, command).await?;
                self.run::<index::CreateIndex>(params, id).await
            }
            Command::DropIndex(command) => {
                let database = pick(&command.db_name);
                let params = index::drop_params(context, &database, command).await?;
                self.run_some::<index::DropIndex>(params, id).await
            }
            Command::AlterIndex(command) => {
                let database = pick(&command.db_name);
                let params = alter_index::params(context, &database, command).await?;
                self.run::<alter_index::AlterIndex>(params, id).await
            }
            Command::TruncateCollection(command) => {
                let database = pick(&command.db_name);
                let params = truncate::params(context, &database, command).await?;
                self.run::<truncate::TruncateCollection>(params, id).await
            }
            command => self.submit_load(command, fallback, id).await,
        }
    }

    async fn submit_load(&self, command: Command, fallback: &str, id: &str) -> Result<Revision> {
        let pick = |own: &str| {
            if own.is_empty() {
                fallback.to_owned()
            } else {
                own.to_owned()
            }
        };
        let context = &self.context;
        match command {
            Command::LoadCollection(command) => {
                let database = pick(&command.db_name);
                let params = load::load_collection_params(context, &database, command).await?;
                self.run::<load::Load>(params, id).await
            }
            Command::LoadPartitions(command) => {
                let database = pick(&command.db_name);
                let params = load::load_partitions_params(context, &database, command).await?;
                self.run::<load::Load>(params, id).await
            }
            Command::ReleaseCollection(command) => {
                let database = pick(&command.db_name);
                let params = load::release_collection_params(context, &database, command).await?;
                self.run::<load::Release>(params, id).await
            }
            Command::ReleasePartitions(command) => {
                let database = pick(&command.db_name);
                let params = load::release_partitions_params(context, &database, command).await?;
                self.run::<load::Release>(params, id).await
            }
            command => match rbac::submit(self, command, id).await? {
                Ok(revision) => Ok(revision),
                Err(other) => Err(Error::internal(format!("no saga for {other:?}"))),
            },
        }
    }

    async fn run_some<S: Saga<Output = ()>>(
        &self,
        params: Option<S::Params>,
        request_id: &str,
    ) -> Result<Revision> {
        match params {
            Some(params) => self.run::<S>(params, request_id).await,
            None => Ok(Revision(0)),
        }
    }

    pub(super) async fn run<S: Saga<Output = ()>>(
        &self,
        params: S::Params,
        request_id: &str,
    ) -> Result<Revision> {
        let handle = self
            .executor
            .submit::<S>(params, request_id)
            .map_err(into_user_error)?;
        Ok(handle.wait().await.map_err(into_user_error)?.revision)
    }

    /// Waits until the sagas under way have stopped at a step's end; they are not taken back.
    pub async fn close(&self, within: Duration) {
        if let Err(left) = self.executor.shutdown(within).await {
            tracing::warn!(%left, "sagas did not stop in time");
        }
    }
}

fn into_user_error(error: redkite_saga::Error) -> Error {
    match error {
        redkite_saga::Error::Failed(error) => error,
        other => Error::from_coded(&other),
    }
}
