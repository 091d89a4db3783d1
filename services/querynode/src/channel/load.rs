//! Segments and their indexes from files into memory, in tasks of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use redkite_index::ColumnIndex;
use redkite_node::MemoryUse;
use redkite_proto::redkite::meta::{DeltaInfo, SegmentIndexInfo, SegmentInfo};
use redkite_runtime::{OnFailure, Priority};
use redkite_segment::{
    DeleteBatch, FileKind, SealedSegment, SegmentMeta,
    delta::read_delta,
    file::{open_segment, read_checked},
    manifest,
};
use redkite_storage::ObjectStore;
use redkite_types::{CollectionSchema, Error, ErrorCode, FieldId, Result, SegmentId, error::chain};
use tokio::{sync::OnceCell, time::Instant};
use tracing::{Instrument as _, info_span, warn};

use super::{
    Control,
    mapping::Mapping,
    owner::Owner,
    state::{LoadFailure, Sealed},
};
use crate::{deps::Shared, metrics};

/// Pause after the first failure of a load; doubled after each further one.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// Key, row id, time and place in the order of the keys; keys that are texts may be longer.
const KEPT_ROW_BYTES: u64 = 64;

/// The loads that run.
#[derive(Debug, Default)]
pub(super) struct Loads {
    next: u64,
    /// For each the number of the first delete that it has not applied.
    running: BTreeMap<u64, u64>,
}

/// What one load came to.
pub(super) struct LoadOutcome {
    load: u64,
    segment: SegmentId,
    result: Result<LoadedSegment>,
    /// The number of the first delete that it has not applied.
    deletes_from: u64,
}

struct LoadedSegment {
    segment: Arc<SealedSegment>,
    /// The fields whose columns were left in the file; `None` when the rows were there already.
    mapped: Option<BTreeSet<FieldId>>,
    opened: BTreeMap<FieldId, i64>,
    /// Why an index could not be opened; the rows are served without it.
    index_failure: Option<Error>,
}

/// Delete files, each read once for all loads that were started together.
struct DeltaFiles {
    files: Vec<(DeltaInfo, OnceCell<Arc<DeleteBatch>>)>,
}

/// One load.
struct Load {
    info: SegmentInfo,
    schema: Arc<CollectionSchema>,
    /// Which indexes stay in files.
    mapping: Arc<Mapping>,
    /// Which columns do.
    in_file: BTreeSet<FieldId>,
    /// The rows if they are in memory already.
    rows: Option<Arc<SealedSegment>>,
    /// Whether columns of these rows are to stay in the file from now on.
    leaves_memory: bool,
    /// Index files to open.
    builds: Vec<SegmentIndexInfo>,
    deltas: Arc<DeltaFiles>,
    /// Deletes that are in no delete file.
    recent: Vec<Arc<DeleteBatch>>,
}

impl Owner {
    /// Starts to load what is missing of the segments to serve.
    pub(super) fn start_loads(&mut self) {
        let now = Instant::now();
        let loaded = &self.state.loaded;
        let sealed = self.state.sealed.iter();
        let due: Vec<SegmentId> = sealed
            .filter(|(_, sealed)| loaded.contains(&sealed.partition()) && sealed.is_due(now))
            .map(|(id, _)| *id)
            .collect();
        if due.is_empty() {
            return;
        }
        let deltas = self.state.deltas.values();
        let files = deltas
            .map(|delta| (delta.clone(), OnceCell::new()))
            .collect();
        let deltas = Arc::new(DeltaFiles { files });
        for id in due {
            self.start_load(id, deltas.clone());
        }
    }

    /// When a load that failed is to be tried again.
    pub(super) fn load_retry_at(&self) -> Option<Instant> {
        let sealed = self.state.sealed.values();
        let wanted = sealed.filter(|sealed| self.state.loaded.contains(&sealed.partition()));
        let idle = wanted.filter(|sealed| sealed.load.is_none() && sealed.is_incomplete());
        idle.filter_map(|sealed| sealed.failure.as_ref().map(|failure| failure.retry_at))
            .min()
    }

    fn start_load(&mut self, id: SegmentId, deltas: Arc<DeltaFiles>) {
        let Some(sealed) = self.state.sealed.get_mut(&id) else {
            return;
        };
        self.loads.next += 1;
        let number = self.loads.next;
        let deletes_from = self.state.deletes.end();
        self.loads.running.insert(number, deletes_from);
        sealed.load = Some(number);
        let indexed = sealed.builds.keys().copied();
        let in_file = self.state.mapping.columns_with(indexed);
        let rows = sealed.loaded.clone();
        // With an index that goes by its codes the vectors need not be in memory any longer.
        let leaves_memory = rows.is_some() && !sealed.mapped.is_superset(&in_file);
        let builds = match rows.is_some() && !leaves_memory {
            true => sealed.missing_builds().cloned().collect(),
            false => sealed.builds.values().cloned().collect(),
        };
        let load = Load {
            info: sealed.info.clone(),
            schema: self.state.schema.clone(),
            mapping: self.state.mapping.clone(),
            in_file,
            leaves_memory,
            rows,
            builds,
            deltas,
            recent: self.state.deletes.unflushed().cloned().collect(),
        };
        let channel = self.channel.clone();
        let span = info_span!("load segment", channel = %channel.name, segment = id.0);
        let work = async move {
            let started = Instant::now();
            let result = Box::pin(load.run(&channel.shared)).await;
            metrics::loaded(result.is_ok(), started.elapsed());
            let outcome = LoadOutcome {
                load: number,
                segment: id,
                result,
                deletes_from,
            };
            // Without an owner nobody needs it.
            let _ = channel
                .control
                .send(Control::Loaded(Box::new(outcome)))
                .await;
        };
        let name = format!("load segment {id}");
        self.channel
            .tasks
            .spawn_cancellable(name, OnFailure::Log, work.instrument(span));
    }

