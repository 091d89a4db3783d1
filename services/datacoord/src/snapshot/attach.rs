//! A restored collection's records, which name the files of a snapshot.

use std::collections::HashMap;

use prost::Message;
use redkite_catalog::keys;
use redkite_metastore::{Compare, KeyValue, Op, Txn, TxnOutcome};
use redkite_proto::redkite::{
    datacoord::AttachSnapshotRequest,
    datanode::FileCopy,
    meta::{
        ChannelCheckpoint, CollectionInfo, DeltaInfo, FileInfo, ObjectState, RestoreJobInfo,
        SegmentIndexInfo, SegmentInfo, SnapshotInfo, SnapshotManifest, restore_job_info,
    },
};
use redkite_storage::layout;
use redkite_types::{
    BuildId, CollectionId, DatabaseId, Error, ErrorCode, PartitionId, Result, SegmentId,
};
use tracing::info;

use super::{Snapshots, not_found};

/// Segments that one transaction adds.
const BATCH: usize = 100;
/// How often a batch starts again because the job's record has changed meanwhile.
const ATTEMPTS: usize = 16;
/// Everything before the first record of a log: nothing.
const FIRST_LSN: u64 = 1;

impl Snapshots {
    /// A snapshot's record, and what it says of the collection: all of its manifest but segments,
    /// delete files and index builds.
    ///
    /// # Errors
    /// Code 2600 when there is none; 1000 or 1009 when its manifest is missing or damaged.
    pub async fn definition(
        &self,
        collection: CollectionId,
        name: &str,
    ) -> Result<(SnapshotInfo, SnapshotManifest)> {
        let info = self.find(collection, name).await?;
        let mut manifest = self.manifests.read(&info).await?;
        manifest.segments.clear();
        manifest.deltas.clear();
        manifest.builds.clear();
        Ok((info, manifest))
    }

    /// Adds segments, delete files and index builds that name a snapshot's files to a collection that
    /// is being created, and shows in the job's record how far it is. Doing it again changes nothing.
    ///
    /// # Errors
    /// Code 1000, not retriable, when a file is missing or has another size, with its name; 2600, 1009
    /// as [`Snapshots::definition`]; 2 or 1001 when a store did not answer: do it again.
    pub async fn attach(&self, request: &AttachSnapshotRequest) -> Result<()> {
        let source = CollectionId(request.collection_id);
        let info = self.find(source, &request.name).await?;
        let manifest = self.manifests.read(&info).await?;
        self.attach_parts(request, &manifest).await
    }

    /// What of a bundle is to be copied where, for a target that has files of its own.
    pub(super) fn copies(
        &self,
        request: &AttachSnapshotRequest,
        manifest: &SnapshotManifest,
    ) -> Result<Vec<FileCopy>> {
        let copy = Copy::new(request, manifest);
        let mut parts = Parts::default();
        for segment in &manifest.segments {
            copy.segment(segment, &mut parts)?;
        }
        copy.deltas(&mut parts)?;
        Ok(parts.copies)
    }

    /// [`Snapshots::attach`] of a manifest that was read.
    pub(super) async fn attach_parts(
        &self,
        request: &AttachSnapshotRequest,
        manifest: &SnapshotManifest,
    ) -> Result<()> {
        let copy = Copy::new(request, manifest);
        let total = manifest.segments.len();
        let mut done = 0;
        for batch in manifest.segments.chunks(BATCH) {
            let mut parts = Parts::default();
            for segment in batch {
                copy.segment(segment, &mut parts)?;
            }
            done += batch.len();
            self.commit(request, parts, done * 100 / total).await?;
        }
        let mut parts = Parts::default();
        copy.deltas(&mut parts)?;
        copy.positions(&mut parts);
        self.commit(request, parts, 100).await?;
        info!(
            job = request.job_id,
            collection = request.target_collection_id,
            snapshot = request.name,
            segments = total,
            "snapshot attached"
        );
        Ok(())
    }

    pub(super) async fn find(&self, collection: CollectionId, name: &str) -> Result<SnapshotInfo> {
        let found = self.kv.get(&keys::snapshot(collection, name)).await;
        let pair = found.map_err(|error| Error::from_coded(&error))?;
        decode(&pair.ok_or_else(|| not_found(collection, name))?)
    }

