//! Where files go.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use redkite_node::{DiskSpace, DiskUse};
use redkite_proto::redkite::meta::ExportTarget;
use redkite_segment::export::ExportFormat;
use redkite_storage::{
    Error as StorageError, ObjectStore, ObjectWriter, PutOutcome, layout, open_with,
};
use redkite_types::{Error, Result};
use serde_json::Value;
use tokio::sync::Mutex;

use super::options::BucketOptions;

/// Says that an export is complete, and what it consists of.
const SUCCESS: &str = "_SUCCESS";
/// Holds the id of the export that writes here.
const MARKER: &str = "_TASK";

/// The stores that exports may go to.
#[derive(Debug)]
pub(super) struct Targets {
    own: Arc<dyn ObjectStore>,
    disk: Arc<DiskSpace>,
    buckets: Vec<BucketOptions>,
    /// Those that were opened.
    open: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

/// A directory of a store.
#[derive(Clone, Debug)]
pub(super) struct Place {
    store: Arc<dyn ObjectStore>,
    /// Ends in a slash.
    prefix: String,
    /// The disk that the store is on, where it is the own one.
    disk: Option<Arc<DiskSpace>>,
}

impl Targets {
    pub(super) fn new(
        own: Arc<dyn ObjectStore>,
        disk: Arc<DiskSpace>,
        buckets: Vec<BucketOptions>,
    ) -> Self {
        Self {
            own,
            disk,
            buckets,
            open: Mutex::default(),
        }
    }

    /// The directory of a target.
    ///
    /// # Errors
    /// As the store says that cannot be opened.
    pub(super) async fn open(&self, target: &ExportTarget) -> Result<Place> {
        let ExportTarget { bucket, dir, .. } = target;
        let Some(options) = self.buckets.iter().find(|one| one.bucket == *bucket) else {
            return Ok(Place {
                store: self.own.clone(),
                prefix: format!("{}{bucket}/{dir}/", layout::EXPORTS),
                disk: Some(self.disk.clone()),
            });
        };
        let mut open = self.open.lock().await;
        let store = match open.get(bucket) {
            Some(store) => store.clone(),
            None => {
                let opened = open_with(&options.store()).await.map_err(failed)?;
                open.insert(bucket.clone(), opened.clone());
                opened
            }
        };
        Ok(Place {
            store,
            prefix: format!("{dir}/"),
            disk: None,
        })
    }
}

impl Place {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Makes the place an export's own, unless it is already.
    ///
    /// # Errors
    /// Code 1100 when it is another's, or holds a complete export.
    pub(super) async fn take(&self, task: &str) -> Result<()> {
        let marker = self.key(MARKER);
        let body = Bytes::copy_from_slice(task.as_bytes());
        match self.read(MARKER).await? {
            Some(owner) if owner == body => return Ok(()),
            Some(_) => return Err(self.taken("another export writes there")),
            None => {}
        }
        if self.read(SUCCESS).await?.is_some() {
            return Err(self.taken("it holds an export already"));
        }
        let put = self.store.put_if_absent(&marker, body.clone()).await;
        // Also after an answer that was lost it may be ours.
        match put.map_err(failed)? {
            PutOutcome::Created => Ok(()),
            PutOutcome::AlreadyExists => match self.read(MARKER).await? {
                Some(owner) if owner == body => Ok(()),
                Some(_) | None => Err(self.taken("another export writes there")),
            },
        }
    }

    fn taken(&self, why: &str) -> Error {
        Error::invalid_parameter(format!("{} cannot be exported to: {why}", self.prefix))
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        match self.store.get(&self.key(name)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Begins a file.
    pub(super) async fn writer(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        self.store.writer(&self.key(name)).await.map_err(failed)
    }

    /// Refuses bytes that the disk has no room for.
    pub(super) fn claim(&self, bytes: u64) -> Result<()> {
        match &self.disk {
            Some(disk) => disk.claim(DiskUse::Background, bytes),
            None => Ok(()),
        }
    }

    pub(super) async fn complete(&self, success: String) -> Result<()> {
        let written = self.store.put(&self.key(SUCCESS), success.into()).await;
        written.map_err(failed)?;
        self.store.delete(&self.key(MARKER)).await.map_err(failed)
    }

    /// Removes an export's files and then its marker.
    pub(super) async fn clear(&self, task: &str, format: ExportFormat) -> Result<()> {
        let marked = self.read(MARKER).await?;
        let is_marked = marked.is_some_and(|owner| owner == task.as_bytes());
        let complete = self.read(SUCCESS).await?;
        let complete: Option<Value> =
            complete.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let is_complete = complete.is_some_and(|success| success["task_id"] == task);
        if !is_marked && !is_complete {
            return Ok(());
        }
        self.store
            .delete(&self.key(SUCCESS))
            .await
            .map_err(failed)?;
        for object in self.store.list(&self.prefix).await.map_err(failed)? {
            let name = object.key.strip_prefix(&self.prefix).unwrap_or_default();
            if is_file_name(name, format) {
                self.store.delete(&object.key).await.map_err(failed)?;
            }
        }
        self.store.delete(&self.key(MARKER)).await.map_err(failed)
    }
}

/// The name of a numbered file.
pub(super) fn file_name(number: u32, format: ExportFormat) -> String {
    format!("{number}.{}", format.extension())
}

fn is_file_name(name: &str, format: ExportFormat) -> bool {
    let number = name
        .split_once('.')
        .filter(|(_, end)| *end == format.extension());
    number.is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

pub(super) fn failed(error: StorageError) -> Error {
    Error::from_coded(&error)
}