    /// Takes over what a load came to, unless it is not wanted any more.
    pub(super) fn loaded(&mut self, outcome: LoadOutcome) {
        self.loads.running.remove(&outcome.load);
        if let Some(sealed) = self.state.sealed.get_mut(&outcome.segment)
            && sealed.load == Some(outcome.load)
        {
            sealed.load = None;
            match outcome.result {
                Ok(loaded) => {
                    // Deletes that came while it was loading.
                    for batch in self.state.deletes.since(outcome.deletes_from) {
                        loaded.segment.delete(batch);
                    }
                    loaded.segment.adopt(&self.state.schema);
                    sealed.loaded = Some(loaded.segment);
                    if let Some(mapped) = loaded.mapped {
                        sealed.mapped = mapped;
                        // Those that were opened beside the rows before are not with these.
                        sealed.opened.clear();
                    }
                    sealed.opened.extend(loaded.opened);
                    match loaded.index_failure {
                        Some(error) => sealed.failed(error),
                        None => sealed.failure = None,
                    }
                }
                Err(error) => {
                    warn!(
                        channel = %self.channel.name,
                        segment = outcome.segment.0,
                        %error,
                        "segment not loaded"
                    );
                    sealed.failed(error);
                }
            }
        }
        self.trim_deletes();
        // An index may have been built meanwhile.
        self.start_loads();
        self.state.take_over(Instant::now());
        self.publish();
    }

    /// Forgets deletes that are in files and that no running load has to apply.
    pub(super) fn trim_deletes(&mut self) {
        let needed_from = self.loads.running.values().min().copied();
        self.state.deletes.trim(needed_from.unwrap_or(u64::MAX));
    }
}

impl Sealed {
    /// Whether a load is to be started now.
    fn is_due(&self, now: Instant) -> bool {
        let waits = self
            .failure
            .as_ref()
            .is_some_and(|failure| failure.retry_at > now);
        self.is_incomplete() && self.load.is_none() && !waits
    }

    fn is_incomplete(&self) -> bool {
        self.loaded.is_none() || self.missing_builds().next().is_some()
    }

    /// Index files that are to be used and are not open.
    fn missing_builds(&self) -> impl Iterator<Item = &SegmentIndexInfo> {
        let missing = |(field, build): &(&FieldId, &SegmentIndexInfo)| {
            self.opened.get(field) != Some(&build.build_id)
        };
        self.builds.iter().filter(missing).map(|(_, build)| build)
    }

    fn failed(&mut self, error: Error) {
        let times = self.failure.as_ref().map_or(0, |failure| failure.times) + 1;
        let pause = FIRST_RETRY
            .saturating_mul(1 << (times - 1).min(10))
            .min(LONGEST_RETRY);
        self.failure = Some(LoadFailure {
            error,
            times,
            retry_at: Instant::now() + pause,
        });
    }
}

impl Load {
    async fn run(self, shared: &Shared) -> Result<LoadedSegment> {
        let _permit = shared.load_permits.acquire().await;
        let store = &*shared.deps.store;
        let is_mapped = |build: &SegmentIndexInfo| {
            let field = FieldId(build.field_id);
            self.mapping.indexes.contains(&field)
        };
        let builds = self.builds.iter();
        let indexes = builds.map(|build| async {
            let mapped = is_mapped(build);
            if !mapped {
                let bytes = build.files.iter().map(|file| file.size).sum();
                let what = format!("index build {}", build.build_id);
                shared.deps.memory.claim(MemoryUse::User, &what, bytes)?;
            }
            open_index(store, build, mapped).await
        });
        let rows = async {
            match self.rows.clone() {
                Some(segment) if !self.leaves_memory || !self.is_local(store).await => {
                    Ok::<_, Error>((segment, false))
                }
                _ => Ok((Box::pin(self.read_rows(shared)).await?, true)),
            }
        };
        let (rows, indexes) = futures::join!(rows, join_all(indexes));
        let (mut segment, is_read) = rows?;
        let mut opened = BTreeMap::new();
        let mut index_failure = None;
        for (build, index) in self.builds.iter().zip(indexes) {
            let field = FieldId(build.field_id);
            let with = index.and_then(|index| index.add_to(&segment, field));
            match with {
                Ok(with) => {
                    segment = with;
                    opened.insert(field, build.build_id);
                }
                Err(error) => {
                    warn!(build = build.build_id, %error, "index not opened");
                    index_failure = Some(error);
                }
            }
        }
        Ok(LoadedSegment {
            segment,
            mapped: is_read.then_some(self.in_file),
            opened,
            index_failure,
        })
    }

