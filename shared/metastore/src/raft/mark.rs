//! How far the log reached, kept beside sled.
//!
//! sled takes damage in its file for the end of its history: it opens without an error and shows
//! less than was there. A log that is shorter than its mark has lost entries that others count on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use parking_lot::Mutex;

/// Two slots, written in turn, in disk sectors of their own: one is whole at any time.
const SLOT_BYTES: u64 = 4096;
const RECORD_BYTES: usize = 20;

/// The end of the log as of the last sync: the index behind its last entry.
///
/// Raised without a sync of its own, which costs next to nothing: after a loss of power it may be
/// too low, and then misses damage, but never too high. It is lowered durably before entries at the
/// end of the log are removed.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    generation: u64,
    end: u64,
}

impl Mark {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut state = State::default();
        for slot in 0..2 {
            let mut record = [0; RECORD_BYTES];
            // A file that is shorter was never written so far.
            if file.read_exact_at(&mut record, slot * SLOT_BYTES).is_ok()
                && let Some(found) = State::decode(&record)
                && found.generation > state.generation
            {
                state = found;
            }
        }
        Ok(Self {
            file,
            state: Mutex::new(state),
        })
    }

    pub(super) fn end(&self) -> u64 {
        self.state.lock().end
    }

    /// Raises the mark, not durably.
    pub(super) fn raise(&self, end: u64) -> io::Result<()> {
        if end > self.end() {
            self.write(end)
        } else {
            Ok(())
        }
    }

    /// Lowers the mark, durably.
    pub(super) fn lower(&self, end: u64) -> io::Result<()> {
        if end >= self.end() {
            return Ok(());
        }
        self.write(end)?;
        self.file.sync_data()
    }

    fn write(&self, end: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let next = State {
            generation: state.generation + 1,
            end,
        };
        self.file
            .write_all_at(&next.encode(), next.generation % 2 * SLOT_BYTES)?;
        *state = next;
        Ok(())
    }
}

/// What is wrong with a mark's file, one line for each record: a record was never written, or is
/// whole.
pub(super) fn damage(path: &Path) -> Vec<String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![format!("it cannot be read: {error}")],
    };
    let records = [0, SLOT_BYTES as usize].into_iter().filter_map(|at| {
        let record: &[u8; RECORD_BYTES] = bytes.get(at..at + RECORD_BYTES)?.try_into().ok()?;
        let written = record.iter().any(|byte| *byte != 0);
        let damaged = written && State::decode(record).is_none();
        damaged.then(|| format!("the checksum of the record at byte {at} is wrong"))
    });
    records.collect()
}

impl State {
    fn encode(self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&self.generation.to_le_bytes());
        record[8..16].copy_from_slice(&self.end.to_le_bytes());
        let checksum = crc32c::crc32c(&record[..16]);
        record[16..].copy_from_slice(&checksum.to_le_bytes());
        record
    }

    fn decode(record: &[u8; RECORD_BYTES]) -> Option<Self> {
        let (body, checksum) = record.split_last_chunk::<4>()?;
        let (generation, end) = body.split_first_chunk::<8>()?;
        let found = Self {
            generation: u64::from_le_bytes(*generation),
            end: u64::from_le_bytes(end.try_into().ok()?),
        };
        (crc32c::crc32c(body) == u32::from_le_bytes(*checksum)).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_record_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        assert_eq!(Mark::open(&path).unwrap().end(), 0);
        for end in [5, 9, 9, 7, 12] {
            let mark = Mark::open(&path).unwrap();
            mark.raise(end).unwrap();
            assert_eq!(Mark::open(&path).unwrap().end(), mark.end());
        }
        let mark = Mark::open(&path).unwrap();
        assert_eq!(mark.end(), 12);
        mark.lower(15).unwrap();
        assert_eq!(mark.end(), 12);
        mark.lower(3).unwrap();
        assert_eq!(Mark::open(&path).unwrap().end(), 3);
        // A record torn by a loss of power leaves the one before it.
        let slot = mark.state.lock().generation % 2 * SLOT_BYTES;
        mark.file.write_all_at(&[0xff; 9], slot).unwrap();
        assert_eq!(Mark::open(&path).unwrap().end(), 12);
    }
}
