//! What a snapshot consists of.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use prost::Message;
use redkite_catalog::{CollectionEntry, keys};
use redkite_proto::{
    milvus::common::IndexState,
    redkite::meta::{
        ChannelCheckpoint, CollectionInfo, FileInfo, SegmentIndexInfo, SnapshotInfo,
        SnapshotManifest,
    },
};
use redkite_storage::{ObjectStore, checksum, layout};
use redkite_types::{CollectionId, Error, ErrorCode, Result, Timestamp};

use crate::gc::references::collection_of;

/// The version that is written.
const FORMAT_VERSION: u32 = 1;

/// As of when a snapshot is taken.
#[derive(Clone, Debug)]
pub enum Moment {
    /// As each channel is flushed: until when, as far as its owner says; else its checkpoint does.
    Channels(HashMap<String, Timestamp>),
    /// At one time. Everything up to it is flushed, and was sealed without anything later.
    One(Timestamp),
}

impl Moment {
    /// Whether what holds rows or deletes from `min_ts` to `max_ts` belongs to the moment; `None` when
    /// it does in part.
    fn includes(&self, min_ts: u64, max_ts: u64) -> Option<bool> {
        match self {
            Self::Channels(_) => Some(true),
            Self::One(at) if max_ts <= at.0 => Some(true),
            Self::One(at) if min_ts > at.0 => Some(false),
            Self::One(_) => None,
        }
    }
}

/// What a collection consists of in a view: visible partitions, indexes, and all that is flushed.
/// `None` when the moment cannot be told apart from what came later, because compactions have mixed
/// them: take another one.
pub fn take(
    entry: &CollectionEntry,
    info: &CollectionInfo,
    snapshot_id: i64,
    moment: &Moment,
) -> Option<SnapshotManifest> {
    let partitions: Vec<_> = entry
        .visible_partitions()
        .map(|one| (**one).clone())
        .collect();
    let kept: HashSet<i64> = partitions.iter().map(|partition| partition.id).collect();
    let indexes: Vec<_> = entry.visible_indexes().map(|one| (**one).clone()).collect();
    let defined: HashSet<i64> = indexes.iter().map(|index| index.id).collect();
    let (mut segments, mut builds) = (Vec::new(), Vec::new());
    for segment in entry.segments.values() {
        let Some(found) = &segment.info else { continue };
        if !kept.contains(&found.partition_id) {
            continue;
        }
        if !moment.includes(found.min_ts, found.max_ts)? {
            continue;
        }
        // Rows that a later delete has hidden are no longer in such a segment.
        if matches!(moment, Moment::One(at) if found.deletes_applied_ts > at.0) {
            return None;
        }
        segments.push((**found).clone());
        let finished = segment.indexes.values().filter(|build| {
            build.state() == IndexState::Finished && defined.contains(&build.index_id)
        });
        builds.extend(finished.map(|build| SegmentIndexInfo::clone(build)));
    }
    let positions: Vec<ChannelCheckpoint> = entry
        .channels()
        .iter()
        .map(|channel| position(entry, info, channel, moment))
        .collect();
    let mut deltas = Vec::with_capacity(entry.deltas.len());
    for delta in entry.deltas.values() {
        if moment.includes(delta.min_ts, delta.max_ts)? {
            deltas.push((**delta).clone());
        }
    }
    let mut manifest = SnapshotManifest {
        format_version: FORMAT_VERSION,
        snapshot_id,
        ts: positions
            .iter()
            .map(|one| one.ts)
            .min()
            .unwrap_or(info.created_ts),
        collection: Some(info.clone()),
        fields: entry
            .field_records()
            .map(|field| (**field).clone())
            .collect(),
        partitions,
        indexes,
        segments,
        deltas,
        builds,
        positions,
        file_owners: Vec::new(),
    };
    manifest.file_owners = file_owners(&manifest).into_iter().collect();
    Some(manifest)
}

/// Nothing was written before the collection was there.
fn position(
    entry: &CollectionEntry,
    info: &CollectionInfo,
    channel: &str,
    moment: &Moment,
) -> ChannelCheckpoint {
    let recorded = entry.checkpoints.get(channel);
    let checkpoint = recorded.map_or(0, |checkpoint| checkpoint.ts);
    let ts = match moment {
        Moment::One(at) => at.0,
        Moment::Channels(told) => checkpoint.max(told.get(channel).map_or(0, |ts| ts.0)),
    };
    ChannelCheckpoint {
        channel: channel.to_owned(),
        collection_id: info.id,
        lsn: recorded.map_or(0, |checkpoint| checkpoint.lsn),
        ts: ts.max(info.created_ts),
    }
}

/// Refuses a manifest of a version that is not known.
///
/// # Errors
/// Code 1009.
pub fn check_version(manifest: &SnapshotManifest) -> Result<()> {
    match manifest.format_version {
        FORMAT_VERSION => Ok(()),
        version => Err(Error::new(
            ErrorCode::DataIntegrity,
            format!("the manifest of a snapshot has format version {version}"),
        )),
    }
}

