//! The other services, played, and the records they would write.

use super::*;

/// The other services. Compacting keeps every row but one of each source.
pub(super) struct Played {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) steps: Arc<Steps>,
    pub(super) ids: AtomicI64,
    pub(super) requests: Mutex<Vec<CompactRequest>>,
    /// What every compaction fails with.
    pub(super) failure: Mutex<Option<Error>>,
    /// Held while a compaction runs.
    pub(super) gate: tokio::sync::RwLock<()>,
    pub(super) stats: Mutex<Vec<SegmentStats>>,
}

#[async_trait]
impl Around for Played {
    async fn ids(&self, count: u32) -> Result<i64> {
        let take = async { Ok(1_000 + self.ids.fetch_add(count.into(), Ordering::SeqCst)) };
        self.steps.run(take, |_| away()).await
    }

    async fn compact(&self, request: CompactRequest) -> Result<CompactResponse> {
        self.requests.lock().push(request.clone());
        let work = async {
            let _open = self.gate.read().await;
            let failure = self.failure.lock().clone();
            if let Some(failure) = failure {
                return Err(failure);
            }
            if request.delta_target != 0 {
                let delta = merged(&request);
                self.store_delta(&delta).await;
                return Ok(CompactResponse {
                    delta: Some(delta),
                    ..CompactResponse::default()
                });
            }
            let answer = compacted(&request);
            self.store_files(&answer.segments).await;
            Ok(answer)
        };
        self.steps.run(work, |_| away()).await
    }

    async fn segments(&self, _: &ChannelOwner) -> Result<Vec<SegmentStats>> {
        Ok(self.stats.lock().clone())
    }
}

impl Default for Played {
    fn default() -> Self {
        Self {
            store: redkite_storage::open("memory://").unwrap(),
            steps: Arc::default(),
            ids: AtomicI64::default(),
            requests: Mutex::default(),
            failure: Mutex::default(),
            gate: tokio::sync::RwLock::default(),
            stats: Mutex::default(),
        }
    }
}

impl Played {
    /// Writes the file that a delete file's record names, of the right size.
    pub(super) async fn store_delta(&self, delta: &DeltaInfo) {
        let file = delta.file.as_ref().unwrap();
        let bytes = vec![0; file.size as usize];
        self.store.put(&file.path, bytes.into()).await.unwrap();
    }

    /// Writes the files that segments name, of the right size.
    pub(super) async fn store_files(&self, segments: &[SegmentInfo]) {
        for file in segments.iter().flat_map(|segment| &segment.files) {
            let bytes = vec![0; file.size as usize];
            self.store.put(&file.path, bytes.into()).await.unwrap();
        }
    }
}

/// As a data node does it, with every delete needed.
pub(super) fn merged(request: &CompactRequest) -> DeltaInfo {
    let deltas = &request.deltas;
    DeltaInfo {
        rows: deltas.iter().map(|delta| delta.rows).sum(),
        min_ts: deltas.iter().map(|delta| delta.min_ts).min().unwrap(),
        max_ts: deltas.iter().map(|delta| delta.max_ts).max().unwrap(),
        ..delta_file(request.delta_target, 0)
    }
}

pub(super) fn away() -> Error {
    Error::new(ErrorCode::ServiceUnavailable, "away")
}

pub(super) fn compacted(request: &CompactRequest) -> CompactResponse {
    let rows_read: i64 = request.sources.iter().map(|source| source.rows).sum();
    let rows = rows_read - request.sources.len() as i64;
    let first = &request.sources[0];
    let segment = SegmentInfo {
        id: request.targets[0],
        rows,
        deletes_applied_ts: request.deletes_until,
        compacted_from: request.sources.iter().map(|source| source.id).collect(),
        files: segment(request.targets[0], rows).files,
        ..first.clone()
    };
    CompactResponse {
        segments: if rows == 0 { vec![] } else { vec![segment] },
        rows_read,
        rows_written: rows,
        delta: None,
    }
}

pub(super) fn segment(id: i64, rows: i64) -> SegmentInfo {
    SegmentInfo {
        id,
        collection_id: C.0,
        partition_id: P.0,
        channel: CHANNEL.to_owned(),
        rows,
        min_ts: 100,
        max_ts: 900,
        files: vec![FileInfo {
            path: format!("segments/10/11/{id}/data.v1.parquet"),
            size: 10,
            crc32c: 1,
        }],
        ..SegmentInfo::default()
    }
}

pub(super) fn delta(id: i64, max_ts: u64) -> DeltaInfo {
    DeltaInfo {
        id,
        collection_id: C.0,
        channel: CHANNEL.to_owned(),
        rows: 60,
        min_ts: 200,
        max_ts,
        ..DeltaInfo::default()
    }
}

/// A delete file with its path.
pub(super) fn delta_file(id: i64, max_ts: u64) -> DeltaInfo {
    DeltaInfo {
        file: Some(FileInfo {
            path: redkite_storage::layout::delta(CHANNEL, id),
            size: 10,
            crc32c: 1,
        }),
        ..delta(id, max_ts)
    }
}

pub(super) fn build(id: i64, segment: i64) -> (String, Vec<u8>) {
    let info = SegmentIndexInfo {
        build_id: id,
        segment_id: segment,
        state: IndexState::Finished.into(),
        ..SegmentIndexInfo::default()
    };
    let key = keys::segment_index(C, P, SegmentId(segment), BuildId(id));
    (key, info.encode_to_vec())
}
