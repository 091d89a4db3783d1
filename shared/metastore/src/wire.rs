//! Between this crate's types and their protobuf form.

use std::time::Duration;

use prost::Message as _;
use redkite_proto::redkite::metastore as pb;
use redkite_types::{Outcome, Revision, Timestamp};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::command::{MetaCommand, invalid};
use crate::error::{Error, Result};
use crate::kv::{Compare, KeyValue, Op, Page, Txn, TxnOutcome, WatchBatch, WatchEvent};

/// The largest message: a page of values, or a transaction, with room to spare.
pub(crate) const MESSAGE_BYTES: usize = 32 << 20;

/// Metadata key of an error's exact form.
const ERROR_KEY: &str = "redkite-meta-error-bin";

impl From<KeyValue> for pb::KeyValue {
    fn from(pair: KeyValue) -> Self {
        Self {
            key: pair.key,
            value: pair.value,
            revision: pair.revision.0,
            lease: pair.lease,
        }
    }
}

impl From<pb::KeyValue> for KeyValue {
    fn from(pair: pb::KeyValue) -> Self {
        let pb::KeyValue {
            key,
            value,
            revision,
            lease,
        } = pair;
        Self {
            key,
            value,
            revision: Revision(revision),
            lease,
        }
    }
}

impl From<Page> for pb::RangeResponse {
    fn from(page: Page) -> Self {
        Self {
            pairs: page.pairs.into_iter().map(Into::into).collect(),
            revision: page.revision.0,
            next: page.next.unwrap_or_default(),
        }
    }
}

impl From<pb::RangeResponse> for Page {
    fn from(page: pb::RangeResponse) -> Self {
        Self {
            pairs: page.pairs.into_iter().map(Into::into).collect(),
            revision: Revision(page.revision),
            next: (!page.next.is_empty()).then_some(page.next),
        }
    }
}

impl From<&Txn> for pb::TxnRequest {
    fn from(txn: &Txn) -> Self {
        Self {
            compares: txn.compares.iter().map(Into::into).collect(),
            ops: txn.ops.iter().map(Into::into).collect(),
            ts: txn.ts.map(|ts| ts.0),
        }
    }
}

impl TryFrom<pb::TxnRequest> for Txn {
    type Error = Error;

    fn try_from(txn: pb::TxnRequest) -> Result<Self> {
        Ok(Self {
            compares: txn
                .compares
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_>>()?,
            ops: txn
                .ops
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_>>()?,
            ts: txn.ts.map(Timestamp),
        })
    }
}

impl From<&Compare> for pb::Compare {
    fn from(compare: &Compare) -> Self {
        use pb::compare::{Condition, RevisionIs, ValueIs};
        let condition = match compare {
            Compare::Absent { key } => Condition::Absent(key.clone()),
            Compare::Exists { key } => Condition::Exists(key.clone()),
            Compare::Revision { key, revision } => Condition::Revision(RevisionIs {
                key: key.clone(),
                revision: revision.0,
            }),
            Compare::Value { key, value } => Condition::Value(ValueIs {
                key: key.clone(),
                value: value.clone(),
            }),
        };
        Self {
            condition: Some(condition),
        }
    }
}

impl TryFrom<pb::Compare> for Compare {
    type Error = Error;

    fn try_from(compare: pb::Compare) -> Result<Self> {
        use pb::compare::Condition;
        // A condition of a newer version must never count as one that holds.
        let condition = compare
            .condition
            .ok_or_else(|| invalid("a compare without condition"))?;
        Ok(match condition {
            Condition::Absent(key) => Self::Absent { key },
            Condition::Exists(key) => Self::Exists { key },
            Condition::Revision(is) => Self::Revision {
                key: is.key,
                revision: Revision(is.revision),
            },
            Condition::Value(is) => Self::Value {
                key: is.key,
                value: is.value,
            },
        })
    }
}

impl From<&Op> for pb::Op {
    fn from(op: &Op) -> Self {
        use pb::op::{Change, Put};
        let change = match op {
            Op::Put { key, value, lease } => Change::Put(Put {
                key: key.clone(),
                value: value.clone(),
                lease: *lease,
            }),
            Op::Delete { key } => Change::Delete(key.clone()),
            Op::DeletePrefix { prefix } => Change::DeletePrefix(prefix.clone()),
        };
        Self {
            change: Some(change),
        }
    }
}

