//! Puts a proxy together and starts it.

use std::sync::Arc;

use redkite_catalog::{Lease, Role};
use redkite_config::Validate;
use redkite_node::{
    Error, Exposure, NodeContext, Process, Result, admit_while, listen, options::split_address,
};
use redkite_proto::redkite::proxy::proxy_server::ProxyServer;
use redkite_rpc::limit_messages;
use redkite_runtime::SystemClock;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use tracing::info;

use crate::{
    AWAIT_LEASE, Identity, InternalService, Life, ProxyContext, ProxyOptions, SecurityOptions,
    VikingDbOptions,
    http::{self, vikingdb::VikingDb},
    milvus_server,
};

/// The sections of the configuration that are a proxy's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The proxy.
    pub proxy: ProxyOptions,
    /// Who may do what.
    pub security: SecurityOptions,
    /// VikingDB's API.
    pub vikingdb: VikingDbOptions,
}

impl Validate for Config {
    fn validate(&self) -> redkite_config::Result<()> {
        self.proxy.validate()?;
        self.vikingdb.validate()
    }
}

/// Starts a proxy: clients on `clients`, the other services as `exposure` says. Announces it.
///
/// # Errors
/// When the metastore refuses.
pub async fn start(
    context: &NodeContext,
    config: Config,
    clients: TcpListener,
    exposure: Exposure,
) -> Result<()> {
    let deploy_mode = match exposure {
        Exposure::Local => "STANDALONE",
        Exposure::Network { .. } => "CLUSTER",
    };
    let lease = Lease::new();
    let proxy = ProxyContext::new(
        context.catalog.clone(),
        context.peers.clone(),
        config.proxy,
        &config.security,
        Identity {
            node: context.identity.node,
            address: exposure.address(Role::Proxy),
            deploy_mode,
        },
        Life {
            tasks: context.control_tasks(Role::Proxy),
            lease: lease.clone(),
            leaving: context.process.draining(),
        },
    );
    let service = Arc::new(InternalService::new(proxy.clone()));
    let address = context.expose(
        Role::Proxy,
        exposure,
        |connector, address| connector.register_local_proxy(address, service.clone()),
        |server| {
            let limit = server.max_message_size();
            server.add_service(limit_messages!(
                ProxyServer::from_arc(service.clone()),
                limit
            ))
        },
    );
    // Announced before the first client comes: a DDL waits for every announced proxy, so no client
    // can see an older state than one whose DDL was answered.
    context
        .announce_again_and_again(Role::Proxy, &address, lease.clone())
        .await?;
    // Once the session may have ended, definitions change without waiting for this proxy: then it
    // answers nothing from what it knows before it is announced, and up to date, again.
    let admit = admit_while(lease, AWAIT_LEASE);
    let server = context.process.server().only_if(admit);
    let server = server.add_service(milvus_server(&proxy));
    context.process.serve("clients", server, clients);
    serve_vikingdb(context, &proxy, config.vikingdb).await
}

/// VikingDB's API on a listener of its own, where it is switched on.
async fn serve_vikingdb(
    context: &NodeContext,
    proxy: &Arc<ProxyContext>,
    options: VikingDbOptions,
) -> Result<()> {
    let Some(address) = options.listen.clone() else {
        return Ok(());
    };
    let listener = listen::bind(&address, "vikingdb.listen").await?;
    info!(%address, "VikingDB's API is served");
    let surface = VikingDb::new(proxy.clone(), options, SystemClock::shared());
    let stop = context.process.draining();
    let serving = http::serve("vikingdb", surface, listener, proxy.tasks.clone(), stop);
    context.process.serve_other("vikingdb", serving);
    Ok(())
}

/// A proxy as a process of its own. The other services reach it on a port of its own, on the same
/// host as its clients do.
///
/// # Errors
/// As [`start`].
pub async fn run(process: Process, config: Config, clients: TcpListener) -> Result<()> {
    let local = clients
        .local_addr()
        .map_err(Error::start("read a listener's address"))?
        .to_string();
    let host = split_address(&local).map_or("127.0.0.1", |(host, _)| host);
    let internal = listen::bind(&format!("{host}:0"), "--listen").await?;
    let exposure = Exposure::network(internal, &process.options.common)?;
    let context = NodeContext::join(process).await?;
    start(&context, config, clients, exposure).await
}
