//! Records in the metastore, each write fenced.
//!
//! Two guards stand before every write. The *fence*, one key that holds `{epoch} {claim}` of the
//! executor that claimed the sagas last: a deposed executor's next write fails on it, also when it
//! would create a new record. And the record's own revision: nobody else has written it since.

use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use redkite_metastore::{Compare, KeyValue, Op, SharedKv, Txn, TxnOutcome, read_all};
use redkite_types::{Revision, SagaId};

use crate::error::{Error, Result};
use crate::record::{RECORD_PREFIX, Record};
use crate::spec::Refusal;

/// The key of the fence.
pub const FENCE_KEY: &str = "root-coord/saga-fence";

/// What became of a write.
#[derive(Debug)]
pub(crate) enum Written {
    Applied(Revision),
    /// A compare of the step's own transaction did not hold; nothing was written.
    Refused(Box<Refusal>),
    /// Another executor has claimed the sagas; nothing was written.
    Fenced,
}

pub(crate) struct SagaStore {
    kv: SharedKv,
    epoch: u64,
    fence: Bytes,
    first_id: i64,
    next_sequence: AtomicI64,
}

impl SagaStore {
    /// Takes all sagas over: from here on no earlier executor can write.
    pub(crate) async fn claim(kv: SharedKv, epoch: u64) -> Result<Self> {
        loop {
            let stored = kv.get(FENCE_KEY).await.map_err(Error::store)?;
            let (guard, claim) = match &stored {
                None => (
                    Compare::Absent {
                        key: FENCE_KEY.to_owned(),
                    },
                    1,
                ),
                Some(pair) => {
                    let (owner, claim) = parse_fence(pair)?;
                    if owner > epoch {
                        return Err(Error::Fenced);
                    }
                    let key = FENCE_KEY.to_owned();
                    (
                        Compare::Revision {
                            key,
                            revision: pair.revision,
                        },
                        claim + 1,
                    )
                }
            };
            let fence = Bytes::from(format!("{epoch} {claim}"));
            let txn = Txn::new()
                .when(guard)
                .then(Op::put(FENCE_KEY, fence.clone()));
            match kv.txn(txn).await.map_err(Error::store)? {
                TxnOutcome::Applied { .. } => {
                    // A claim's number is never used again, so neither is an id made from it.
                    let first_id = i64::from(claim) << 32;
                    let next_sequence = AtomicI64::new(1);
                    return Ok(Self {
                        kv,
                        epoch,
                        fence,
                        first_id,
                        next_sequence,
                    });
                }
                TxnOutcome::Refused { .. } => {}
            }
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// An id that no saga has had; costs no write.
    pub(crate) fn next_id(&self) -> SagaId {
        SagaId(self.first_id + self.next_sequence.fetch_add(1, Ordering::Relaxed))
    }

    /// All records.
    pub(crate) async fn load(&self) -> Result<Vec<(Record, Revision)>> {
        let (pairs, _) = read_all(&*self.kv, RECORD_PREFIX)
            .await
            .map_err(Error::store)?;
        pairs
            .iter()
            .map(|pair| Ok((parse_record(pair)?, pair.revision)))
            .collect()
    }

    /// Writes a record together with a step's change, in one transaction, over its last revision
    /// (`None`: there is none yet), and deletes old records with it.
    ///
    /// It may be called again with the same arguments after an error whose outcome is unknown: that
    /// the first call was applied after all is then recognised.
    pub(crate) async fn write(
        &self,
        record: &Record,
        last: Option<Revision>,
        effect: &Txn,
        garbage: &[SagaId],
    ) -> redkite_metastore::Result<Written> {
        let key = Record::key(record.id);
        let value = Bytes::from(serde_json::to_vec(record).map_err(|error| {
            redkite_metastore::Error::Invalid {
                what: format!("saga record: {error}"),
            }
        })?);
        let guard = match last {
            None => Compare::Absent { key: key.clone() },
            Some(revision) => Compare::Revision {
                key: key.clone(),
                revision,
            },
        };
        let fence = Compare::Value {
            key: FENCE_KEY.to_owned(),
            value: self.fence.clone(),
        };
        let mut txn = Txn::new()
            .when(guard)
            .when(fence)
            .and(effect.clone())
            .then(Op::put(key, value.clone()));
        for id in garbage {
            txn = txn.then(Op::delete(Record::key(*id)));
        }
        let written = match self.kv.txn(txn).await? {
            TxnOutcome::Applied { revision } => Written::Applied(revision),
            // The record says who wrote it when: the same bytes can only be ours.
            TxnOutcome::Refused {
                failed: 0,
                current: Some(pair),
            } if pair.value == value => Written::Applied(pair.revision),
            TxnOutcome::Refused { failed: 0 | 1, .. } => Written::Fenced,
            TxnOutcome::Refused { failed, current } => {
                let failed = failed - 2;
                let compare = effect.compares[failed].clone();
                Written::Refused(Box::new(Refusal {
                    failed,
                    compare,
                    current,
                }))
            }
        };
        Ok(written)
    }
}

fn parse_fence(pair: &KeyValue) -> Result<(u64, u32)> {
    let corrupt = || Error::Corrupt {
        key: pair.key.clone(),
        what: "expected an epoch and the number of a claim".to_owned(),
    };
    let text = std::str::from_utf8(&pair.value).map_err(|_| corrupt())?;
    let (epoch, claim) = text.split_once(' ').ok_or_else(corrupt)?;
    let epoch = epoch.parse().map_err(|_| corrupt())?;
    let claim = claim.parse().map_err(|_| corrupt())?;
    Ok((epoch, claim))
}

fn parse_record(pair: &KeyValue) -> Result<Record> {
    serde_json::from_slice(&pair.value).map_err(|error| Error::Corrupt {
        key: pair.key.clone(),
        what: error.to_string(),
    })
}
