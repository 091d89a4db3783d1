//! The persisted forms: a command in the log, a state in a snapshot.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use imbl::{OrdMap, OrdSet};
use prost::Message;
use redkite_proto::redkite::metastore as pb;
use redkite_proto::redkite::metastore::snapshot_version::Held;
use redkite_types::{Revision, Timestamp};

use crate::command::MetaCommand;
use crate::error::{Error, Result};
use crate::state::{Item, KvState, Lease};
use crate::versions::{Horizon, Version};
use crate::wire::millis;

/// Version of an encoded command.
const COMMAND_VERSION: u8 = 1;
/// Version of a command that changes the history: a replica that knows of none must not pass it over.
const COMMAND_VERSION_HISTORY: u8 = 2;
/// Magic number and version of an encoded state.
const STATE_MAGIC: [u8; 5] = *b"RKMS\x02";
/// The same of a state without history.
const STATE_MAGIC_PLAIN: [u8; 5] = *b"RKMS\x01";

/// Stands for [`Horizon::NextStamp`].
const NO_HISTORY: u64 = u64::MAX;

impl MetaCommand {
    /// The form in the log: a version byte, then the protobuf message.
    pub fn encode(&self) -> Bytes {
        let message = pb::MetaCommand::from(self);
        let mut bytes = Vec::with_capacity(1 + message.encoded_len());
        bytes.push(if self.changes_history() {
            COMMAND_VERSION_HISTORY
        } else {
            COMMAND_VERSION
        });
        message.encode_raw(&mut bytes);
        bytes.into()
    }

    /// Reads what [`MetaCommand::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Corrupt`], also for a version from the future: a replica that passed a command
    /// over would differ from the others for ever.
    pub fn decode(mut bytes: Bytes) -> Result<Self> {
        if !matches!(
            bytes.first(),
            Some(&(COMMAND_VERSION | COMMAND_VERSION_HISTORY))
        ) {
            return Err(corrupt("a command in the log has an unknown version"));
        }
        bytes.advance(1);
        let message = pb::MetaCommand::decode(bytes)
            .map_err(|error| corrupt(format!("a command in the log: {error}")))?;
        message
            .try_into()
            .map_err(|error| corrupt(format!("a command in the log: {error}")))
    }

    fn changes_history(&self) -> bool {
        match self {
            Self::Txn(txn) => txn.ts.is_some(),
            Self::Prune { .. } => true,
            Self::LeaseGrant { .. } | Self::LeaseEnd { .. } => false,
            Self::Batch(commands) => commands.iter().any(Self::changes_history),
        }
    }
}

