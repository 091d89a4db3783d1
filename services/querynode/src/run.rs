//! Puts a query node together and starts it.

use std::sync::Arc;

use redkite_catalog::Role;
use redkite_config::Validate;
use redkite_node::{Exposure, NodeContext, Phase, Process, Result};
use redkite_proto::redkite::querynode::query_node_server::QueryNodeServer;
use redkite_rpc::limit_messages;
use redkite_wal::{LocalLogStore, LocalOptions};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::{PeerCoordinators, QueryNodeDeps, QueryNodeOptions, QueryNodeService};

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
/// When the object store cannot be opened, or the metastore refuses.
pub async fn start(
    context: &NodeContext,
    options: QueryNodeOptions,
    exposure: Exposure,
) -> Result<()> {
    let tasks = context.process.tasks.child(Role::QueryNode.name());
    let wal_dir = context.options().wal_dir();
    let service = QueryNodeService::new(QueryNodeDeps {
        store: context.store()?,
        log: Arc::new(LocalLogStore::new(wal_dir, LocalOptions::default())),
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
    let address = context.expose(
        Role::QueryNode,
        exposure,
        |connector, address| connector.register_local_query_node(address, service.clone()),
        |server| {
            let limit = server.max_message_size();
            server.add_service(limit_messages!(
                QueryNodeServer::from_arc(service.clone()),
                limit
            ))
        },
    );
    context.announce(Role::QueryNode, &address).await
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
