//! Parts of a mapped index that are read from the file, not looked at where they are mapped.
//!
//! What a search reads in long runs, one after the other, is read as fast as it is mapped, and then does not
//! count as memory of the process; a run that cannot be read is an error, and no signal.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::raw::RowRoom;

/// The file that an index is mapped from. It is never changed.
pub trait ReadAt: Send + Sync + Debug {
    /// Fills `out` with what the file has from byte `offset` on; may wait for the disk.
    ///
    /// # Errors
    /// The system's own · `UnexpectedEof` behind the end.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }
}

/// A section of such a file.
#[derive(Clone, Debug)]
pub(crate) struct InFile {
    pub(crate) file: Arc<dyn ReadAt>,
    /// Byte of the file at which it begins.
    pub(crate) offset: u64,
}

impl InFile {
    /// Reads a part of the section into `room`.
    ///
    /// # Errors
    /// `Io`
    pub(crate) fn read<'a>(
        &self,
        part: Range<usize>,
        room: &'a mut RowRoom,
    ) -> Result<&'a mut [u8]> {
        let bytes = room.bytes(part.len());
        let read = self.file.read_at(bytes, self.offset + part.start as u64);
        read.map_err(|source| Error::Io {
            action: "cannot be read",
            source,
        })?;
        Ok(bytes)
    }
}
