//! Who names what.

use std::collections::{BTreeSet, HashMap, HashSet};

use prost::Message;
use redkite_catalog::keys::{self, Key};
use redkite_metastore::{KeyValue, MetaKv, read_all};
use redkite_proto::{
    milvus::common::IndexState,
    redkite::meta::{
        CollectionInfo, CompactionInfo, DeltaInfo, ExportInfo, FileInfo, ObjectState,
        PartitionInfo, SegmentIndexInfo, SegmentInfo, SnapshotInfo, compaction_info,
    },
};
use redkite_storage::layout::{self, ObjectKind};
use redkite_types::{
    BuildId, CollectionId, Error, PartitionId, Result, SegmentId, Timestamp, error::chain,
};

use crate::snapshot::Manifests;

/// Everything that the metadata names, and so protects.
///
/// Each kind of record adds what it names in [`References::add`]: a new kind that names objects is
/// added there, and until it is, [`References::read`] meets its key as one that it does not know and
/// protects everything. A snapshot's record protects whole collections until its manifest, which
/// names the files, has been read.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// Why nothing at all may go.
    everything: Option<String>,
    /// Why nothing of a collection may go.
    collections: HashMap<CollectionId, String>,
    /// Why nothing below a prefix, which ends in a slash, may go.
    prefixes: HashMap<String, String>,
    /// Single objects.
    files: HashSet<String>,
    /// Snapshots whose manifest was not read.
    unread: Vec<SnapshotInfo>,
    /// Why manifests could not be read.
    unreadable: Vec<String>,
    /// Collections that have files in the folder of another one, by that one.
    borrowers: HashMap<CollectionId, BTreeSet<CollectionId>>,
    /// What exists, in any state.
    existing: HashMap<CollectionId, HashSet<PartitionId>>,
    /// Compactions that ended after this still protect what they have replaced.
    compacted_since: Timestamp,
}

impl References {
    /// No references yet; compactions that ended at `compacted_since` or later will protect what they
    /// have replaced.
    pub fn since(compacted_since: Timestamp) -> Self {
        Self {
            compacted_since,
            ..Self::default()
        }
    }

    /// Reads everything. Segments that were compacted at `compacted_since` or later are named too.
    ///
    /// # Errors
    /// As the metastore says. A record that cannot be decoded is no error: it protects.
    pub async fn read(
        kv: &dyn MetaKv,
        manifests: &Manifests,
        compacted_since: Timestamp,
    ) -> Result<Self> {
        let prefixes = [
            keys::COLLECTIONS.to_owned(),
            keys::PARTITIONS.to_owned(),
            keys::DATACOORD.to_owned(),
            keys::SEGMENT_INDEXES.to_owned(),
        ];
        let mut references = Self::since(compacted_since);
        references.add_prefixes(kv, &prefixes).await?;
        manifests.keep_only(&references.unread);
        references.read_manifests(manifests, |_| true).await;
        Ok(references)
    }

    /// Reads what may name objects of one collection: its own records, those of collections that were
    /// restored from its snapshots, and snapshots.
    ///
    /// # Errors
    /// As [`References::read`].
    pub async fn read_collection(
        kv: &dyn MetaKv,
        manifests: &Manifests,
        collection: CollectionId,
        compacted_since: Timestamp,
    ) -> Result<Self> {
        let mut references = Self::since(compacted_since);
        let all = [keys::SNAPSHOTS.to_owned(), keys::COLLECTIONS.to_owned()];
        references.add_prefixes(kv, &all).await?;
        let borrowers = references.borrowers.get(&collection);
        let mut holders: Vec<CollectionId> = borrowers.into_iter().flatten().copied().collect();
        holders.push(collection);
        for holder in holders {
            let prefixes = [
                keys::partitions(holder),
                // In this order, so that a compaction which ends meanwhile is seen under way or done.
                keys::compactions(holder),
                keys::exports(holder),
                keys::deltas(holder),
                keys::segments(holder),
                keys::segment_indexes(holder),
            ];
            references.add_prefixes(kv, &prefixes).await?;
        }
        let id = collection.0;
        let concerns = |snapshot: &SnapshotInfo| {
            snapshot.collection_id == id || snapshot.file_owners.contains(&id)
        };
        references.read_manifests(manifests, concerns).await;
        Ok(references)
    }

