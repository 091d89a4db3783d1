//! Read and write locks on names, in memory.
//!
//! Fair: who asks first gets it first. A saga takes all its locks in the order of their names, so
//! two sagas never wait for each other in a circle.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// With other readers.
    Read,
    /// Alone.
    Write,
}

/// A lock that a saga holds from before its record exists until it is over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockKey {
    /// What is locked, e.g. `db/default/collection/books`.
    pub name: String,
    /// How.
    pub mode: LockMode,
}

impl LockKey {
    /// Shares the name with other readers.
    pub fn read(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            mode: LockMode::Read,
        }
    }

    /// Takes the name alone.
    pub fn write(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            mode: LockMode::Write,
        }
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            LockMode::Read => "read",
            LockMode::Write => "write",
        };
        write!(f, "{}:{mode}", self.name)
    }
}

/// All locks of one executor.
#[derive(Clone, Default)]
pub struct LockTable {
    locks: Arc<Mutex<HashMap<String, Arc<RwLock<()>>>>>,
}

impl LockTable {
    /// A table in which nothing is held.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until all keys are held; a name that is given twice is taken once, the stronger way.
    ///
    /// # Cancel safety
    /// A dropped future leaves every queue and holds nothing.
    pub async fn acquire(&self, keys: &[LockKey]) -> LockGuard {
        let mut guard = LockGuard {
            table: self.clone(),
            held: Vec::with_capacity(keys.len()),
        };
        for (name, mode) in sorted(keys) {
            let lock = self.lock(name);
            let held = match mode {
                LockMode::Read => Held::Read(lock.read_owned().await),
                LockMode::Write => Held::Write(lock.write_owned().await),
            };
            guard.held.push((name.to_owned(), held));
        }
        guard
    }

    /// Takes all keys now, or none of them.
    pub fn try_acquire(&self, keys: &[LockKey]) -> Option<LockGuard> {
        let mut guard = LockGuard {
            table: self.clone(),
            held: Vec::with_capacity(keys.len()),
        };
        for (name, mode) in sorted(keys) {
            let lock = self.lock(name);
            let held = match mode {
                LockMode::Read => Held::Read(lock.try_read_owned().ok()?),
                LockMode::Write => Held::Write(lock.try_write_owned().ok()?),
            };
            guard.held.push((name.to_owned(), held));
        }
        Some(guard)
    }

    /// How many names are held or waited for.
    pub fn len(&self) -> usize {
        self.locks.lock().len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self, name: &str) -> Arc<RwLock<()>> {
        let mut locks = self.locks.lock();
        if let Some(lock) = locks.get(name) {
            return lock.clone();
        }
        let lock = Arc::new(RwLock::new(()));
        locks.insert(name.to_owned(), lock.clone());
        lock
    }

    /// Forgets a name that nobody else holds or waits for: then the map's reference is the only one.
    fn forget(&self, name: &str) {
        let mut locks = self.locks.lock();
        if locks
            .get(name)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(name);
        }
    }
}

impl fmt::Debug for LockTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockTable")
            .field("names", &self.len())
            .finish()
    }
}

/// Each name once, the stronger mode, in the order of names.
fn sorted(keys: &[LockKey]) -> BTreeMap<&str, LockMode> {
    let mut wanted = BTreeMap::new();
    for key in keys {
        let mode = wanted.entry(key.name.as_str()).or_insert(key.mode);
        *mode = (*mode).max(key.mode);
    }
    wanted
}

/// Held only for what its drop does.
#[allow(dead_code, reason = "the guards are held, never looked at")]
enum Held {
    Read(OwnedRwLockReadGuard<()>),
    Write(OwnedRwLockWriteGuard<()>),
}

/// Locks that are held until this is dropped.
pub struct LockGuard {
    table: LockTable,
    held: Vec<(String, Held)>,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        for (name, held) in self.held.drain(..).rev() {
            drop(held);
            self.table.forget(&name);
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.held.iter().map(|(name, _)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let table = LockTable::new();
        let first = table.try_acquire(&[LockKey::read("a")]).unwrap();
        let second = table.try_acquire(&[LockKey::read("a")]).unwrap();
        assert!(table.try_acquire(&[LockKey::write("a")]).is_none());
        drop((first, second));
        let writer = table.try_acquire(&[LockKey::write("a")]).unwrap();
        assert!(table.try_acquire(&[LockKey::read("a")]).is_none());
        drop(writer);
        assert!(table.is_empty());
    }

    #[test]
    fn a_failed_try_holds_nothing() {
        let table = LockTable::new();
        let _held = table.try_acquire(&[LockKey::write("b")]).unwrap();
        assert!(
            table
                .try_acquire(&[LockKey::write("a"), LockKey::write("b")])
                .is_none()
        );
        assert!(table.try_acquire(&[LockKey::write("a")]).is_some());
    }

    #[test]
    fn the_stronger_mode_of_a_name_wins_and_names_are_sorted() {
        let keys = [LockKey::read("b"), LockKey::read("a"), LockKey::write("b")];
        let wanted: Vec<_> = sorted(&keys).into_iter().collect();
        assert_eq!(wanted, [("a", LockMode::Read), ("b", LockMode::Write)]);
    }

    #[tokio::test]
    async fn a_waiting_writer_goes_before_a_later_reader() {
        let table = LockTable::new();
        let reader = table.acquire(&[LockKey::read("a")]).await;
        let (write, read) = ([LockKey::write("a")], [LockKey::read("a")]);
        let mut writer = Box::pin(table.acquire(&write));
        assert!(writer.as_mut().now_or_never().is_none());
        let mut later = Box::pin(table.acquire(&read));
        assert!(later.as_mut().now_or_never().is_none());
        drop(reader);
        let guard = writer.await;
        assert!(later.as_mut().now_or_never().is_none());
        drop(guard);
        drop(later.await);
        assert!(table.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_waiter_leaves_the_queue() {
        let table = LockTable::new();
        let keys = [LockKey::write("a")];
        let held = table.acquire(&keys).await;
        let mut waiter = Box::pin(table.acquire(&keys));
        assert!(waiter.as_mut().now_or_never().is_none());
        drop(waiter);
        drop(held);
        drop(table.acquire(&keys).await);
        assert!(table.is_empty());
    }
}
