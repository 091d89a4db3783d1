//! The raft log on redb.
//!
//! Writes are committed in memory alone, visible at once, and [`RedbDisk::sync`] makes them durable
//! with one commit that redb ends with an `fdatasync`. Every page has a checksum, and all are looked at
//! when the file is opened. But redb goes back to the commit before when the last one is damaged: to
//! tell that from a commit that was never finished, each sync has a number, which is in the commit and
//! in a mark of ours beside the file (see `mark`).

use std::fs::{self, File};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableDefinition, WriteTransaction,
};

use crate::error::{Error, Result};
use crate::raft::disk::{LogDisk, LogOp, damaged, sync_dir};
use crate::raft::mark::Mark;
use crate::raft::types::storage;

pub(super) const FILE: &str = "log.redb";

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const SYNCS: TableDefinition<'_, (), u64> = TableDefinition::new("syncs");

const CACHE_BYTES: usize = 16 << 20;
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// A [`LogDisk`] on redb.
pub struct RedbDisk {
    db: Database,
    mark: Mark,
    /// Number of the last sync.
    syncs: Mutex<u64>,
    dir: PathBuf,
}

impl RedbDisk {
    /// Opens the file in `dir`, making both if need be.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: the process must not start on it. [`Error::Storage`]: also when another
    /// process has it open.
    pub fn open(dir: &Path) -> Result<Self> {
        let failed = |source| storage(format!("open the raft log in {}", dir.display()), source);
        fs::create_dir_all(dir).map_err(failed)?;
        let path = dir.join(FILE);
        let is_new = !path.try_exists().map_err(failed)?;
        let mark = Mark::open(&dir.join("mark")).map_err(failed)?;
        if is_new && mark.end() > 0 {
            return Err(damaged(dir, format!("its file {FILE} is gone")));
        }
        let db = open_database(&path, dir)?;
        let disk = Self {
            db,
            mark,
            syncs: Mutex::new(0),
            dir: dir.to_owned(),
        };
        let syncs = disk.prepare().map_err(|error| disk.failed(error))?;
        if syncs < disk.mark.end() {
            let what = format!(
                "its file {FILE} ends with sync {syncs}, but sync {} had returned",
                disk.mark.end()
            );
            return Err(damaged(dir, what));
        }
        *disk.syncs.lock() = syncs;
        if is_new {
            disk.sync()?;
            sync_dir(dir).map_err(failed)?;
            if let Some(parent) = dir.parent() {
                sync_dir(parent).map_err(failed)?;
            }
        }
        Ok(disk)
    }

    /// Makes the tables, and reads how often the file was synced.
    fn prepare(&self) -> Result<u64, redb::Error> {
        let write = self.begin()?;
        write.open_table(LOG)?;
        write.open_table(META)?;
        let syncs = write.open_table(SYNCS)?.get(())?.map_or(0, |it| it.value());
        write.commit()?;
        Ok(syncs)
    }

