//! Writes one group of records after the other; used by one thread at a time.

use std::{io, path::PathBuf};

use bytes::Bytes;

use super::{
    files::{FileMaker, LogFile},
    frame::{FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, encode_frame},
};
use crate::salt::new_salt;

/// Zeros are written ahead in steps that grow with the file, between these two: a sync inside of
/// them finds the file's blocks and length in place and need not touch the file system's journal.
const MIN_AHEAD_BYTES: u64 = 64 << 10;
const MAX_AHEAD_BYTES: u64 = 1 << 20;

/// What became of a group that could not be written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The disk is full; nothing of the group is on disk, the log goes on.
    NoSpace(io::Error),
    /// Nobody knows what is on disk; the log is dead.
    Fatal(io::Error),
}

/// A group that is durable.
#[derive(Debug)]
pub(super) struct Written {
    /// The number of its first record.
    pub(super) first_lsn: u64,
    /// Bytes written for it.
    pub(super) bytes: usize,
    /// A file that was begun for it.
    pub(super) new_file: Option<(u64, PathBuf)>,
}

/// The head of a log.
pub(super) struct Writer {
    maker: Box<dyn FileMaker>,
    epoch: u64,
    file_size_bytes: u64,
    next_lsn: u64,
    head: Option<Head>,
    buffer: Vec<u8>,
}

/// The file that is being written.
struct Head {
    file: Box<dyn LogFile>,
    salt: u64,
    /// Where the next frame goes.
    offset: u64,
    /// Up to here the file's blocks hold records or zeros.
    zeroed_to: u64,
}

impl Writer {
    /// A writer that begins a new file with its first group.
    pub(super) fn new(
        maker: Box<dyn FileMaker>,
        epoch: u64,
        file_size_bytes: u64,
        next_lsn: u64,
    ) -> Self {
        Self {
            maker,
            epoch,
            file_size_bytes,
            next_lsn,
            head: None,
            buffer: Vec::new(),
        }
    }

    /// Makes a group of records durable with one write and one sync.
    pub(super) fn write(&mut self, payloads: &[Bytes]) -> Result<Written, WriteError> {
        let new_file = self.rotate_if_due()?;
        let Some(head) = &mut self.head else {
            return Err(WriteError::Fatal(io::Error::other("the log has no file")));
        };
        let first_lsn = self.next_lsn;
        let durable = first_lsn - 1;
        self.buffer.clear();
        for (lsn, payload) in (first_lsn..).zip(payloads) {
            encode_frame(head.salt, lsn, durable, payload, &mut self.buffer);
        }
        let bytes = self.buffer.len();
        if let Err(error) = head.write(&mut self.buffer, bytes) {
            return Err(head.undo(error));
        }
        head.file.sync().map_err(WriteError::Fatal)?;
        head.offset += bytes as u64;
        self.next_lsn += payloads.len() as u64;
        self.buffer.clear();
        encode_frame(head.salt, 0, self.next_lsn - 1, &[], &mut self.buffer);
        // Not synced: it survives a kill of the process and tells a damaged end from a torn one.
        // Without it the log is as sound, so a failure is left to the next group to meet.
        let _ = head.file.write_all_at(&self.buffer, head.offset);
        if self.buffer.capacity() > 4 << 20 {
            self.buffer = Vec::new();
        }
        Ok(Written {
            first_lsn,
            bytes,
            new_file,
        })
    }

    /// Begins a new file if there is none or the last one is full.
    fn rotate_if_due(&mut self) -> Result<Option<(u64, PathBuf)>, WriteError> {
        if let Some(head) = &mut self.head {
            if head.offset < self.file_size_bytes {
                return Ok(None);
            }
            let end = head.offset + FRAME_HEADER_BYTES as u64;
            head.file.set_len(end).map_err(WriteError::Fatal)?;
            head.file.sync().map_err(WriteError::Fatal)?;
            head.zeroed_to = head.offset;
        }
        let header = FileHeader {
            epoch: self.epoch,
            first_lsn: self.next_lsn,
            salt: new_salt(),
        };
        // Nothing was written yet, and the full file stays the head until there is a new one.
        let (path, file) = self.maker.create(&header).map_err(|error| {
            if is_no_space(&error) {
                WriteError::NoSpace(error)
            } else {
                WriteError::Fatal(error)
            }
        })?;
        self.head = Some(Head {
            file,
            salt: header.salt,
            offset: FILE_HEADER_BYTES as u64,
            zeroed_to: FILE_HEADER_BYTES as u64,
        });
        Ok(Some((self.next_lsn, path)))
    }
}

impl Head {
    /// Writes `bytes` of the buffer at the head, with zeros ahead where the group is small.
    fn write(&mut self, buffer: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
        let end = self.offset + bytes as u64 + FRAME_HEADER_BYTES as u64;
        let ahead = self.offset.clamp(MIN_AHEAD_BYTES, MAX_AHEAD_BYTES);
        if end > self.zeroed_to && (bytes as u64) < ahead {
            let zeroed_to = end.next_multiple_of(ahead);
            let with_zeros = zeroed_to - self.offset;
            buffer.resize(with_zeros as usize, 0);
            self.zeroed_to = zeroed_to;
        }
        self.file.write_all_at(buffer, self.offset)
    }

    /// Takes a half-written group back, so that none of it is ever read.
    fn undo(&mut self, error: io::Error) -> WriteError {
        if !is_no_space(&error) {
            return WriteError::Fatal(error);
        }
        let undone = self
            .file
            .set_len(self.offset)
            .and_then(|()| self.file.sync());
        self.zeroed_to = self.offset;
        match undone {
            Ok(()) => WriteError::NoSpace(error),
            Err(second) => WriteError::Fatal(second),
        }
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