    async fn add_prefixes(&mut self, kv: &dyn MetaKv, prefixes: &[String]) -> Result<()> {
        for prefix in prefixes {
            let (pairs, _) = read_all(kv, prefix)
                .await
                .map_err(|error| Error::from_coded(&error))?;
            for pair in &pairs {
                self.add(pair);
            }
        }
        Ok(())
    }

    /// Adds the files that snapshots name. One whose manifest cannot be read goes on protecting the
    /// collections in whose folders its files lie.
    pub async fn read_manifests(
        &mut self,
        manifests: &Manifests,
        concerns: impl Fn(&SnapshotInfo) -> bool,
    ) {
        for snapshot in std::mem::take(&mut self.unread) {
            if !concerns(&snapshot) {
                self.unread.push(snapshot);
                continue;
            }
            match manifests.files(&snapshot).await {
                Ok(files) => self.files.extend(files.iter().cloned()),
                Err(error) => {
                    self.unreadable.push(format!(
                        "the manifest of snapshot {} of collection {} cannot be read: {error}",
                        snapshot.name, snapshot.collection_id
                    ));
                    self.unread.push(snapshot);
                }
            }
        }
    }

    /// Adds what one record names.
    pub fn add(&mut self, pair: &KeyValue) {
        let key = Key::parse(&pair.key);
        let added = match key {
            Key::Collection(id) => self.add_collection(pair, id),
            Key::Partition(collection, id) => decoded::<PartitionInfo>(pair)
                .and_then(|info| matches(info.id, id.0))
                .map(|()| {
                    self.existing.entry(collection).or_default().insert(id);
                }),
            Key::Segment(collection, segment) => self.add_segment(pair, collection, segment),
            Key::SegmentIndex(collection, segment, build) => {
                self.add_build(pair, collection, segment, build)
            }
            Key::Delta(collection, delta) => decoded::<DeltaInfo>(pair)
                .and_then(|info| {
                    matches(info.id, delta)?;
                    matches(info.collection_id, collection.0)?;
                    info.file.ok_or_else(|| "it names no file".to_owned())
                })
                .map(|file| self.add_files(&[file])),
            Key::Compaction(collection, plan) => self.add_compaction(pair, collection, plan),
            Key::Snapshot(collection, name) => self.add_snapshot(pair, collection, name),
            // A job that is under way has pinned its snapshot.
            Key::Checkpoint(_) | Key::RestoreJob(_) | Key::SnapshotExport(_) => Ok(()),
            Key::Export(collection, task) => self.add_export(pair, collection, task),
            Key::Database(_)
            | Key::Field(..)
            | Key::Alias(..)
            | Key::Index(..)
            | Key::Load(_)
            | Key::PartitionLoad(..)
            | Key::ChannelOwner(_)
            | Key::Session(_)
            | Key::Office(_)
            | Key::User(_)
            | Key::Role(_)
            | Key::UserRole(_)
            | Key::Grant(_)
            | Key::PrivilegeGroup(_)
            | Key::Other => Err("its kind is not known".to_owned()),
        };
        if let Err(reason) = added {
            self.protect_for(pair, key.collection(), &reason);
        }
    }

    fn add_collection(&mut self, pair: &KeyValue, id: CollectionId) -> Result<(), String> {
        let read = decoded::<CollectionInfo>(pair).and_then(|info| {
            matches(info.id, id.0)?;
            Ok(info)
        });
        let info = read.inspect_err(|reason| {
            // It may borrow files of any other.
            let why = format!("record {} is not understood: {reason}", pair.key);
            self.everything.get_or_insert(why);
        })?;
        self.existing.entry(id).or_default();
        if info.state() == ObjectState::Creating {
            // A restore may be copying files there, which no record names yet.
            let why = "its collection is being created".to_owned();
            self.collections.entry(id).or_insert(why);
        }
        for owner in info.borrows_from {
            let owner = CollectionId(owner);
            self.borrowers.entry(owner).or_default().insert(id);
        }
        Ok(())
    }

