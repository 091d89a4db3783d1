//! One export from its record to its end.

use redkite_proto::redkite::{
    datanode::{
        CopyFilesRequest, FileCopy, FinishBundleRequest, OpenBundleRequest, RemoveBundleRequest,
    },
    meta::{
        BundleInfo, BundlePlace, FileInfo, SnapshotExportInfo, SnapshotInfo,
        snapshot_export_info::State,
    },
};
use redkite_runtime::hold_here;
use redkite_types::{Error, ErrorCode, Result};
use tracing::{Instrument as _, info, info_span, warn};

use super::{
    Bundles, MANIFEST, PATIENCE, SHORT_PATIENCE, batch, files,
    records::{self, Recorded},
    snapshot_of,
};

/// Why a job is not worked on any longer.
enum End {
    /// Its record was changed by somebody else, is gone, or could not be written: the next round
    /// goes on from what is recorded.
    Later,
    /// It cannot be completed.
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Bundles {
    /// Works on a job until it has ended or the process stops.
    pub(super) async fn execute(&self, id: i64) {
        let span = info_span!("export_snapshot", job = id);
        let stop = self.tasks.token();
        let work = self.attempt(id).instrument(span);
        match stop.run_until_cancelled(work).await {
            // One that is cut off here is failed by whoever goes on.
            Some(Err(End::Failed(error))) => {
                let _ = stop.run_until_cancelled(self.fail(id, &error)).await;
            }
            Some(Ok(()) | Err(End::Later)) | None => {}
        }
    }

    async fn attempt(&self, id: i64) -> Result<(), End> {
        let Some(mut recorded) = records::find(&*self.snapshots.kv, id).await? else {
            return Err(End::Later);
        };
        if records::has_ended(&recorded.job) {
            return Err(End::Later);
        }
        if !recorded.job.reason.is_empty() {
            // It was about to fail.
            let error = Error::new(ErrorCode::Internal, recorded.job.reason);
            return Err(End::Failed(error));
        }
        let snapshot = snapshot_of(&self.snapshots, &recorded.job).await?;
        let manifest = self
            .patiently("read the manifest", SHORT_PATIENCE, || {
                self.snapshots.manifests.read(&snapshot)
            })
            .await?;
        let copies = copies(&snapshot, files(&manifest));
        if recorded.job.state() == State::Pending {
            let executing = SnapshotExportInfo {
                state: State::Executing.into(),
                total_files: copies.len() as i64,
                total_bytes: copies.iter().map(size).sum::<u64>() as i64,
                ..recorded.job.clone()
            };
            recorded = self.replace(&recorded, executing).await?;
        }
        hold_here(&["export_snapshot", "begun"]).await;
        let open = OpenBundleRequest {
            place: recorded.job.place.clone(),
            token: recorded.job.token.clone(),
        };
        self.patiently("open the place", SHORT_PATIENCE, || {
            self.around.open(open.clone())
        })
        .await?;
        while let Some(rest) = copies.get(recorded.job.files_done as usize..)
            && !rest.is_empty()
        {
            let batch = batch(rest, size);
            let request = CopyFilesRequest {
                from: None,
                to: recorded.job.place.clone(),
                token: recorded.job.token.clone(),
                files: batch.to_vec(),
                only_check: false,
            };
            let span = info_span!(
                "copy_files",
                from = recorded.job.files_done,
                files = batch.len()
            );
            self.patiently("copy files", PATIENCE, || self.around.copy(request.clone()))
                .instrument(span)
                .await?;
            hold_here(&["export_snapshot", "copied"]).await;
            let further = SnapshotExportInfo {
                files_done: recorded.job.files_done + batch.len() as i64,
                bytes_done: recorded.job.bytes_done + batch.iter().map(size).sum::<u64>() as i64,
                ..recorded.job.clone()
            };
            recorded = self.replace(&recorded, further).await?;
        }
        self.complete(&recorded, &snapshot).await
    }

    async fn complete(&self, recorded: &Recorded, snapshot: &SnapshotInfo) -> Result<(), End> {
        let job = &recorded.job;
        let request = FinishBundleRequest {
            place: job.place.clone(),
            info: Some(BundleInfo {
                token: job.token.clone(),
                snapshot_name: job.snapshot_name.clone(),
                description: snapshot.description.clone(),
                database: job.database.clone(),
                collection: job.collection.clone(),
                ts: snapshot.ts,
                manifest: snapshot.manifest.clone().map(|file| FileInfo {
                    path: MANIFEST.to_owned(),
                    ..file
                }),
                files: job.total_files,
                bytes: job.total_bytes,
            }),
        };
        hold_here(&["export_snapshot", "completing"]).await;
        let uri = self
            .patiently("complete the bundle", PATIENCE, || {
                self.around.finish(request.clone())
            })
            .await?;
        hold_here(&["export_snapshot", "completed"]).await;
        let finished_ms = self.finished(job);
        let completed = SnapshotExportInfo {
            state: State::Completed.into(),
            finished_ms,
            metadata_uri: uri,
            place: without_secret(job),
            ..job.clone()
        };
        info!(bundle = %completed.metadata_uri, files = job.total_files, bytes = job.total_bytes, "snapshot exported");
        metrics::counter!("redkite_datacoord_snapshot_exports_total", "result" => "completed")
            .increment(1);
        let seconds = finished_ms.saturating_sub(job.started_ms) as f64 / 1_000.0;
        metrics::histogram!("redkite_datacoord_snapshot_export_seconds").record(seconds);
        self.end(recorded, completed).await;
        Ok(())
    }

    fn finished(&self, job: &SnapshotExportInfo) -> u64 {
        self.snapshots.clock.unix_millis().max(job.started_ms + 1)
    }

    async fn replace(&self, before: &Recorded, job: SnapshotExportInfo) -> Result<Recorded, End> {
        match records::replace(&*self.snapshots.kv, before, job).await {
            Ok(Some(recorded)) => Ok(recorded),
            Ok(None) => Err(End::Later),
            Err(error) if error.retriable => {
                warn!(error = %error.message, "an export's progress is not recorded");
                Err(End::Later)
            }
            Err(error) => Err(End::Failed(error)),
        }
    }

    /// A job whose end is not recorded is worked on again, and comes to the same end.
    async fn end(&self, before: &Recorded, job: SnapshotExportInfo) {
        let id = job.job_id;
        match records::end(&*self.snapshots.kv, before, job).await {
            Ok(true) => {}
            Ok(false) => warn!(job = id, "somebody else has ended an export"),
            Err(error) => {
                warn!(job = id, error = %error.message, "an export's end is not recorded")
            }
        }
    }

    /// Records why, so that nobody completes it any more; removes what was written; ends the job.
    async fn fail(&self, id: i64, error: &Error) {
        warn!(job = id, code = error.code.number(), error = %error.message, "export failed");
        let recorded = match records::find(&*self.snapshots.kv, id).await {
            Ok(Some(recorded)) if !records::has_ended(&recorded.job) => recorded,
            Ok(_) | Err(_) => return,
        };
        let noted = SnapshotExportInfo {
            reason: error.message.clone(),
            ..recorded.job.clone()
        };
        let Ok(recorded) = self.replace(&recorded, noted).await else {
            return;
        };
        let job = &recorded.job;
        let request = RemoveBundleRequest {
            place: job.place.clone(),
            token: job.token.clone(),
            paths: self.written(job).await,
        };
        let removed = self.patiently("remove the bundle", SHORT_PATIENCE, || {
            self.around.remove(request.clone())
        });
        if let Err(error) = removed.await {
            warn!(job = id, error = %error.message, "an export's files are left where they are");
        }
        let failed = SnapshotExportInfo {
            state: State::Failed.into(),
            finished_ms: self.finished(job),
            place: without_secret(job),
            ..job.clone()
        };
        metrics::counter!("redkite_datacoord_snapshot_exports_total", "result" => "failed")
            .increment(1);
        self.end(&recorded, failed).await;
    }

    /// Every path that the job may have written.
    async fn written(&self, job: &SnapshotExportInfo) -> Vec<String> {
        let read = async {
            let snapshot = snapshot_of(&self.snapshots, job).await?;
            let manifest = self.snapshots.manifests.read(&snapshot).await?;
            Ok::<_, Error>(copies(&snapshot, files(&manifest)))
        };
        match read.await {
            Ok(copies) => copies.into_iter().map(|copy| copy.to).collect(),
            // Then nothing was copied either.
            Err(_) => Vec::new(),
        }
    }
}

/// Everything that a bundle consists of, the manifest last.
fn copies(snapshot: &SnapshotInfo, files: Vec<FileInfo>) -> Vec<FileCopy> {
    let data = files.into_iter().map(|file| FileCopy {
        to: file.path.clone(),
        file: Some(file),
    });
    let manifest = snapshot.manifest.clone().map(|file| FileCopy {
        to: MANIFEST.to_owned(),
        file: Some(file),
    });
    data.chain(manifest).collect()
}

fn size(copy: &FileCopy) -> u64 {
    copy.file.as_ref().map_or(0, |file| file.size)
}

fn without_secret(job: &SnapshotExportInfo) -> Option<BundlePlace> {
    job.place.clone().map(|place| BundlePlace {
        secret_key: String::new(),
        ..place
    })
}
