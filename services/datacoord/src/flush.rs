//! Commits a flush in one transaction.

use prost::Message;
use redkite_catalog::keys;
use redkite_metastore::{Compare, KeyValue, MetaKv, Op, Txn, TxnOutcome};
use redkite_proto::redkite::{
    datacoord::CommitFlushRequest,
    meta::{ChannelCheckpoint, ChannelOwner, FileInfo, ObjectState, PartitionInfo, SegmentInfo},
};
use redkite_types::{CollectionId, Error, ErrorCode, PartitionId, Result, Revision, SegmentId};
use tracing::info;

use crate::gate::CommitGate;

/// How often a commit starts again because partitions were dropped meanwhile.
const ATTEMPTS: usize = 16;

/// Makes segments, deletes and checkpoint visible at once; segments of partitions that are gone
/// are left out.
///
/// A flush whose checkpoint is not ahead of the recorded one has been committed before and changes
/// nothing.
///
/// # Errors
/// Code 507 when the epoch is not the owner's any more: the caller must give the channel up.
/// Code 1000 when a file is not there as it was written: the caller must write all of them again.
/// Code 2 or 1001 when a store did not answer: the same request may be sent again.
pub async fn commit(
    kv: &dyn MetaKv,
    gate: &CommitGate,
    request: &CommitFlushRequest,
) -> Result<Revision> {
    for _ in 0..ATTEMPTS {
        let Some(Prepared { txn, files }) = prepare(kv, request).await? else {
            let page = kv.range(&keys::checkpoint(&request.channel), None, 1).await;
            return Ok(page.map_err(unavailable)?.revision);
        };
        match gate.commit(kv, &files, txn).await? {
            TxnOutcome::Applied { revision } => {
                info!(
                    channel = %request.channel,
                    segments = request.segments.len(),
                    revision = revision.0,
                    "flush committed"
                );
                return Ok(revision);
            }
            // The owner, the checkpoint or a partition has changed since it was read: look again.
            TxnOutcome::Refused { .. } => {}
        }
    }
    Err(Error::new(
        ErrorCode::ServiceUnavailable,
        format!(
            "flush of channel {} met changing metadata too often",
            request.channel
        ),
    ))
}

struct Prepared {
    /// Guarded by everything that it relies on.
    txn: Txn,
    /// What it names.
    files: Vec<FileInfo>,
}

/// The transaction; `None` when it was committed before.
async fn prepare(kv: &dyn MetaKv, request: &CommitFlushRequest) -> Result<Option<Prepared>> {
    let checkpoint = request
        .checkpoint
        .as_ref()
        .ok_or_else(|| Error::internal("a flush without a checkpoint"))?;
    let collection = CollectionId(request.collection_id);

    let owner_key = keys::channel_owner(&request.channel);
    let owner = kv.get(&owner_key).await.map_err(unavailable)?;
    let mut txn = Txn::new().when(check_owner(owner, owner_key, request)?);

    let checkpoint_key = keys::checkpoint(&request.channel);
    let recorded = kv.get(&checkpoint_key).await.map_err(unavailable)?;
    txn = match recorded {
        Some(pair) => {
            if decode::<ChannelCheckpoint>(&pair)?.lsn >= checkpoint.lsn {
                return Ok(None);
            }
            txn.when(Compare::Revision {
                key: checkpoint_key.clone(),
                revision: pair.revision,
            })
        }
        None => txn.when(Compare::Absent {
            key: checkpoint_key.clone(),
        }),
    };

    let mut files = Vec::new();
    for segment in &request.segments {
        if let Some(guard) = live_partition(kv, collection, segment).await? {
            let key = keys::segment(
                collection,
                PartitionId(segment.partition_id),
                SegmentId(segment.id),
            );
            txn = txn.when(guard).then(Op::put(key, segment.encode_to_vec()));
            files.extend_from_slice(&segment.files);
        }
    }
    if let Some(delta) = &request.delta {
        txn = txn.then(Op::put(
            keys::delta(collection, delta.id),
            delta.encode_to_vec(),
        ));
        files.extend(delta.file.clone());
    }
    txn = txn.then(Op::put(checkpoint_key, checkpoint.encode_to_vec()));
    Ok(Some(Prepared { txn, files }))
}

fn check_owner(
    owner: Option<KeyValue>,
    key: String,
    request: &CommitFlushRequest,
) -> Result<Compare> {
    let misrouted = |what: &str| {
        Error::new(
            ErrorCode::ChannelMisrouted,
            format!(
                "flush of channel {} under epoch {}: {what}",
                request.channel, request.epoch
            ),
        )
    };
    let pair = owner.ok_or_else(|| misrouted("the channel has no owner"))?;
    let epoch = decode::<ChannelOwner>(&pair)?.epoch;
    if epoch != request.epoch {
        return Err(misrouted(&format!("the owner's epoch is {epoch}")));
    }
    Ok(Compare::Revision {
        key,
        revision: pair.revision,
    })
}