    async fn commit(
        &self,
        request: &AttachSnapshotRequest,
        parts: Parts,
        progress: usize,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let (txn, job) = self.guards(request, progress as i32).await?;
            let put = Op::put(keys::restore_job(request.job_id), job.encode_to_vec());
            let mut txn = txn.then(put);
            for (key, value) in &parts.records {
                txn = txn.then(Op::put(key.clone(), value.clone()));
            }
            let committed = self.gate.commit(self.kv.as_ref(), &parts.files, txn);
            if let TxnOutcome::Applied { .. } = committed.await? {
                return Ok(());
            }
        }
        Err(Error::new(
            ErrorCode::ServiceUnavailable,
            format!(
                "restore job {} met changing metadata too often",
                request.job_id
            ),
        ))
    }

    /// That the target is still being created and the job under way, and the job's record as it is to
    /// be, with progress, which never decreases.
    pub(super) async fn guards(
        &self,
        request: &AttachSnapshotRequest,
        progress: i32,
    ) -> Result<(Txn, RestoreJobInfo)> {
        let gone = |what: &str| {
            let text = format!("restore job {}: {what}", request.job_id);
            Error::input(ErrorCode::CollectionNotFound, text)
        };
        let target = CollectionId(request.target_collection_id);
        let key = keys::collection(DatabaseId(request.target_database_id), target);
        let pair = self
            .kv
            .get(&key)
            .await
            .map_err(|error| Error::from_coded(&error))?;
        let pair = pair.ok_or_else(|| gone("the target is gone"))?;
        if decode::<CollectionInfo>(&pair)?.state() != ObjectState::Creating {
            return Err(gone("the target is not being created any more"));
        }
        let revision = pair.revision;
        let mut txn = Txn::new().when(Compare::Revision { key, revision });
        let key = keys::restore_job(request.job_id);
        let pair = self
            .kv
            .get(&key)
            .await
            .map_err(|error| Error::from_coded(&error))?;
        let pair = pair.ok_or_else(|| gone("the job is gone"))?;
        let mut job: RestoreJobInfo = decode(&pair)?;
        if job.state() != restore_job_info::State::Executing {
            return Err(gone("the job has ended"));
        }
        // It is at 100 only when the target can be seen.
        job.progress = job.progress.max(progress.min(99));
        let revision = pair.revision;
        txn = txn.when(Compare::Revision { key, revision });
        Ok((txn, job))
    }
}

/// What one transaction adds.
#[derive(Default)]
struct Parts {
    records: Vec<(String, Vec<u8>)>,
    files: Vec<FileInfo>,
    /// Where the files come from, when they are the target's own.
    copies: Vec<FileCopy>,
}

impl Parts {
    fn put(&mut self, key: String, record: &impl Message) {
        self.records.push((key, record.encode_to_vec()));
    }
}

/// From the ids of the source to those of the target.
struct Copy<'a> {
    manifest: &'a SnapshotManifest,
    target: CollectionId,
    partitions: HashMap<i64, i64>,
    indexes: HashMap<i64, i64>,
    channels: HashMap<&'a str, String>,
    segments: HashMap<i64, i64>,
    /// Builds of a segment, each with its new id.
    builds: HashMap<i64, Vec<(i64, &'a SegmentIndexInfo)>>,
    first_delta: i64,
    /// Whether the target gets files of its own, or names those of the source.
    own_files: bool,
}

impl<'a> Copy<'a> {
    /// The same request gives the same ids.
    fn new(request: &AttachSnapshotRequest, manifest: &'a SnapshotManifest) -> Self {
        let target = CollectionId(request.target_collection_id);
        let partitions = manifest.partitions.iter().map(|partition| partition.id);
        let indexes = manifest.indexes.iter().map(|index| index.id);
        let channels = manifest.collection.iter().flat_map(|info| &info.channels);
        let segments = manifest.segments.iter().map(|segment| segment.id);
        let first_build = request.first_id + manifest.segments.len() as i64;
        let mut builds: HashMap<i64, Vec<(i64, &SegmentIndexInfo)>> = HashMap::new();
        for (id, build) in (first_build..).zip(&manifest.builds) {
            builds
                .entry(build.segment_id)
                .or_default()
                .push((id, build));
        }
        Self {
            manifest,
            target,
            partitions: partitions.zip(request.first_partition_id..).collect(),
            indexes: indexes.zip(request.first_index_id..).collect(),
            channels: channels
                .enumerate()
                .map(|(shard, channel)| (channel.as_str(), keys::channel_name(target, shard)))
                .collect(),
            segments: segments.zip(request.first_id..).collect(),
            builds,
            first_delta: first_build + manifest.builds.len() as i64,
            own_files: request.bundle.is_some(),
        }
    }

