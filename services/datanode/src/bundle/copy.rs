//! One file from one place to another.

use redkite_proto::redkite::meta::FileInfo;
use redkite_runtime::hold_here;
use redkite_storage::{ObjectWriter, PART_BYTES, checksum};
use redkite_types::{Error, ErrorCode, Result};

use super::place::{Place, failed};

/// Copies a file, which has its new name only once all of it was found to be right.
///
/// # Errors
/// Code 1000 when it is missing, 1009 when its size or checksum differs, both with its name; 7 while
/// the disk is full; else as the stores say.
pub(super) async fn copy(from: &Place, to: &Place, file: &FileInfo, target: &str) -> Result<()> {
    to.claim(file.size)?;
    hold_here(&["bundle", "copying"]).await;
    let copied = match file.size as usize <= PART_BYTES {
        true => whole(from, to, file, target).await,
        false => in_parts(from, to, file, target).await,
    };
    copied.map_err(|error| named(error, from, file))
}

/// Compares a file with what is recorded of it.
///
/// # Errors
/// As [`copy`] of the source.
pub(super) async fn check(from: &Place, file: &FileInfo) -> Result<()> {
    let read = read(from, file, None).await;
    read.map_err(|error| named(error, from, file))
}

/// The error of a file that is not what it should be, with the file's name.
fn named(error: Error, from: &Place, file: &FileInfo) -> Error {
    match error.code {
        ErrorCode::IoKeyNotFound | ErrorCode::DataIntegrity => {
            let name = from.uri(&file.path);
            let text = format!("file {name} is not as it was written: {}", error.message);
            Error::new(error.code, text)
        }
        _ => error,
    }
}

async fn whole(from: &Place, to: &Place, file: &FileInfo, target: &str) -> Result<()> {
    let key = from.key(&file.path);
    let bytes = from.store.get(&key).await.map_err(failed)?;
    checksum::verify(&key, &bytes, file.size, file.crc32c).map_err(failed)?;
    to.store.put(&to.key(target), bytes).await.map_err(failed)
}

async fn in_parts(from: &Place, to: &Place, file: &FileInfo, target: &str) -> Result<()> {
    let mut writer = to.store.writer(&to.key(target)).await.map_err(failed)?;
    read(from, file, Some(&mut writer)).await?;
    writer.finish().await.map_err(failed)
}

/// Reads a file part by part, and hands it on; it is right only once this has returned so.
async fn read(
    from: &Place,
    file: &FileInfo,
    mut writer: Option<&mut Box<dyn ObjectWriter>>,
) -> Result<()> {
    let key = from.key(&file.path);
    let found = from.store.stat(&key).await.map_err(failed)?.size_bytes;
    checksum::verify_size(&key, found, file.size).map_err(failed)?;
    let (mut at, mut crc) = (0, 0);
    while at < file.size {
        let end = file.size.min(at + PART_BYTES as u64);
        let part = from.store.get_range(&key, at..end).await.map_err(failed)?;
        crc = checksum::crc32c_append(crc, &part);
        if let Some(writer) = &mut writer {
            writer.write(part).await.map_err(failed)?;
        }
        at = end;
    }
    checksum::verify_crc(&key, crc, file.crc32c).map_err(failed)
}
