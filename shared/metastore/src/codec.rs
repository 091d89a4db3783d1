//! The persisted forms: a command in the log, a state in a snapshot.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use imbl::{OrdMap, OrdSet};
use prost::Message;
use redkite_proto::redkite::metastore as pb;
use redkite_types::Revision;

use crate::command::MetaCommand;
use crate::error::{Error, Result};
use crate::state::{Item, KvState, Lease};
use crate::wire::millis;

/// Version of an encoded command.
const COMMAND_VERSION: u8 = 1;
/// Magic number and version of an encoded state.
const STATE_MAGIC: [u8; 5] = *b"RKMS\x01";

impl MetaCommand {
    /// The form in the log: a version byte, then the protobuf message.
    pub fn encode(&self) -> Bytes {
        let message = pb::MetaCommand::from(self);
        let mut bytes = Vec::with_capacity(1 + message.encoded_len());
        bytes.push(COMMAND_VERSION);
        message.encode_raw(&mut bytes);
        bytes.into()
    }

    /// Reads what [`MetaCommand::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Corrupt`], also for a version from the future: a replica that passed a command
    /// over would differ from the others for ever.
    pub fn decode(mut bytes: Bytes) -> Result<Self> {
        if bytes.first() != Some(&COMMAND_VERSION) {
            return Err(corrupt("a command in the log has an unknown version"));
        }
        bytes.advance(1);
        let message = pb::MetaCommand::decode(bytes)
            .map_err(|error| corrupt(format!("a command in the log: {error}")))?;
        message
            .try_into()
            .map_err(|error| corrupt(format!("a command in the log: {error}")))
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
        body = body
            .strip_prefix(&STATE_MAGIC)
            .ok_or_else(|| corrupt("a snapshot has an unknown version"))?;
        let header: pb::SnapshotHeader = take_message(&mut body)?;
        let mut state = Self {
            pairs: OrdMap::new(),
            leases: OrdMap::new(),
            revision: Revision(header.revision),
            last_lease: header.last_lease,
        };
        let mut leased = Vec::new();
        for _ in 0..header.pairs {
            let pair: pb::KeyValue = take_message(&mut body)?;
            let key: std::sync::Arc<str> = pair.key.into();
            if pair.lease != 0 {
                leased.push((pair.lease, std::sync::Arc::clone(&key)));
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
        if !body.is_empty() {
            return Err(corrupt("a snapshot has more in it than it says"));
        }
        Ok(state)
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
        let all = vec![MetaCommand::Txn(txn), grant, end];
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
