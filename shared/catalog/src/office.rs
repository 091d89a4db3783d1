//! The one process that acts as a coordinator, and the fence around its writes.
//!
//! An office is a record with an epoch ([`keys::office`]). It is free when the session of whoever holds it is
//! gone. Taking it raises the epoch and announces the session in one transaction, so there are never two.
//! Every write of the holder is made on condition that the record is still the holder's own ([`Fence`]): one
//! that was stopped for longer than its lease finds that it has been replaced with its next write, whatever
//! its clock says.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use redkite_metastore::{
    Compare, KeyValue, MetaKv, Op, Page, Result as KvResult, SharedKv, Txn, TxnOutcome, WatchStream,
};
use redkite_proto::redkite::meta::{self, OfficeInfo};
use redkite_types::{NodeId, Revision, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    keys,
    lease::Lease,
    session::{Role, Session},
};

/// An office that this process holds.
pub struct Office {
    /// The session that it goes with.
    pub session: Session,
    /// What the holder's writes go through.
    pub fence: Arc<Fence>,
}

impl Office {
    /// Takes the office of a role if it is free: nobody ever held it, or the session of whoever held it
    /// last is gone, or that one was at our own address and so is gone too. `None` while another process
    /// holds it.
    ///
    /// # Errors
    /// [`Error::Metastore`]: retry as that says. [`Error::Decode`] for a damaged record.
    pub async fn take(
        kv: SharedKv,
        role: Role,
        node: NodeId,
        address: &str,
        started: Timestamp,
        ttl: Duration,
    ) -> Result<Option<Self>> {
        let Some((free, last)) = look(kv.as_ref(), role, address).await? else {
            return Ok(None);
        };
        let mut session = Session::prepare(kv.clone(), role, node, address, started, ttl).await?;
        let info = OfficeInfo {
            role: role.name().to_owned(),
            epoch: last + 1,
            node_id: node.0,
            address: address.to_owned(),
        };
        let (key, value) = (keys::office(role.name()), Bytes::from(info.encode_to_vec()));
        let put = Op::put(key.clone(), value.clone());
        let taken = kv.txn(free.then(put).then(session.put())).await;
        let revision = match taken {
            Ok(TxnOutcome::Applied { revision }) => Some(revision),
            Ok(TxnOutcome::Refused { .. }) => None,
            // It may be ours all the same; then nobody else can have written these bytes.
            Err(error) if error.outcome() == redkite_types::Outcome::Unknown => {
                let found = kv.get(&key).await.map_err(Error::Metastore)?;
                let ours = found.filter(|pair| pair.value == value);
                ours.map(|pair| pair.revision)
            }
            Err(error) => return Err(Error::Metastore(error)),
        };
        let Some(revision) = revision else {
            session.withdraw().await;
            return Ok(None);
        };
        session.announced(revision);
        let fence = Arc::new(Fence {
            kv,
            role,
            epoch: info.epoch,
            key,
            value,
            lease: Lease::new(),
            ttl,
            deposed: CancellationToken::new(),
        });
        session.begin(&fence.lease);
        Ok(Some(Self { session, fence }))
    }
}

/// Whether the office is free, as a transaction that is refused when it is not any more, and its last epoch.
async fn look(kv: &dyn MetaKv, role: Role, address: &str) -> Result<Option<(Txn, u64)>> {
    let key = keys::office(role.name());
    let Some(pair) = kv.get(&key).await.map_err(Error::Metastore)? else {
        return Ok(Some((Txn::new().when(Compare::Absent { key }), 0)));
    };
    let last: OfficeInfo = decode(&pair)?;
    let value = pair.value;
    let txn = Txn::new().when(Compare::Value { key, value });
    let key = keys::session(role.name(), NodeId(last.node_id));
    let txn = match kv.get(&key).await.map_err(Error::Metastore)? {
        None => txn.when(Compare::Absent { key }),
        Some(pair) if decode::<meta::Session>(&pair)?.address == address => {
            txn.then(Op::delete(key))
        }
        Some(_) => return Ok(None),
    };
    Ok(Some((txn, last.epoch)))
}

fn decode<M: Message + Default>(pair: &KeyValue) -> Result<M> {
    M::decode(pair.value.clone()).map_err(|source| Error::Decode {
        key: pair.key.clone(),
        source: Box::new(source),
    })
}

/// A metastore through which nothing is written once the office is another process's.
pub struct Fence {
    kv: SharedKv,
    role: Role,
    epoch: u64,
    key: String,
    value: Bytes,
    lease: Lease,
    ttl: Duration,
    deposed: CancellationToken,
}

impl Fence {
    /// Grows with every change of the holder.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Until when nobody else can have taken the office.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// How long what must not happen after the office is lost may take from its beginning: a third of the
    /// lease, which is always left while renewals are answered.
    pub fn margin(&self) -> Duration {
        self.ttl / 3
    }

    /// Completes once the fence has refused something: what the holder knows is out of date.
    pub async fn deposed(&self) {
        self.deposed.cancelled().await;
    }

    /// Asks the metastore whether the office is still held.
    ///
    /// # Errors
    /// [`redkite_metastore::Error::Deposed`] when it is not; else as the metastore says.
    pub async fn confirm(&self) -> KvResult<()> {
        match self.kv.get(&self.key).await? {
            Some(pair) if pair.value == self.value => Ok(()),
            _ => Err(self.refuse()),
        }
    }

