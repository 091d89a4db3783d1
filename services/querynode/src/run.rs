//! Puts a query node together and starts it.

use std::{sync::Arc, time::Duration};

use redkite_catalog::{Lease, Role};
use redkite_config::Validate;
use redkite_node::{
    Error, Exposure, NodeContext, NodeOptions, Phase, Process, Result, admit_while,
};
use redkite_proto::redkite::querynode::query_node_server::QueryNodeServer;
use redkite_rpc::limit_messages;
use redkite_runtime::{OnFailure, TaskGroup};
use redkite_storage::ObjectStore;
use redkite_wal::{LocalLogStore, LocalOptions, LogStore, ObjectLogStore, ObjectOptions};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::{
    PeerCoordinators, QueryNodeDeps, QueryNodeOptions, QueryNodeService,
    orphans::remove_orphan_logs,
};

/// How long a call waits for a session that is not announced yet.
const AWAIT_LEASE: Duration = Duration::from_secs(1);

/// The sections of the configuration that are a query node's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The query node.
    pub querynode: QueryNodeOptions,
}

impl Validate for Config {
    fn validate(&self) -> redkite_config::Result<()> {
        self.querynode.validate()
    }
}

/// Starts a query node and announces it.
///
/// # Errors
/// When the object store cannot be opened, the metastore refuses, or there are logs where the
/// configuration does not have them.
pub async fn start(
    context: &NodeContext,
    options: QueryNodeOptions,
    exposure: Exposure,
) -> Result<()> {
    let tasks = context.process.tasks.child(Role::QueryNode.name());
    let store = context.store().await?;
    let logs = tasks.child("logs");
    refuse_logs_elsewhere(context.options(), store.clone(), logs.clone()).await?;
    let log = log_store(context.options(), store.clone(), logs);
    if !context.options().wal_in_objects() {
        clear_orphans(context, log.clone(), &tasks);
    }
    let service = QueryNodeService::new(QueryNodeDeps {
        store,
        log,
        coordinators: Arc::new(PeerCoordinators::new(context.peers.clone())),
        cpu: context.cpu()?,
        tasks: tasks.clone(),
        node: context.identity.node,
        options,
        disk: context.disk.clone(),
        memory: context.memory.clone(),
    });
    let service = Arc::new(service);
    let closing = service.clone();
    context.process.stops.add(Phase::Data, async move {
        closing.close().await;
        tasks.cancel();
    });
    let lease = Lease::new();
    // Behind its end the channels may have other owners, of whose writes this process knows nothing.
    let admit = admit_while(lease.clone(), AWAIT_LEASE);
    let address = context.expose(
        Role::QueryNode,
        exposure,
        |connector, address| connector.register_local_query_node(address, service.clone()),
        |server| {
            let limit = server.max_message_size();
            server.only_if(admit).add_service(limit_messages!(
                QueryNodeServer::from_arc(service.clone()),
                limit
            ))
        },
    );
    context.announce(Role::QueryNode, &address, lease).await
}

/// Removes logs that an earlier process has left behind, beside everything else.
fn clear_orphans(context: &NodeContext, log: Arc<dyn LogStore>, tasks: &TaskGroup) {
    let kv = context.kv.clone();
    tasks.spawn_cancellable("orphan logs", OnFailure::Log, async move {
        remove_orphan_logs(kv.as_ref(), log.as_ref())
            .await
            .map(drop)
    });
}

/// The channels' logs, where the configuration has them.
pub fn log_store(
    options: &NodeOptions,
    store: Arc<dyn ObjectStore>,
    tasks: TaskGroup,
) -> Arc<dyn LogStore> {
    match options.wal_in_objects() {
        true => object_logs(options, store, tasks),
        false => local_logs(options),
    }
}

fn object_logs(
    options: &NodeOptions,
    store: Arc<dyn ObjectStore>,
    tasks: TaskGroup,
) -> Arc<dyn LogStore> {
    let wal = &options.wal;
    let object = ObjectOptions {
        group_interval: wal.group_interval.get(),
        max_group_bytes: wal.group_size.as_usize(),
        max_in_flight: wal.max_in_flight,
        max_pending_bytes: wal.pending_limit.as_usize(),
        write_patience: wal.write_timeout.get(),
        ..ObjectOptions::default()
    };
    Arc::new(ObjectLogStore::new(store, object, tasks))
}

fn local_logs(options: &NodeOptions) -> Arc<dyn LogStore> {
    let local = LocalOptions {
        file_size_bytes: options.wal.segment_size.as_u64(),
        max_pending_bytes: options.wal.pending_limit.as_usize(),
        ..LocalOptions::default()
    };
    Arc::new(LocalLogStore::new(options.wal_dir(), local))
}

/// Logs are not moved: a node that began empty ones beside those that hold rows would lose them.
async fn refuse_logs_elsewhere(
    options: &NodeOptions,
    store: Arc<dyn ObjectStore>,
    tasks: TaskGroup,
) -> Result<()> {
    let (elsewhere, place) = match options.wal_in_objects() {
        true => (local_logs(options), options.wal_dir().display().to_string()),
        false => (
            object_logs(options, store, tasks),
            format!("{}/wal", options.storage_uri()),
        ),
    };
    let channels = elsewhere.channels().await;
    let channels = channels.map_err(Error::start("look for logs elsewhere"))?;
    let Some(first) = channels.first() else {
        return Ok(());
    };
    let count = channels.len();
    let problem = format!(
        "would leave the logs of {count} channels (the first is {first}) behind in {place}"
    );
    Err(Error::Config(redkite_config::Error::value(
        "wal.engine",
        problem,
    )))
}

/// A query node as a process of its own.
///
/// # Errors
/// As [`start`].
pub async fn run(process: Process, config: Config, listener: TcpListener) -> Result<()> {
    let exposure = Exposure::network(listener, &process.options.common)?;
    let context = NodeContext::join(process).await?;
    start(&context, config.querynode, exposure).await
}

#[cfg(test)]
mod tests {
    use redkite_node::WalEngine;

    use super::*;

    #[tokio::test]
    async fn logs_of_another_engine_are_never_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = NodeOptions::default();
        options.common.data_dir = dir.path().to_owned();
        let store = redkite_storage::open(&options.storage_uri()).unwrap();
        let tasks = TaskGroup::new("logs");
        for (engine, other) in [
            (WalEngine::Object, WalEngine::Local),
            (WalEngine::Local, WalEngine::Object),
        ] {
            options.wal.engine = engine;
            refuse_logs_elsewhere(&options, store.clone(), tasks.clone())
                .await
                .unwrap();
            let logs = log_store(&options, store.clone(), tasks.clone());
            logs.open("ch_0v0", 1).await.unwrap().close().await;
            options.wal.engine = other;
            let refused = refuse_logs_elsewhere(&options, store.clone(), tasks.clone()).await;
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("wal.engine"), "{refused}");
            logs.remove("ch_0v0").await.unwrap();
        }
    }
}
