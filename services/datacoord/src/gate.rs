//! What keeps a commit and the garbage collector apart.
//!
//! # Why it is safe
//! A commit takes the gate shared, checks that every file is there with its size, and lets its
//! transaction be answered before it leaves. The collector takes it alone for each batch of
//! deletions, reads the references again and only then deletes. So either the commit's records are
//! among the references, or the deletions are done and the commit finds its files missing and is
//! refused; then whoever wrote them writes them again. A file that is written again while the
//! collector deletes is gone or there when the next commit looks, never in between.
//!
//! A transaction whose fate is unknown may be applied after its commit has left: its files are kept
//! from the collector until it is certain that nothing of it is on its way any more. The other way
//! round, a file whose deletion was not answered may go at any time: no commit may name it until
//! that is certain to be over.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redkite_metastore::{MetaKv, Txn, TxnOutcome};
use redkite_proto::redkite::meta::FileInfo;
use redkite_storage::{ObjectMeta, ObjectStore};
use redkite_types::{Error, ErrorCode, Outcome, Result};
use tokio::sync::{RwLock, RwLockWriteGuard};

/// Files that are asked for at the same time.
const LOOKS: usize = 16;
/// How long a commit or a deletion of unknown fate may still happen: longer than any call may take.
const UNCERTAIN_FOR: Duration = Duration::from_secs(600);

/// Commits go through it, and so does the collector.
#[derive(Debug)]
pub struct CommitGate {
    store: Arc<dyn ObjectStore>,
    lock: RwLock<()>,
    /// Files of commits of unknown fate, and when that was.
    uncertain: Mutex<HashMap<String, Instant>>,
    /// Files whose deletion has an unknown fate, and when that was.
    doomed: Mutex<HashMap<String, Instant>>,
}

impl CommitGate {
    /// A gate in front of the records of an object store's files.
    pub fn new(store: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self {
            store,
            lock: RwLock::new(()),
            uncertain: Mutex::default(),
            doomed: Mutex::default(),
        })
    }

    /// Runs a transaction that names files, once every one of them is there with its size.
    ///
    /// Everything that names files is committed through here: flushes, index builds, compactions.
    ///
    /// # Errors
    /// Code 1000, not retriable, when a file is missing or has another size: write all files again
    /// and commit those. Code 2 or 1001 when a store did not answer; the same may be tried again.
    ///
    /// # Cancel safety
    /// As an error of the metastore: nobody knows whether it was applied.
    pub async fn commit(
        &self,
        kv: &dyn MetaKv,
        files: &[FileInfo],
        txn: Txn,
    ) -> Result<TxnOutcome> {
        let _shared = self.lock.read().await;
        self.verify(files).await?;
        let mut fate = Fate {
            gate: self,
            files,
            known: false,
        };
        let answer = kv.txn(txn).await;
        fate.known = match &answer {
            Ok(_) => true,
            Err(error) => error.outcome() == Outcome::NotApplied,
        };
        drop(fate);
        answer.map_err(|error| Error::from_coded(&error))
    }

    async fn verify(&self, files: &[FileInfo]) -> Result<()> {
        for some in files.chunks(LOOKS) {
            let looks = some.iter().map(|file| self.look(file));
            futures::future::try_join_all(looks).await?;
        }
        Ok(())
    }

    /// Those of some files that were written when a given object was, or later, as the store says; all of
    /// which it does not say so. Whoever wrote the object last had them before.
    ///
    /// # Errors
    /// As [`CommitGate::commit`].
    pub(crate) async fn written_since(
        &self,
        object: &str,
        files: Vec<FileInfo>,
    ) -> Result<Vec<FileInfo>> {
        let since = self.store.stat(object).await;
        let since = since
            .map_err(|error| Error::from_coded(&error))?
            .modified_ms;
        let mut found = Vec::new();
        for some in files.chunks(LOOKS) {
            let looks = some.iter().map(|file| self.look(file));
            let metas = futures::future::try_join_all(looks).await?;
            let later = some.iter().zip(metas).filter(|(_, meta)| {
                let times = meta.modified_ms.zip(since);
                times.is_none_or(|(modified, since)| modified >= since)
            });
            found.extend(later.map(|(file, _)| file.clone()));
        }
        Ok(found)
    }

    async fn look(&self, file: &FileInfo) -> Result<ObjectMeta> {
        let missing = |what: String| {
            Error::new(
                ErrorCode::IoKeyNotFound,
                format!("file {} cannot be committed: {what}", file.path),
            )
        };
        if holds(&self.doomed, &file.path) {
            return Err(missing("its deletion was not answered yet".to_owned()));
        }
        match self.store.stat(&file.path).await {
            Ok(found) if found.size_bytes == file.size => Ok(found),
            Ok(found) => Err(missing(format!(
                "it has {} bytes instead of {}",
                found.size_bytes, file.size
            ))),
            Err(error) if error.is_not_found() => Err(missing("it is not there".to_owned())),
            Err(error) => Err(Error::from_coded(&error)),
        }
    }

    /// Keeps commits out until the guard is dropped.
    pub(crate) async fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.lock.write().await
    }

    /// Whether a commit of unknown fate names the file.
    pub(crate) fn is_uncertain(&self, path: &str) -> bool {
        holds(&self.uncertain, path)
    }

    /// Notes that a file may go at any time, because its deletion was not answered.
    pub(crate) fn doom(&self, path: &str) {
        self.doomed.lock().insert(path.to_owned(), Instant::now());
    }
}

