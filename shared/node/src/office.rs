//! Coordinators of which one process acts while others stand by.

use std::{future::Future, sync::Arc, time::Duration};

use futures::FutureExt as _;
use redkite_catalog::{Fence, Lease, Office, Role};
use redkite_rpc::Admit;
use redkite_runtime::{Backoff, OnFailure};
use redkite_types::{Coded as _, error::chain};
use tracing::{info, warn};

use crate::announce::{FIRST_PAUSE, Identity, LONGEST_PAUSE};
use crate::context::NodeContext;
use crate::error::{Error, Result};
use crate::listen::Exposure;
use crate::stops::Phase;

/// How often one that stands by looks whether it may act when nothing changes.
const TICK: Duration = Duration::from_secs(1);

/// Admits calls while a lease holds. One that comes when it does not waits for so long.
pub fn admit_while(lease: Lease, patience: Duration) -> Admit {
    Arc::new(move || {
        if lease.holds() {
            return std::future::ready(true).boxed();
        }
        let lease = lease.clone();
        async move {
            let held = tokio::time::timeout(patience, lease.held());
            held.await.is_ok()
        }
        .boxed()
    })
}

impl NodeContext {
    /// Starts a coordinator once no other process acts as it: at once, or in the background, while this
    /// process stands by and returns. `start` is given what all writes must go through.
    ///
    /// A process that has lost the office stops: what it knows and holds is another one's, and started
    /// again it stands by.
    ///
    /// # Errors
    /// As `start`; [`Error::Start`] when the metastore refuses for good.
    pub async fn act_as<S, F>(self, role: Role, exposure: Exposure, start: S) -> Result<()>
    where
        S: FnOnce(Self, Exposure, Arc<Fence>) -> F + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let address = exposure.address(role);
        if let Some(fence) = self.try_office(role, &address).await? {
            return start(self, exposure, fence).await;
        }
        info!(
            role = role.name(),
            "another process is active, this one stands by"
        );
        let process = self.process.clone();
        let tasks = process.tasks.child("standby");
        let stop = tasks.token();
        tasks.spawn("standby", OnFailure::Shutdown, async move {
            let acting = async move {
                let fence = tokio::select! {
                    taken = self.office(role, &address) => taken?,
                    never = exposure.refuse() => match never {},
                };
                start(self, exposure, fence).await
            };
            stop.run_until_cancelled(acting).await.unwrap_or(Ok(()))
        });
        process.stops.add_group(Phase::Control, tasks);
        Ok(())
    }

    /// Waits, for as long as it takes, until this process holds the office of a role; its session is
    /// announced then.
    ///
    /// # Errors
    /// [`Error::Start`] when the metastore refuses for good.
    pub async fn office(&self, role: Role, address: &str) -> Result<Arc<Fence>> {
        let mut revisions = self.catalog.subscribe();
        loop {
            revisions.mark_unchanged();
            let view = self.catalog.view();
            let mut holders = view.sessions(role.name());
            let held = holders.any(|session| session.address != address);
            if !held && let Some(fence) = self.try_office(role, address).await? {
                return Ok(fence);
            }
            tokio::select! {
                _ = revisions.changed() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn try_office(&self, role: Role, address: &str) -> Result<Option<Arc<Fence>>> {
        let Identity { node, started } = self.identity;
        let ttl = self.session_ttl(address);
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let Office { session, fence } = loop {
            let kv = self.kv.clone();
            match Office::take(kv, role, node, address, started, ttl).await {
                Ok(Some(office)) => break office,
                Ok(None) => return Ok(None),
                Err(error) if error.retriable() => {
                    warn!(role = role.name(), error = %chain(&error), "office not asked for yet");
                }
                Err(error) => return Err(Error::start("take the office")(error)),
            }
            backoff.wait().await;
        };
        info!(
            role = role.name(),
            epoch = fence.epoch(),
            "this process is active"
        );
        // Whoever held it before has written nothing later than this.
        self.begin(&session, fence.lease()).await;
        self.keep(session, fence.lease().clone());
        let watched = fence.clone();
        let reason = format!("{} in epoch {} was replaced", role.name(), fence.epoch());
        self.sessions()
            .spawn_cancellable("office", OnFailure::Shutdown, async move {
                watched.deposed().await;
                Err::<(), _>(Error::Failed { reason })
            });
        Ok(Some(fence))
    }
}
