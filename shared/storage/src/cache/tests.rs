use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use redkite_runtime::testing::eventually_true;
use tokio::sync::Semaphore;

use super::*;
use crate::{PART_BYTES, store::open};

/// A store in memory that counts its reads and lets them pass one by one where it is told to.
#[derive(Debug)]
struct Counting {
    store: Arc<dyn ObjectStore>,
    reads: AtomicUsize,
    gate: Option<Semaphore>,
}

impl Counting {
    async fn with(objects: &[(&str, usize)], gate: Option<Semaphore>) -> Arc<Self> {
        let store = open("memory://").unwrap();
        for (key, size) in objects {
            store.put(key, body(key, *size)).await.unwrap();
        }
        Arc::new(Self {
            store,
            reads: AtomicUsize::new(0),
            gate,
        })
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counting {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.store.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        self.store.put_if_absent(key, bytes).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.store.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        self.store.get_range(key, range).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta> {
        self.store.stat(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.store.list(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(key).await
    }

    fn local_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }
}

fn body(key: &str, size: usize) -> Bytes {
    let seed = key.len() + usize::from(key.as_bytes()[key.len() - 1]);
    (0..size).map(|i| (seed + i * 7 + i / 251) as u8).collect()
}

async fn cache_on(store: &Arc<Counting>, dir: &Path, size_bytes: u64) -> CachedStore {
    let options = CacheOptions {
        dir: dir.to_owned(),
        size_bytes,
    };
    CachedStore::open(store.clone(), &options).await.unwrap()
}

async fn file(cache: &CachedStore, key: &str) -> LocalFile {
    cache.local_file(key).await.unwrap().unwrap()
}

/// Sizes of the files in the place of the only process, without its lock.
fn on_disk(dir: &Path) -> Vec<u64> {
    let place = dir.join("0");
    let files = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap());
    let copies = files.filter(|entry| !entry.file_name().to_str().unwrap().starts_with('.'));
    let mut sizes: Vec<u64> = copies
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    sizes.sort_unstable();
    let temp = fs::read_dir(place.join(".tmp")).unwrap().count();
    assert_eq!(temp, 0, "downloads are left over");
    sizes
}

#[tokio::test]
async fn a_copy_is_the_object_whatever_its_size() {
    let sizes = [0, 1, PART_BYTES - 1, PART_BYTES, 3 * PART_BYTES + 5];
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<String> = (0..sizes.len()).map(|i| format!("a/b-{i}")).collect();
    let objects: Vec<(&str, usize)> = keys.iter().map(String::as_str).zip(sizes).collect();
    let store = Counting::with(&objects, None).await;
    let cache = cache_on(&store, dir.path(), 1 << 30).await;
    for (key, size) in objects {
        let copy = fs::read(file(&cache, key).await.path()).unwrap();
        assert!(copy == body(key, size), "{size} bytes differ");
    }
    let absent = cache.local_file("a/none").await.unwrap_err();
    assert!(absent.is_not_found(), "{absent}");
    assert!(cache.local_file("../escape").await.is_err());
}

#[tokio::test]
async fn many_callers_share_one_download_and_survive_each_other() {
    let store = Counting::with(&[("k", 10)], Some(Semaphore::new(0))).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_on(&store, dir.path(), 100).await;
    let mut first = Box::pin(cache.local_file("k"));
    let mut others: Vec<_> = (0..5).map(|_| Box::pin(cache.local_file("k"))).collect();
    // The first starts the download and leaves before it is done.
    eventually_true("the download waits at the gate", || {
        assert!((&mut first).now_or_never().is_none());
        store.reads() == 1
    })
    .await;
    for other in &mut others {
        assert!(other.now_or_never().is_none());
    }
    drop(first);
    store.gate.as_ref().unwrap().add_permits(1);
    for other in others {
        let found = other.await.unwrap().unwrap();
        assert_eq!(fs::read(found.path()).unwrap(), body("k", 10));
    }
    assert_eq!(store.reads(), 1);
}

#[tokio::test]
async fn a_failed_download_fails_all_who_wait_and_the_next_one_starts_anew() {
    let store = Counting::with(&[], None).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_on(&store, dir.path(), 100).await;
    let waiting = (0..3).map(|_| cache.local_file("k"));
    for outcome in futures::future::join_all(waiting).await {
        assert!(outcome.unwrap_err().is_not_found());
    }
    store.put("k", body("k", 10)).await.unwrap();
    assert_eq!(fs::read(file(&cache, "k").await.path()).unwrap().len(), 10);
}

#[tokio::test]
async fn the_limit_holds_and_what_was_not_used_for_longest_goes() {
    let store = Counting::with(&[("a", 40), ("b", 40), ("c", 40), ("big", 101)], None).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_on(&store, dir.path(), 100).await;
    drop(file(&cache, "a").await);
    drop(file(&cache, "b").await);
    drop(file(&cache, "a").await);
    drop(file(&cache, "c").await);
    assert_eq!(on_disk(dir.path()), [40, 40]);
    assert_eq!(store.reads(), 3);
    drop(file(&cache, "a").await);
    assert_eq!(store.reads(), 3, "a was used last and must have stayed");
    drop(file(&cache, "b").await);
    assert_eq!(store.reads(), 4, "b had to go for c");
    assert!(cache.local_file("big").await.unwrap().is_none());
    assert_eq!(on_disk(dir.path()), [40, 40]);
}

#[tokio::test]
async fn what_somebody_holds_stays() {
    let store = Counting::with(&[("a", 60), ("b", 60)], None).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_on(&store, dir.path(), 100).await;
    let held = file(&cache, "a").await;
    assert!(cache.local_file("b").await.unwrap().is_none());
    let again = held.clone();
    drop(held);
    assert!(cache.local_file("b").await.unwrap().is_none());
    assert_eq!(fs::read(again.path()).unwrap(), body("a", 60));
    drop(again);
    assert!(cache.local_file("b").await.unwrap().is_some());
    assert_eq!(on_disk(dir.path()), [60]);
}

#[tokio::test]
async fn a_forgotten_copy_is_fetched_again_and_its_holder_keeps_it() {
    let store = Counting::with(&[("a", 10)], None).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_on(&store, dir.path(), 100).await;
    let wrong = file(&cache, "a").await;
    fs::write(wrong.path(), b"flipped!!!").unwrap();
    cache.forget_local("a").await;
    assert_eq!(fs::read(wrong.path()).unwrap(), b"flipped!!!");
    let right = file(&cache, "a").await;
    assert_eq!(fs::read(right.path()).unwrap(), body("a", 10));
    assert_eq!(on_disk(dir.path()), [10, 10]);
    drop(wrong);
    assert_eq!(on_disk(dir.path()), [10]);
    assert_eq!(fs::read(right.path()).unwrap(), body("a", 10));
}

#[tokio::test]
async fn a_replaced_or_deleted_object_has_no_old_copy() {
    let store = Counting::with(&[("a", 10)], None).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_on(&store, dir.path(), 100).await;
    drop(file(&cache, "a").await);
    cache.put("a", Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(fs::read(file(&cache, "a").await.path()).unwrap(), b"new");
    cache.delete("a").await.unwrap();
    assert!(cache.local_file("a").await.unwrap_err().is_not_found());
    assert!(on_disk(dir.path()).is_empty());
}

#[tokio::test]
async fn copies_survive_a_restart_and_leftovers_do_not() {
    let store = Counting::with(&[("s/1/a", 40), ("s/1/b", 40)], None).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_on(&store, dir.path(), 100).await;
    for key in ["s/1/a", "s/1/b"] {
        drop(file(&cache, key).await);
    }
    drop(cache);
    let place = dir.path().join("0");
    fs::write(place.join(".tmp").join("7"), b"half a download").unwrap();
    fs::write(place.join("not a copy"), b"x").unwrap();
    let cache = cache_on(&store, dir.path(), 100).await;
    assert_eq!(on_disk(dir.path()), [40, 40]);
    let copy = file(&cache, "s/1/a").await;
    assert_eq!(fs::read(copy.path()).unwrap(), body("s/1/a", 40));
    assert_eq!(store.reads(), 2, "nothing was fetched again");
    drop(cache);
    drop(copy);
    // A smaller limit holds from the start.
    let cache = cache_on(&store, dir.path(), 50).await;
    assert_eq!(on_disk(dir.path()), [40]);
    drop(cache);
}

#[tokio::test]
async fn processes_that_share_a_directory_do_not_touch_each_others_copies() {
    let store = Counting::with(&[("a", 60), ("b", 60)], None).await;
    let dir = tempfile::tempdir().unwrap();
    let first = cache_on(&store, dir.path(), 100).await;
    let second = cache_on(&store, dir.path(), 100).await;
    let path = file(&first, "a").await.path().to_owned();
    drop(file(&second, "a").await);
    drop(file(&second, "b").await);
    assert_eq!(fs::read(path).unwrap(), body("a", 60));
}

#[tokio::test]
async fn a_directory_that_was_emptied_is_filled_again() {
    let store = Counting::with(&[("a", 10)], None).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_on(&store, dir.path(), 100).await;
    let path = file(&cache, "a").await.path().to_owned();
    fs::remove_file(&path).unwrap();
    fs::remove_dir_all(dir.path().join("0").join(".tmp")).unwrap();
    assert_eq!(
        fs::read(file(&cache, "a").await.path()).unwrap(),
        body("a", 10)
    );
}