fn holds(files: &Mutex<HashMap<String, Instant>>, path: &str) -> bool {
    let mut files = files.lock();
    files.retain(|_, since| since.elapsed() < UNCERTAIN_FOR);
    files.contains_key(path)
}

/// Remembers the files of a commit unless its fate is known when this is dropped.
struct Fate<'a> {
    gate: &'a CommitGate,
    files: &'a [FileInfo],
    known: bool,
}

impl Drop for Fate<'_> {
    fn drop(&mut self) {
        if self.known {
            return;
        }
        let now = Instant::now();
        let mut uncertain = self.gate.uncertain.lock();
        uncertain.extend(self.files.iter().map(|file| (file.path.clone(), now)));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use redkite_metastore::{MemKv, Op};

    use super::*;

    fn file(path: &str, size: u64) -> FileInfo {
        FileInfo {
            path: path.to_owned(),
            size,
            crc32c: 0,
        }
    }

    #[tokio::test]
    async fn only_what_is_there_is_committed() {
        let store = redkite_storage::open("memory://").unwrap();
        let kv = MemKv::new();
        let gate = CommitGate::new(store.clone());
        store.put("a/x", Bytes::from_static(b"four")).await.unwrap();
        let put = || Txn::new().then(Op::put("k", "v"));
        for bad in [file("a/y", 4), file("a/x", 5)] {
            let refused = gate
                .commit(&kv, &[file("a/x", 4), bad.clone()], put())
                .await
                .unwrap_err();
            assert_eq!(refused.code, ErrorCode::IoKeyNotFound);
            assert!(!refused.retriable, "the files must be written again");
            assert!(refused.message.contains(&bad.path), "{refused}");
            assert!(kv.get("k").await.unwrap().is_none());
        }
        gate.commit(&kv, &[file("a/x", 4)], put()).await.unwrap();
        assert!(kv.get("k").await.unwrap().is_some());
        assert!(!gate.is_uncertain("a/x"));
    }

    #[tokio::test]
    async fn a_file_that_may_still_be_deleted_is_not_committed() {
        let store = redkite_storage::open("memory://").unwrap();
        let gate = CommitGate::new(store.clone());
        store.put("a/x", Bytes::from_static(b"four")).await.unwrap();
        gate.doom("a/x");
        let refused = gate
            .commit(&MemKv::new(), &[file("a/x", 4)], Txn::new())
            .await
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::IoKeyNotFound);
    }

    #[tokio::test]
    async fn files_of_a_commit_that_was_cut_off_are_kept() {
        let store = redkite_storage::open("memory://").unwrap();
        let gate = CommitGate::new(store);
        let files = [file("a/x", 4)];
        drop(Fate {
            gate: &gate,
            files: &files,
            known: false,
        });
        assert!(gate.is_uncertain("a/x"));
        assert!(!gate.is_uncertain("a/y"));
    }
}