    /// A transaction that becomes durable with the next sync.
    fn begin(&self) -> Result<WriteTransaction, redb::Error> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        Ok(write)
    }

    fn apply(&self, ops: Vec<LogOp>) -> Result<(), redb::Error> {
        let write = self.begin()?;
        let mut log = write.open_table(LOG)?;
        for op in ops {
            match op {
                LogOp::Put { index, bytes } => drop(log.insert(index, bytes.as_slice())?),
                LogOp::Remove { range } => log.retain_in(range, |_, _| false)?,
            }
        }
        drop(log);
        Ok(write.commit()?)
    }

    fn commit_durably(&self, number: u64) -> Result<(), redb::Error> {
        let write = self.db.begin_write()?;
        write.open_table(SYNCS)?.insert((), number)?;
        Ok(write.commit()?)
    }

    fn read_range(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
        let log = self.db.begin_read()?.open_table(LOG)?;
        let (mut entries, mut total) = (Vec::new(), 0);
        for item in log.range(range)? {
            let (index, bytes) = item?;
            total += bytes.value().len();
            entries.push((index.value(), bytes.value().to_vec()));
            if total > max_bytes {
                break;
            }
        }
        Ok(entries)
    }

    fn last_entry(&self) -> Result<Option<(u64, Vec<u8>)>, redb::Error> {
        let log = self.db.begin_read()?.open_table(LOG)?;
        let last = log.last()?;
        Ok(last.map(|(index, bytes)| (index.value(), bytes.value().to_vec())))
    }

    fn all_runs(&self) -> Result<Vec<Range<u64>>, redb::Error> {
        let log = self.db.begin_read()?.open_table(LOG)?;
        let mut runs: Vec<Range<u64>> = Vec::new();
        for item in log.iter()? {
            let index = item?.0.value();
            match runs.last_mut() {
                Some(run) if run.end == index => run.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        Ok(runs)
    }

    fn meta_value(&self, key: &str) -> Result<Option<Vec<u8>>, redb::Error> {
        let meta = self.db.begin_read()?.open_table(META)?;
        let value = meta.get(key)?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), redb::Error> {
        let write = self.begin()?;
        write.open_table(META)?.insert(key, value)?;
        Ok(write.commit()?)
    }

    fn failed(&self, error: redb::Error) -> Error {
        match error {
            redb::Error::Corrupted(what) => damaged(&self.dir, format!("its file {FILE}: {what}")),
            error => storage(format!("use the raft log in {}", self.dir.display()), error),
        }
    }
}

impl LogDisk for RedbDisk {
    fn write(&self, ops: Vec<LogOp>) -> Result<()> {
        self.apply(ops).map_err(|error| self.failed(error))
    }

    fn sync(&self) -> Result<()> {
        let mut syncs = self.syncs.lock();
        let number = *syncs + 1;
        self.commit_durably(number)
            .map_err(|error| self.failed(error))?;
        *syncs = number;
        self.mark
            .raise(number)
            .map_err(|source| storage(format!("write the mark in {}", self.dir.display()), source))
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        self.read_range(range, max_bytes)
            .map_err(|error| self.failed(error))
    }

    fn last(&self) -> Result<Option<(u64, Vec<u8>)>> {
        self.last_entry().map_err(|error| self.failed(error))
    }

    fn runs(&self) -> Result<Vec<Range<u64>>> {
        self.all_runs().map_err(|error| self.failed(error))
    }

    fn get_meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.meta_value(key).map_err(|error| self.failed(error))
    }

    fn put_meta(&self, key: &str, value: &[u8]) -> Result<()> {
        self.set_meta(key, value)
            .map_err(|error| self.failed(error))
    }

    fn size_bytes(&self) -> Result<u64> {
        let path = self.dir.join(FILE);
        let size = File::open(&path).and_then(|file| file.metadata());
        size.map(|stat| stat.len())
            .map_err(|source| storage(format!("measure {}", path.display()), source))
    }
}

/// Opens the file and looks at all of it, waiting a little for a process that was killed to let go
/// of it.
fn open_database(path: &Path, dir: &Path) -> Result<Database> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        // On some damage redb may panic instead of returning an error.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            Database::builder()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create(path)
        }));
        let error = match opened {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) => error,
            Err(_) => return Err(damaged(dir, format!("its file {FILE} cannot be opened"))),
        };
        return Err(match error {
            DatabaseError::DatabaseAlreadyOpen if Instant::now() < deadline => {
                std::thread::park_timeout(LOCK_RETRY);
                continue;
            }
            DatabaseError::Storage(StorageError::Corrupted(what)) => {
                damaged(dir, format!("its file {FILE}: {what}"))
            }
            DatabaseError::UpgradeRequired(version) => {
                damaged(dir, format!("its file {FILE} has version {version}"))
            }
            // What redb says of a file that does not begin as its own do.
            DatabaseError::Storage(StorageError::Io(source))
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                damaged(dir, format!("its file {FILE}: {source}"))
            }
            error => storage(format!("open the raft log in {}", dir.display()), error),
        });
    }
}
