//! Calls to processes that are gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use redkite_catalog::{Catalog, CatalogView, Role};
use redkite_rpc::Connector;

const ROLES: [Role; 6] = [
    Role::RootCoord,
    Role::DataCoord,
    Role::QueryCoord,
    Role::QueryNode,
    Role::DataNode,
    Role::Proxy,
];

/// Gives up calls to every process whose session has ended. A process that was stopped does not close its
/// connections, so without this a call to it would wait for as long as its caller.
pub(crate) async fn give_up_calls(catalog: Arc<Catalog>, connector: Arc<Connector>) {
    let mut revisions = catalog.subscribe();
    let mut before = addresses(&catalog.view());
    while revisions.changed().await.is_ok() {
        let now = addresses(&catalog.view());
        for address in before.difference(&now) {
            connector.give_up(address);
        }
        before = now;
    }
}

fn addresses(view: &CatalogView) -> BTreeSet<String> {
    let sessions = ROLES.iter().flat_map(|role| view.sessions(role.name()));
    sessions.map(|session| session.address.clone()).collect()
}
