//! Removes what a dropped collection or partition leaves behind.

use redkite_catalog::keys;
use redkite_metastore::{MetaKv, Op, Txn, TxnOutcome};
use redkite_types::{CollectionId, Error, PartitionId, Result, Revision};
use tracing::info;

use crate::snapshot::pins;

/// Removes the metadata of segments, deletes, checkpoints, compactions and index builds. Their files
/// are named by nothing then, and are left to the collector: a reader may hold them still. The
/// snapshots of a collection go with it, but for those that are pinned at `now_ms`.
///
/// Doing it again changes nothing.
///
/// # Errors
/// Code 2 when the metastore did not answer: the same call may be made again.
pub async fn drop_data(
    kv: &dyn MetaKv,
    collection: CollectionId,
    partition: Option<PartitionId>,
    now_ms: u64,
) -> Result<Revision> {
    if partition.is_none() {
        pins::drop_all(kv, collection, now_ms).await?;
    }
    let prefixes = match partition {
        Some(partition) => vec![
            keys::partition_segments(collection, partition),
            keys::partition_segment_indexes(collection, partition),
        ],
        None => vec![
            keys::segments(collection),
            keys::segment_indexes(collection),
            keys::deltas(collection),
            keys::compactions(collection),
            // Channel names start with the collection's id: `{id}v{shard}`.
            keys::checkpoint(&format!("{collection}v")),
        ],
    };
    let txn = prefixes.into_iter().fold(Txn::new(), |txn, prefix| {
        txn.then(Op::DeletePrefix { prefix })
    });
    let outcome = kv
        .txn(txn)
        .await
        .map_err(|error| Error::from_coded(&error))?;
    let revision = match outcome {
        TxnOutcome::Applied { revision } => revision,
        TxnOutcome::Refused { .. } => Revision(0),
    };
    info!(
        collection = collection.0,
        partition = partition.map(|partition| partition.0),
        "data of a dropped object forgotten"
    );
    Ok(revision)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use redkite_metastore::MemKv;
    use redkite_types::SegmentId;

    use super::*;

    const C: CollectionId = CollectionId(10);

    #[tokio::test]
    async fn only_what_was_dropped_goes() {
        let kv = MemKv::new();
        let put = async |key: String| {
            kv.txn(Txn::new().then(Op::put(key, Bytes::new())))
                .await
                .unwrap();
        };
        for (partition, segment) in [(11, 20), (12, 21)] {
            put(keys::segment(C, PartitionId(partition), SegmentId(segment))).await;
        }
        put(keys::segment(
            CollectionId(101),
            PartitionId(11),
            SegmentId(22),
        ))
        .await;
        put(keys::checkpoint("10v0")).await;
        put(keys::checkpoint("101v0")).await;
        let left = async || -> Vec<String> {
            let pairs = kv.range("", None, 10).await.unwrap().pairs;
            pairs.into_iter().map(|pair| pair.key).collect()
        };
        drop_data(&kv, C, Some(PartitionId(11)), 0).await.unwrap();
        assert_eq!(left().await.len(), 4);
        for _ in 0..2 {
            drop_data(&kv, C, None, 0).await.unwrap();
            assert_eq!(
                left().await,
                [
                    "datacoord-meta/channel-cp/101v0",
                    "datacoord-meta/s/101/11/22"
                ]
            );
        }
    }
}
