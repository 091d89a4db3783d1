//! How the other services are reached.

use std::sync::Arc;

use redkite_node::Peers;
use redkite_proto::redkite::{
    datacoord::data_coord_server::DataCoord, querycoord::query_coord_server::QueryCoord,
    querynode::query_node_server::QueryNode, rootcoord::root_coord_server::RootCoord,
};
use redkite_types::Result;

/// The other services, each as its generated trait.
///
/// # Errors
/// Of every method: code 1 while the service is not announced, code 1100 when its address makes no
/// sense. The first is worth a retry.
pub trait Services: Send + Sync + 'static {
    /// The root coordinator.
    fn root_coord(&self) -> Result<Arc<dyn RootCoord>>;
    /// The data coordinator.
    fn data_coord(&self) -> Result<Arc<dyn DataCoord>>;
    /// The query coordinator.
    fn query_coord(&self) -> Result<Arc<dyn QueryCoord>>;
    /// The query node at an address.
    fn query_node(&self, address: &str) -> Result<Arc<dyn QueryNode>>;
}

impl Services for Peers {
    fn root_coord(&self) -> Result<Arc<dyn RootCoord>> {
        Self::root_coord(self)
    }

    fn data_coord(&self) -> Result<Arc<dyn DataCoord>> {
        Self::data_coord(self)
    }

    fn query_coord(&self) -> Result<Arc<dyn QueryCoord>> {
        Self::query_coord(self)
    }

    fn query_node(&self, address: &str) -> Result<Arc<dyn QueryNode>> {
        Self::query_node(self, address)
    }
}
