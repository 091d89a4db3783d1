//! The other services of the deployment, found through the metadata.
//!
//! A service is its generated server trait: in one process that is the implementation itself, over
//! the network a forwarder with the same trait. Nobody who calls can tell.

use std::sync::Arc;
use std::time::Duration;

use redkite_catalog::{Catalog, Role};
use redkite_proto::redkite::{
    datacoord::data_coord_server::DataCoord, datanode::data_node_server::DataNode, meta::Session,
    proxy::proxy_server::Proxy, querycoord::query_coord_server::QueryCoord,
    querynode::query_node_server::QueryNode, rootcoord::root_coord_server::RootCoord,
};
use redkite_rpc::Connector;
use redkite_types::{Error, ErrorCode, Result, Revision};

/// How long this process's own view may take to show a revision.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Finds and reaches the other services.
pub struct Peers {
    catalog: Arc<Catalog>,
    connector: Arc<Connector>,
}

impl Peers {
    /// Looks services up in a catalog and reaches them through a connector.
    pub fn new(catalog: Arc<Catalog>, connector: Arc<Connector>) -> Self {
        Self { catalog, connector }
    }

    /// The root coordinator.
    ///
    /// # Errors
    /// Code 1 while none is announced; retry.
    pub fn root_coord(&self) -> Result<Arc<dyn RootCoord>> {
        Ok(self
            .connector
            .root_coord(&self.newest(Role::RootCoord)?.address)?)
    }

    /// The data coordinator.
    ///
    /// # Errors
    /// Code 1 while none is announced; retry.
    pub fn data_coord(&self) -> Result<Arc<dyn DataCoord>> {
        Ok(self
            .connector
            .data_coord(&self.newest(Role::DataCoord)?.address)?)
    }

    /// The query coordinator.
    ///
    /// # Errors
    /// Code 1 while none is announced; retry.
    pub fn query_coord(&self) -> Result<Arc<dyn QueryCoord>> {
        Ok(self
            .connector
            .query_coord(&self.newest(Role::QueryCoord)?.address)?)
    }

    /// The query node at an address.
    ///
    /// # Errors
    /// Code 1100 when the address makes no sense.
    pub fn query_node(&self, address: &str) -> Result<Arc<dyn QueryNode>> {
        Ok(self.connector.query_node(address)?)
    }

    /// All data nodes with their node ids.
    pub fn data_nodes(&self) -> Vec<(u64, Arc<dyn DataNode>)> {
        let view = self.catalog.view();
        view.sessions(Role::DataNode.name())
            .filter_map(|node| Some((node.node_id, self.connector.data_node(&node.address).ok()?)))
            .collect()
    }

    /// All proxies with their node ids.
    pub fn proxies(&self) -> Vec<(u64, Arc<dyn Proxy>)> {
        let view = self.catalog.view();
        view.sessions(Role::Proxy.name())
            .filter_map(|node| Some((node.node_id, self.connector.proxy(&node.address).ok()?)))
            .collect()
    }

    /// Waits until this process knows what there was at a revision.
    ///
    /// # Errors
    /// Code 2 when it does not in time; retry.
    pub async fn caught_up(&self, revision: Revision) -> Result<()> {
        let seen = self.catalog.at_least(revision, CATCH_UP).await;
        seen.map(drop).map_err(|error| Error::from_coded(&error))
    }

    /// Waits until a process's session has ended.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn gone(&self, role: Role, node: u64) {
        let mut revisions = self.catalog.subscribe();
        let is_gone = || {
            let view = self.catalog.view();
            view.sessions(role.name())
                .all(|session| session.node_id != node)
        };
        if revisions.wait_for(|_| is_gone()).await.is_err() {
            // The process stops.
            std::future::pending::<()>().await;
        }
    }

    /// Of several announced processes of a role the one that started last: the others are gone and
    /// only wait for their lease to end.
    fn newest(&self, role: Role) -> Result<Arc<Session>> {
        let view = self.catalog.view();
        view.sessions(role.name())
            .max_by_key(|session| session.started_ts)
            .cloned()
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::ServiceNotReady,
                    format!("service not ready[{} is not announced]", role.name()),
                )
            })
    }
}
