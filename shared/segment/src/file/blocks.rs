//! The bytes of a data file that lies on no local disk, checked block by block.
//!
//! A file has one checksum. It is read once from its start to its end, which checks that and leaves the checksum of each
//! block; whatever is read of it afterwards is compared with these.

use std::{collections::HashMap, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use parquet::{
    errors::{ParquetError, Result as ParquetResult},
    file::reader::{ChunkReader, Length},
};
use redkite_storage::{
    ObjectStore,
    checksum::{crc32c, crc32c_combine, verify_crc, verify_size},
};
use redkite_types::FieldId;

use super::FileEntry;
use crate::error::{Error, Result};

/// Bytes that have a checksum of their own: the least that is read.
const BLOCK_BYTES: u64 = 256 << 10;
/// Blocks that one request asks for, at the most.
const RUN_BLOCKS: u64 = 16;
/// Requests that are on their way at a time: with [`RUN_BLOCKS`] 16 MiB.
const AHEAD: usize = 4;
/// Blocks that are read without need rather than asking twice.
const GAP_BLOCKS: u64 = 1;

/// The blocks' checksums of files that were read as a whole, for whoever opens one of them again.
#[derive(Debug, Default)]
pub struct CheckedFiles(Mutex<HashMap<String, Arc<[u32]>>>);

impl CheckedFiles {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }
}

/// A file in a store that keeps nothing on a local disk.
#[derive(Debug)]
pub(super) struct Blocks {
    file: FileEntry,
    crcs: Arc<[u32]>,
    /// The last block that was read of each column, of which the next rows may want the rest.
    edges: Mutex<HashMap<FieldId, (u64, Bytes)>>,
}

/// Bytes that are wanted of a column.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) field: FieldId,
    /// In order, and apart from each other.
    pub(super) ranges: &'a [Range<u64>],
    /// Where they go, one after the other.
    pub(super) out: &'a mut [u8],
}

/// Blocks that are read at once for one wish.
#[derive(Debug)]
struct Run {
    wish: usize,
    blocks: Range<u64>,
    /// Bytes of the file, and where they go.
    copies: Vec<(Range<u64>, usize)>,
}

impl FileEntry {
    /// Reads the file through, some megabytes at a time, and compares its size and checksum: whether
    /// the store has what was written.
    ///
    /// # Errors
    /// `Storage`: not found, corrupt, or a failure of the store
    pub async fn verify(&self, store: &dyn ObjectStore) -> Result<()> {
        Blocks::check(store, self, &CheckedFiles::new()).await?;
        Ok(())
    }
}

impl Blocks {
    /// Reads the whole file and checks it, unless that was done before.
    ///
    /// # Errors
    /// `Storage`, also for another length or checksum
    pub(super) async fn check(
        store: &dyn ObjectStore,
        file: &FileEntry,
        checked: &CheckedFiles,
    ) -> Result<Self> {
        let (path, size) = (&file.path, file.size_bytes);
        verify_size(path, store.stat(path).await?.size_bytes, size)?;
        let known = checked.0.lock().get(path).cloned();
        let crcs = match known {
            Some(crcs) => crcs,
            None => {
                let crcs: Arc<[u32]> = read_through(store, file).await?.into();
                checked.0.lock().insert(path.clone(), crcs.clone());
                crcs
            }
        };
        Ok(Self {
            file: file.clone(),
            crcs,
            edges: Mutex::default(),
        })
    }

    pub(super) fn file(&self) -> &FileEntry {
        &self.file
    }

