//! Single rows of a vector column, read from the local file that has them.

use std::{
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redkite_index::RowReader;
use redkite_types::FieldId;

use super::checked::OpenFile;

/// A local file that is open for its rows.
#[derive(Debug)]
pub(super) struct RowsFile {
    open: OpenFile,
    /// Whether the file system cannot say if a read would wait.
    always_waits: AtomicBool,
}

impl RowsFile {
    pub(super) fn new(open: OpenFile) -> Self {
        Self {
            open,
            always_waits: AtomicBool::new(false),
        }
    }

    /// Reads bytes that are in memory, without waiting for the disk.
    #[cfg(target_os = "linux")]
    fn read_now(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};

        let wanted = out.len();
        let mut parts = [io::IoSliceMut::new(out)];
        match preadv2(&self.open.file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == wanted => Ok(()),
            // The rest of the row is on a page that is not in memory.
            Ok(_) | Err(Errno::AGAIN) => Err(ErrorKind::WouldBlock.into()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.always_waits.store(true, Ordering::Relaxed);
                Err(ErrorKind::WouldBlock.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn read_now(&self, _out: &mut [u8], _offset: u64) -> io::Result<()> {
        self.always_waits.store(true, Ordering::Relaxed);
        Err(ErrorKind::WouldBlock.into())
    }
}

/// One column of such a file: `[rows, row_bytes]`, nothing between them.
#[derive(Clone, Debug)]
pub(crate) struct RowsInFile {
    pub(super) file: Arc<RowsFile>,
    pub(super) field: FieldId,
    /// Byte of the first row.
    pub(super) offset: u64,
    pub(super) row_bytes: usize,
}

impl RowsInFile {
    /// Reads rows, and waits for the disk or does not.
    pub(crate) const fn reader(&self, waits: bool) -> RowsReader<'_> {
        RowsReader { rows: self, waits }
    }

    /// Whether a read always counts as one that waits.
    pub(crate) fn always_waits(&self) -> bool {
        self.file.always_waits.load(Ordering::Relaxed)
    }

    /// Rows, one after the other, in the order given.
    pub(crate) fn take(&self, rows: &[usize]) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; rows.len() * self.row_bytes];
        let places = bytes.chunks_exact_mut(self.row_bytes.max(1));
        for (row, place) in rows.iter().zip(places) {
            self.file.open.file.read_exact_at(place, self.at(*row))?;
        }
        Ok(bytes)
    }

    const fn at(&self, row: usize) -> u64 {
        self.offset + row as u64 * self.row_bytes as u64
    }
}

/// What a search reads rows with.
#[derive(Debug)]
pub(crate) struct RowsReader<'a> {
    rows: &'a RowsInFile,
    waits: bool,
}

impl RowReader for RowsReader<'_> {
    fn read(&self, row: u32, out: &mut [u8]) -> io::Result<()> {
        let Self { rows, waits } = self;
        let offset = rows.at(row as usize);
        match waits {
            true => rows.file.open.file.read_exact_at(out, offset),
            false => rows.file.read_now(out, offset),
        }
    }
}
