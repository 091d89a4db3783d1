//! One suite for every implementation of the object store.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use redkite_storage::{
    Error, ObjectMeta, ObjectStore, PART_BYTES, PutOutcome, open, open_with, testing::Weed,
};
use redkite_types::{Coded, ErrorCode};

/// A property that every store has, tried on an empty one.
type Case = (
    &'static str,
    fn(Arc<dyn ObjectStore>) -> BoxFuture<'static, ()>,
);

const CASES: &[Case] = &[
    ("what was put is read whole and in parts", |store| {
        what_was_put_is_read(store).boxed()
    }),
    ("what is absent is not found", |store| {
        what_is_absent_is_not_found(store).boxed()
    }),
    (
        "a list is recursive, sorted, bounded by its prefix",
        |store| a_list_is_recursive_and_sorted(store).boxed(),
    ),
    ("a list has all pages", |store| {
        a_list_has_all_pages(store).boxed()
    }),
    ("a large object is read whole and in parts", |store| {
        a_large_object_is_read(store).boxed()
    }),
    (
        "what is written in pieces is seen when it is whole",
        |store| what_is_written_in_pieces_is_seen_when_it_is_whole(store).boxed(),
    ),
    ("of many writers exactly one creates", |store| {
        of_many_writers_exactly_one_creates(store).boxed()
    }),
    ("keys outside the layout are refused", |store| {
        keys_outside_the_layout_are_refused(store).boxed()
    }),
];