    /// Reads what is wanted, each block once.
    ///
    /// # Errors
    /// `Storage`, also when a block is not what it was
    pub(super) async fn fill(
        &self,
        store: &dyn ObjectStore,
        wishes: &mut [Wish<'_>],
    ) -> Result<()> {
        let mut runs = Vec::new();
        let mut last = Vec::with_capacity(wishes.len());
        for (index, wish) in wishes.iter_mut().enumerate() {
            self.plan(index, wish, &mut runs)?;
            last.push(
                wish.ranges
                    .last()
                    .map(|range| (range.end - 1) / BLOCK_BYTES),
            );
        }
        let mut reads = Vec::with_capacity(runs.len());
        for run in runs {
            reads.push(self.read(store, run).boxed());
        }
        let mut reads = stream::iter(reads).buffer_unordered(AHEAD);
        while let Some(read) = reads.next().await {
            let (run, bytes) = read?;
            let start = run.blocks.start * BLOCK_BYTES;
            let wish = &mut wishes[run.wish];
            for (range, to) in run.copies {
                let from = (range.start - start) as usize..(range.end - start) as usize;
                wish.out[to..to + from.len()].copy_from_slice(&bytes[from]);
            }
            if last[run.wish] == Some(run.blocks.end - 1) {
                let at = (run.blocks.end - 1) * BLOCK_BYTES - start;
                // A copy: the others of the run are not kept alive.
                let block = Bytes::copy_from_slice(&bytes[at as usize..]);
                let edge = (run.blocks.end - 1, block);
                self.edges.lock().insert(wish.field, edge);
            }
        }
        Ok(())
    }

    /// Takes what is at hand, and divides the rest into runs.
    fn plan(&self, index: usize, wish: &mut Wish<'_>, runs: &mut Vec<Run>) -> Result<()> {
        let edge = self.edges.lock().get(&wish.field).cloned();
        let mut to = 0;
        for range in wish.ranges {
            if range.end > self.file.size_bytes {
                return Err(Error::corrupt(
                    &self.file.path,
                    "a column is behind its end",
                ));
            }
            let mut at = range.start;
            while at < range.end {
                let block = at / BLOCK_BYTES;
                let end = range.end.min((block + 1) * BLOCK_BYTES);
                let length = (end - at) as usize;
                match &edge {
                    Some((number, bytes)) if *number == block => {
                        let from = (at - block * BLOCK_BYTES) as usize;
                        let out = &mut wish.out[to..to + length];
                        out.copy_from_slice(&bytes[from..from + length]);
                    }
                    Some(_) | None => add(runs, index, block, (at..end, to)),
                }
                (at, to) = (end, to + length);
            }
        }
        Ok(())
    }

    async fn read(&self, store: &dyn ObjectStore, run: Run) -> Result<(Run, Bytes)> {
        let path = &self.file.path;
        let bytes = blocks_of(store, &self.file, run.blocks.clone()).await?;
        let found = bytes.chunks(BLOCK_BYTES as usize).map(crc32c);
        for (block, found) in run.blocks.clone().zip(found) {
            let recorded = self.crcs.get(block as usize).copied();
            let behind = || Error::corrupt(path, "a column is behind its end");
            verify_crc(path, found, recorded.ok_or_else(behind)?)?;
        }
        Ok((run, bytes))
    }
}

/// Adds a piece of a block to the run that it may be read with.
fn add(runs: &mut Vec<Run>, wish: usize, block: u64, copy: (Range<u64>, usize)) {
    if let Some(run) = runs.last_mut() {
        let is_near = block < run.blocks.end + 1 + GAP_BLOCKS;
        if run.wish == wish && is_near && block < run.blocks.start + RUN_BLOCKS {
            run.blocks.end = run.blocks.end.max(block + 1);
            run.copies.push(copy);
            return;
        }
    }
    runs.push(Run {
        wish,
        blocks: block..block + 1,
        copies: vec![copy],
    });
}

/// Reads a file from its start to its end; answers the checksum of each block.
async fn read_through(store: &dyn ObjectStore, file: &FileEntry) -> Result<Vec<u32>> {
    let all = file.size_bytes.div_ceil(BLOCK_BYTES);
    let mut reads = Vec::new();
    for start in (0..all).step_by(RUN_BLOCKS as usize) {
        let run = start..all.min(start + RUN_BLOCKS);
        reads.push(blocks_of(store, file, run).boxed());
    }
    let mut reads = stream::iter(reads).buffered(AHEAD);
    let (mut crc, mut crcs) = (0, Vec::with_capacity(all as usize));
    while let Some(bytes) = reads.next().await {
        for block in bytes?.chunks(BLOCK_BYTES as usize) {
            let of_block = crc32c(block);
            crc = crc32c_combine(crc, of_block, block.len());
            crcs.push(of_block);
        }
    }
    verify_crc(&file.path, crc, file.crc32c)?;
    Ok(crcs)
}

/// Some blocks, one after the other.
async fn blocks_of(store: &dyn ObjectStore, file: &FileEntry, blocks: Range<u64>) -> Result<Bytes> {
    let range = blocks.start * BLOCK_BYTES..file.size_bytes.min(blocks.end * BLOCK_BYTES);
    let wanted = range.end - range.start;
    let bytes = store.get_range(&file.path, range).await?;
    if bytes.len() as u64 != wanted {
        let reason = format!("{} bytes came instead of {wanted}", bytes.len());
        return Err(Error::corrupt(&file.path, reason));
    }
    Ok(bytes)
}

/// Some bytes of a file, at their places in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    file_bytes: u64,
    /// By where they start.
    parts: Vec<(u64, Bytes)>,
}

impl Held {
    pub(super) fn new(file_bytes: u64, mut parts: Vec<(u64, Bytes)>) -> Self {
        parts.sort_unstable_by_key(|(start, _)| *start);
        Self { file_bytes, parts }
    }

    /// What there is from a byte on.
    fn from(&self, start: u64) -> Option<Bytes> {
        let after = self.parts.partition_point(|(at, _)| *at <= start);
        let (at, bytes) = self.parts.get(after.checked_sub(1)?)?;
        let skipped = usize::try_from(start - at).ok()?;
        (skipped <= bytes.len()).then(|| bytes.slice(skipped..))
    }
}

impl Length for Held {
    fn len(&self) -> u64 {
        self.file_bytes
    }
}

impl ChunkReader for Held {
    type T = std::io::Cursor<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let bytes = self.from(start).ok_or_else(not_held)?;
        Ok(std::io::Cursor::new(bytes))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let bytes = self.from(start).filter(|bytes| bytes.len() >= length);
        Ok(bytes.ok_or_else(not_held)?.slice(..length))
    }
}

fn not_held() -> ParquetError {
    ParquetError::EOF("bytes that were not read".to_owned())
}
