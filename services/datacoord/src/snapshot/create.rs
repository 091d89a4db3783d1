//! Taking a snapshot.

use std::{collections::HashMap, time::Instant};

use futures::future::{join_all, try_join_all};
use prost::Message;
use redkite_catalog::{CollectionEntry, keys};
use redkite_metastore::{Compare, Op, Txn, TxnOutcome};
use redkite_proto::redkite::{
    datacoord::CreateSnapshotRequest,
    meta::{CollectionInfo, FileInfo, ObjectState, SnapshotInfo, SnapshotManifest, SnapshotPin},
};
use redkite_runtime::hold_here;
use redkite_types::{CollectionId, Error, ErrorCode, Result, Revision, Timestamp, limits};
use tracing::{Instrument as _, info, info_span, warn};

use super::{
    Snapshots,
    manifest::{self, Moment},
};

/// How often it starts again because something that it relies on has changed.
const ATTEMPTS: usize = 16;

impl Snapshots {
    /// Takes a snapshot of what is flushed, without moving data.
    ///
    /// # Errors
    /// Code 1100 when there is one of that name, or for a span that is out of range; 100 when the
    /// collection is gone; 2 or 1001 when a store did not answer: it may have been taken.
    pub async fn create(
        &self,
        request: &CreateSnapshotRequest,
    ) -> Result<(SnapshotInfo, Revision)> {
        let span = info_span!(
            "create_snapshot",
            collection = request.collection_id,
            flush = request.flush
        );
        let began = Instant::now();
        let taken = self.take(request).instrument(span).await;
        if taken.is_ok() {
            metrics::histogram!("redkite_datacoord_snapshot_create_seconds")
                .record(began.elapsed().as_secs_f64());
        }
        taken
    }

    async fn take(&self, request: &CreateSnapshotRequest) -> Result<(SnapshotInfo, Revision)> {
        check_protection(request.compaction_protection_seconds)?;
        let collection = CollectionId(request.collection_id);
        for _ in 0..ATTEMPTS {
            let moment = match request.flush {
                false => Moment::Channels(self.flushed(collection).await?),
                true => match self.flush(collection).await? {
                    Some(at) => Moment::One(at),
                    None => continue,
                },
            };
            let view = self.fresh_view().await?;
            let found = view.collection_by_id(collection);
            let entry = found.filter(|entry| entry.state() == ObjectState::Created);
            let entry =
                entry.ok_or_else(|| Error::collection_not_found("", &collection.to_string()))?;
            if entry.snapshots.contains_key(&request.name) {
                return Err(Error::invalid_parameter(format!(
                    "snapshot name {} already exists in collection {collection}",
                    request.name
                )));
            }
            if let Some(taken) = self.attempt(request, entry, &moment).await? {
                return Ok(taken);
            }
        }
        Err(Error::new(
            ErrorCode::ServiceUnavailable,
            format!(
                "snapshot {} of collection {collection} met changing metadata too often",
                request.name
            ),
        ))
    }

    /// `None` when something has changed meanwhile.
    async fn attempt(
        &self,
        request: &CreateSnapshotRequest,
        entry: &CollectionEntry,
        moment: &Moment,
    ) -> Result<Option<(SnapshotInfo, Revision)>> {
        let Some((record, guard)) = self.live(entry).await? else {
            return Ok(None);
        };
        let first = self.around.ids(2).await?;
        let Some(manifest) = manifest::take(entry, &record, first, moment) else {
            warn!(snapshot = %request.name, "another time is taken for a snapshot");
            return Ok(None);
        };
        let file = self.manifests.write(entry.id(), &manifest).await?;
        hold_here(&["create_snapshot", "manifest_written"]).await;
        let mut snapshot = self.record(request, &manifest, file.clone());
        if request.pin_seconds != 0 {
            snapshot.pins.push(SnapshotPin {
                id: first + 1,
                expires_ms: self.expiry(request.pin_seconds),
            });
        }
        let key = keys::snapshot(entry.id(), &request.name);
        let mut txn = Txn::new()
            .when(guard)
            .when(Compare::Absent { key: key.clone() });
        for key in manifest::record_keys(&manifest) {
            txn = txn.when(Compare::Exists { key });
        }
        txn = txn.then(Op::put(key, snapshot.encode_to_vec()));
        let outcome = self.gate.commit(self.kv.as_ref(), &[file], txn).await?;
        let TxnOutcome::Applied { revision } = outcome else {
            return Ok(None);
        };
        info!(
            collection = snapshot.collection_id,
            name = snapshot.name,
            ts = snapshot.ts,
            segments = snapshot.segment_ids.len(),
            rows = snapshot.rows,
            "snapshot taken"
        );
        metrics::counter!("redkite_datacoord_snapshots_created_total").increment(1);
        hold_here(&["create_snapshot", "committed"]).await;
        self.around.show_proxies(revision).await;
        Ok(Some((snapshot, revision)))
    }

