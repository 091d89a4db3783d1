//! Local disk and memory on opendal; what is behind a network is in `remote`. Nothing else in the
//! workspace names opendal.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use opendal::{ErrorKind, Operator, options::ReadOptions, services};

use crate::{
    durable::{LocalDir, LocalDraft},
    error::{Error, Result},
    layout::{check_key, check_prefix},
    store::{ObjectMeta, ObjectStore, ObjectWriter, PutOutcome},
};

/// An opendal operator; local writes go around it, see [`crate::durable`].
#[derive(Debug)]
pub(crate) struct OperatorStore {
    operator: Operator,
    local: Option<Arc<LocalDir>>,
}

impl OperatorStore {
    pub(crate) fn local(root: &Path) -> Result<Self> {
        let name = root.display().to_string();
        let local = LocalDir::open(root).map_err(|error| Error::from_io("open", &name, error))?;
        let builder = services::Fs::default().root(&local.root().to_string_lossy());
        Ok(Self {
            operator: Operator::new(builder).map_err(|error| convert("open", &name, error))?,
            local: Some(Arc::new(local)),
        })
    }

    pub(crate) fn memory() -> Result<Self> {
        Ok(Self {
            operator: Operator::new(services::Memory::default())
                .map_err(|error| convert("open", "memory://", error))?,
            local: None,
        })
    }

    async fn read(
        &self,
        operation: &'static str,
        key: &str,
        options: ReadOptions,
    ) -> Result<Bytes> {
        check_key(key)?;
        let buffer = self.operator.read_options(key, options).await;
        Ok(buffer
            .map_err(|error| convert(operation, key, error))?
            .to_bytes())
    }
}

#[async_trait::async_trait]
impl ObjectStore for OperatorStore {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        check_key(key)?;
        match &self.local {
            Some(local) => on_disk(local, "put", key, move |dir, key| dir.put(key, &bytes)).await,
            None => match self.operator.write(key, bytes).await {
                Ok(_) => Ok(()),
                Err(error) => Err(convert("put", key, error)),
            },
        }
    }

    async fn writer(&self, key: &str) -> Result<Box<dyn ObjectWriter>> {
        check_key(key)?;
        let Some(local) = &self.local else {
            return Ok(Box::new(MemoryWriter {
                operator: self.operator.clone(),
                key: key.to_owned(),
                bytes: BytesMut::new(),
            }));
        };
        let draft = on_disk(local, "writer", key, |dir, _| dir.begin()).await?;
        Ok(Box::new(LocalWriter {
            dir: local.clone(),
            key: key.to_owned(),
            draft: Some(draft),
        }))
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        check_key(key)?;
        if let Some(local) = &self.local {
            let write = move |dir: &LocalDir, key: &str| dir.put_if_absent(key, &bytes);
            return on_disk(local, "put_if_absent", key, write).await;
        }
        let write = self.operator.write_with(key, bytes).if_not_exists(true);
        match write.await {
            Ok(_) => Ok(PutOutcome::Created),
            Err(error) if error.kind() == ErrorKind::ConditionNotMatch => {
                Ok(PutOutcome::AlreadyExists)
            }
            Err(error) => Err(convert("put_if_absent", key, error)),
        }
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.read("get", key, ReadOptions::default()).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let wanted = range.end.saturating_sub(range.start);
        let options = ReadOptions {
            range: (range.start..range.end).into(),
            ..ReadOptions::default()
        };
        check_key(key)?;
        let bytes = match self.operator.read_options(key, options).await {
            Ok(buffer) => buffer.to_bytes(),
            Err(error) if error.kind() == ErrorKind::RangeNotSatisfied => {
                return Err(ends_early(key, &range, 0));
            }
            Err(error) => return Err(convert("get_range", key, error)),
        };
        if bytes.len() as u64 == wanted {
            Ok(bytes)
        } else {
            Err(ends_early(key, &range, bytes.len() as u64))
        }
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta> {
        check_key(key)?;
        let meta = self.operator.stat(key).await;
        Ok(object_meta(
            key.to_owned(),
            &meta.map_err(|error| convert("stat", key, error))?,
        ))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        check_prefix(prefix)?;
        let root = if prefix.is_empty() { "/" } else { prefix };
        let lister = self.operator.lister_with(root).recursive(true).await;
        let mut entries = match lister {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(convert("list", prefix, error)),
        };
        let mut found = Vec::new();
        while let Some(entry) = entries
            .try_next()
            .await
            .map_err(|error| convert("list", prefix, error))?
        {
            let (key, meta) = entry.into_parts();
            if meta.is_file() && check_key(&key).is_ok() {
                found.push(object_meta(key, &meta));
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let deleted = self.operator.delete(key).await;
        deleted.map_err(|error| convert("delete", key, error))
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        check_key(key).ok()?;
        Some(self.local.as_ref()?.path(key))
    }
}

/// An object of memory on its way.
struct MemoryWriter {
    operator: Operator,
    key: String,
    bytes: BytesMut,
}

#[async_trait::async_trait]
impl ObjectWriter for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        let written = self.operator.write(&self.key, self.bytes.freeze()).await;
        written.map_err(|error| convert("writer", &self.key, error))?;
        Ok(())
    }
}

