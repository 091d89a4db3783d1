//! Removes what a dropped collection or partition leaves behind.

use redkite_catalog::keys;
use redkite_metastore::{MetaKv, Op, Txn, TxnOutcome, read_all};
use redkite_storage::{ObjectStore, layout};
use redkite_types::{Coded, CollectionId, Error, PartitionId, Result, Revision};
use tracing::info;

/// Removes the metadata of segments, deletes, checkpoints and index builds, then their files.
///
/// Doing it again changes nothing. A crash between the two leaves files that nothing names.
///
/// # Errors
/// Code 2 or 1001 when a store did not answer: the same call may be made again.
pub async fn drop_data(
    kv: &dyn MetaKv,
    store: &dyn ObjectStore,
    collection: CollectionId,
    partition: Option<PartitionId>,
) -> Result<Revision> {
    let mut txn = Txn::new();
    match partition {
        Some(partition) => {
            for prefix in [
                keys::partition_segments(collection, partition),
                keys::partition_segment_indexes(collection, partition),
            ] {
                txn = txn.then(Op::DeletePrefix { prefix });
            }
        }
        None => {
            for prefix in [
                keys::segments(collection),
                keys::segment_indexes(collection),
                keys::deltas(collection),
                keys::compactions(collection),
            ] {
                txn = txn.then(Op::DeletePrefix { prefix });
            }
            // Channel names start with the collection's id: `{id}v{shard}`.
            let prefix = keys::checkpoint(&format!("{collection}v"));
            txn = txn.then(Op::DeletePrefix { prefix });
        }
    }
    let channels = channels_with_deltas(kv, collection).await?;
    let outcome = kv
        .txn(txn)
        .await
        .map_err(|error| Error::from_coded(&error))?;
    let revision = match outcome {
        TxnOutcome::Applied { revision } => revision,
        TxnOutcome::Refused { .. } => Revision(0),
    };
    let mut prefixes = vec![match partition {
        Some(partition) => format!("{}{partition}/", layout::collection_prefix(collection)),
        None => layout::collection_prefix(collection),
    }];
    if partition.is_none() {
        prefixes.extend(channels.iter().map(|channel| layout::delta_prefix(channel)));
    }
    let mut files = 0;
    for prefix in prefixes {
        files += delete_files(store, &prefix).await?;
    }
    info!(
        collection = collection.0,
        files, "data of a dropped object removed"
    );
    Ok(revision)
}

async fn channels_with_deltas(kv: &dyn MetaKv, collection: CollectionId) -> Result<Vec<String>> {
    use prost::Message;
    use redkite_proto::redkite::meta::DeltaInfo;

    let (pairs, _) = read_all(kv, &keys::deltas(collection))
        .await
        .map_err(|error| Error::from_coded(&error))?;
    let mut channels: Vec<String> = pairs
        .into_iter()
        .filter_map(|pair| DeltaInfo::decode(pair.value).ok())
        .map(|delta| delta.channel)
        .collect();
    channels.sort();
    channels.dedup();
    Ok(channels)
}

async fn delete_files(store: &dyn ObjectStore, prefix: &str) -> Result<usize> {
    let objects = store
        .list(prefix)
        .await
        .map_err(|error| storage_error(&error))?;
    let count = objects.len();
    for object in objects {
        store
            .delete(&object.key)
            .await
            .map_err(|error| storage_error(&error))?;
    }
    Ok(count)
}

fn storage_error(error: &impl Coded) -> Error {
    Error::from_coded(error)
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
        let store = redkite_storage::open("memory://").unwrap();
        for (partition, segment) in [(11, 20), (12, 21)] {
            let (partition, segment) = (PartitionId(partition), SegmentId(segment));
            let key = keys::segment(C, partition, segment);
            kv.txn(Txn::new().then(Op::put(key, Bytes::new())))
                .await
                .unwrap();
            let data = layout::segment_data(C, partition, segment);
            store.put(&data, Bytes::from_static(b"x")).await.unwrap();
        }
        drop_data(&kv, store.as_ref(), C, Some(PartitionId(11)))
            .await
            .unwrap();
        let left = kv.range(&keys::segments(C), None, 10).await.unwrap().pairs;
        assert_eq!(left.len(), 1);
        assert_eq!(store.list("segments/").await.unwrap().len(), 1);
        for _ in 0..2 {
            drop_data(&kv, store.as_ref(), C, None).await.unwrap();
            assert!(
                kv.range(&keys::segments(C), None, 10)
                    .await
                    .unwrap()
                    .pairs
                    .is_empty()
            );
            assert!(store.list("segments/").await.unwrap().is_empty());
        }
    }
}