    /// The collection's record as it is, and a guard that it stays so; `None` when it is going.
    async fn live(&self, entry: &CollectionEntry) -> Result<Option<(CollectionInfo, Compare)>> {
        let key = keys::collection(entry.database_id(), entry.id());
        let found = self.kv.get(&key).await;
        let Some(pair) = found.map_err(|error| Error::from_coded(&error))? else {
            return Ok(None);
        };
        let Ok(record) = CollectionInfo::decode(pair.value.clone()) else {
            return Err(Error::new(
                ErrorCode::DataIntegrity,
                format!("record {key} is damaged"),
            ));
        };
        // The view that the rest comes from must have shown the same one.
        let same = entry.info().is_some_and(|info| **info == record);
        let live = same && record.state() == ObjectState::Created;
        let revision = pair.revision;
        Ok(live.then_some((record, Compare::Revision { key, revision })))
    }

    /// Has everything that was written up to a new timestamp flushed, on all channels, and nothing
    /// later together with it; `None` when that did not succeed on all of them, and is to be done again.
    ///
    /// For a moment writes wait everywhere. The timestamp is given out in that moment; then each
    /// channel seals what it has, and goes on. So nothing later is in the same segments, unless a
    /// compaction puts it there afterwards.
    async fn flush(&self, collection: CollectionId) -> Result<Option<Timestamp>> {
        let view = self.fresh_view().await?;
        let Some(entry) = view.collection_by_id(collection) else {
            return Ok(Some(self.around.timestamp().await?));
        };
        let owners = entry.channels().iter().map(|channel| {
            entry.owners.get(channel).ok_or_else(|| {
                let text = format!("channel not available[channel {channel} has no owner]");
                Error::new(ErrorCode::ChannelNotAvailable, text)
            })
        });
        let owners = owners.collect::<Result<Vec<_>>>()?;
        let hold = self.around.ids(1).await?;
        try_join_all(owners.iter().map(|owner| self.around.hold(owner, hold))).await?;
        let at = self.around.timestamp().await?;
        let sealed = owners
            .iter()
            .map(|owner| self.around.flush_held(owner, hold, at));
        match try_join_all(sealed).await {
            Ok(_) => Ok(Some(at)),
            Err(error) => match error.code {
                ErrorCode::ServiceUnavailable => {
                    warn!(error = %error.message, "a channel did not stand still for long enough");
                    Ok(None)
                }
                // Collected before they were committed: the next flush writes them again.
                ErrorCode::IoKeyNotFound => {
                    warn!(error = %error.message, "what was flushed for a snapshot is gone");
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    /// Up to when each channel's writes were flushed, as far as its owner says.
    async fn flushed(&self, collection: CollectionId) -> Result<HashMap<String, Timestamp>> {
        let view = self.fresh_view().await?;
        let Some(entry) = view.collection_by_id(collection) else {
            return Ok(HashMap::new());
        };
        let now = self.around.timestamp().await?;
        let asked = entry.owners.iter().map(|(channel, owner)| async move {
            match self.around.flushed(owner, now).await {
                Ok(ts) => Some((channel.clone(), ts)),
                // The checkpoint says it then: earlier, but true.
                Err(error) => {
                    warn!(channel, %error, "how far a channel is flushed is not known");
                    None
                }
            }
        });
        Ok(join_all(asked).await.into_iter().flatten().collect())
    }

    fn record(
        &self,
        request: &CreateSnapshotRequest,
        manifest: &SnapshotManifest,
        file: FileInfo,
    ) -> SnapshotInfo {
        let protected_until_ms = match request.compaction_protection_seconds {
            0 => 0,
            seconds => self.expiry(seconds),
        };
        let segments = &manifest.segments;
        SnapshotInfo {
            id: manifest.snapshot_id,
            collection_id: request.collection_id,
            name: request.name.clone(),
            description: request.description.clone(),
            ts: manifest.ts,
            manifest: Some(file),
            pins: Vec::new(),
            protected_until_ms,
            segment_ids: segments.iter().map(|segment| segment.id).collect(),
            partition_names: manifest
                .partitions
                .iter()
                .map(|one| one.name.clone())
                .collect(),
            file_owners: manifest.file_owners.clone(),
            deltas: manifest.deltas.len() as i32,
            builds: manifest.builds.len() as i32,
            rows: segments.iter().map(|segment| segment.rows).sum(),
            bytes: manifest::files(manifest).map(|file| file.size).sum(),
            internal: request.internal,
            indexes: manifest.indexes.len() as i32,
        }
    }
}

fn check_protection(seconds: i64) -> Result<()> {
    if seconds < 0 {
        return Err(Error::invalid_parameter(
            "compaction_protection_seconds must be non-negative",
        ));
    }
    if seconds > limits::MAX_SNAPSHOT_PROTECTION_SECONDS {
        return Err(Error::invalid_parameter(format!(
            "compaction_protection_seconds must not exceed {}",
            limits::MAX_SNAPSHOT_PROTECTION_SECONDS
        )));
    }
    Ok(())
}
