//! Starts the services.

use std::time::Duration;

use redkite_catalog::Role;
use redkite_config::Validate;
use redkite_node::process::print;
use redkite_node::{Error, Exposure, NodeContext, Process, Result};
use redkite_rootcoord::{MetastoreOptions, Replica, run::Host};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tracing::{error, info};

use crate::greeting::greeting;

/// How long a look at what is still being loaded takes; what fails gets as much time to recover.
const LOAD_ROUND: Duration = Duration::from_secs(3);

/// The sections of the configuration of all services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The root coordinator.
    pub rootcoord: redkite_rootcoord::RootCoordOptions,
    /// The metastore, which is always a group of one here.
    pub metastore: MetastoreOptions,
    /// The data coordinator.
    pub datacoord: redkite_datacoord::run::DataCoordOptions,
    /// The query coordinator.
    pub querycoord: redkite_querycoord::run::QueryCoordOptions,
    /// The query node.
    pub querynode: redkite_querynode::QueryNodeOptions,
    /// The data node.
    pub datanode: redkite_datanode::run::DataNodeOptions,
    /// The proxy.
    pub proxy: redkite_proxy::ProxyOptions,
    /// Who may do what.
    pub security: redkite_proxy::SecurityOptions,
    /// VikingDB's API.
    pub vikingdb: redkite_proxy::VikingDbOptions,
}

impl Validate for Config {
    fn validate(&self) -> redkite_config::Result<()> {
        self.metastore.validate()?;
        if self.metastore.join || !self.metastore.members.is_empty() {
            return Err(redkite_config::Error::value(
                "metastore.members",
                "and metastore.join are for rootcoord: standalone is always a group of one",
            ));
        }
        self.datacoord.validate()?;
        self.datanode.validate()?;
        self.querynode.validate()?;
        self.proxy.validate()?;
        self.vikingdb.validate()
    }
}

/// Starts all services; clients come to `clients`. Returns once every channel has its owner and
/// what was loaded is served again, but for collections that cannot be, because of damage, and once
/// changes of definitions that were cut off have been finished or taken back.
///
/// # Errors
/// The first service that cannot start.
pub async fn run(process: Process, config: Config, clients: TcpListener) -> Result<()> {
    let listen = clients
        .local_addr()
        .map_err(Error::start("read a listener's address"))?;
    let replica = Replica::open(&process, Exposure::Local, &config.metastore).await?;
    let host = Host::take_office(replica).await?;
    let context = NodeContext::host(process, host.kv(), host.identity).await?;
    let taken_over = redkite_rootcoord::run::start(host, &context, config.rootcoord).await?;
    let office = |role: Role| {
        let (context, address) = (&context, Exposure::Local.address(role));
        async move { context.office(role, &address).await }
    };
    // The nodes come before the coordinators, whose first plan would be made without them.
    tokio::try_join!(
        redkite_datanode::run::start(&context, config.datanode, Exposure::Local),
        redkite_querynode::run::start(&context, config.querynode, Exposure::Local),
    )?;
    let fence = office(Role::DataCoord).await?;
    redkite_datacoord::run::start(&context, config.datacoord, Exposure::Local, fence).await?;
    let fence = office(Role::QueryCoord).await?;
    let keeper = redkite_querycoord::run::start(&context, Exposure::Local, &fence);
    let proxy = redkite_proxy::run::Config {
        proxy: config.proxy,
        security: config.security,
        vikingdb: config.vikingdb,
    };
    redkite_proxy::run::start(&context, proxy, clients, Exposure::Local).await?;
    print(&greeting(listen));

    let revision = context.catalog.view().revision();
    while !keeper.wait(revision, None, LOAD_ROUND).await {
        // What is damaged must not keep everything else from being served.
        if let Some(failures) = keeper.only_failures_left() {
            for (collection, reason) in failures {
                error!(collection = collection.0, %reason, "collection is not served");
            }
            break;
        }
        info!("collections are still being loaded");
    }
    // The sagas that a kill has cut off need all of the above.
    taken_over.settled().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use redkite_config::SECTIONS;

    use super::*;

    /// A file for a whole cluster is read by every service, which refuses a section that it does
    /// not know from this list.
    #[test]
    fn every_section_is_known_to_all_services() {
        let config = toml::Table::try_from(Config::default()).unwrap();
        assert!(config.len() > 5, "{config}");
        for section in config.keys() {
            assert!(SECTIONS.contains(&section.as_str()), "{section}");
        }
    }
}
