//! Where logs can be, and what is below them.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use redkite_runtime::TaskGroup;
use redkite_storage::{ObjectStore, layout, testing::Weed};
use redkite_wal::{LocalLogStore, LocalOptions, LogStore, ObjectLogStore, ObjectOptions};

pub(crate) const CHANNEL: &str = "ch_0v0";

/// A place for logs; [`Home::store`] may be called again, as a process that starts again would.
pub(crate) struct Home {
    pub(crate) name: &'static str,
    kind: Kind,
    tasks: TaskGroup,
    _dir: Option<tempfile::TempDir>,
    /// The S3 server, which ends with it.
    _weed: Option<Weed>,
}

enum Kind {
    Local(PathBuf),
    Objects(Arc<dyn ObjectStore>),
}

/// What a test wants to be small.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Bytes after which a file is followed by the next one; bytes of an object.
    pub(crate) part_bytes: usize,
    pub(crate) max_record_bytes: usize,
    pub(crate) max_pending_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            part_bytes: 4 << 20,
            max_record_bytes: 1 << 20,
            max_pending_bytes: 64 << 20,
        }
    }
}

/// Every place, a real S3 server among them where there is one: for the tests of what a log
/// promises. It takes seconds to start, and milliseconds for each record.
pub(crate) async fn all_homes() -> Vec<Home> {
    let mut all = homes();
    if let Some(weed) = Weed::start().await {
        let store = redkite_storage::open_with(&weed.new_store()).await;
        let mut home = Home::new("objects on S3", Kind::Objects(store.unwrap()), None);
        home._weed = Some(weed);
        all.push(home);
    }
    all
}

/// Every place that needs no server.
pub(crate) fn homes() -> Vec<Home> {
    let (files, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let local = Kind::Local(files.path().to_owned());
    let fs = open(&format!("fs://{}", objects.path().display()));
    vec![
        Home::new("local", local, Some(files)),
        Home::new("objects in memory", open("memory://"), None),
        Home::new("objects in files", fs, Some(objects)),
    ]
}

fn open(uri: &str) -> Kind {
    Kind::Objects(redkite_storage::open(uri).unwrap())
}

impl Home {
    fn new(name: &'static str, kind: Kind, dir: Option<tempfile::TempDir>) -> Self {
        Self {
            name,
            kind,
            tasks: TaskGroup::new("logs"),
            _dir: dir,
            _weed: None,
        }
    }

    /// Whether a second owner is told to wait for the end of the first one.
    pub(crate) fn has_locks(&self) -> bool {
        matches!(self.kind, Kind::Local(_))
    }

    pub(crate) fn store(&self, limits: &Limits) -> Arc<dyn LogStore> {
        match &self.kind {
            Kind::Local(dir) => Arc::new(LocalLogStore::new(
                dir,
                LocalOptions {
                    file_size_bytes: limits.part_bytes as u64,
                    max_record_bytes: limits.max_record_bytes,
                    max_pending_bytes: limits.max_pending_bytes,
                    lock_wait: std::time::Duration::ZERO,
                    ..LocalOptions::default()
                },
            )),
            Kind::Objects(store) => Arc::new(ObjectLogStore::new(
                store.clone(),
                ObjectOptions {
                    max_group_bytes: limits.part_bytes,
                    max_record_bytes: limits.max_record_bytes,
                    max_pending_bytes: limits.max_pending_bytes,
                    ..ObjectOptions::default()
                },
                self.tasks.clone(),
            )),
        }
    }

    /// Names and bytes of all files or objects of the channel, in order.
    pub(crate) async fn parts(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut parts = Vec::new();
        match &self.kind {
            Kind::Local(dir) => {
                for entry in std::fs::read_dir(dir.join(CHANNEL)).unwrap() {
                    let path = entry.unwrap().path();
                    let bytes = std::fs::read(&path).unwrap();
                    parts.push((path, bytes));
                }
            }
            Kind::Objects(store) => {
                for object in store.list(&layout::wal_prefix(CHANNEL)).await.unwrap() {
                    let bytes = store.get(&object.key).await.unwrap();
                    parts.push((object.key.into(), bytes.to_vec()));
                }
            }
        }
        parts.sort();
        parts
    }

    pub(crate) async fn overwrite(&self, part: &std::path::Path, bytes: Vec<u8>) {
        match &self.kind {
            Kind::Local(_) => std::fs::write(part, bytes).unwrap(),
            Kind::Objects(store) => {
                let key = part.to_str().unwrap();
                store.put(key, Bytes::from(bytes)).await.unwrap();
            }
        }
    }

    pub(crate) async fn delete(&self, part: &std::path::Path) {
        match &self.kind {
            Kind::Local(_) => std::fs::remove_file(part).unwrap(),
            Kind::Objects(store) => store.delete(part.to_str().unwrap()).await.unwrap(),
        }
    }
}
