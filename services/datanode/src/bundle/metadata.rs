//! What a bundle says of itself.

use redkite_proto::redkite::meta::{BundleInfo, FileInfo};
use serde::{Deserialize, Serialize};

/// What tells these files from others of the name.
const FORMAT: &str = "redkite-snapshot-bundle";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Metadata {
    format: String,
    version: u32,
    token: String,
    snapshot: Snapshot,
    manifest: Manifest,
    files: i64,
    bytes: i64,
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    name: String,
    description: String,
    database: String,
    collection: String,
    create_ts: u64,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    path: String,
    size: u64,
    crc32c: u32,
}

/// As it is written.
pub(super) fn encode(info: &BundleInfo) -> String {
    let manifest = info.manifest.clone().unwrap_or_default();
    let metadata = Metadata {
        format: FORMAT.to_owned(),
        version: VERSION,
        token: info.token.clone(),
        snapshot: Snapshot {
            name: info.snapshot_name.clone(),
            description: info.description.clone(),
            database: info.database.clone(),
            collection: info.collection.clone(),
            create_ts: info.ts,
        },
        manifest: Manifest {
            path: manifest.path,
            size: manifest.size,
            crc32c: manifest.crc32c,
        },
        files: info.files,
        bytes: info.bytes,
    };
    serde_json::to_string_pretty(&metadata).expect("strings and numbers can be written as JSON")
}

/// As it is read.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode(text: &[u8]) -> Result<BundleInfo, String> {
    let metadata: Metadata = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if metadata.format != FORMAT {
        return Err(format!("its format is {:?}", metadata.format));
    }
    if metadata.version != VERSION {
        return Err(format!("its version {} is not known", metadata.version));
    }
    Ok(BundleInfo {
        token: metadata.token,
        snapshot_name: metadata.snapshot.name,
        description: metadata.snapshot.description,
        database: metadata.snapshot.database,
        collection: metadata.snapshot.collection,
        ts: metadata.snapshot.create_ts,
        manifest: Some(FileInfo {
            path: metadata.manifest.path,
            size: metadata.manifest.size,
            crc32c: metadata.manifest.crc32c,
        }),
        files: metadata.files,
        bytes: metadata.bytes,
    })
}
