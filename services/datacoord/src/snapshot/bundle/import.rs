//! What a restore needs of a bundle.

use std::time::Duration;

use prost::Message as _;
use redkite_catalog::keys;
use redkite_metastore::TxnOutcome;
use redkite_proto::redkite::{
    datacoord::{AttachSnapshotRequest, ReadBundleResponse},
    datanode::{self, CopyFilesRequest, FileCopy},
    meta::{BundlePlace, RestoreJobInfo, SnapshotManifest},
};
use redkite_runtime::Deadline;
use redkite_types::{CollectionId, Error, ErrorCode, Result};

use super::{Bundles, batch, files, manifest};

/// How long one call goes on copying.
const COPY_FOR: Duration = Duration::from_secs(5);
/// How often progress is written again because the record has changed meanwhile.
const ATTEMPTS: usize = 16;
/// How far a job is when everything is copied, in percent; the rest is for the records.
const COPIED: i64 = 90;

impl Bundles {
    /// What a bundle says of its collection, without the records of its parts.
    ///
    /// # Errors
    /// Code 1000 when there is no bundle, 1009 when it is damaged; else as the data node says.
    pub async fn read(&self, place: &BundlePlace) -> Result<ReadBundleResponse> {
        let request = datanode::ReadBundleRequest {
            place: Some(place.clone()),
        };
        let read = self.around.read(request).await?;
        let mut definition = read.manifest.unwrap_or_default();
        manifest::check_version(&definition)?;
        let parts = definition.segments.len() + definition.builds.len() + definition.deltas.len();
        let positions = definition.positions.iter().map(|position| position.ts);
        let segments = definition.segments.iter().map(|segment| segment.max_ts);
        let deltas = definition.deltas.iter().map(|delta| delta.max_ts);
        let latest_ts = positions.chain(segments).chain(deltas).max();
        definition.segments.clear();
        definition.builds.clear();
        definition.deltas.clear();
        Ok(ReadBundleResponse {
            info: read.info,
            definition: Some(definition),
            parts: parts as u32,
            latest_ts: latest_ts.unwrap_or_default(),
        })
    }

    /// The manifest of the bundle that a restore has begun with.
    ///
    /// # Errors
    /// As [`Bundles::read`]; code 1009 when there is another bundle by now.
    async fn manifest(&self, request: &AttachSnapshotRequest) -> Result<SnapshotManifest> {
        let read = datanode::ReadBundleRequest {
            place: request.bundle.clone(),
        };
        let read = self.around.read(read).await?;
        if read
            .info
            .is_none_or(|info| info.token != request.bundle_token)
        {
            return Err(Error::new(
                ErrorCode::DataIntegrity,
                "the bundle was replaced by another one while it was restored",
            ));
        }
        let found = read.manifest.unwrap_or_default();
        manifest::check_version(&found)?;
        Ok(found)
    }

    /// Copies files of a bundle into the target's folder for some seconds, or compares the checksums
    /// of those that the target is to name: all, or those that somebody has touched since the snapshot was
    /// taken. Whether all is done.
    ///
    /// # Errors
    /// Code 1000 and 1009, not retriable, when a file is missing or is not what it should be, with its
    /// name; 100 when the target or the job is gone; else as the stores and the metastore say: call
    /// it again.
    pub async fn copy_in(&self, request: &AttachSnapshotRequest) -> Result<bool> {
        let only_check = request.bundle.is_none();
        let copies = match only_check {
            false => {
                let manifest = self.manifest(request).await?;
                self.snapshots.copies(request, &manifest)?
            }
            true => {
                let source = CollectionId(request.collection_id);
                let info = self.snapshots.find(source, &request.name).await?;
                let manifest = self.snapshots.manifests.read(&info).await?;
                let mut named = files(&manifest);
                if let (false, Some(own)) = (self.options.verify_checksums, &info.manifest) {
                    let gate = &self.snapshots.gate;
                    named = gate.written_since(&own.path, named).await?;
                }
                let named = named.into_iter().map(|file| FileCopy {
                    file: Some(file),
                    to: String::new(),
                });
                named.collect()
            }
        };
        if only_check && copies.is_empty() {
            return Ok(true);
        }
        let until = Deadline::after(COPY_FOR);
        let mut done = self.progress(request, copies.len(), 0).await?;
        while let Some(rest) = copies.get(done..)
            && !rest.is_empty()
        {
            if until.expired() {
                return Ok(false);
            }
            let batch = batch(rest, |copy| copy.file.as_ref().map_or(0, |file| file.size));
            let copy = CopyFilesRequest {
                from: request.bundle.clone(),
                to: None,
                token: String::new(),
                files: batch.to_vec(),
                only_check,
            };
            self.around.copy(copy).await?;
            done += batch.len();
            self.progress(request, copies.len(), done).await?;
        }
        Ok(true)
    }

    /// Records how far a restore's copying is; answers how far it was at least.
    async fn progress(
        &self,
        request: &AttachSnapshotRequest,
        total: usize,
        done: usize,
    ) -> Result<usize> {
        let kv = &*self.snapshots.kv;
        for _ in 0..ATTEMPTS {
            let percent = (done as i64 * COPIED).checked_div(total as i64);
            let (txn, mut job) = self
                .snapshots
                .guards(request, percent.unwrap_or(COPIED) as i32)
                .await?;
            // Other files than before, if one was touched meanwhile: then none of them is done.
            let is_same = job.total_files == total as i64;
            let before = match is_same {
                true => usize::try_from(job.files_done).unwrap_or_default(),
                false => 0,
            };
            if done <= before && is_same {
                return Ok(before);
            }
            job.total_files = total as i64;
            job.files_done = done.max(before) as i64;
            let put = redkite_metastore::Op::put(
                keys::restore_job(request.job_id),
                RestoreJobInfo::encode_to_vec(&job),
            );
            let committed = kv.txn(txn.then(put)).await;
            let outcome = committed.map_err(|error| Error::from_coded(&error))?;
            if let TxnOutcome::Applied { .. } = outcome {
                return Ok(done.max(before));
            }
        }
        let job = request.job_id;
        let text = format!("the record of restore job {job} changes too fast");
        Err(Error::new(ErrorCode::ServiceUnavailable, text))
    }

    /// Adds the records of a bundle's parts to the target, whose files were copied before.
    ///
    /// # Errors
    /// As [`Bundles::copy_in`].
    pub async fn attach(&self, request: &AttachSnapshotRequest) -> Result<()> {
        let manifest = self.manifest(request).await?;
        self.snapshots.attach_parts(request, &manifest).await
    }
}
