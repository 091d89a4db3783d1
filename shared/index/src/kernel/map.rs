//! Memory-mapped files.

use std::fs::File;
use std::io;

use bytes::Bytes;

/// Maps a whole file; an empty file gives empty bytes.
///
/// # Correctness
/// The file must not be changed or truncated while the bytes live. Files of segments are written
/// under another name, synced, renamed, and never touched again but to be unlinked, which leaves the
/// mapping whole.
///
/// # Errors
/// The system's own.
pub fn map_file(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: files of segments are written once and only ever unlinked (see `# Correctness`), so the
    // mapped bytes do not change under the shared reference.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
