//! Puts the query coordinator together and starts it.

use std::{sync::Arc, time::Duration};

use redkite_catalog::{Fence, Role};
use redkite_config::Validate;
use redkite_node::{Exposure, NodeContext, Process, Result, admit_while};
use redkite_proto::redkite::querycoord::query_coord_server::QueryCoordServer;
use redkite_rpc::limit_messages;
use redkite_runtime::OnFailure;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::{Keeper, QueryCoordService};

/// Section `querycoord` of the configuration; nothing can be set yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryCoordOptions {}

/// The sections of the configuration that are the query coordinator's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The query coordinator.
    pub querycoord: QueryCoordOptions,
}

impl Validate for Config {
    fn validate(&self) -> redkite_config::Result<()> {
        Ok(())
    }
}

/// Starts the query coordinator of a process that holds the office, and so is announced already.
/// Everything is written through the `fence`. The keeper tells when everything is served.
pub fn start(context: &NodeContext, exposure: Exposure, fence: &Arc<Fence>) -> Arc<Keeper> {
    let tasks = context.control_tasks(Role::QueryCoord);
    let keeper = Keeper::new(
        fence.clone(),
        context.catalog.clone(),
        context.peers.clone(),
        tasks.clone(),
    );
    let service = Arc::new(QueryCoordService::new(keeper.clone()));
    let admit = admit_while(fence.lease().clone(), Duration::ZERO);
    context.expose(
        Role::QueryCoord,
        exposure,
        |connector, address| connector.register_local_query_coord(address, service.clone()),
        |server| {
            let limit = server.max_message_size();
            server.only_if(admit).add_service(limit_messages!(
                QueryCoordServer::from_arc(service.clone()),
                limit
            ))
        },
    );
    tasks.spawn("keeper", OnFailure::Shutdown, keeper.clone().run());
    keeper
}

/// The query coordinator as a process of its own. Of several one is active, the others stand by.
///
/// # Errors
/// When the metastore refuses.
pub async fn run(process: Process, _config: Config, listener: TcpListener) -> Result<()> {
    let exposure = Exposure::network(listener, &process.options.common)?;
    let context = NodeContext::join(process).await?;
    let start = |context: NodeContext, exposure, fence| async move {
        start(&context, exposure, &fence);
        Ok(())
    };
    context.act_as(Role::QueryCoord, exposure, start).await
}
