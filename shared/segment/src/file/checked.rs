//! The bytes of a file, in memory or mapped, checked against the manifest on the way.

use std::{
    fs::File,
    io::{self, Read, Seek as _},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use redkite_index::{AlignedBuffer, ReadAt, map_file};
use redkite_storage::{
    LocalFile, ObjectStore,
    checksum::{crc32c_append, verify, verify_crc, verify_size},
};

use super::{FileEntry, reading};
use crate::error::{Error, Result};

/// Bytes read, and put through the checksum while they are in the processor's cache.
const STRIDE: usize = 1 << 20;
/// Where parts of a file start in memory: one cache line.
const LINE_BYTES: usize = 64;

/// A file as it was found in the store: nothing of it is checked yet.
pub(super) enum Found {
    /// On a local disk.
    Local(OpenFile),
    /// Fetched from a store that keeps nothing on a local disk.
    Fetched(Bytes),
}

/// A local file that does not go away.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pin: LocalFile,
}

/// A mapped file.
pub(super) struct Mapped {
    /// All of it.
    pub(super) bytes: Bytes,
    /// The part that was to be read into memory.
    pub(super) part: Option<Bytes>,
    /// The file, still open, if it is on a local disk.
    pub(super) file: Option<OpenFile>,
}

/// A mapping and what keeps its file.
struct Mapping {
    bytes: Bytes,
    _pin: LocalFile,
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes of a whole file, which are those that were written.
#[derive(Clone, Debug)]
pub struct CheckedBytes {
    /// They start on a cache line.
    pub bytes: Bytes,
    /// The file that they are mapped from, unless they are in memory.
    pub mapped_from: Option<Arc<dyn ReadAt>>,
}

/// Reads a whole file and checks its size and checksum, in one pass. The bytes are mapped if that is
/// wanted and the store has the file on a local disk, else they are in memory.
///
/// # Errors
/// `Storage`: not found, corrupt, or a failure of the store
pub async fn read_checked(
    store: &dyn ObjectStore,
    entry: &FileEntry,
    mapped: bool,
) -> Result<CheckedBytes> {
    let found = find(store, entry).await?;
    let entry = entry.clone();
    let path = entry.path.clone();
    reading(&path, move || {
        if !mapped {
            return Ok(CheckedBytes {
                bytes: found.whole(&entry)?,
                mapped_from: None,
            });
        }
        let Mapped { bytes, file, .. } = found.map_and_read(&entry, None)?;
        Ok(CheckedBytes {
            bytes,
            mapped_from: file.map(|file| Arc::new(file) as Arc<dyn ReadAt>),
        })
    })
    .await
}

/// Finds a file, and fetches it if it is on no local disk, or there is no room for it.
pub(super) async fn find(store: &dyn ObjectStore, entry: &FileEntry) -> Result<Found> {
    match local(store, entry).await? {
        Some(local) => Ok(Found::Local(local)),
        None => Ok(Found::Fetched(store.get(&entry.path).await?)),
    }
}

/// Opens a file if it is on a local disk, or there is room for it there.
pub(super) async fn local(store: &dyn ObjectStore, entry: &FileEntry) -> Result<Option<OpenFile>> {
    let pin = match store.local_file(&entry.path).await {
        Ok(Some(pin)) => pin,
        Ok(None) | Err(redkite_storage::Error::NoSpace { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let path = entry.path.clone();
    reading(&entry.path, move || match File::open(pin.path()) {
        Ok(file) => Ok(Some(OpenFile { file, pin })),
        Err(error) => Err(failed(&path, error)),
    })
    .await
}

impl Found {
    /// Reads parts of the file, which are in order and do not overlap, and the rest of it only for
    /// the checksum. Each part starts on a cache line.
    pub(super) fn read(self, entry: &FileEntry, parts: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match self {
            Self::Local(local) => local.read(entry, parts),
            Self::Fetched(bytes) => {
                verify(&entry.path, &bytes, entry.size_bytes, entry.crc32c)?;
                let part = |range: &Range<u64>| {
                    on_a_line(
                        &bytes,
                        bytes.slice(range.start as usize..range.end as usize),
                    )
                };
                Ok(parts.iter().map(part).collect())
            }
        }
    }

    /// Reads the whole file into memory.
    pub(super) fn whole(self, entry: &FileEntry) -> Result<Bytes> {
        let parts = self.read(entry, std::slice::from_ref(&(0..entry.size_bytes)))?;
        Ok(parts.into_iter().next().unwrap_or_default())
    }

    /// Maps the whole file if it is on a local disk, and reads a part of it on the way, if one is wanted.
    pub(super) fn map_and_read(
        self,
        entry: &FileEntry,
        part: Option<&Range<u64>>,
    ) -> Result<Mapped> {
        match self {
            Self::Local(local) => local.map_and_read(entry, part),
            Self::Fetched(_) => {
                let bytes = self.map(entry)?;
                let part = part.map(|part| bytes.slice(part.start as usize..part.end as usize));
                Ok(Mapped {
                    bytes,
                    part,
                    file: None,
                })
            }
        }
    }

    /// Whether the file can be mapped.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Maps the whole file if it is on a local disk, else takes it as it is.
    pub(super) fn map(self, entry: &FileEntry) -> Result<Bytes> {
        match self {
            Self::Local(local) => local.map(entry),
            Self::Fetched(bytes) => {
                verify(&entry.path, &bytes, entry.size_bytes, entry.crc32c)?;
                Ok(on_a_line(&bytes, bytes.clone()))
            }
        }
    }
}

/// The same bytes if they start on a cache line and are most of what would be kept alive, else a
/// copy.
fn on_a_line(whole: &Bytes, part: Bytes) -> Bytes {
    let is_most = part.len() >= whole.len() / 8 * 7;
    if is_most && part.as_ptr().addr().is_multiple_of(LINE_BYTES) {
        return part;
    }
    let mut copy = AlignedBuffer::zeroed(part.len());
    copy.as_mut().copy_from_slice(&part);
    copy.into_bytes()
}

impl ReadAt for OpenFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(out, offset)
    }
}

impl OpenFile {
    fn read(mut self, entry: &FileEntry, parts: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read_parts(entry, parts)
    }

    fn read_parts(&mut self, entry: &FileEntry, parts: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut reader = Checked::begin(&mut self.file, entry)?;
        let mut read = Vec::with_capacity(parts.len());
        for part in parts {
            reader.skip(part.start.saturating_sub(reader.at))?;
            let mut buffer = AlignedBuffer::zeroed((part.end - part.start) as usize);
            reader.fill(buffer.as_mut())?;
            read.push(buffer.into_bytes());
        }
        reader.finish()?;
        Ok(read)
    }

    fn map(self, entry: &FileEntry) -> Result<Bytes> {
        Ok(self.map_and_read(entry, None)?.bytes)
    }

    fn map_and_read(mut self, entry: &FileEntry, part: Option<&Range<u64>>) -> Result<Mapped> {
        // Not through the mapping: that would bring every page of it into memory.
        let parts = part.map_or(&[][..], std::slice::from_ref);
        let part = self.read_parts(entry, parts)?.pop();
        let bytes = map_file(&self.file).map_err(|error| failed(&entry.path, error))?;
        let bytes = Bytes::from_owner(Mapping {
            bytes,
            _pin: self.pin.clone(),
        });
        let file = Some(self);
        Ok(Mapped { bytes, part, file })
    }
}

/// Reads a file from its start to its end and computes its checksum.
struct Checked<'a> {
    file: &'a mut File,
    entry: &'a FileEntry,
    at: u64,
    crc: u32,
}

impl<'a> Checked<'a> {
    fn begin(file: &'a mut File, entry: &'a FileEntry) -> Result<Self> {
        let size = file.metadata().and_then(|meta| {
            file.rewind()?;
            Ok(meta.len())
        });
        let size = size.map_err(|error| failed(&entry.path, error))?;
        verify_size(&entry.path, size, entry.size_bytes)?;
        Ok(Self {
            file,
            entry,
            at: 0,
            crc: 0,
        })
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        for piece in out.chunks_mut(STRIDE) {
            self.file
                .read_exact(piece)
                .map_err(|error| failed(&self.entry.path, error))?;
            self.crc = crc32c_append(self.crc, piece);
            self.at += piece.len() as u64;
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let mut scratch = vec![0; STRIDE.min(bytes as usize)];
        let mut left = bytes as usize;
        while left > 0 {
            let piece = left.min(STRIDE);
            self.fill(&mut scratch[..piece])?;
            left -= piece;
        }
        Ok(())
    }

    /// Reads what is left and compares the checksum.
    fn finish(mut self) -> Result<()> {
        self.skip(self.entry.size_bytes - self.at)?;
        verify_crc(&self.entry.path, self.crc, self.entry.crc32c)?;
        Ok(())
    }
}

pub(super) fn failed(path: &str, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        let key = path.to_owned();
        return Error::Storage(redkite_storage::Error::NotFound { key });
    }
    Error::Storage(redkite_storage::Error::Io {
        operation: "read",
        key: path.to_owned(),
        transient: false,
        source: Box::new(error),
    })
}
