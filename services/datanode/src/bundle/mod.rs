//! Bundles: copies of snapshots that need nothing of the deployment that wrote them.
//!
//! ```text
//! {root}/_BUNDLE            the token of the job that is writing here
//! {root}/segments/..        every file that the manifest names, under the path that it gives
//! {root}/deltas/..
//! {root}/manifest.bin       the snapshot's manifest
//! {root}/metadata.json      written last: the bundle is complete
//! ```
//!
//! Every file is copied with its size and checksum compared, and has its name only once it is whole.
//!
//! - [`options`]: what an operator may set
//! - `place`: where bundles are
//! - `copy`: one file from one place to another
//! - `metadata`: what a bundle says of itself

mod copy;
mod metadata;
pub mod options;
mod place;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::{StreamExt as _, stream};
use prost::Message as _;
use redkite_node::DiskSpace;
use redkite_proto::redkite::{
    datanode::{
        CopyFilesRequest, CopyFilesResponse, FileCopy, FinishBundleRequest, FinishBundleResponse,
        OpenBundleRequest, OpenBundleResponse, ReadBundleRequest, ReadBundleResponse,
        RemoveBundleRequest, RemoveBundleResponse,
    },
    meta::{BundleInfo, BundlePlace, SnapshotManifest},
};
use redkite_storage::{ObjectStore, PutOutcome, checksum};
use redkite_types::{Error, ErrorCode, Result};
use tracing::info;

pub use self::options::BundleOptions;
use self::place::{Access, Place, Places, failed};
use crate::export::options::BucketOptions;

/// Says that a bundle is complete, and where its manifest is.
const METADATA: &str = "metadata.json";
/// Holds the token of the job that writes here.
const MARKER: &str = "_BUNDLE";
/// Files that are copied at the same time.
const COPIES: usize = 4;

/// Reads and writes bundles.
#[derive(Debug)]
pub struct Bundler {
    places: Places,
}