impl KvState {
    /// The form in a snapshot; see `SnapshotHeader` in `metastore.proto`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = STATE_MAGIC.to_vec();
        let header = pb::SnapshotHeader {
            revision: self.revision.0,
            last_lease: self.last_lease,
            pairs: self.pairs.len() as u64,
            leases: self.leases.len() as u64,
            versions: self.versions.len() as u64,
            horizon: match self.horizon {
                Horizon::From(Timestamp(oldest)) => oldest,
                Horizon::NextStamp => NO_HISTORY,
            },
        };
        put_message(&mut bytes, &header);
        for (key, item) in &self.pairs {
            put_message(&mut bytes, &pb::KeyValue::from(item.to_pair(key)));
        }
        for (lease, state) in &self.leases {
            let ttl_ms = millis(state.ttl);
            put_message(
                &mut bytes,
                &pb::SnapshotLease {
                    lease: *lease,
                    ttl_ms,
                },
            );
        }
        let mut last: Option<&Arc<str>> = None;
        for ((key, ts), version) in &self.versions {
            let pair = self.pairs.get(key);
            let is_current = pair.is_some_and(|pair| version.is_of(pair));
            let message = pb::SnapshotVersion {
                key: if last == Some(key) {
                    String::new()
                } else {
                    key.to_string()
                },
                ts: *ts,
                revision: version.revision.0,
                held: Some(match &version.value {
                    None => Held::Tombstone(true),
                    Some(_) if is_current => Held::Current(true),
                    Some(value) => Held::Value(value.clone()),
                }),
            };
            put_message(&mut bytes, &message);
            last = Some(key);
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads what [`KvState::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut body, checksum) = bytes
            .split_last_chunk::<4>()
            .ok_or_else(|| corrupt("a snapshot is cut off"))?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err(corrupt("a snapshot's checksum is wrong"));
        }
        let is_plain = body.starts_with(&STATE_MAGIC_PLAIN);
        let magic = if is_plain {
            STATE_MAGIC_PLAIN
        } else {
            STATE_MAGIC
        };
        body = body
            .strip_prefix(&magic)
            .ok_or_else(|| corrupt("a snapshot has an unknown version"))?;
        let header: pb::SnapshotHeader = take_message(&mut body)?;
        let mut state = Self {
            pairs: OrdMap::new(),
            leases: OrdMap::new(),
            revision: Revision(header.revision),
            last_lease: header.last_lease,
            versions: OrdMap::new(),
            horizon: match header.horizon {
                // What keys held before is not known.
                _ if is_plain && header.pairs > 0 => Horizon::NextStamp,
                NO_HISTORY => Horizon::NextStamp,
                oldest => Horizon::From(Timestamp(oldest)),
            },
        };
        let mut leased = Vec::new();
        for _ in 0..header.pairs {
            let pair: pb::KeyValue = take_message(&mut body)?;
            let key: Arc<str> = pair.key.into();
            if pair.lease != 0 {
                leased.push((pair.lease, Arc::clone(&key)));
            }
            let item = Item {
                value: pair.value,
                revision: Revision(pair.revision),
                lease: pair.lease,
            };
            state.pairs.insert(key, item);
        }
        for _ in 0..header.leases {
            let lease: pb::SnapshotLease = take_message(&mut body)?;
            let ttl = Duration::from_millis(lease.ttl_ms);
            state.leases.insert(
                lease.lease,
                Lease {
                    ttl,
                    keys: OrdSet::new(),
                },
            );
        }
        for (lease, key) in leased {
            let lease = state.leases.get_mut(&lease);
            let lease = lease.ok_or_else(|| corrupt(format!("{key} has an unknown lease")))?;
            lease.keys.insert(key);
        }
        state.take_versions(header.versions, &mut body)?;
        if !body.is_empty() {
            return Err(corrupt("a snapshot has more in it than it says"));
        }
        Ok(state)
    }

    fn take_versions(&mut self, count: u64, body: &mut &[u8]) -> Result<()> {
        let mut last: Option<Arc<str>> = None;
        for _ in 0..count {
            let message: pb::SnapshotVersion = take_message(body)?;
            // Keys are shared with the pairs, and so are values that are still theirs.
            let key = match (message.key.as_str(), &last) {
                ("", Some(last)) => Arc::clone(last),
                (key, _) => match self.pairs.get_key_value(key) {
                    Some((known, _)) => Arc::clone(known),
                    None => Arc::from(key),
                },
            };
            let value = match message.held {
                Some(Held::Tombstone(_)) => None,
                Some(Held::Value(value)) => Some(value),
                Some(Held::Current(_)) => {
                    let pair = self.pairs.get(&key);
                    let pair = pair.ok_or_else(|| {
                        corrupt(format!(
                            "a snapshot: {key} is gone, but its version says that it is there"
                        ))
                    })?;
                    Some(pair.value.clone())
                }
                None => return Err(corrupt(format!("a snapshot: a version of {key} is empty"))),
            };
            let version = Version {
                value,
                revision: Revision(message.revision),
            };
            self.versions
                .insert((Arc::clone(&key), message.ts), version);
            last = Some(key);
        }
        Ok(())
    }
}

fn put_message(bytes: &mut Vec<u8>, message: &impl Message) {
    prost::encoding::encode_varint(message.encoded_len() as u64, bytes);
    message.encode_raw(bytes);
}

fn take_message<M: Message + Default>(bytes: &mut &[u8]) -> Result<M> {
    // From a plain slice, values are copied out and do not keep the whole snapshot in memory.
    M::decode_length_delimited(bytes).map_err(|error| corrupt(format!("a snapshot: {error}")))
}

pub(crate) fn corrupt(what: impl Into<String>) -> Error {
    Error::Corrupt { what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Compare, Op, Txn};

    fn commands() -> Vec<MetaCommand> {
        let txn = Txn::new()
            .when(Compare::Absent { key: "a".into() })
            .when(Compare::Exists { key: "ü".into() })
            .when(Compare::Revision {
                key: "c".into(),
                revision: Revision(u64::MAX),
            })
            .when(Compare::Value {
                key: "d".into(),
                value: Bytes::from_static(&[0, 255]),
            })
            .then(Op::Put {
                key: "e".into(),
                value: Bytes::from_static(b"x"),
                lease: 7,
            })
            .then(Op::put("f", ""))
            .then(Op::delete("g"))
            .then(Op::DeletePrefix {
                prefix: "h/".into(),
            });
        let grant = MetaCommand::LeaseGrant {
            ttl: Duration::from_millis(1_500),
        };
        let end = MetaCommand::LeaseEnd {
            leases: vec![1, u64::MAX],
        };
        let prune = MetaCommand::Prune {
            before: Timestamp(5),
            versions: vec![("i".into(), 4), ("j".into(), u64::MAX)],
        };
        let stamped = txn.clone().at(Timestamp(7));
        let all = vec![
            MetaCommand::Txn(txn),
            MetaCommand::Txn(stamped),
            grant,
            end,
            prune,
        ];
        let mut commands = all.clone();
        commands.push(MetaCommand::Batch(all));
        commands
    }

    #[test]
    fn commands_come_back() {
        for command in commands() {
            assert_eq!(MetaCommand::decode(command.encode()).unwrap(), command);
        }
    }

    #[test]
    fn a_command_that_is_not_understood_is_corrupt() {
        let good = commands()[0].encode();
        let future = [&[9], &good[1..]].concat();
        let unknown = vec![COMMAND_VERSION, 0x7a, 0];
        for bad in [
            Vec::new(),
            vec![COMMAND_VERSION],
            future,
            unknown,
            good[..9].to_vec(),
        ] {
            let error = MetaCommand::decode(bad.clone().into()).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{bad:?}: {error:?}");
        }
    }

    #[test]
    fn the_form_of_a_command_stays() {
        let txn = Txn::new()
            .when(Compare::Absent { key: "k".into() })
            .then(Op::Put {
                key: "k".into(),
                value: Bytes::from_static(b"v"),
                lease: 3,
            });
        let golden = [
            1, 0x0a, 0x11, 0x0a, 0x03, 0x0a, 0x01, b'k', 0x12, 0x0a, 0x0a, 0x08, 0x0a, 0x01, b'k',
            0x12, 0x01, b'v', 0x18, 0x03,
        ];
        assert_eq!(MetaCommand::Txn(txn).encode()[..], golden);
    }

    #[test]
    fn states_come_back_with_their_leases() {
        let mut state = KvState::new();
        state.apply(&MetaCommand::LeaseGrant {
            ttl: Duration::from_secs(5),
        });
        state.apply(&MetaCommand::LeaseGrant {
            ttl: Duration::from_secs(6),
        });
        for i in 0..100_u64 {
            let lease = i % 3;
            let op = Op::Put {
                key: format!("k/{i}"),
                value: i.to_string().into(),
                lease,
            };
            state.apply(&MetaCommand::Txn(Txn::new().then(op)));
        }
        let bytes = state.encode();
        assert_eq!(KvState::decode(&bytes).unwrap(), state);
        assert_eq!(
            KvState::decode(&KvState::new().encode()).unwrap(),
            KvState::new()
        );
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(
                matches!(KvState::decode(&damaged), Err(Error::Corrupt { .. })),
                "byte {at}"
            );
        }
        for length in 0..bytes.len() {
            assert!(
                KvState::decode(&bytes[..length]).is_err(),
                "cut to {length}"
            );
        }
    }
}