impl TryFrom<pb::Op> for Op {
    type Error = Error;

    fn try_from(op: pb::Op) -> Result<Self> {
        use pb::op::Change;
        Ok(
            match op
                .change
                .ok_or_else(|| invalid("an operation without change"))?
            {
                Change::Put(put) => Self::Put {
                    key: put.key,
                    value: put.value,
                    lease: put.lease,
                },
                Change::Delete(key) => Self::Delete { key },
                Change::DeletePrefix(prefix) => Self::DeletePrefix { prefix },
            },
        )
    }
}

impl From<TxnOutcome> for pb::TxnResponse {
    fn from(outcome: TxnOutcome) -> Self {
        match outcome {
            TxnOutcome::Applied { revision } => Self {
                applied: true,
                revision: revision.0,
                failed: 0,
                current: None,
            },
            TxnOutcome::Refused { failed, current } => Self {
                applied: false,
                revision: 0,
                failed: u32::try_from(failed).unwrap_or(u32::MAX),
                current: current.map(Into::into),
            },
        }
    }
}

impl From<pb::TxnResponse> for TxnOutcome {
    fn from(response: pb::TxnResponse) -> Self {
        if response.applied {
            return Self::Applied {
                revision: Revision(response.revision),
            };
        }
        let failed = usize::try_from(response.failed).unwrap_or(usize::MAX);
        Self::Refused {
            failed,
            current: response.current.map(Into::into),
        }
    }
}

impl From<WatchBatch> for pb::WatchBatch {
    fn from(batch: WatchBatch) -> Self {
        use pb::watch_event::Event;
        let event = |event| match event {
            WatchEvent::Put(pair) => Event::Put(pair.into()),
            WatchEvent::Delete { key } => Event::Delete(key),
        };
        let events = batch.events.into_iter().map(event);
        Self {
            revision: batch.revision.0,
            events: events
                .map(|event| pb::WatchEvent { event: Some(event) })
                .collect(),
        }
    }
}

impl TryFrom<pb::WatchBatch> for WatchBatch {
    type Error = Error;

    fn try_from(batch: pb::WatchBatch) -> Result<Self> {
        use pb::watch_event::Event;
        let event = |event: pb::WatchEvent| match event.event {
            Some(Event::Put(pair)) => Ok(WatchEvent::Put(pair.into())),
            Some(Event::Delete(key)) => Ok(WatchEvent::Delete { key }),
            None => Err(invalid("a watched event without content")),
        };
        Ok(Self {
            revision: Revision(batch.revision),
            events: batch.events.into_iter().map(event).collect::<Result<_>>()?,
        })
    }
}

impl From<&MetaCommand> for pb::MetaCommand {
    fn from(command: &MetaCommand) -> Self {
        use pb::meta_command::{Batch, Command, LeaseEnd, LeaseGrant, Prune, VersionKey};
        let command = match command {
            MetaCommand::Txn(txn) => Command::Txn(txn.into()),
            MetaCommand::LeaseGrant { ttl } => Command::LeaseGrant(LeaseGrant {
                ttl_ms: millis(*ttl),
            }),
            MetaCommand::LeaseEnd { leases } => Command::LeaseEnd(LeaseEnd {
                leases: leases.clone(),
            }),
            MetaCommand::Prune { before, versions } => {
                let key = |(key, ts): &(String, u64)| VersionKey {
                    key: key.clone(),
                    ts: *ts,
                };
                Command::Prune(Prune {
                    before: before.0,
                    versions: versions.iter().map(key).collect(),
                })
            }
            MetaCommand::Batch(commands) => Command::Batch(Batch {
                commands: commands.iter().map(Into::into).collect(),
            }),
        };
        Self {
            command: Some(command),
        }
    }
}

impl TryFrom<pb::MetaCommand> for MetaCommand {
    type Error = Error;

