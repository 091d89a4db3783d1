//! The process's node id and its sessions.

use std::time::Duration;

use redkite_catalog::{Role, Session};
use redkite_proto::redkite::rootcoord::AllocRequest;
use redkite_rpc::call;
use redkite_runtime::{Backoff, Deadline, OnFailure};
use redkite_types::{Coded as _, NodeId, Timestamp, error::chain};
use tracing::{debug, info, warn};

use crate::context::NodeContext;
use crate::error::{Error, Result};
use crate::listen::Exposure;
use crate::peers::Peers;

/// How long one question for an id may take.
const ALLOC_WITHIN: Duration = Duration::from_secs(5);
/// Lease of a role that lives in the metastore's own process.
const LOCAL_TTL: Duration = Duration::from_secs(3_600);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Which process this is: never the same again, not even after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its node id.
    pub node: NodeId,
    /// When it was started.
    pub started: Timestamp,
}

impl Identity {
    /// Gets an identity from the root coordinator; waits until there is one.
    pub(crate) async fn ask(peers: &Peers) -> Self {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match Self::try_ask(peers).await {
                Ok(identity) => return identity,
                Err(error) => debug!(%error, "no answer from the root coordinator yet"),
            }
            backoff.wait().await;
        }
    }

    async fn try_ask(peers: &Peers) -> redkite_types::Result<Self> {
        let root = peers.root_coord()?;
        let message = AllocRequest { count: 1 };
        let deadline = Deadline::after(ALLOC_WITHIN);
        let id = call(deadline, message, |request| root.alloc_id(request)).await?;
        let ts = call(deadline, message, |request| root.alloc_timestamp(request)).await?;
        Ok(Self {
            node: NodeId(id.first),
            started: Timestamp(ts.first),
        })
    }
}

impl NodeContext {
    /// Announces a role of this process, and keeps it announced until the process stops. Returns
    /// once this process itself sees it.
    ///
    /// When the session is lost, others may have taken over what the role owns: the process stops.
    ///
    /// # Errors
    /// [`Error::Start`] when the metastore refuses for good.
    pub async fn announce(&self, role: Role, address: &str) -> Result<()> {
        let session = self.register(role, address).await?;
        let stop = self.sessions().token();
        let keeping = session.keep_alive(stop.clone());
        let name = format!("session of {}", role.name());
        self.sessions()
            .spawn(name, OnFailure::Shutdown, async move {
                match keeping.await {
                    Err(error) if stop.is_cancelled() => {
                        // It ends by itself, only later.
                        warn!(role = role.name(), error = %chain(&error), "session not ended");
                        Ok(())
                    }
                    kept => kept,
                }
            });
        let mut revisions = self.catalog.subscribe();
        while !self.sees_itself_as(role) {
            if revisions.changed().await.is_err() {
                break;
            }
        }
        info!(
            role = role.name(),
            node = self.identity.node.0,
            address,
            "announced"
        );
        Ok(())
    }

    async fn register(&self, role: Role, address: &str) -> Result<Session> {
        let Identity { node, started } = self.identity;
        // What dies with the metastore itself needs no short lease, and a machine that was suspended
        // must not end it: nobody else could take over anyway.
        let ttl = match Exposure::is_local(address) {
            true => LOCAL_TTL,
            false => self.options().common.session_ttl.get(),
        };
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let kv = self.kv.clone();
            match Session::register(kv, role, node, address, started, ttl).await {
                Ok(session) => return Ok(session),
                Err(error) if error.retriable() => {
                    warn!(role = role.name(), error = %chain(&error), "not announced yet");
                }
                Err(error) => return Err(Error::start("announce the process")(error)),
            }
            backoff.wait().await;
        }
    }

    fn sees_itself_as(&self, role: Role) -> bool {
        let view = self.catalog.view();
        view.sessions(role.name())
            .any(|session| session.node_id == self.identity.node.0)
    }
}
