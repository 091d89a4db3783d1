//! Announces a running process and keeps its lease alive.

use std::time::Duration;

use prost::Message;
use redkite_metastore::{Op, SharedKv, Txn, TxnOutcome};
use redkite_proto::redkite::meta;
use redkite_types::{NodeId, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    error::{Error, Result},
    keys,
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
    record: meta::Session,
    lease: u64,
    ttl: Duration,
}

impl Session {
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
        let lease = kv.lease_grant(ttl).await.map_err(Error::Metastore)?;
        let record = meta::Session {
            node_id: node.0,
            role: role.name().to_owned(),
            address: address.to_owned(),
            started_ts: started.0,
        };
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
        txn = txn.then(Op::Put {
            key: keys::session(role.name(), node),
            value: record.encode_to_vec().into(),
            lease,
        });
        match kv.txn(txn).await.map_err(Error::Metastore)? {
            TxnOutcome::Applied { .. } | TxnOutcome::Refused { .. } => {}
        }
        Ok(Self {
            kv,
            record,
            lease,
            ttl,
        })
    }

    /// The announced record.
    pub fn record(&self) -> &meta::Session {
        &self.record
    }

    /// Keeps the session alive until stopped; then ends it. Returns early, with the error, when
    /// the lease was lost: others may then already have taken over what the process owned.
    ///
    /// # Errors
    /// [`Error::Metastore`] with `LeaseNotFound`: the process must give up what it owns.
    pub async fn keep_alive(self, stop: CancellationToken) -> Result<()> {
        let mut ticker = tokio::time::interval(self.ttl / 3);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticker.tick() => {}
            }
            match self.kv.lease_keep_alive(self.lease).await {
                Ok(()) => {}
                Err(error @ redkite_metastore::Error::LeaseNotFound { .. }) => {
                    return Err(Error::Metastore(error));
                }
                Err(error) => {
                    warn!(role = %self.record.role, error = %redkite_types::error::chain(&error), "lease not renewed");
                }
            }
        }
        self.kv
            .lease_revoke(self.lease)
            .await
            .map_err(Error::Metastore)
    }
}
