//! Announces a running process and keeps its lease alive.

use std::time::Duration;

use prost::Message;
use redkite_metastore::{Op, SharedKv, Txn, TxnOutcome};
use redkite_proto::redkite::meta;
use redkite_types::{NodeId, Revision, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    error::{Error, Result},
    keys,
    lease::Lease,
};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Hosts the metastore, runs DDL.
    RootCoord,
    /// Knows where data is.
    DataCoord,
    /// Knows who serves what.
    QueryCoord,
    /// Owns channels, serves reads.
    QueryNode,
    /// Builds indexes.
    DataNode,
    /// Faces the clients.
    Proxy,
}

impl Role {
    /// Its name in keys and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RootCoord => "rootcoord",
            Self::DataCoord => "datacoord",
            Self::QueryCoord => "querycoord",
            Self::QueryNode => "querynode",
            Self::DataNode => "datanode",
            Self::Proxy => "proxy",
        }
    }
}

/// A process that is announced in the metastore.
pub struct Session {
    kv: SharedKv,
    pub(crate) record: meta::Session,
    pub(crate) lease: u64,
    ttl: Duration,
    /// Until then it lives without being renewed.
    until: Instant,
    /// Shows it.
    revision: Revision,
}

impl Session {
    /// A session that is not announced yet.
    pub(crate) async fn prepare(
        kv: SharedKv,
        role: Role,
        node: NodeId,
        address: &str,
        started: Timestamp,
        ttl: Duration,
    ) -> Result<Self> {
        let until = Instant::now() + ttl;
        let lease = kv.lease_grant(ttl).await.map_err(Error::Metastore)?;
        let record = meta::Session {
            node_id: node.0,
            role: role.name().to_owned(),
            address: address.to_owned(),
            started_ts: started.0,
        };
        Ok(Self {
            kv,
            record,
            lease,
            ttl,
            until,
            revision: Revision(0),
        })
    }

    /// It was announced.
    pub(crate) fn announced(&mut self, revision: Revision) {
        self.revision = revision;
    }

    /// The revision that shows it.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What announces it.
    pub(crate) fn put(&self) -> Op {
        Op::Put {
            key: keys::session(&self.record.role, NodeId(self.record.node_id)),
            value: self.record.encode_to_vec().into(),
            lease: self.lease,
        }
    }

    /// Gives the lease of a session that was not announced back. That fails without harm.
    pub(crate) async fn withdraw(self) {
        if let Err(error) = self.kv.lease_revoke(self.lease).await {
            warn!(error = %redkite_types::error::chain(&error), "lease not given back");
        }
    }

    /// Announces a process. Earlier sessions of the same role at the same address are those of a
    /// process that is gone, and end here.
    ///
    /// # Errors
    /// [`Error::Metastore`]: retry as that says.
    pub async fn register(
        kv: SharedKv,
        role: Role,
        node: NodeId,
        address: &str,
        started: Timestamp,
        ttl: Duration,
    ) -> Result<Self> {
        let mut session = Self::prepare(kv.clone(), role, node, address, started, ttl).await?;
        let prefix = format!("{}{}/", keys::SESSIONS, role.name());
        let (former, _) = redkite_metastore::read_all(kv.as_ref(), &prefix)
            .await
            .map_err(Error::Metastore)?;
        let mut txn = Txn::new();
        for pair in former {
            let same_place = meta::Session::decode(pair.value)
                .is_ok_and(|session| session.address == address && session.node_id != node.0);
            if same_place {
                txn = txn.then(Op::delete(pair.key));
            }
        }
        match kv
            .txn(txn.then(session.put()))
            .await
            .map_err(Error::Metastore)?
        {
            TxnOutcome::Applied { revision } => session.announced(revision),
            // It has no conditions.
            TxnOutcome::Refused { .. } => {}
        }
        Ok(session)
    }

    /// Lets `life` know of the time that the session has from its beginning.
    pub fn begin(&self, life: &Lease) {
        life.extend(self.until);
    }

    /// The announced record.
    pub fn record(&self) -> &meta::Session {
        &self.record
    }

    /// Keeps the session alive until stopped, and `life` informed; then ends it. Returns early, with the
    /// error, when the lease was lost: others may then already have taken over what the process owned.
    ///
    /// # Errors
    /// [`Error::Metastore`] with `LeaseNotFound`: the process must give up what it owns.
    pub async fn keep_alive(&self, stop: &CancellationToken, life: &Lease) -> Result<()> {
        let mut ticker = tokio::time::interval(self.ttl / 3);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticker.tick() => {}
            }
            let asked = Instant::now();
            match self.kv.lease_keep_alive(self.lease).await {
                Ok(()) => life.extend(asked + self.ttl),
                Err(error @ redkite_metastore::Error::LeaseNotFound { .. }) => {
                    life.end();
                    return Err(Error::Metastore(error));
                }
                Err(error) => {
                    warn!(role = %self.record.role, error = %redkite_types::error::chain(&error), "lease not renewed");
                }
            }
        }
        life.end();
        self.kv
            .lease_revoke(self.lease)
            .await
            .map_err(Error::Metastore)
    }
}
