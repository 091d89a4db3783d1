//! Puts the data coordinator together and starts it.

use std::sync::Arc;

use redkite_catalog::Role;
use redkite_config::Validate;
use redkite_node::{Exposure, NodeContext, Process, Result};
use redkite_proto::redkite::datacoord::data_coord_server::DataCoordServer;
use redkite_rpc::limit_messages;
use redkite_runtime::OnFailure;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::{Builder, DataCoordService};

/// Section `datacoord` of the configuration; nothing can be set yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataCoordOptions {}

/// The sections of the configuration that are the data coordinator's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The data coordinator.
    pub datacoord: DataCoordOptions,
}

impl Validate for Config {
    fn validate(&self) -> redkite_config::Result<()> {
        Ok(())
    }
}

/// Starts the data coordinator and announces it.
///
/// # Errors
/// When the object store cannot be opened, or the metastore refuses.
pub async fn start(context: &NodeContext, exposure: Exposure) -> Result<()> {
    let tasks = context.control_tasks(Role::DataCoord);
    let builder = Builder::new(
        context.kv.clone(),
        context.catalog.clone(),
        context.peers.clone(),
        tasks.clone(),
    );
    let service =
        DataCoordService::new(context.kv.clone(), context.store().await?, builder.clone());
    let service = Arc::new(service);
    let address = context.expose(
        Role::DataCoord,
        exposure,
        |connector, address| connector.register_local_data_coord(address, service.clone()),
        |server| {
            let limit = server.max_message_size();
            server.add_service(limit_messages!(
                DataCoordServer::from_arc(service.clone()),
                limit
            ))
        },
    );
    context.announce(Role::DataCoord, &address).await?;
    tasks.spawn("index builds", OnFailure::Shutdown, builder.run());
    Ok(())
}

/// The data coordinator as a process of its own.
///
/// # Errors
/// As [`start`].
pub async fn run(process: Process, _config: Config, listener: TcpListener) -> Result<()> {
    let exposure = Exposure::network(listener, &process.options.common)?;
    let context = NodeContext::join(process).await?;
    start(&context, exposure).await
}
