//! Logs that a crash has left behind.
//!
//! The owner of a channel removes its log when the collection is dropped. An owner that dies before
//! never does; whoever has the same directory next finds the log here.

use std::collections::HashSet;

use redkite_catalog::keys::{self, Key};
use redkite_metastore::{MetaKv, read_all};
use redkite_types::{CollectionId, Error, Result, error::chain};
use redkite_wal::LogStore;
use tracing::{info, warn};

/// Removes the logs of channels whose collection does not exist any more; answers how many.
///
/// Logs are listed first and collections read after that: a collection is on record before its log
/// is made, and its id is never used again, so one that is not on record is gone for good. A log
/// that another process holds, or whose channel's name says nothing, stays.
///
/// # Errors
/// As the metastore or the logs' directory says; nothing is removed then. A single log that cannot
/// be removed is logged.
pub(crate) async fn remove_orphan_logs(kv: &dyn MetaKv, logs: &dyn LogStore) -> Result<usize> {
    let channels = logs
        .channels()
        .await
        .map_err(|error| Error::from_coded(&error))?;
    if channels.is_empty() {
        return Ok(0);
    }
    let existing = existing_collections(kv).await?;
    let mut removed = 0;
    for channel in channels {
        let Some(collection) = keys::collection_of_channel(&channel) else {
            warn!(channel, "a log of no collection is left where it is");
            continue;
        };
        if existing.contains(&collection) {
            continue;
        }
        match logs.remove(&channel).await {
            Ok(()) => {
                info!(channel, "log of a dropped collection removed");
                removed += 1;
            }
            Err(error) => {
                warn!(channel, error = %chain(&error), "log of a dropped collection not removed");
            }
        }
    }
    Ok(removed)
}

/// Every collection on record, in any state.
async fn existing_collections(kv: &dyn MetaKv) -> Result<HashSet<CollectionId>> {
    let (pairs, _) = read_all(kv, keys::COLLECTIONS)
        .await
        .map_err(|error| Error::from_coded(&error))?;
    let ids = pairs.iter().map(|pair| match Key::parse(&pair.key) {
        Key::Collection(id) => Ok(id),
        _ => Err(Error::internal(format!(
            "record {} stands among collections",
            pair.key
        ))),
    });
    ids.collect()
}

#[cfg(test)]
mod tests {
    use redkite_metastore::{MemKv, Op, Txn};
    use redkite_types::DatabaseId;
    use redkite_wal::{LocalLogStore, LocalOptions};

    use super::*;

    #[tokio::test]
    async fn only_logs_of_collections_that_are_gone_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LocalLogStore::new(dir.path(), LocalOptions::default());
        let kv = MemKv::new();
        let key = keys::collection(DatabaseId(1), CollectionId(10));
        kv.txn(Txn::new().then(Op::put(key.clone(), "")))
            .await
            .unwrap();
        for channel in ["10v0", "11v0", "12v0", "strange"] {
            logs.open(channel, 1).await.unwrap().close().await;
        }
        let held = logs.open("12v0", 1).await.unwrap();
        assert_eq!(remove_orphan_logs(&kv, &logs).await.unwrap(), 1);
        assert_eq!(logs.channels().await.unwrap(), ["10v0", "12v0", "strange"]);
        held.close().await;
        drop(held);
        assert_eq!(remove_orphan_logs(&kv, &logs).await.unwrap(), 1);
        assert_eq!(logs.channels().await.unwrap(), ["10v0", "strange"]);
        // A key that is not understood may be a collection's.
        let strange = format!("{}1/x", keys::COLLECTIONS);
        let txn = Txn::new().then(Op::put(strange, "")).then(Op::delete(key));
        kv.txn(txn).await.unwrap();
        assert!(remove_orphan_logs(&kv, &logs).await.is_err());
        assert_eq!(logs.channels().await.unwrap(), ["10v0", "strange"]);
    }
}
