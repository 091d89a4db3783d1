//! One suite for every implementation of the object store.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::sync::Arc;

use bytes::Bytes;
use redkite_storage::{Error, ObjectStore, PutOutcome, open};
use redkite_types::{Coded, ErrorCode};

fn stores() -> (tempfile::TempDir, Vec<Arc<dyn ObjectStore>>) {
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("fs://{}/deep/er", dir.path().display());
    let stores = vec![open(&uri).unwrap(), open("memory://").unwrap()];
    (dir, stores)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn what_was_put_is_read_whole_and_in_parts() {
    let (_dir, stores) = stores();
    for store in stores {
        store.put("a/b/one.bin", bytes("0123456789")).await.unwrap();
        assert_eq!(store.get("a/b/one.bin").await.unwrap(), bytes("0123456789"));
        let part = store.get_range("a/b/one.bin", 3..7).await.unwrap();
        assert_eq!(part, bytes("3456"));
        assert_eq!(store.stat("a/b/one.bin").await.unwrap().size_bytes, 10);
        store.put("a/b/one.bin", bytes("new")).await.unwrap();
        assert_eq!(store.get("a/b/one.bin").await.unwrap(), bytes("new"));
        store.put("empty", Bytes::new()).await.unwrap();
        assert_eq!(store.get("empty").await.unwrap(), Bytes::new());
        for range in [1..9, 8..9] {
            let early = store.get_range("a/b/one.bin", range).await.unwrap_err();
            assert_eq!(early.code(), ErrorCode::DataIntegrity, "{early}");
        }
    }
}

#[tokio::test]
async fn what_is_absent_is_not_found() {
    let (_dir, stores) = stores();
    for store in stores {
        store.put("dir/file", bytes("x")).await.unwrap();
        for key in ["none", "dir/none"] {
            assert!(store.get(key).await.unwrap_err().is_not_found(), "{key}");
            let part = store.get_range(key, 0..1).await.unwrap_err();
            assert_eq!(part.code(), ErrorCode::IoKeyNotFound);
        }
        assert!(store.stat("none").await.unwrap_err().is_not_found());
        assert!(store.list("none/").await.unwrap().is_empty());
        store.delete("none").await.unwrap();
    }
}

#[tokio::test]
async fn a_list_is_recursive_sorted_and_bounded_by_its_prefix() {
    let (_dir, stores) = stores();
    for store in stores {
        for key in ["s/2/b", "s/1/x/y", "s/1/a", "s/10/a", "t/1"] {
            store.put(key, bytes(key)).await.unwrap();
        }
        let keys = |found: Vec<redkite_storage::ObjectMeta>| -> Vec<String> {
            found.into_iter().map(|object| object.key).collect()
        };
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
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_writers_exactly_one_creates() {
    let (_dir, stores) = stores();
    for store in stores {
        for round in 0..20 {
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
}

#[tokio::test]
async fn keys_outside_the_layout_are_refused() {
    let (_dir, stores) = stores();
    for store in stores {
        let refused = store.put("../escape", bytes("x")).await.unwrap_err();
        assert!(matches!(refused, Error::InvalidKey { .. }), "{refused}");
        assert!(store.get("/etc/passwd").await.is_err());
        assert!(store.list("no-slash").await.is_err());
        assert!(store.local_path("../x").is_none());
    }
}

#[tokio::test]
async fn local_objects_are_plain_files_and_leave_no_temporary_ones() {
    let (_dir, stores) = stores();
    let store = &stores[0];
    store.put("a/one", bytes("1")).await.unwrap();
    store.put_if_absent("a/one", bytes("2")).await.unwrap();
    store.put_if_absent("a/two", bytes("2")).await.unwrap();
    let path = store.local_path("a/one").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"1");
    let root = path.parent().unwrap().parent().unwrap();
    assert_eq!(std::fs::read_dir(root.join(".tmp")).unwrap().count(), 0);
    assert_eq!(store.list("").await.unwrap().len(), 2);
    assert!(stores[1].local_path("a/one").is_none());
}

#[tokio::test]
async fn uris_are_checked() {
    for uri in ["", "fs://", "/tmp/x", "s4://bucket"] {
        let refused = open(uri).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidParameter, "{refused}");
    }
}