    /// Whether the office is held for certain, by the clock alone, and still will be when
    /// [`Fence::margin`] has passed.
    ///
    /// # Errors
    /// [`redkite_metastore::Error::Deposed`].
    pub fn check(&self) -> KvResult<()> {
        match self.lease.holds_for(self.margin()) {
            true => Ok(()),
            false => Err(redkite_metastore::Error::Deposed {
                what: format!("the lease of {} is over or about to be", self.name()),
            }),
        }
    }

    fn name(&self) -> String {
        format!("{} in epoch {}", self.role.name(), self.epoch)
    }

    fn refuse(&self) -> redkite_metastore::Error {
        self.lease.end();
        self.deposed.cancel();
        redkite_metastore::Error::Deposed {
            what: format!("this process is not {} any more", self.name()),
        }
    }
}

#[async_trait]
impl MetaKv for Fence {
    async fn get(&self, key: &str) -> KvResult<Option<KeyValue>> {
        self.kv.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> KvResult<Page> {
        self.kv.range(prefix, after, limit).await
    }

    async fn get_as_of(&self, key: &str, ts: Timestamp) -> KvResult<Option<KeyValue>> {
        self.kv.get_as_of(key, ts).await
    }

    async fn range_as_of(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        ts: Timestamp,
    ) -> KvResult<Page> {
        self.kv.range_as_of(prefix, after, limit, ts).await
    }

    async fn prune_history(&self, before: Timestamp) -> KvResult<u64> {
        self.kv.prune_history(before).await
    }

    async fn txn(&self, mut txn: Txn) -> KvResult<TxnOutcome> {
        let own = Compare::Value {
            key: self.key.clone(),
            value: self.value.clone(),
        };
        txn.compares.insert(0, own);
        match self.kv.txn(txn).await? {
            TxnOutcome::Refused { failed: 0, .. } => Err(self.refuse()),
            TxnOutcome::Refused { failed, current } => Ok(TxnOutcome::Refused {
                failed: failed - 1,
                current,
            }),
            applied @ TxnOutcome::Applied { .. } => Ok(applied),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> KvResult<WatchStream> {
        self.kv.watch(prefix, after).await
    }

    async fn lease_grant(&self, ttl: Duration) -> KvResult<u64> {
        self.kv.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: u64) -> KvResult<()> {
        self.kv.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: u64) -> KvResult<()> {
        self.kv.lease_revoke(lease).await
    }
}

#[cfg(test)]
mod tests {
    use redkite_metastore::{Error as KvError, MemKv};

    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    async fn take(kv: &SharedKv, node: u64, address: &str) -> Option<Office> {
        let (role, started) = (Role::DataCoord, Timestamp(node));
        Office::take(kv.clone(), role, NodeId(node), address, started, TTL)
            .await
            .unwrap()
    }

    fn put(key: &str) -> Txn {
        Txn::new().then(Op::put(key, "v"))
    }

    #[tokio::test(start_paused = true)]
    async fn one_holds_it_and_the_next_one_when_that_one_is_gone() {
        let kv: SharedKv = Arc::new(MemKv::new());
        let first = take(&kv, 1, "a:1").await.unwrap();
        assert!(first.fence.lease().holds());
        assert!(take(&kv, 2, "b:1").await.is_none());
        first.fence.txn(put("k")).await.unwrap();
        first.fence.confirm().await.unwrap();

        first.fence.check().unwrap();
        tokio::time::advance(TTL - first.fence.margin()).await;
        assert!(first.fence.lease().holds());
        assert!(first.fence.check().is_err(), "not with the margin");
        tokio::time::advance(first.fence.margin()).await;
        assert!(!first.fence.lease().holds(), "before it is told");
        // Nobody else has come: its writes still count.
        first.fence.txn(put("k")).await.unwrap();
        let second = take(&kv, 2, "b:1").await.unwrap();
        assert!(second.fence.epoch() > first.fence.epoch());
        let error = first.fence.txn(put("late")).await.unwrap_err();
        assert!(matches!(error, KvError::Deposed { .. }), "{error}");
        first.fence.deposed().await;
        assert!(kv.get("late").await.unwrap().is_none());
        assert!(first.fence.confirm().await.is_err());
        second.fence.txn(put("k")).await.unwrap();
    }

    #[tokio::test]
    async fn a_process_at_the_same_address_takes_over_at_once() {
        let kv: SharedKv = Arc::new(MemKv::new());
        let first = take(&kv, 1, "a:1").await.unwrap();
        let second = take(&kv, 2, "a:1").await.unwrap();
        assert!(first.fence.txn(put("k")).await.is_err());
        second.fence.txn(put("k")).await.unwrap();
        let session = keys::session("datacoord", NodeId(1));
        assert!(kv.get(&session).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn of_many_that_want_it_one_gets_it() {
        let kv: SharedKv = Arc::new(MemKv::new());
        let all = (1..=8).map(|node| {
            let kv = kv.clone();
            async move { take(&kv, node, &format!("a:{node}")).await.is_some() }
        });
        let got = futures::future::join_all(all).await;
        assert_eq!(got.iter().filter(|got| **got).count(), 1);
    }

    #[tokio::test]
    async fn a_condition_of_the_write_itself_is_told_by_its_own_number() {
        let kv: SharedKv = Arc::new(MemKv::new());
        let office = take(&kv, 1, "a:1").await.unwrap();
        let key = "k".to_owned();
        let txn = put("l").when(Compare::Absent { key: "m".into() });
        let refused = office.fence.txn(txn.when(Compare::Exists { key })).await;
        let refused = refused.unwrap();
        assert!(
            matches!(refused, TxnOutcome::Refused { failed: 1, .. }),
            "{refused:?}"
        );
    }
}
