//! An object store whose answers to a log come when and as a test wants them.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use redkite_storage::{Error, ObjectMeta, ObjectStore, PutOutcome, Result};
use tokio::sync::oneshot;

/// What goes wrong with the log's objects, in parts of a hundred.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Longest time that a put takes, so that they arrive in another order than they were sent in.
    pub(crate) max_delay: Duration,
    /// Nothing is done, an error is answered.
    pub(crate) fail_before: u32,
    /// It is done, an error is answered.
    pub(crate) fail_after: u32,
}

/// The store; everything but the log's objects goes right through, unless it is spoiled.
#[derive(Debug)]
pub(crate) struct SlowStore {
    inner: Arc<dyn ObjectStore>,
    holds: AtomicBool,
    held: Mutex<Vec<oneshot::Sender<()>>>,
    faults: Mutex<Faults>,
    /// A part of the keys whose next object is not stored as it was given.
    spoiled: Mutex<Option<&'static str>>,
    is_down: AtomicBool,
    rng: Mutex<StdRng>,
}

impl SlowStore {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            inner: redkite_storage::open("memory://").unwrap(),
            holds: AtomicBool::new(false),
            held: Mutex::default(),
            faults: Mutex::default(),
            spoiled: Mutex::default(),
            is_down: AtomicBool::new(false),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        })
    }

    /// Holds back the log's puts from now on, before they act.
    pub(crate) fn hold(&self) {
        self.holds.store(true, Ordering::SeqCst);
    }

    /// How many puts are held back.
    pub(crate) fn held(&self) -> usize {
        self.held.lock().len()
    }

    /// Lets go of a put that was held back; the first one came first.
    pub(crate) fn let_go(&self, index: usize) {
        let _ = self.held.lock().remove(index).send(());
    }

    /// Lets go of all puts and holds back no more.
    pub(crate) fn let_all_go(&self) {
        self.holds.store(false, Ordering::SeqCst);
        for held in self.held.lock().drain(..) {
            let _ = held.send(());
        }
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }

    /// Flips a bit of the next object with this in its key.
    pub(crate) fn spoil(&self, key: &'static str) {
        *self.spoiled.lock() = Some(key);
    }

    /// Whether everything that concerns the log fails.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    fn draw(&self, limit: u32) -> u32 {
        self.rng.lock().random_range(0..limit)
    }

    fn check_up(&self, operation: &'static str, key: &str) -> Result<()> {
        match key.starts_with("wal/") && self.is_down.load(Ordering::SeqCst) {
            true => Err(failure(operation, key)),
            false => Ok(()),
        }
    }
}

fn failure(operation: &'static str, key: &str) -> Error {
    Error::Io {
        operation,
        key: key.to_owned(),
        transient: true,
        source: "played failure".into(),
    }
}

#[async_trait::async_trait]
impl ObjectStore for SlowStore {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let spoils = self.spoiled.lock().take_if(|part| key.contains(*part));
        let bytes = match spoils {
            Some(_) => {
                let mut spoiled = bytes.to_vec();
                spoiled[bytes.len() / 2] ^= 1;
                spoiled.into()
            }
            None => bytes,
        };
        self.inner.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        if !key.starts_with("wal/") {
            return self.inner.put_if_absent(key, bytes).await;
        }
        if self.holds.load(Ordering::SeqCst) {
            let (let_go, released) = oneshot::channel();
            self.held.lock().push(let_go);
            let _ = released.await;
        }
        let faults = *self.faults.lock();
        let longest = faults.max_delay.as_micros() as u32;
        if longest > 0 {
            let delay = Duration::from_micros(self.draw(longest).into());
            tokio::time::sleep(delay).await;
        }
        self.check_up("put_if_absent", key)?;
        if self.draw(100) < faults.fail_before {
            return Err(failure("put_if_absent", key));
        }
        let outcome = self.inner.put_if_absent(key, bytes).await?;
        match self.draw(100) < faults.fail_after {
            true => Err(failure("put_if_absent", key)),
            false => Ok(outcome),
        }
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.check_up("get", key)?;
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.check_up("get", key)?;
        self.inner.get_range(key, range).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.stat(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.check_up("list", prefix)?;
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.check_up("delete", key)?;
        self.inner.delete(key).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }
}
