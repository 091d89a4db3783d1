//! Puts a data node together and starts it.

use std::sync::Arc;

use redkite_catalog::{Lease, Role};
use redkite_config::Validate;
use redkite_node::{Exposure, NodeContext, Process, Result};
use redkite_proto::redkite::datanode::data_node_server::DataNodeServer;
use redkite_rpc::limit_messages;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::{
    BundleOptions, Bundler, Compactor, DataNodeService, ExportOptions, Exporter, IndexBuilder,
};

/// More threads than any machine has use for.
const MAX_BUILD_THREADS: usize = 1_024;

/// Section `datanode` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataNodeOptions {
    /// Threads that the index builds of this node use together, at least one each; 0 stands for as many
    /// as the machine has processors. They give way to searches. With 1 a build is repeatable.
    pub build_threads: usize,
    /// Exports.
    pub export: ExportOptions,
    /// Bundles of snapshots.
    pub bundle: BundleOptions,
}

impl Validate for DataNodeOptions {
    fn validate(&self) -> redkite_config::Result<()> {
        if self.build_threads > MAX_BUILD_THREADS {
            let reason = format!("must be at most {MAX_BUILD_THREADS}");
            return Err(redkite_config::Error::value(
                "datanode.build_threads",
                reason,
            ));
        }
        self.export.validate()?;
        self.bundle.validate()
    }
}

/// The sections of the configuration that are a data node's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The data node.
    pub datanode: DataNodeOptions,
}

impl Validate for Config {
    fn validate(&self) -> redkite_config::Result<()> {
        self.datanode.validate()
    }
}

/// Starts a data node and announces it.
///
/// # Errors
/// When the object store cannot be opened, or the metastore refuses.
pub async fn start(
    context: &NodeContext,
    options: DataNodeOptions,
    exposure: Exposure,
) -> Result<()> {
    let builder = IndexBuilder::new(
        context.store().await?,
        context.cpu()?,
        context.disk.clone(),
        context.memory.clone(),
        options.build_threads,
    );
    let compactor = Compactor::new(
        context.store().await?,
        context.cpu()?,
        context.disk.clone(),
        context.memory.clone(),
    );
    let bundler = Bundler::new(
        context.store().await?,
        context.disk.clone(),
        options.bundle,
        options.export.buckets.clone(),
    );
    let exporter = Exporter::new(
        context.store().await?,
        context.cpu()?,
        context.disk.clone(),
        context.memory.clone(),
        options.export,
    );
    let service = Arc::new(DataNodeService::new(builder, compactor, exporter, bundler));
    let address = context.expose(
        Role::DataNode,
        exposure,
        |connector, address| connector.register_local_data_node(address, service.clone()),
        |server| {
            let limit = server.max_message_size();
            server.add_service(limit_messages!(
                DataNodeServer::from_arc(service.clone()),
                limit
            ))
        },
    );
    context
        .announce(Role::DataNode, &address, Lease::new())
        .await
}

/// A data node as a process of its own.
///
/// # Errors
/// As [`start`].
pub async fn run(process: Process, config: Config, listener: TcpListener) -> Result<()> {
    let exposure = Exposure::network(listener, &process.options.common)?;
    let context = NodeContext::join(process).await?;
    start(&context, config.datanode, exposure).await
}