    /// Whether the rows' file is on a local disk, or there is room for it.
    async fn is_local(&self, store: &dyn ObjectStore) -> bool {
        let manifest = manifest::from_info(&self.info);
        match manifest.file(FileKind::Data) {
            Some(file) => matches!(store.local_file(&file.path).await, Ok(Some(_))),
            None => false,
        }
    }

    /// Memory that the rows will take: the files' bytes, or where vectors stay in the file, what is
    /// kept of each row all the same.
    fn rows_bytes(&self) -> u64 {
        let stays = |id: &FieldId| self.in_file.contains(id);
        let mut vectors = self.schema.fields.iter();
        let mapped = vectors.all(|field| !field.data_type.is_vector() || stays(&field.id));
        let files: u64 = self.info.files.iter().map(|file| file.size).sum();
        match mapped {
            true => files.min(self.info.rows as u64 * KEPT_ROW_BYTES),
            false => files,
        }
    }

    async fn read_rows(&self, shared: &Shared) -> Result<Arc<SealedSegment>> {
        let store = &*shared.deps.store;
        let what = format!("segment {}", self.info.id);
        shared
            .deps
            .memory
            .claim(MemoryUse::User, &what, self.rows_bytes())?;
        let manifest = manifest::from_info(&self.info);
        let placement = shared.placement(self.in_file.clone());
        let chunk = open_segment(store, &manifest, self.schema.clone(), &placement).await;
        let chunk = chunk.map_err(|error| Error::from_coded(&error))?;
        let mut deletes = self.recent.clone();
        // A delete hides rows that are older than itself; a compaction has left those out.
        let later = |file: &&(DeltaInfo, _)| {
            file.0.max_ts > self.info.min_ts && file.0.max_ts > self.info.deletes_applied_ts
        };
        for (info, cell) in self.deltas.files.iter().filter(later) {
            deletes.push(
                cell.get_or_try_init(|| read_deletes(store, info))
                    .await?
                    .clone(),
            );
        }
        let meta = SegmentMeta {
            collection: manifest.collection,
            partition: manifest.partition,
            segment: manifest.segment,
            schema: self.schema.clone(),
        };
        let build = move || {
            let segment = SealedSegment::new(meta, chunk)?;
            for batch in &deletes {
                segment.delete(batch);
            }
            Ok(Arc::new(segment))
        };
        let built: redkite_segment::Result<_> =
            shared.deps.cpu.run(Priority::Segment, build).await?;
        built.map_err(|error| Error::from_coded(&error))
    }
}

async fn read_deletes(store: &dyn ObjectStore, info: &DeltaInfo) -> Result<Arc<DeleteBatch>> {
    let file = info.file.as_ref().ok_or_else(|| {
        let text = format!("delete file {} has no path", info.id);
        Error::new(ErrorCode::DataIntegrity, text)
    })?;
    let batch = read_delta(store, &manifest::from_file(FileKind::Delta, file)).await;
    batch
        .map(Arc::new)
        .map_err(|error| Error::from_coded(&error))
}

/// An index that is open.
struct OpenIndex {
    index: Arc<ColumnIndex>,
    is_mapped: bool,
}

impl OpenIndex {
    fn add_to(self, segment: &SealedSegment, field: FieldId) -> Result<Arc<SealedSegment>> {
        let with = match self.is_mapped {
            true => segment.with_mapped_index(field, self.index),
            false => segment.with_index(field, self.index),
        };
        with.map_err(|error| Error::from_coded(&error))
    }
}

/// Opens an index, after its file was checked against the record of it.
async fn open_index(
    store: &dyn ObjectStore,
    build: &SegmentIndexInfo,
    mapped: bool,
) -> Result<OpenIndex> {
    let [file] = build.files.as_slice() else {
        let count = build.files.len();
        return Err(Error::new(
            ErrorCode::DataIntegrity,
            format!("index build {} has {count} files", build.build_id),
        ));
    };
    let entry = manifest::from_file(FileKind::Index, file);
    let checked = read_checked(store, &entry, mapped).await;
    let checked = checked.map_err(|error| Error::from_coded(&error))?;
    let is_mapped = checked.mapped_from.is_some();
    let open = move || match checked.mapped_from {
        Some(file) => ColumnIndex::open_mapped(checked.bytes, file),
        None => ColumnIndex::open_verified(checked.bytes),
    };
    match tokio::task::spawn_blocking(open).await {
        Ok(Ok(index)) => Ok(OpenIndex {
            index: Arc::new(index),
            is_mapped,
        }),
        Ok(Err(error)) => {
            Err(Error::from_coded(&error).context(format!("index file {}", entry.path)))
        }
        Err(stopped) => Err(Error::internal(chain(&stopped))),
    }
}