/// A file on its way.
struct LocalWriter {
    dir: Arc<LocalDir>,
    key: String,
    /// Absent once a write has failed.
    draft: Option<LocalDraft>,
}

impl LocalWriter {
    fn take(&mut self) -> Result<LocalDraft> {
        self.draft.take().ok_or_else(|| Error::Io {
            operation: "writer",
            key: self.key.clone(),
            transient: false,
            source: "an earlier write of the object has failed".into(),
        })
    }
}

#[async_trait::async_trait]
impl ObjectWriter for LocalWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut draft = self.take()?;
        let append = move |_: &LocalDir, _: &str| draft.write(&bytes).map(|()| draft);
        self.draft = Some(on_disk(&self.dir, "writer", &self.key, append).await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let draft = self.take()?;
        let finish = move |dir: &LocalDir, key: &str| dir.finish(draft, key);
        on_disk(&self.dir, "writer", &self.key, finish).await
    }
}

/// Runs a blocking write where blocking is allowed.
async fn on_disk<T: Send + 'static>(
    local: &Arc<LocalDir>,
    operation: &'static str,
    key: &str,
    write: impl FnOnce(&LocalDir, &str) -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let (dir, owned) = (local.clone(), key.to_owned());
    let written = tokio::task::spawn_blocking(move || write(&dir, &owned)).await;
    match written {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::from_io(operation, key, error)),
        Err(stopped) => Err(Error::Io {
            operation,
            key: key.to_owned(),
            transient: false,
            source: Box::new(stopped),
        }),
    }
}

/// The error of a read beyond the end of an object, of which `found` bytes are there.
pub(crate) fn ends_early(key: &str, range: &Range<u64>, found: u64) -> Error {
    let wanted = range.end.saturating_sub(range.start);
    Error::Corrupt {
        key: key.to_owned(),
        reason: format!(
            "it ends before byte {}: {found} of {wanted} bytes are there",
            range.end
        ),
    }
}

pub(crate) fn object_meta(key: String, meta: &opendal::Metadata) -> ObjectMeta {
    let modified = meta.last_modified().map(std::time::SystemTime::from);
    ObjectMeta {
        key,
        size_bytes: meta.content_length(),
        modified_ms: modified
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|age| u64::try_from(age.as_millis()).ok()),
    }
}

fn convert(operation: &'static str, key: &str, error: opendal::Error) -> Error {
    let key = key.to_owned();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
            Error::NotFound { key }
        }
        kind => Error::Io {
            operation,
            key,
            transient: error.is_temporary() || kind == ErrorKind::RateLimited,
            source: Box::new(error),
        },
    }
}