async fn run_suite<F, Fut>(mut new_store: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Arc<dyn ObjectStore>>,
{
    for (name, case) in CASES {
        eprintln!("case: {name}");
        case(new_store().await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn local_disk_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let mut number = 0;
    run_suite(|| {
        number += 1;
        let uri = format!("fs://{}/deep/{number}", dir.path().display());
        std::future::ready(open(&uri).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_conforms() {
    run_suite(|| std::future::ready(open("memory://").unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s3_conforms() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    run_suite(|| {
        let mut options = weed.new_store();
        // Its lock for conditional writes backs off for seconds.
        options.request_timeout = Duration::from_secs(60);
        options.timeout = Duration::from_secs(120);
        async move { open_with(&options).await.unwrap() }
    })
    .await;
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn keys(found: Vec<ObjectMeta>) -> Vec<String> {
    found.into_iter().map(|object| object.key).collect()
}

async fn what_was_put_is_read(store: Arc<dyn ObjectStore>) {
    store.put("a/b/one.bin", bytes("0123456789")).await.unwrap();
    assert_eq!(store.get("a/b/one.bin").await.unwrap(), bytes("0123456789"));
    let part = store.get_range("a/b/one.bin", 3..7).await.unwrap();
    assert_eq!(part, bytes("3456"));
    let none = store.get_range("a/b/one.bin", 3..3).await.unwrap();
    assert_eq!(none, Bytes::new());
    assert_eq!(store.stat("a/b/one.bin").await.unwrap().size_bytes, 10);
    store.put("a/b/one.bin", bytes("new")).await.unwrap();
    assert_eq!(store.get("a/b/one.bin").await.unwrap(), bytes("new"));
    store.put("empty", Bytes::new()).await.unwrap();
    assert_eq!(store.get("empty").await.unwrap(), Bytes::new());
    assert_eq!(store.stat("empty").await.unwrap().size_bytes, 0);
    for range in [1..9, 8..9, 3..4] {
        let early = store.get_range("a/b/one.bin", range).await.unwrap_err();
        assert_eq!(early.code(), ErrorCode::DataIntegrity, "{early}");
        assert!(!early.retriable());
    }
    let early = store.get_range("empty", 0..1).await.unwrap_err();
    assert_eq!(early.code(), ErrorCode::DataIntegrity, "{early}");
}

async fn what_is_absent_is_not_found(store: Arc<dyn ObjectStore>) {
    store.put("dir/file", bytes("x")).await.unwrap();
    for key in ["none", "dir/none"] {
        assert!(store.get(key).await.unwrap_err().is_not_found(), "{key}");
        let part = store.get_range(key, 0..1).await.unwrap_err();
        assert_eq!(part.code(), ErrorCode::IoKeyNotFound);
    }
    assert!(store.stat("none").await.unwrap_err().is_not_found());
    assert!(store.list("none/").await.unwrap().is_empty());
    store.delete("none").await.unwrap();
    store.delete("dir/file").await.unwrap();
    assert!(store.get("dir/file").await.unwrap_err().is_not_found());
}

async fn a_list_is_recursive_and_sorted(store: Arc<dyn ObjectStore>) {
    for key in ["s/2/b", "s/1/x/y", "s/1/a", "s/10/a", "t/1"] {
        store.put(key, bytes(key)).await.unwrap();
    }
    assert_eq!(
        keys(store.list("s/1/").await.unwrap()),
        ["s/1/a", "s/1/x/y"]
    );
    assert_eq!(
        keys(store.list("").await.unwrap()),
        ["s/1/a", "s/1/x/y", "s/10/a", "s/2/b", "t/1"]
    );
    let first = &store.list("t/").await.unwrap()[0];
    assert_eq!(first.size_bytes, 3);
    store.delete("s/1/a").await.unwrap();
    assert_eq!(keys(store.list("s/1/").await.unwrap()), ["s/1/x/y"]);
}

/// More keys than S3 lists in one answer, in folders whose order as folders is not that of keys.
async fn a_list_has_all_pages(store: Arc<dyn ObjectStore>) {
    const FOLDERS: [&str; 4] = ["a", "a-b", "a.c", "a_d"];
    let mut expected: Vec<String> = (0..2_100)
        .map(|i| format!("p/{}/{i}", FOLDERS[i % FOLDERS.len()]))
        .collect();
    stream::iter(expected.clone())
        .map(|key| {
            let store = store.clone();
            async move { store.put(&key, bytes(&key)).await }
        })
        .buffer_unordered(16)
        .try_collect::<()>()
        .await
        .unwrap();
    expected.sort();
    let found = store.list("p/").await.unwrap();
    for object in &found {
        assert_eq!(object.size_bytes, object.key.len() as u64);
    }
    assert_eq!(keys(found), expected);
    let some = store.list("p/a/").await.unwrap();
    assert_eq!(some.len(), expected.len() / FOLDERS.len());
}

async fn a_large_object_is_read(store: Arc<dyn ObjectStore>) {
    let size = 3 * PART_BYTES + 12_345;
    let body: Bytes = (0..size)
        .map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8)
        .collect();
    store.put("large/one", body.clone()).await.unwrap();
    assert_eq!(
        store.stat("large/one").await.unwrap().size_bytes,
        size as u64
    );
    assert!(store.get("large/one").await.unwrap() == body);
    let (part, size) = (PART_BYTES as u64, size as u64);
    for range in [0..1, part - 5..part + 5, 7..2 * part + 9, part..size] {
        let read = store.get_range("large/one", range.clone()).await.unwrap();
        let expected = body.slice(range.start as usize..range.end as usize);
        assert!(read == expected, "{range:?} differs");
    }
    let early = store.get_range("large/one", 5..size + 1).await.unwrap_err();
    assert_eq!(early.code(), ErrorCode::DataIntegrity, "{early}");
    let outcome = store.put_if_absent("large/two", body.clone()).await;
    assert_eq!(outcome.unwrap(), PutOutcome::Created);
    let again = store.put_if_absent("large/two", bytes("x")).await.unwrap();
    assert_eq!(again, PutOutcome::AlreadyExists);
    assert!(store.get("large/two").await.unwrap() == body);
}

async fn what_is_written_in_pieces_is_seen_when_it_is_whole(store: Arc<dyn ObjectStore>) {
    let pieces: Vec<Bytes> = (0..5_u8)
        .map(|number| Bytes::from(vec![number; PART_BYTES / 2 + 7]))
        .collect();
    let mut writer = store.writer("d/whole").await.unwrap();
    for piece in &pieces {
        writer.write(piece.clone()).await.unwrap();
        assert!(store.list("d/").await.unwrap().is_empty());
    }
    writer.finish().await.unwrap();
    assert_eq!(store.get("d/whole").await.unwrap(), pieces.concat());
    // Given up: what was there stays.
    let mut writer = store.writer("d/whole").await.unwrap();
    writer.write(Bytes::from_static(b"half")).await.unwrap();
    drop(writer);
    assert_eq!(store.get("d/whole").await.unwrap(), pieces.concat());
    // In the place of what was there, and of any size.
    let mut writer = store.writer("d/whole").await.unwrap();
    writer.write(Bytes::from_static(b"small")).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(store.get("d/whole").await.unwrap(), "small");
    assert_eq!(store.list("d/").await.unwrap().len(), 1);
    assert!(store.writer("../x").await.is_err());
}

async fn of_many_writers_exactly_one_creates(store: Arc<dyn ObjectStore>) {
    // Conditional writes of one key are slow where a lock decides them.
    let rounds = if store.local_path("x").is_some() {
        20
    } else {
        5
    };
    for round in 0..rounds {
        let key = format!("race/{round}");
        let writers = (0..8).map(|writer| {
            let (store, key) = (store.clone(), key.clone());
            async move {
                let body = bytes(&format!("writer {writer}"));
                (writer, store.put_if_absent(&key, body).await.unwrap())
            }
        });
        let outcomes = futures::future::join_all(writers).await;
        let winners: Vec<i32> = outcomes
            .iter()
            .filter(|(_, outcome)| *outcome == PutOutcome::Created)
            .map(|(writer, _)| *writer)
            .collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        let body = store.get(&key).await.unwrap();
        assert_eq!(body, bytes(&format!("writer {}", winners[0])));
    }
}

async fn keys_outside_the_layout_are_refused(store: Arc<dyn ObjectStore>) {
    let refused = store.put("../escape", bytes("x")).await.unwrap_err();
    assert!(matches!(refused, Error::InvalidKey { .. }), "{refused}");
    assert!(store.get("/etc/passwd").await.is_err());
    assert!(store.list("no-slash").await.is_err());
    assert!(store.local_path("../x").is_none());
}

#[tokio::test]
async fn local_objects_are_plain_files_and_leave_no_temporary_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&format!("fs://{}", dir.path().display())).unwrap();
    store.put("a/one", bytes("1")).await.unwrap();
    store.put_if_absent("a/one", bytes("2")).await.unwrap();
    store.put_if_absent("a/two", bytes("2")).await.unwrap();
    let path = store.local_path("a/one").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"1");
    assert_eq!(
        std::fs::read_dir(dir.path().join(".tmp")).unwrap().count(),
        0
    );
    assert_eq!(store.list("").await.unwrap().len(), 2);
    let memory = open("memory://").unwrap();
    memory.put("a/one", bytes("1")).await.unwrap();
    assert!(memory.local_path("a/one").is_none());
    assert!(memory.local_file("a/one").await.unwrap().is_none());
}

#[tokio::test]
async fn uris_are_checked() {
    for uri in ["", "fs://", "/tmp/x", "s4://bucket", "s3://bucket"] {
        let refused = open(uri).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidParameter, "{refused}");
    }
}
