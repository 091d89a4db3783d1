//! Puts the data coordinator together and starts it.

use std::{sync::Arc, time::Duration};

use redkite_catalog::{Fence, Role};
use redkite_config::Validate;
use redkite_metastore::SharedKv;
use redkite_node::{Exposure, NodeContext, Process, Result, admit_while};
use redkite_proto::redkite::datacoord::data_coord_server::DataCoordServer;
use redkite_rpc::limit_messages;
use redkite_runtime::{OnFailure, Random, SystemClock, TaskGroup};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::{
    Builder, CommitGate, Compactor, DataCoordService,
    admin::{self, Shown},
    compaction::{CompactionOptions, PeersAround},
    export::{self, ExportOptions, Exporter},
    fsck::{LogCheck, logs_of},
    gc::{Collector, GcOptions},
    snapshot::{self, Bundles, SnapshotOptions, Snapshots, bundle::PeersBundles},
};

/// Section `datacoord` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataCoordOptions {
    /// How segments are compacted.
    pub compaction: CompactionOptions,
    /// Garbage collection.
    pub gc: GcOptions,
    /// Exports.
    pub export: ExportOptions,
    /// Snapshots.
    pub snapshot: SnapshotOptions,
}

impl Validate for DataCoordOptions {
    fn validate(&self) -> redkite_config::Result<()> {
        self.compaction.validate()?;
        self.gc.validate()?;
        self.export.validate()?;
        self.snapshot.validate()
    }
}

/// The sections of the configuration that are the data coordinator's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The data coordinator.
    pub datacoord: DataCoordOptions,
}

impl Validate for Config {
    fn validate(&self) -> redkite_config::Result<()> {
        self.datacoord.validate()
    }
}

/// Starts the data coordinator of a process that holds the office, and so is announced already. Everything
/// is written through the `fence`.
///
/// # Errors
/// When the object store cannot be opened.
pub async fn start(
    context: &NodeContext,
    options: DataCoordOptions,
    exposure: Exposure,
    fence: Arc<Fence>,
) -> Result<()> {
    let kv: SharedKv = fence.clone();
    let tasks = context.control_tasks(Role::DataCoord);
    let gate = CommitGate::new(context.store().await?);
    let builder = Builder::new(
        kv.clone(),
        gate.clone(),
        context.catalog.clone(),
        context.peers.clone(),
        tasks.clone(),
    );
    let compactor = Compactor::new(
        kv.clone(),
        gate.clone(),
        context.catalog.clone(),
        Arc::new(PeersAround(context.peers.clone())),
        tasks.clone(),
        options.compaction,
        SystemClock::shared(),
    );
    let collector = Collector::new(
        kv.clone(),
        context.store().await?,
        gate.clone(),
        options.gc,
        SystemClock::shared(),
        Some(fence.clone()),
        tasks.token(),
    );
    let snapshots = Snapshots::new(
        kv.clone(),
        context.store().await?,
        gate.clone(),
        context.catalog.clone(),
        Arc::new(snapshot::PeersAround(context.peers.clone())),
        SystemClock::shared(),
    );
    let bundles = Bundles::new(
        snapshots.clone(),
        Arc::new(PeersBundles::new(context.peers.clone())),
        tasks.clone(),
        options.snapshot,
        Random::from_system(),
    );
    let exporter = Exporter::new(
        kv.clone(),
        gate.clone(),
        context.catalog.clone(),
        Arc::new(export::PeersAround(context.peers.clone())),
        tasks.clone(),
        options.export,
        SystemClock::shared(),
    );
    let shown = Shown {
        kv: kv.clone(),
        store: context.store().await?,
        logs: readable_logs(context, &exposure, tasks.child("checked logs")).await?,
        collector: collector.clone(),
        tasks: tasks.clone(),
    };
    context.process.admin.add(admin::routes(shown));
    let exports = export::admin::routes(exporter.clone());
    context.process.admin.add(exports);
    let shown = snapshot::admin::routes(context.catalog.clone(), bundles.clone());
    context.process.admin.add(shown);
    let service = Arc::new(DataCoordService::new(
        kv.clone(),
        gate,
        builder.clone(),
        compactor.clone(),
        collector.clone(),
        exporter.clone(),
        bundles.clone(),
    ));
    let admit = admit_while(fence.lease().clone(), Duration::ZERO);
    context.expose(
        Role::DataCoord,
        exposure,
        |connector, address| connector.register_local_data_coord(address, service.clone()),
        |server| {
            let limit = server.max_message_size();
            server.only_if(admit).add_service(limit_messages!(
                DataCoordServer::from_arc(service.clone()),
                limit
            ))
        },
    );
    tasks.spawn("index builds", OnFailure::Shutdown, builder.run());
    tasks.spawn("compactions", OnFailure::Shutdown, compactor.run());
    tasks.spawn("exports", OnFailure::Shutdown, exporter.run());
    tasks.spawn("garbage collection", OnFailure::Shutdown, collector.run());
    tasks.spawn("exports of snapshots", OnFailure::Shutdown, bundles.run());
    let stop = tasks.token();
    tasks.spawn("snapshots", OnFailure::Shutdown, snapshots.run(stop));
    Ok(())
}

/// The logs, where this process can read them: in the object store, or on the disk of the query node
/// that is in this process too.
async fn readable_logs(
    context: &NodeContext,
    exposure: &Exposure,
    tasks: TaskGroup,
) -> Result<Option<Arc<dyn LogCheck>>> {
    let options = context.options();
    let readable = options.wal_in_objects() || matches!(exposure, Exposure::Local);
    let store = context.store().await?;
    Ok(readable.then(|| logs_of(options, store, tasks)))
}

/// The data coordinator as a process of its own. Of several one is active, the others stand by.
///
/// # Errors
/// As [`start`].
pub async fn run(process: Process, config: Config, listener: TcpListener) -> Result<()> {
    let exposure = Exposure::network(listener, &process.options.common)?;
    let context = NodeContext::join(process).await?;
    let start = |context: NodeContext, exposure, fence| async move {
        start(&context, config.datacoord, exposure, fence).await
    };
    context.act_as(Role::DataCoord, exposure, start).await
}