    fn add_snapshot(
        &mut self,
        pair: &KeyValue,
        collection: CollectionId,
        name: &str,
    ) -> Result<(), String> {
        let read = decoded::<SnapshotInfo>(pair).and_then(|info| {
            matches(info.collection_id, collection.0)?;
            if info.name != name {
                return Err(format!("it says {:?}", info.name));
            }
            let manifest = info.manifest.clone();
            let manifest = manifest.ok_or_else(|| "it names no manifest".to_owned())?;
            Ok((info, manifest))
        });
        let (info, manifest) = read.inspect_err(|reason| {
            let why = format!("record {} is not understood: {reason}", pair.key);
            self.everything.get_or_insert(why);
        })?;
        self.add_files(&[manifest]);
        self.unread.push(info);
        Ok(())
    }

    /// A record that is not understood protects what it might name.
    fn protect_for(&mut self, pair: &KeyValue, collection: Option<CollectionId>, reason: &str) {
        let why = format!("record {} is not understood: {reason}", pair.key);
        match collection {
            Some(collection) => {
                self.collections.entry(collection).or_insert(why);
            }
            None => {
                self.everything.get_or_insert(why);
            }
        }
    }

    fn add_segment(
        &mut self,
        pair: &KeyValue,
        collection: CollectionId,
        segment: SegmentId,
    ) -> Result<(), String> {
        let info = decoded::<SegmentInfo>(pair)?;
        matches(info.id, segment.0)?;
        matches(info.collection_id, collection.0)?;
        let expected = keys::segment(collection, PartitionId(info.partition_id), segment);
        if expected != pair.key {
            return Err(format!("it says partition {}", info.partition_id));
        }
        self.add_files(&info.files);
        Ok(())
    }

    fn add_build(
        &mut self,
        pair: &KeyValue,
        collection: CollectionId,
        segment: SegmentId,
        build: BuildId,
    ) -> Result<(), String> {
        let info = decoded::<SegmentIndexInfo>(pair)?;
        matches(info.build_id, build.0)?;
        matches(info.segment_id, segment.0)?;
        let partition = PartitionId(info.partition_id);
        if keys::segment_index(collection, partition, segment, build) != pair.key {
            return Err(format!("it says partition {partition}"));
        }
        self.add_files(&info.files);
        let may_still_write = match info.state() {
            IndexState::Finished | IndexState::Failed => false,
            IndexState::None
            | IndexState::Unissued
            | IndexState::InProgress
            | IndexState::Retry => true,
        };
        if may_still_write {
            let prefix = layout::build_prefix(collection, partition, segment, build);
            let why = format!("index build {build} is under way");
            self.prefixes.insert(prefix, why);
        }
        Ok(())
    }

    fn add_compaction(
        &mut self,
        pair: &KeyValue,
        collection: CollectionId,
        plan: i64,
    ) -> Result<(), String> {
        let info = decoded::<CompactionInfo>(pair)?;
        matches(info.plan_id, plan)?;
        matches(info.collection_id, collection.0)?;
        if !info.delta_sources.is_empty() && info.state() == compaction_info::State::Executing {
            let targets = info.targets.iter();
            let files = targets.map(|target| layout::delta(&info.channel, *target));
            self.files.extend(files);
            return Ok(());
        }
        let (segments, why) = match info.state() {
            compaction_info::State::Executing => {
                (info.targets, format!("compaction {plan} is under way"))
            }
            compaction_info::State::Completed if info.finished_ts >= self.compacted_since.0 => {
                self.files.extend(info.borrowed_files);
                (
                    info.sources,
                    format!("compaction {plan} has just replaced it"),
                )
            }
            compaction_info::State::Completed | compaction_info::State::Failed => return Ok(()),
        };
        for segment in segments {
            let partition = PartitionId(info.partition_id);
            let prefix = layout::segment_prefix(collection, partition, SegmentId(segment));
            self.prefixes.insert(prefix, why.clone());
        }
        Ok(())
    }