/// Every file that a manifest names.
pub fn files(manifest: &SnapshotManifest) -> impl Iterator<Item = &FileInfo> {
    let segments = manifest.segments.iter().flat_map(|segment| &segment.files);
    let builds = manifest.builds.iter().flat_map(|build| &build.files);
    let deltas = manifest
        .deltas
        .iter()
        .filter_map(|delta| delta.file.as_ref());
    segments.chain(builds).chain(deltas)
}

/// The collections in whose folders the files of a manifest lie.
fn file_owners(manifest: &SnapshotManifest) -> BTreeSet<i64> {
    files(manifest)
        .filter_map(|file| layout::parse(&file.path).and_then(collection_of))
        .map(|collection| collection.0)
        .collect()
}

/// The keys of the records whose being there says that every file is.
pub fn record_keys(manifest: &SnapshotManifest) -> Vec<String> {
    use redkite_types::{BuildId, PartitionId, SegmentId};
    let segments = manifest.segments.iter().map(|one| {
        keys::segment(
            CollectionId(one.collection_id),
            PartitionId(one.partition_id),
            SegmentId(one.id),
        )
    });
    let builds = manifest.builds.iter().map(|one| {
        keys::segment_index(
            CollectionId(one.collection_id),
            PartitionId(one.partition_id),
            SegmentId(one.segment_id),
            BuildId(one.build_id),
        )
    });
    let deltas = manifest.deltas.iter();
    let deltas = deltas.map(|one| keys::delta(CollectionId(one.collection_id), one.id));
    segments.chain(builds).chain(deltas).collect()
}

/// The manifests of snapshots, as objects. What they name is kept in memory.
#[derive(Debug)]
pub struct Manifests {
    store: Arc<dyn ObjectStore>,
    /// Paths by snapshot id; a manifest never changes.
    named: Mutex<HashMap<i64, Arc<HashSet<String>>>>,
}

impl Manifests {
    /// Those in an object store.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            named: Mutex::default(),
        }
    }

    /// Writes a manifest.
    ///
    /// # Errors
    /// As the store says; retry.
    pub async fn write(
        &self,
        collection: CollectionId,
        manifest: &SnapshotManifest,
    ) -> Result<FileInfo> {
        let bytes = manifest.encode_to_vec();
        let file = FileInfo {
            path: layout::snapshot_manifest(collection, manifest.snapshot_id),
            size: bytes.len() as u64,
            crc32c: checksum::crc32c(&bytes),
        };
        let written = self.store.put(&file.path, bytes.into()).await;
        written.map_err(|error| Error::from_coded(&error))?;
        Ok(file)
    }

    /// Reads the manifest of a snapshot.
    ///
    /// # Errors
    /// Code 1000 when it is not there, 1009 when it is not what was written; else as the store says.
    pub async fn read(&self, snapshot: &SnapshotInfo) -> Result<SnapshotManifest> {
        let damaged = |what: String| {
            let text = format!("the manifest of snapshot {} {what}", snapshot.name);
            Error::new(ErrorCode::DataIntegrity, text)
        };
        let file = snapshot.manifest.as_ref();
        let file = file.ok_or_else(|| damaged("is not named by its record".to_owned()))?;
        let read = self.store.get(&file.path).await;
        let bytes = read.map_err(|error| Error::from_coded(&error))?;
        checksum::verify(&file.path, &bytes, file.size, file.crc32c)
            .map_err(|error| Error::from_coded(&error))?;
        let manifest = SnapshotManifest::decode(bytes)
            .map_err(|error| damaged(format!("cannot be decoded: {error}")))?;
        check_version(&manifest)?;
        if manifest.snapshot_id != snapshot.id {
            let other = manifest.snapshot_id;
            return Err(damaged(format!("is that of snapshot {other}")));
        }
        Ok(manifest)
    }

    /// The paths that a snapshot names.
    ///
    /// # Errors
    /// As [`Manifests::read`].
    pub async fn files(&self, snapshot: &SnapshotInfo) -> Result<Arc<HashSet<String>>> {
        if let Some(known) = self.named.lock().get(&snapshot.id) {
            return Ok(known.clone());
        }
        let manifest = self.read(snapshot).await?;
        let paths: HashSet<String> = files(&manifest).map(|file| file.path.clone()).collect();
        let paths = Arc::new(paths);
        self.named.lock().insert(snapshot.id, paths.clone());
        Ok(paths)
    }

    /// Forgets what snapshots other than these name.
    pub fn keep_only(&self, snapshots: &[SnapshotInfo]) {
        let there: HashSet<i64> = snapshots.iter().map(|snapshot| snapshot.id).collect();
        self.named.lock().retain(|id, _| there.contains(id));
    }
}
