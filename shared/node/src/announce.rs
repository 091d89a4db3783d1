//! The process's node id and its sessions.

use std::time::Duration;

use redkite_catalog::{Lease, Role, Session};
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
/// A process that does not see its own session for so long says so in the log.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(5);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(500);

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
    /// When the session is lost, others may have taken over what the role owns: the process stops, and
    /// `life` says so before.
    ///
    /// # Errors
    /// [`Error::Start`] when the metastore refuses for good.
    pub async fn announce(&self, role: Role, address: &str, life: Lease) -> Result<()> {
        let session = self.register(role, address).await?;
        self.begin(&session, &life).await;
        self.keep(session, life);
        Ok(())
    }

    /// Announces a role that owns nothing, and announces it anew whenever its session was lost. `life`
    /// holds only while the session is alive for certain, and what this process knows is as new as that.
    ///
    /// # Errors
    /// As [`NodeContext::announce`].
    pub async fn announce_again_and_again(
        &self,
        role: Role,
        address: &str,
        life: Lease,
    ) -> Result<()> {
        let mut session = self.register(role, address).await?;
        self.begin(&session, &life).await;
        let (context, stop) = (self.clone(), self.sessions().token());
        let address = address.to_owned();
        let keeping = async move {
            loop {
                let Err(error) = session.keep_alive(&stop, &life).await else {
                    return Ok::<(), Error>(());
                };
                if stop.is_cancelled() {
                    warn!(role = role.name(), error = %chain(&error), "session not ended");
                    return Ok::<(), Error>(());
                }
                warn!(role = role.name(), error = %chain(&error), "session lost, announcing anew");
                let anew = async {
                    let session = context.register(role, &address).await?;
                    context.begin(&session, &life).await;
                    Ok::<_, Error>(session)
                };
                session = match stop.run_until_cancelled(anew).await {
                    Some(announced) => announced?,
                    None => return Ok(()),
                };
            }
        };
        let name = format!("session of {}", role.name());
        self.sessions().spawn(name, OnFailure::Shutdown, keeping);
        Ok(())
    }

    /// Waits until this process sees its own session; from then on the session's time counts.
    pub(crate) async fn begin(&self, session: &Session, life: &Lease) {
        let revision = session.revision();
        while self.catalog.at_least(revision, SEEN_WITHIN).await.is_err() {
            warn!(revision = revision.0, "the own session is not seen yet");
        }
        session.begin(life);
        let record = session.record();
        info!(
            role = record.role,
            node = record.node_id,
            address = record.address,
            "announced"
        );
    }

    /// Keeps a session alive until the process stops; losing it stops the process.
    pub(crate) fn keep(&self, session: Session, life: Lease) {
        let stop = self.sessions().token();
        let role = session.record().role.clone();
        let name = format!("session of {role}");
        self.sessions()
            .spawn(name, OnFailure::Shutdown, async move {
                match session.keep_alive(&stop, &life).await {
                    Err(error) if stop.is_cancelled() => {
                        // It ends by itself, only later.
                        warn!(role, error = %chain(&error), "session not ended");
                        Ok(())
                    }
                    kept => kept,
                }
            });
    }

    async fn register(&self, role: Role, address: &str) -> Result<Session> {
        let Identity { node, started } = self.identity;
        let ttl = self.session_ttl(address);
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

    /// What dies with the metastore itself needs no short lease, and a machine that was suspended must
    /// not end it: nobody else could take over anyway.
    pub(crate) fn session_ttl(&self, address: &str) -> Duration {
        match Exposure::is_local(address) {
            true => LOCAL_TTL,
            false => self.options().common.session_ttl.get(),
        }
    }
}
