//! Who keeps a snapshot from being dropped, and the drop.

use prost::Message;
use redkite_catalog::keys;
use redkite_metastore::{Compare, KeyValue, MetaKv, Op, Txn, TxnOutcome, read_all};
use redkite_proto::redkite::meta::{
    RestoreJobInfo, SnapshotInfo, SnapshotPin, restore_job_info::State,
};
use redkite_types::{CollectionId, Error, ErrorCode, Result, Revision};

use super::not_found;

/// How often a change starts again because the record has changed meanwhile.
const ATTEMPTS: usize = 64;

/// Whether a pin holds at a time in Unix milliseconds.
pub fn holds(pin: &SnapshotPin, now_ms: u64) -> bool {
    pin.expires_ms == 0 || pin.expires_ms > now_ms
}

/// Whether any pin holds.
pub fn is_pinned(snapshot: &SnapshotInfo, now_ms: u64) -> bool {
    snapshot.pins.iter().any(|pin| holds(pin, now_ms))
}

/// What becomes of a snapshot's record.
enum Change {
    Nothing,
    Put(Box<SnapshotInfo>),
    Delete,
}

/// Adds a pin, unless one of its id holds already, and takes expired ones away.
///
/// # Errors
/// Code 2600 when there is no snapshot; 2 when the metastore did not answer: with the same id it may
/// be done again.
pub async fn add(
    kv: &dyn MetaKv,
    collection: CollectionId,
    name: &str,
    pin: SnapshotPin,
    now_ms: u64,
) -> Result<SnapshotInfo> {
    let mut pinned = None;
    change(kv, collection, name, |found| {
        let Some(mut info) = found else {
            return Err(not_found(collection, name));
        };
        info.pins.retain(|pin| holds(pin, now_ms));
        if !info.pins.iter().any(|one| one.id == pin.id) {
            info.pins.push(pin);
        }
        pinned = Some(info.clone());
        Ok(Change::Put(Box::new(info)))
    })
    .await?;
    pinned.ok_or_else(|| not_found(collection, name))
}

/// Takes a pin away, and expired ones with it.
///
/// # Errors
/// Code 2 when the metastore did not answer; it may be done again.
pub async fn remove(
    kv: &dyn MetaKv,
    collection: CollectionId,
    name: &str,
    pin_id: i64,
    now_ms: u64,
) -> Result<Revision> {
    change(kv, collection, name, |found| {
        let Some(mut info) = found else {
            return Ok(Change::Nothing);
        };
        info.pins
            .retain(|pin| pin.id != pin_id && holds(pin, now_ms));
        Ok(Change::Put(Box::new(info)))
    })
    .await
}

/// Drops a snapshot; zero when there is none. Pins of restores that have ended, and not let go yet, do not count.
///
/// # Errors
/// Code 2601 while it is pinned; 2 when the metastore did not answer.
pub async fn drop(
    kv: &dyn MetaKv,
    collection: CollectionId,
    name: &str,
    now_ms: u64,
) -> Result<Revision> {
    let dropped = drop_but_for(kv, collection, name, now_ms, &[]).await;
    match dropped {
        Err(error) if error.code == ErrorCode::SnapshotPinned => {
            let ended = ended_restores(kv, collection, name).await?;
            drop_but_for(kv, collection, name, now_ms, &ended).await
        }
        dropped => dropped,
    }
}

/// The pins of a snapshot that are those of restores whose users were told that they have ended.
async fn ended_restores(kv: &dyn MetaKv, collection: CollectionId, name: &str) -> Result<Vec<i64>> {
    let key = keys::snapshot(collection, name);
    let Some(pair) = kv.get(&key).await.map_err(unavailable)? else {
        return Ok(Vec::new());
    };
    let mut ended = Vec::new();
    for pin in decode(&pair)?.pins {
        // Pins and jobs have their ids from one place.
        let job = kv.get(&keys::restore_job(pin.id)).await;
        let Some(job) = job.map_err(unavailable)? else {
            continue;
        };
        let job = RestoreJobInfo::decode(job.value).map_err(|error| damaged(&job.key, &error))?;
        if matches!(job.state(), State::Completed | State::Failed) {
            ended.push(pin.id);
        }
    }
    Ok(ended)
}

async fn drop_but_for(
    kv: &dyn MetaKv,
    collection: CollectionId,
    name: &str,
    now_ms: u64,
    ended: &[i64],
) -> Result<Revision> {
    let counts = |pin: &SnapshotPin| holds(pin, now_ms) && !ended.contains(&pin.id);
    change(kv, collection, name, |found| match found {
        None => Ok(Change::Nothing),
        Some(info) if info.pins.iter().any(counts) => Err(Error::input(
            ErrorCode::SnapshotPinned,
            format!(
                "snapshot is pinned[snapshot={name}]: active pins exist, unpin before dropping"
            ),
        )),
        Some(_) => Ok(Change::Delete),
    })
    .await
}

/// Drops every snapshot of a collection that is not pinned.
///
/// # Errors
/// Code 2 when the metastore did not answer; it may be done again.
pub async fn drop_all(kv: &dyn MetaKv, collection: CollectionId, now_ms: u64) -> Result<()> {
    let (pairs, _) = read_all(kv, &keys::snapshots(collection))
        .await
        .map_err(unavailable)?;
    for pair in &pairs {
        let info = decode(pair)?;
        let dropped = drop(kv, collection, &info.name, now_ms).await;
        match dropped {
            Err(error) if error.code != ErrorCode::SnapshotPinned => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

async fn change(
    kv: &dyn MetaKv,
    collection: CollectionId,
    name: &str,
    mut decide: impl FnMut(Option<SnapshotInfo>) -> Result<Change>,
) -> Result<Revision> {
    let key = keys::snapshot(collection, name);
    for _ in 0..ATTEMPTS {
        let found = kv.get(&key).await.map_err(unavailable)?;
        let Some(pair) = found else {
            decide(None)?;
            return Ok(Revision(0));
        };
        let guard = Compare::Revision {
            key: key.clone(),
            revision: pair.revision,
        };
        let op = match decide(Some(decode(&pair)?))? {
            Change::Nothing => return Ok(Revision(0)),
            Change::Put(info) => Op::put(key.clone(), info.encode_to_vec()),
            Change::Delete => Op::delete(key.clone()),
        };
        let txn = Txn::new().when(guard).then(op);
        if let TxnOutcome::Applied { revision } = kv.txn(txn).await.map_err(unavailable)? {
            return Ok(revision);
        }
    }
    Err(Error::new(
        ErrorCode::ServiceUnavailable,
        format!("snapshot {name} of collection {collection} changes too fast"),
    ))
}

fn decode(pair: &KeyValue) -> Result<SnapshotInfo> {
    SnapshotInfo::decode(pair.value.clone()).map_err(|error| damaged(&pair.key, &error))
}

fn damaged(key: &str, error: &prost::DecodeError) -> Error {
    Error::new(
        ErrorCode::DataIntegrity,
        format!("record {key} is damaged: {error}"),
    )
}

fn unavailable(error: redkite_metastore::Error) -> Error {
    Error::from_coded(&error)
}
