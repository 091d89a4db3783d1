//! Where bundles are.

use std::{
    collections::HashMap,
    path::{Component, Path},
    sync::Arc,
};

use bytes::Bytes;
use redkite_node::{DiskSpace, DiskUse};
use redkite_proto::redkite::meta::BundlePlace;
use redkite_storage::{
    Error as StorageError, ObjectStore, S3Options, StoreOptions, StoreUri, layout, open, open_with,
};
use redkite_types::{Error, Result};
use tokio::sync::Mutex;

use super::options::BundleOptions;
use crate::export::options::BucketOptions;

/// Stores that are kept open.
const MAX_OPEN: usize = 16;

/// What is to be done at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// The stores that bundles may be in.
#[derive(Debug)]
pub(super) struct Places {
    own: Arc<dyn ObjectStore>,
    disk: Arc<DiskSpace>,
    options: BundleOptions,
    buckets: Vec<BucketOptions>,
    /// Those that were opened, by all that tells them apart.
    open: Mutex<HashMap<Vec<String>, Arc<dyn ObjectStore>>>,
}

/// A part of a store.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Empty, or ends in a slash.
    prefix: String,
    /// What names in it are shown behind.
    root: String,
    /// The disk that the store is on, where it is the own one.
    disk: Option<Arc<DiskSpace>>,
}

impl Places {
    pub(super) fn new(
        own: Arc<dyn ObjectStore>,
        disk: Arc<DiskSpace>,
        options: BundleOptions,
        buckets: Vec<BucketOptions>,
    ) -> Self {
        Self {
            own,
            disk,
            options,
            buckets,
            open: Mutex::default(),
        }
    }

    /// The deployment's own store.
    pub(super) fn own(&self) -> Place {
        Place {
            store: self.own.clone(),
            prefix: String::new(),
            root: String::new(),
            disk: Some(self.disk.clone()),
        }
    }

    /// Opens a place.
    ///
    /// # Errors
    /// Code 1100 for one that may not be used; else as the store says that cannot be opened.
    pub(super) async fn open(&self, place: &BundlePlace, access: Access) -> Result<Place> {
        let root = place.root.as_str();
        let shown = match place.given.as_str() {
            "" => root,
            given => given,
        };
        if !root.contains("://") {
            check_own(root)?;
            return Ok(Place {
                prefix: format!("{root}/"),
                root: format!("{shown}/"),
                ..self.own()
            });
        }
        let store = match StoreUri::parse(root).map_err(refused)? {
            StoreUri::Local(dir) => {
                self.check_local(&dir)?;
                if access == Access::Read && !tokio::fs::try_exists(&dir).await.unwrap_or(false) {
                    let text = format!("there is no bundle: {root} is not there");
                    return Err(Error::input(redkite_types::ErrorCode::IoKeyNotFound, text));
                }
                open(root).map_err(failed)?
            }
            StoreUri::S3 { bucket, .. } => self.remote(place, &bucket, access).await?,
            StoreUri::Memory => return Err(refused("bundles are not kept in memory")),
        };
        Ok(Place {
            store,
            prefix: String::new(),
            root: format!("{shown}/"),
            disk: None,
        })
    }

    /// Users must not reach files of the machine that nobody has meant for them.
    fn check_local(&self, dir: &Path) -> Result<()> {
        let plain = dir
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let mut allowed = self.options.local_dirs.iter();
        if plain && allowed.any(|root| dir.starts_with(root)) {
            return Ok(());
        }
        Err(refused(format!(
            "{} is not below a directory of datanode.bundle.local_dirs",
            dir.display()
        )))
    }

    async fn remote(
        &self,
        place: &BundlePlace,
        bucket: &str,
        access: Access,
    ) -> Result<Arc<dyn ObjectStore>> {
        let options = self.store_options(place, bucket, access);
        let s3 = &options.s3;
        let key: Vec<String> = [
            Some(options.uri.clone()),
            s3.endpoint.clone(),
            s3.region.clone(),
            s3.access_key.clone(),
            s3.secret_key.clone(),
            s3.path_style.map(|style| style.to_string()),
            Some(options.probe.to_string()),
        ]
        .map(Option::unwrap_or_default)
        .into();
        let mut open = self.open.lock().await;
        if let Some(store) = open.get(&key) {
            return Ok(store.clone());
        }
        let store = open_with(&options).await.map_err(failed)?;
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        open.insert(key, store.clone());
        Ok(store)
    }

    /// What a request brings goes before what the operator has set for the bucket, and that before
    /// the environment.
    fn store_options(&self, place: &BundlePlace, bucket: &str, access: Access) -> StoreOptions {
        let mut options = StoreOptions {
            // A bucket that is only read may refuse writes.
            probe: access == Access::Write,
            ..StoreOptions::new(&place.root)
        };
        let brings_keys = !place.access_key.is_empty();
        if !brings_keys && let Some(set) = self.buckets.iter().find(|one| one.bucket == bucket) {
            let set = set.store();
            options.s3 = set.s3;
            options.timeout = set.timeout;
        }
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let s3 = options.s3;
        options.s3 = S3Options {
            endpoint: given(&place.endpoint).or(s3.endpoint),
            region: given(&place.region).or(s3.region),
            access_key: given(&place.access_key).or(s3.access_key),
            secret_key: given(&place.secret_key).or(s3.secret_key),
            path_style: place.path_style.or(s3.path_style),
        };
        options
    }
}

impl Place {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A name as users see it.
    pub(super) fn uri(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    pub(super) async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        match self.store.get(&self.key(name)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Refuses bytes that the disk has no room for.
    pub(super) fn claim(&self, bytes: u64) -> Result<()> {
        match &self.disk {
            Some(disk) => disk.claim(DiskUse::Background, bytes),
            None => Ok(()),
        }
    }
}

/// A bundle must not lie among what the deployment keeps for itself, and collects.
fn check_own(prefix: &str) -> Result<()> {
    layout::check_key(prefix).map_err(refused)?;
    let first = prefix.split('/').next().unwrap_or_default();
    match layout::RESERVED.contains(&first) {
        true => Err(refused(format!("{first}/ is the deployment's own"))),
        false => Ok(()),
    }
}

fn refused(why: impl std::fmt::Display) -> Error {
    Error::invalid_parameter(format!("no place for a bundle: {why}"))
}

pub(super) fn failed(error: StorageError) -> Error {
    Error::from_coded(&error)
}
