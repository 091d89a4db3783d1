//! An object store that delays, reorders, fails before and after it acts, and acts late.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use redkite_runtime::{OnFailure, TaskGroup};
use redkite_storage::{Error, ObjectMeta, ObjectStore, PutOutcome, Result};
use tokio::{sync::Notify, time::Instant};

/// What goes wrong, in parts of a hundred.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Longest time that an operation takes.
    pub(crate) max_delay: Duration,
    /// Nothing is done, an error is answered.
    pub(crate) fail_before: u32,
    /// It is done, an error is answered.
    pub(crate) fail_after: u32,
    /// An error is answered, and it is done up to a minute later.
    pub(crate) late: u32,
}

/// The store. All clones of its `Arc` are the same one.
#[derive(Debug)]
pub(crate) struct Sim {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    rng: Mutex<StdRng>,
    pub(crate) faults: Mutex<Faults>,
    down_until: Mutex<Option<Instant>>,
    /// Puts of keys with this end wait until they are let go.
    held: Mutex<Option<String>>,
    let_go: Notify,
    /// Puts of keys with this end fail.
    pub(crate) broken: Mutex<Option<String>>,
    pub(crate) puts: AtomicUsize,
    pub(crate) holding: AtomicUsize,
    tasks: TaskGroup,
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            objects: Arc::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            faults: Mutex::default(),
            down_until: Mutex::default(),
            held: Mutex::default(),
            let_go: Notify::new(),
            broken: Mutex::default(),
            puts: AtomicUsize::new(0),
            holding: AtomicUsize::new(0),
            tasks: TaskGroup::new("late requests"),
        })
    }

    /// Refuses everything for so long.
    pub(crate) fn go_down(&self, span: Duration) {
        *self.down_until.lock() = Some(Instant::now() + span);
    }

    /// Holds back puts of this number before they act.
    pub(crate) fn hold(&self, number: u64) {
        *self.held.lock() = Some(format!("{number:020}"));
    }

    pub(crate) fn let_go(&self) {
        *self.held.lock() = None;
        self.let_go.notify_waiters();
    }

    pub(crate) fn break_number(&self, number: Option<u64>) {
        *self.broken.lock() = number.map(|number| format!("{number:020}"));
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }

    fn apply(objects: &Mutex<BTreeMap<String, Bytes>>, key: &str, bytes: Bytes) -> PutOutcome {
        let mut objects = objects.lock();
        if objects.contains_key(key) {
            return PutOutcome::AlreadyExists;
        }
        objects.insert(key.to_owned(), bytes);
        PutOutcome::Created
    }

    fn draw(&self, limit: u32) -> u32 {
        self.rng.lock().random_range(0..limit)
    }

    /// Takes its time, and fails when the store is down.
    async fn reach(&self, operation: &'static str, key: &str) -> Result<()> {
        let longest = self.faults.lock().max_delay.as_micros() as u32;
        if longest > 0 {
            let delay = Duration::from_micros(self.draw(longest).into());
            tokio::time::sleep(delay).await;
        }
        let is_down = self
            .down_until
            .lock()
            .is_some_and(|until| Instant::now() < until);
        match is_down || self.draw(100) < self.faults.lock().fail_before {
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
impl ObjectStore for Sim {
    async fn put(&self, _key: &str, _bytes: Bytes) -> Result<()> {
        panic!("a log never replaces an object");
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        let is_held = self
            .held
            .lock()
            .as_ref()
            .is_some_and(|held| key.ends_with(held));
        if is_held {
            self.holding.fetch_add(1, Ordering::SeqCst);
            self.let_go.notified().await;
        }
        self.reach("put_if_absent", key).await?;
        let is_broken = self
            .broken
            .lock()
            .as_ref()
            .is_some_and(|end| key.ends_with(end));
        if is_broken {
            return Err(failure("put_if_absent", key));
        }
        let faults = *self.faults.lock();
        if self.draw(100) < faults.late {
            let delay = Duration::from_millis(self.draw(60_000).into());
            let (objects, key) = (self.objects.clone(), key.to_owned());
            self.tasks.spawn("late put", OnFailure::Log, async move {
                tokio::time::sleep(delay).await;
                Self::apply(&objects, &key, bytes);
            });
            return Err(failure("put_if_absent", "late"));
        }
        let outcome = Self::apply(&self.objects, key, bytes);
        match self.draw(100) < faults.fail_after {
            true => Err(failure("put_if_absent", key)),
            false => Ok(outcome),
        }
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.reach("get", key).await?;
        let found = self.objects.lock().get(key).cloned();
        found.ok_or_else(|| Error::NotFound {
            key: key.to_owned(),
        })
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let bytes = self.get(key).await?;
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    async fn stat(&self, _key: &str) -> Result<ObjectMeta> {
        panic!("a log asks for no single object's size");
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.reach("list", prefix).await?;
        let objects = self.objects.lock();
        let below = objects.iter().filter(|(key, _)| key.starts_with(prefix));
        let metas = below.map(|(key, bytes)| ObjectMeta {
            key: key.clone(),
            size_bytes: bytes.len() as u64,
            modified_ms: None,
        });
        Ok(metas.collect())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.reach("delete", key).await?;
        self.objects.lock().remove(key);
        Ok(())
    }

    fn local_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }
}