    fn try_from(command: pb::MetaCommand) -> Result<Self> {
        use pb::meta_command::Command;
        // An unknown command must stop the replica: passing it over would make it differ.
        Ok(
            match command
                .command
                .ok_or_else(|| invalid("an unknown command in the log"))?
            {
                Command::Txn(txn) => Self::Txn(txn.try_into()?),
                Command::LeaseGrant(grant) => Self::LeaseGrant {
                    ttl: Duration::from_millis(grant.ttl_ms),
                },
                Command::LeaseEnd(end) => Self::LeaseEnd { leases: end.leases },
                Command::Prune(prune) => Self::Prune {
                    before: Timestamp(prune.before),
                    versions: prune
                        .versions
                        .into_iter()
                        .map(|version| (version.key, version.ts))
                        .collect(),
                },
                Command::Batch(batch) => {
                    let commands = batch.commands.into_iter().map(TryInto::try_into);
                    Self::Batch(commands.collect::<Result<_>>()?)
                }
            },
        )
    }
}

/// Whole milliseconds, as all leases are counted.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        use pb::meta_error as e;
        let message = error.to_string();
        let (code, exact) = match error {
            Error::NotLeader { leader } => (
                Code::Unavailable,
                e::Error::NotLeader(e::NotLeader {
                    leader: leader.unwrap_or_default(),
                }),
            ),
            Error::Unavailable { what, outcome } => {
                let not_applied = outcome == Outcome::NotApplied;
                (
                    Code::Unavailable,
                    e::Error::Unavailable(e::Unavailable { what, not_applied }),
                )
            }
            // Never sent: the store knows of no offices.
            Error::Deposed { what } => (
                Code::Unavailable,
                e::Error::Unavailable(e::Unavailable {
                    what,
                    not_applied: true,
                }),
            ),
            Error::Compacted { oldest } => (
                Code::OutOfRange,
                e::Error::Compacted(e::Compacted { oldest }),
            ),
            Error::HistoryPruned { oldest } => (
                Code::OutOfRange,
                e::Error::HistoryPruned(e::HistoryPruned {
                    oldest: oldest.map(|oldest| oldest.0),
                }),
            ),
            Error::LeaseNotFound { lease } => (
                Code::NotFound,
                e::Error::LeaseNotFound(e::LeaseNotFound { lease }),
            ),
            Error::Invalid { what } => (
                Code::InvalidArgument,
                e::Error::Invalid(e::Invalid { what }),
            ),
            Error::Storage { what, .. } => (Code::Internal, e::Error::Storage(e::Failed { what })),
            Error::Corrupt { what } => (Code::DataLoss, e::Error::Corrupt(e::Failed { what })),
        };
        let exact = pb::MetaError { error: Some(exact) }.encode_to_vec();
        let mut status = Self::new(code, message);
        status
            .metadata_mut()
            .insert_bin(ERROR_KEY, MetadataValue::from_bytes(&exact));
        status
    }
}

/// What a failed call means; a status that no metastore wrote is an outage whose outcome is
/// unknown, unless the connection was never made.
pub(crate) fn error_from_status(status: &Status) -> Error {
    let exact = status.metadata().get_bin(ERROR_KEY).and_then(|value| {
        let bytes = value.to_bytes().ok()?;
        pb::MetaError::decode(bytes).ok()?.error
    });
    let Some(exact) = exact else {
        let outcome = if never_sent(status) {
            Outcome::NotApplied
        } else {
            Outcome::Unknown
        };
        return Error::Unavailable {
            what: status.to_string(),
            outcome,
        };
    };
    use pb::meta_error as e;
    match exact {
        e::Error::NotLeader(error) => Error::NotLeader {
            leader: (!error.leader.is_empty()).then_some(error.leader),
        },
        e::Error::Unavailable(error) => Error::Unavailable {
            what: error.what,
            outcome: if error.not_applied {
                Outcome::NotApplied
            } else {
                Outcome::Unknown
            },
        },
        e::Error::Compacted(error) => Error::Compacted {
            oldest: error.oldest,
        },
        e::Error::HistoryPruned(error) => Error::HistoryPruned {
            oldest: error.oldest.map(Timestamp),
        },
        e::Error::LeaseNotFound(error) => Error::LeaseNotFound { lease: error.lease },
        e::Error::Invalid(error) => Error::Invalid { what: error.what },
        // The other replica's disk, not ours: for us it is an outage.
        e::Error::Storage(error) | e::Error::Corrupt(error) => Error::Unavailable {
            what: error.what,
            outcome: Outcome::Unknown,
        },
    }
}

fn never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
