//! Bundles in local directories.

use bytes::Bytes;
use redkite_proto::redkite::meta::FileInfo;
use redkite_storage::PART_BYTES;
use tempfile::TempDir;

use super::*;

const TOKEN: &str = "1-abc";

struct World {
    store: Arc<dyn ObjectStore>,
    bundler: Bundler,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let store = redkite_storage::open("memory://").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = BundleOptions {
            local_dirs: vec![dir.path().to_owned()],
        };
        let disk = Arc::new(DiskSpace::unlimited());
        let bundler = Bundler::new(store.clone(), disk, options, Vec::new());
        Self {
            store,
            bundler,
            dir,
        }
    }

    fn place(&self, name: &str) -> Option<BundlePlace> {
        Some(BundlePlace {
            root: format!("fs://{}/{name}", self.dir.path().display()),
            ..BundlePlace::default()
        })
    }

    async fn put(&self, path: &str, bytes: Vec<u8>) -> FileInfo {
        let file = FileInfo {
            path: path.to_owned(),
            size: bytes.len() as u64,
            crc32c: checksum::crc32c(&bytes),
        };
        self.store.put(path, Bytes::from(bytes)).await.unwrap();
        file
    }

    async fn open(&self, name: &str, token: &str) -> Result<OpenBundleResponse> {
        let request = OpenBundleRequest {
            place: self.place(name),
            token: token.to_owned(),
        };
        self.bundler.open(request).await
    }

    async fn copy_out(&self, name: &str, token: &str, files: &[FileInfo]) -> Result<u64> {
        let files = files.iter().map(|file| FileCopy {
            file: Some(file.clone()),
            to: file.path.clone(),
        });
        let request = CopyFilesRequest {
            from: None,
            to: self.place(name),
            token: token.to_owned(),
            files: files.collect(),
            only_check: false,
        };
        Ok(self.bundler.copy(request).await?.bytes)
    }

    async fn read(&self, name: &str) -> Result<ReadBundleResponse> {
        let place = self.place(name);
        self.bundler.read(ReadBundleRequest { place }).await
    }

    async fn finish(&self, name: &str, token: &str, manifest: &FileInfo) -> Result<String> {
        let request = FinishBundleRequest {
            place: self.place(name),
            info: Some(BundleInfo {
                token: token.to_owned(),
                snapshot_name: "s1".to_owned(),
                manifest: Some(manifest.clone()),
                ..BundleInfo::default()
            }),
        };
        Ok(self.bundler.finish(request).await?.metadata_uri)
    }

    fn names(&self) -> usize {
        walk(self.dir.path())
    }
}

/// Files below a directory.
fn walk(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    let counts = entries.map(|entry| match entry.unwrap() {
        entry if entry.file_type().unwrap().is_dir() => walk(&entry.path()),
        _ => 1,
    });
    counts.sum()
}

#[tokio::test]
async fn a_bundle_is_not_seen_before_it_is_complete() {
    let world = World::new();
    let small = world
        .put("segments/1/2/3/data.v2.parquet", b"rows".to_vec())
        .await;
    let large = (0..2 * PART_BYTES as u32 + 17).map(|i| i as u8).collect();
    let large = world.put("segments/1/2/3/vectors.101.v2.bin", large).await;
    let manifest = SnapshotManifest {
        snapshot_id: 9,
        ..SnapshotManifest::default()
    };
    let manifest = world.put("manifest.bin", manifest.encode_to_vec()).await;
    world.open("b", TOKEN).await.unwrap();
    world.open("b", TOKEN).await.unwrap();
    let files = [small, large, manifest.clone()];
    let bytes = world.copy_out("b", TOKEN, &files).await.unwrap();
    assert_eq!(bytes, files.iter().map(|file| file.size).sum::<u64>());
    assert_eq!(
        world.read("b").await.unwrap_err().code,
        ErrorCode::IoKeyNotFound
    );
    let uri = world.finish("b", TOKEN, &manifest).await.unwrap();
    assert_eq!(uri, world.finish("b", TOKEN, &manifest).await.unwrap());
    assert!(uri.ends_with("/b/metadata.json"), "{uri}");
    let read = world.read("b").await.unwrap();
    assert_eq!(read.info.unwrap().snapshot_name, "s1");
    assert_eq!(read.manifest.unwrap().snapshot_id, 9);
    // Whoever died before its end was recorded finds it again, and nobody else writes over it.
    world.open("b", TOKEN).await.unwrap();
    assert_eq!(uri, world.finish("b", TOKEN, &manifest).await.unwrap());
    assert_eq!(
        world.open("b", "2-other").await.unwrap_err().code,
        ErrorCode::InvalidParameter
    );
}