    /// What an export reads, until it has ended.
    fn add_export(
        &mut self,
        pair: &KeyValue,
        collection: CollectionId,
        task: &str,
    ) -> Result<(), String> {
        let info = decoded::<ExportInfo>(pair)?;
        matches(info.collection_id, collection.0)?;
        if info.task_id != task {
            return Err(format!("it says task {}", info.task_id));
        }
        for segment in &info.segments {
            self.add_files(&segment.files);
        }
        let deltas = info.deltas.iter().filter_map(|delta| delta.file.clone());
        self.add_files(&deltas.collect::<Vec<_>>());
        Ok(())
    }

    fn add_files(&mut self, files: &[FileInfo]) {
        self.files
            .extend(files.iter().map(|file| file.path.clone()));
    }

    /// Why an object must stay whatever its age; `None` when nothing names it.
    pub fn protection(&self, key: &str, kind: ObjectKind<'_>) -> Option<&str> {
        if kind == ObjectKind::Probe {
            // No record ever names one.
            return None;
        }
        if let Some(why) = &self.everything {
            return Some(why);
        }
        let Some(collection) = collection_of(kind) else {
            return Some("its collection is not known");
        };
        if let Some(why) = self.collections.get(&collection) {
            return Some(why);
        }
        let mut unread = self.unread.iter();
        if unread.any(|snapshot| snapshot.file_owners.contains(&collection.0)) {
            return Some("the manifest of a snapshot that may name it was not read");
        }
        if let ObjectKind::Log { .. } = kind {
            let exists = self.existing.contains_key(&collection);
            return exists.then_some("its log takes care of it");
        }
        if self.files.contains(key) {
            return Some("a record names it");
        }
        let ends = key.match_indices('/').map(|(at, _)| at + 1);
        let mut prefixes = ends.filter_map(|end| self.prefixes.get(&key[..end]));
        prefixes.next().map(String::as_str)
    }

    /// Whether the collection, or the partition, of an object is gone for good: ids are never used
    /// again, and both are on record before their first object is written.
    pub fn is_dropped(&self, kind: ObjectKind<'_>) -> bool {
        if kind == ObjectKind::Probe {
            return false;
        }
        let Some(partitions) = collection_of(kind).and_then(|id| self.existing.get(&id)) else {
            return true;
        };
        match kind {
            ObjectKind::Segment { partition, .. } | ObjectKind::Index { partition, .. } => {
                !partitions.contains(&partition)
            }
            ObjectKind::Delta { .. }
            | ObjectKind::Log { .. }
            | ObjectKind::Snapshot { .. }
            | ObjectKind::Probe => false,
        }
    }

    /// What could not be understood, one line each.
    pub fn doubts(&self) -> Vec<String> {
        let all = self.everything.iter().chain(self.collections.values());
        let all = all.chain(&self.unreadable);
        let mut doubts: Vec<String> = all.cloned().collect();
        doubts.sort();
        doubts
    }
}

/// Whether a record stands where [`References::read`] looks.
pub fn may_name(key: &str) -> bool {
    let places = [
        keys::COLLECTIONS,
        keys::PARTITIONS,
        keys::DATACOORD,
        keys::SEGMENT_INDEXES,
    ];
    places.iter().any(|place| key.starts_with(place))
}

/// The collection that an object belongs to; `None` when it belongs to none, or to one that its key
/// does not name as it should.
pub fn collection_of(kind: ObjectKind<'_>) -> Option<CollectionId> {
    match kind {
        ObjectKind::Segment { collection, .. }
        | ObjectKind::Index { collection, .. }
        | ObjectKind::Snapshot { collection, .. } => Some(collection),
        ObjectKind::Delta { channel } | ObjectKind::Log { channel } => {
            keys::collection_of_channel(channel)
        }
        ObjectKind::Probe => None,
    }
}

fn decoded<M: Message + Default>(pair: &KeyValue) -> Result<M, String> {
    M::decode(pair.value.clone()).map_err(|error| chain(&error))
}

fn matches(found: i64, expected: i64) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("it says {found} where {expected} is expected"))
}