impl Bundler {
    /// Copies from and to a store; `disk` is the store's, where it is a local one. Keys of `buckets`
    /// are taken where a request brings none.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        disk: Arc<DiskSpace>,
        options: BundleOptions,
        buckets: Vec<BucketOptions>,
    ) -> Self {
        Self {
            places: Places::new(store, disk, options, buckets),
        }
    }

    /// Marks a place as a job's own. One that holds the job's own complete bundle is left as it is: its
    /// end was not recorded.
    ///
    /// # Errors
    /// Code 1100 when it is another's, holds another complete bundle, or may not be used; else as the
    /// store says.
    pub async fn open(&self, request: OpenBundleRequest) -> Result<OpenBundleResponse> {
        let place = self.open_place(&request.place, Access::Write).await?;
        let token = request.token.as_bytes().to_vec();
        if let Some(owner) = place.read(MARKER).await? {
            return match owner == token {
                true => Ok(OpenBundleResponse {}),
                false => Err(taken(&place, "another job writes there")),
            };
        }
        if place.read(METADATA).await?.is_some() {
            // What cannot be read is not ours: our own is written whole.
            let complete = self.complete(&place).await.ok().flatten();
            return match complete.is_some_and(|info| info.token == request.token) {
                true => Ok(OpenBundleResponse {}),
                false => Err(taken(&place, "it holds a bundle already")),
            };
        }
        let marker = place.key(MARKER);
        let put = place.store.put_if_absent(&marker, token.clone().into());
        // Also after an answer that was lost it may be ours.
        if put.await.map_err(failed)? == PutOutcome::AlreadyExists
            && place.read(MARKER).await?.is_none_or(|owner| owner != token)
        {
            return Err(taken(&place, "another job writes there"));
        }
        Ok(OpenBundleResponse {})
    }

    /// Copies files, each as a whole, or only compares their checksums. When it returns, nothing is
    /// being written any more.
    ///
    /// # Errors
    /// Code 1000 when a source is missing and 1009 when it is not what it should be, with its name;
    /// 1100 when the target is not the job's; 7 while the disk is full; else as the stores say.
    ///
    /// # Cancel safety
    /// Dropping the future stops the work; files that were being written are not seen.
    pub async fn copy(&self, request: CopyFilesRequest) -> Result<CopyFilesResponse> {
        let from = self.place_or_own(&request.from, Access::Read).await?;
        let to = self.place_or_own(&request.to, Access::Write).await?;
        if request.to.is_some() {
            let owner = place_owner(&to).await?;
            if owner.is_none_or(|owner| owner != request.token.as_bytes()) {
                return Err(taken(&to, "the job does not own it any more"));
            }
        }
        let only_check = request.only_check;
        let broken = AtomicBool::new(false);
        let copies = request.files.iter().map(|one| {
            let (from, to, broken) = (&from, &to, &broken);
            async move {
                if broken.load(Ordering::Relaxed) {
                    return Ok(0);
                }
                let copied = copy_one(from, to, one, only_check).await;
                if copied.is_err() {
                    broken.store(true, Ordering::Relaxed);
                }
                copied
            }
        });
        let copied = stream::iter(copies.collect::<Vec<_>>()).buffer_unordered(COPIES);
        // Also those that are under way when one fails come to their end: a write that nobody waits for
        // would bring its file after everything was removed.
        let outcomes: Vec<Result<u64>> = copied.collect().await;
        let bytes = outcomes.into_iter().sum::<Result<u64>>()?;
        let what = if only_check { "checked" } else { "copied" };
        metrics::counter!("redkite_datanode_bundle_files_total", "what" => what)
            .increment(request.files.len() as u64);
        metrics::counter!("redkite_datanode_bundle_bytes_total", "what" => what).increment(bytes);
        Ok(CopyFilesResponse { bytes })
    }

    /// Writes `metadata.json`, and gives the place's marker up. The same again changes nothing.
    ///
    /// # Errors
    /// Code 1100 when the place is not the job's; else as the store says.
    pub async fn finish(&self, request: FinishBundleRequest) -> Result<FinishBundleResponse> {
        let place = self.open_place(&request.place, Access::Write).await?;
        let info = request.info.unwrap_or_default();
        let done = FinishBundleResponse {
            metadata_uri: place.uri(METADATA),
        };
        match place_owner(&place).await? {
            Some(owner) if owner == info.token.as_bytes() => {}
            Some(_) | None => {
                return match self.complete(&place).await? {
                    Some(written) if written.token == info.token => Ok(done),
                    Some(_) | None => Err(taken(&place, "the job does not own it any more")),
                };
            }
        }
        let text = metadata::encode(&info);
        let (metadata, marker) = (place.key(METADATA), place.key(MARKER));
        let written = place.store.put(&metadata, text.into()).await;
        written.map_err(failed)?;
        place.store.delete(&marker).await.map_err(failed)?;
        info!(bundle = %done.metadata_uri, files = info.files, bytes = info.bytes, "bundle written");
        Ok(done)
    }

    /// Removes what a job has written, its marker last, unless the place is another's.
    ///
    /// # Errors
    /// As the store says.
    pub async fn remove(&self, request: RemoveBundleRequest) -> Result<RemoveBundleResponse> {
        let place = self.open_place(&request.place, Access::Write).await?;
        let owner = place_owner(&place).await?;
        let complete = self.complete(&place).await.ok().flatten();
        let is_ours = owner.is_some_and(|owner| owner == request.token.as_bytes())
            || complete.is_some_and(|info| info.token == request.token);
        if !is_ours {
            return Ok(RemoveBundleResponse {});
        }
        let last = [MARKER.to_owned()];
        let first = [METADATA.to_owned()];
        for name in first.iter().chain(&request.paths).chain(&last) {
            let removed = place.store.delete(&place.key(name)).await;
            removed.map_err(failed)?;
        }
        Ok(RemoveBundleResponse {})
    }

    /// Reads what a complete bundle says of itself.
    ///
    /// # Errors
    /// Code 1000 when there is none, or it has no manifest; 1009 when either is damaged; 1100 when the
    /// place may not be used; else as the store says.
    pub async fn read(&self, request: ReadBundleRequest) -> Result<ReadBundleResponse> {
        let place = self.open_place(&request.place, Access::Read).await?;
        let info = self.complete(&place).await?.ok_or_else(|| {
            let uri = place.uri(METADATA);
            Error::input(
                ErrorCode::IoKeyNotFound,
                format!("there is no bundle: {uri} is not there"),
            )
        })?;
        let file = info.manifest.clone().unwrap_or_default();
        let bytes = place
            .store
            .get(&place.key(&file.path))
            .await
            .map_err(failed)?;
        checksum::verify(&file.path, &bytes, file.size, file.crc32c).map_err(failed)?;
        let manifest = SnapshotManifest::decode(bytes).map_err(|error| {
            let text = format!("{} cannot be decoded: {error}", place.uri(&file.path));
            Error::new(ErrorCode::DataIntegrity, text)
        })?;
        Ok(ReadBundleResponse {
            info: Some(info),
            manifest: Some(manifest),
        })
    }

    async fn complete(&self, place: &Place) -> Result<Option<BundleInfo>> {
        let Some(text) = place.read(METADATA).await? else {
            return Ok(None);
        };
        metadata::decode(&text).map(Some).map_err(|reason| {
            let text = format!("{} is damaged: {reason}", place.uri(METADATA));
            Error::new(ErrorCode::DataIntegrity, text)
        })
    }

    async fn open_place(&self, place: &Option<BundlePlace>, access: Access) -> Result<Place> {
        let place = place.as_ref();
        let place = place.ok_or_else(|| Error::internal("a bundle without a place"))?;
        self.places.open(place, access).await
    }

    async fn place_or_own(&self, place: &Option<BundlePlace>, access: Access) -> Result<Place> {
        match place {
            Some(place) => self.places.open(place, access).await,
            None => Ok(self.places.own()),
        }
    }
}

/// Copies or compares one file; its bytes.
async fn copy_one(from: &Place, to: &Place, one: &FileCopy, only_check: bool) -> Result<u64> {
    let file = one.file.as_ref();
    let file = file.ok_or_else(|| Error::internal("a copy of no file"))?;
    match only_check {
        true => copy::check(from, file).await?,
        false => copy::copy(from, to, file, &one.to).await?,
    }
    Ok(file.size)
}

async fn place_owner(place: &Place) -> Result<Option<bytes::Bytes>> {
    place.read(MARKER).await
}

fn taken(place: &Place, why: &str) -> Error {
    let root = place.uri("");
    Error::invalid_parameter(format!("a bundle cannot be written to {root}: {why}"))
}