    /// The files that a record of the target names, which have their own names behind a prefix.
    fn files(&self, source: &[FileInfo], prefix: &str, parts: &mut Parts) -> Vec<FileInfo> {
        let named = source.iter().map(|file| {
            let name = file.path.rsplit('/').next().unwrap_or_default();
            self.file(file, format!("{prefix}{name}"), parts)
        });
        named.collect()
    }

    fn file(&self, source: &FileInfo, path: String, parts: &mut Parts) -> FileInfo {
        let file = match self.own_files {
            false => source.clone(),
            true => {
                parts.copies.push(FileCopy {
                    file: Some(source.clone()),
                    to: path.clone(),
                });
                FileInfo {
                    path,
                    ..source.clone()
                }
            }
        };
        parts.files.push(file.clone());
        file
    }

    fn segment(&self, source: &SegmentInfo, parts: &mut Parts) -> Result<()> {
        let id = *map(&self.segments, &source.id, "segment")?;
        let partition = *map(&self.partitions, &source.partition_id, "partition")?;
        let (partition, segment) = (PartitionId(partition), SegmentId(id));
        let prefix = layout::segment_prefix(self.target, partition, segment);
        let info = SegmentInfo {
            id,
            collection_id: self.target.0,
            partition_id: partition.0,
            files: self.files(&source.files, &prefix, parts),
            channel: map(&self.channels, source.channel.as_str(), "channel")?.clone(),
            compacted_from: Vec::new(),
            ancestors: Vec::new(),
            ..source.clone()
        };
        parts.put(keys::segment(self.target, partition, segment), &info);
        for (id, build) in self.builds.get(&source.id).into_iter().flatten() {
            let prefix = layout::build_prefix(self.target, partition, segment, BuildId(*id));
            let info = SegmentIndexInfo {
                files: self.files(&build.files, &prefix, parts),
                build_id: *id,
                index_id: *map(&self.indexes, &build.index_id, "index")?,
                segment_id: segment.0,
                collection_id: self.target.0,
                partition_id: partition.0,
                ..(*build).clone()
            };
            let key = keys::segment_index(self.target, partition, segment, BuildId(*id));
            parts.put(key, &info);
        }
        Ok(())
    }

    fn deltas(&self, parts: &mut Parts) -> Result<()> {
        for (id, delta) in (self.first_delta..).zip(&self.manifest.deltas) {
            let channel = map(&self.channels, delta.channel.as_str(), "channel")?;
            let path = layout::delta(channel, id);
            let file = delta.file.as_ref();
            let info = DeltaInfo {
                id,
                collection_id: self.target.0,
                channel: channel.clone(),
                file: file.map(|file| self.file(file, path, parts)),
                ..delta.clone()
            };
            parts.put(keys::delta(self.target, id), &info);
        }
        Ok(())
    }

    /// The new logs are empty, and everything before them is in files.
    fn positions(&self, parts: &mut Parts) {
        for position in &self.manifest.positions {
            let Some(channel) = self.channels.get(position.channel.as_str()) else {
                continue;
            };
            let checkpoint = ChannelCheckpoint {
                channel: channel.clone(),
                collection_id: self.target.0,
                lsn: FIRST_LSN,
                ts: position.ts,
            };
            parts.put(keys::checkpoint(channel), &checkpoint);
        }
    }
}

fn map<'m, K, Q, V>(ids: &'m HashMap<K, V>, source: &Q, what: &str) -> Result<&'m V>
where
    K: std::hash::Hash + Eq + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + std::fmt::Display + ?Sized,
{
    ids.get(source).ok_or_else(|| {
        Error::new(
            ErrorCode::DataIntegrity,
            format!("the manifest of a snapshot names {what} {source}, which is not in it"),
        )
    })
}

fn decode<M: Message + Default>(pair: &KeyValue) -> Result<M> {
    M::decode(pair.value.clone()).map_err(|error| {
        Error::new(
            ErrorCode::DataIntegrity,
            format!("record {} is damaged: {error}", pair.key),
        )
    })
}