/// A guard that the segment's partition stays as it is; `None` when it is gone or going.
async fn live_partition(
    kv: &dyn MetaKv,
    collection: CollectionId,
    segment: &SegmentInfo,
) -> Result<Option<Compare>> {
    let key = keys::partition(collection, PartitionId(segment.partition_id));
    let Some(pair) = kv.get(&key).await.map_err(unavailable)? else {
        return Ok(None);
    };
    let live = matches!(
        decode::<PartitionInfo>(&pair)?.state(),
        ObjectState::Created | ObjectState::Creating
    );
    Ok(live.then_some(Compare::Revision {
        key,
        revision: pair.revision,
    }))
}

fn decode<M: Message + Default>(pair: &KeyValue) -> Result<M> {
    M::decode(pair.value.clone()).map_err(|error| {
        Error::new(
            ErrorCode::DataIntegrity,
            format!("record {} is damaged: {error}", pair.key),
        )
    })
}

fn unavailable(error: redkite_metastore::Error) -> Error {
    Error::from_coded(&error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use redkite_metastore::MemKv;
    use redkite_storage::ObjectStore;

    use super::*;

    const C: CollectionId = CollectionId(10);

    async fn put(kv: &MemKv, key: String, value: impl Message) {
        kv.txn(Txn::new().then(Op::put(key, value.encode_to_vec())))
            .await
            .unwrap();
    }

    async fn world() -> MemKv {
        let kv = MemKv::new();
        let owner = ChannelOwner {
            epoch: 3,
            channel: "10v0".into(),
            ..ChannelOwner::default()
        };
        put(&kv, keys::channel_owner("10v0"), owner).await;
        for (id, state) in [(11, ObjectState::Created), (12, ObjectState::Dropping)] {
            let partition = PartitionInfo {
                id,
                state: state.into(),
                ..PartitionInfo::default()
            };
            put(&kv, keys::partition(C, PartitionId(id)), partition).await;
        }
        kv
    }

    fn request(epoch: u64, lsn: u64) -> CommitFlushRequest {
        let segment = |id, partition_id| SegmentInfo {
            id,
            partition_id,
            files: vec![FileInfo {
                path: format!("f/{id}"),
                size: 2,
                crc32c: 0,
            }],
            ..SegmentInfo::default()
        };
        CommitFlushRequest {
            channel: "10v0".into(),
            collection_id: C.0,
            epoch,
            segments: vec![segment(20, 11), segment(21, 12), segment(22, 13)],
            delta: None,
            checkpoint: Some(ChannelCheckpoint {
                lsn,
                ..ChannelCheckpoint::default()
            }),
        }
    }

    /// Files of segment 20 only: the others' partitions are gone, and nobody looks at theirs.
    async fn gate() -> (Arc<dyn ObjectStore>, Arc<CommitGate>) {
        let store = redkite_storage::open("memory://").unwrap();
        store.put("f/20", Bytes::from_static(b"20")).await.unwrap();
        (store.clone(), CommitGate::new(store))
    }

    #[tokio::test]
    async fn a_flush_is_committed_once_and_without_dropped_partitions() {
        let kv = world().await;
        let (store, gate) = gate().await;
        let revision = commit(&kv, &gate, &request(3, 100)).await.unwrap();
        // Once it is committed its files may have been replaced by those of a compaction.
        store.delete("f/20").await.unwrap();
        let again = commit(&kv, &gate, &request(3, 100)).await.unwrap();
        assert_eq!(revision, again);
        let segments = kv.range(&keys::segments(C), None, 10).await.unwrap().pairs;
        let keys: Vec<&str> = segments.iter().map(|pair| pair.key.as_str()).collect();
        assert_eq!(keys, ["datacoord-meta/s/10/11/20"]);
    }

    async fn assert_nothing_is_committed(kv: &MemKv) {
        let segments = kv.range(&keys::segments(C), None, 10).await.unwrap().pairs;
        assert!(segments.is_empty());
        let checkpoint = kv.get(&keys::checkpoint("10v0")).await.unwrap();
        assert!(checkpoint.is_none(), "the log must not be cut");
    }

    #[tokio::test]
    async fn a_deposed_owner_commits_nothing() {
        let kv = world().await;
        let (_, gate) = gate().await;
        let error = commit(&kv, &gate, &request(2, 100)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ChannelMisrouted);
        assert_nothing_is_committed(&kv).await;
    }

    #[tokio::test]
    async fn a_flush_whose_files_were_collected_commits_nothing_until_they_are_written_again() {
        let kv = world().await;
        let (store, gate) = gate().await;
        store.delete("f/20").await.unwrap();
        let error = commit(&kv, &gate, &request(3, 100)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::IoKeyNotFound);
        assert!(!error.retriable);
        assert_nothing_is_committed(&kv).await;
        store.put("f/20", Bytes::from_static(b"20")).await.unwrap();
        commit(&kv, &gate, &request(3, 100)).await.unwrap();
    }
}