#[tokio::test]
async fn a_file_that_is_not_what_was_recorded_is_not_copied_and_is_named() {
    let world = World::new();
    world.open("b", TOKEN).await.unwrap();
    let path = "segments/1/2/3/data.v2.parquet";
    let good = world.put(path, b"rows".to_vec()).await;
    let large = world
        .put("segments/1/2/3/vectors.101.v2.bin", vec![7; PART_BYTES + 5])
        .await;
    for bad in [
        FileInfo {
            crc32c: good.crc32c ^ 1,
            ..good.clone()
        },
        FileInfo {
            size: good.size + 1,
            ..good.clone()
        },
        FileInfo {
            crc32c: large.crc32c ^ 1,
            ..large.clone()
        },
        FileInfo {
            path: "deltas/1v0/5.parquet".to_owned(),
            ..good.clone()
        },
    ] {
        let error = world
            .copy_out("b", TOKEN, std::slice::from_ref(&bad))
            .await
            .unwrap_err();
        assert!(!error.retriable, "{error}");
        assert!(error.message.contains(&bad.path), "{error}");
        // The marker only.
        assert_eq!(world.names(), 1);
    }
}

#[tokio::test]
async fn a_place_belongs_to_one_job_until_it_is_removed() {
    let world = World::new();
    world.open("b", TOKEN).await.unwrap();
    let other = "2-other";
    assert_eq!(
        world.open("b", other).await.unwrap_err().code,
        ErrorCode::InvalidParameter
    );
    let file = world
        .put("segments/1/2/3/data.v2.parquet", b"rows".to_vec())
        .await;
    assert!(
        world
            .copy_out("b", other, std::slice::from_ref(&file))
            .await
            .is_err()
    );
    assert!(world.finish("b", other, &file).await.is_err());
    world
        .copy_out("b", TOKEN, std::slice::from_ref(&file))
        .await
        .unwrap();
    let remove = |token: &str| RemoveBundleRequest {
        place: world.place("b"),
        token: token.to_owned(),
        paths: vec![file.path.clone()],
    };
    world.bundler.remove(remove(other)).await.unwrap();
    assert_eq!(world.names(), 2);
    world.bundler.remove(remove(TOKEN)).await.unwrap();
    assert_eq!(world.names(), 0);
    world.open("b", other).await.unwrap();
}

#[tokio::test]
async fn only_places_that_are_meant_for_bundles_are_used() {
    let world = World::new();
    let dir = world.dir.path().display();
    for root in [
        "fs:///etc/x".to_owned(),
        format!("fs://{dir}/../x"),
        "segments/1".to_owned(),
        "wal/1v0".to_owned(),
        "../x".to_owned(),
        "memory://".to_owned(),
        "gs://bucket/x".to_owned(),
    ] {
        let place = BundlePlace {
            root: root.clone(),
            ..BundlePlace::default()
        };
        let request = OpenBundleRequest {
            place: Some(place),
            token: TOKEN.to_owned(),
        };
        let error = world.bundler.open(request).await.unwrap_err();
        assert!(!error.retriable, "{root}");
    }
    let place = Some(BundlePlace {
        root: "backups/one".to_owned(),
        ..BundlePlace::default()
    });
    let request = OpenBundleRequest {
        place,
        token: TOKEN.to_owned(),
    };
    world.bundler.open(request).await.unwrap();
    assert!(world.store.get("backups/one/_BUNDLE").await.is_ok());
}

#[tokio::test]
async fn when_a_copy_fails_nothing_is_being_written_any_more() {
    let world = World::new();
    let mut files = Vec::new();
    for name in ["a", "b", "c"] {
        files.push(world.put(name, vec![7; PART_BYTES]).await);
    }
    files.push(FileInfo {
        path: "absent".to_owned(),
        size: 1,
        crc32c: 0,
    });
    world.open("one", TOKEN).await.unwrap();
    let error = world.copy_out("one", TOKEN, &files).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::IoKeyNotFound, "{error}");
    // Those that were under way have come to their end: whoever removes them now removes them for good.
    for name in ["a", "b", "c"] {
        assert!(world.dir.path().join("one").join(name).exists(), "{name}");
    }
}
