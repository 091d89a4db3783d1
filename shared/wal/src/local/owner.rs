//! Who owns a channel on this machine: a lock that ends with its process, and the epoch on record.
//!
//! The lock alone keeps two living owners apart; the epoch keeps out a former owner that comes back
//! late, when the lock is free again.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::files::sync_dir;
use crate::{
    error::{Error, Result},
    log::Damage,
};

/// Name of the lock file in a channel's directory.
pub(super) const OWNER_FILE: &str = "owner";
const MAGIC: [u8; 8] = *b"REDKOWN\0";
const RECORD_BYTES: usize = 20;
const POLL: Duration = Duration::from_millis(5);

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct OwnerLock {
    file: File,
    path: PathBuf,
}

impl OwnerLock {
    /// Takes the lock if it is free.
    pub(super) fn try_lock(channel: &str, dir: &Path) -> Result<Self> {
        let path = dir.join(OWNER_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| Error::io("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file, path }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked {
                channel: channel.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
        }
    }

    /// Takes the lock, waiting for its holder to end, and records the epoch.
    ///
    /// A killed process lets go of its locks a moment after its successor may have started.
    pub(super) fn acquire(channel: &str, dir: &Path, epoch: u64, wait: Duration) -> Result<Self> {
        let started = Instant::now();
        let lock = loop {
            match Self::try_lock(channel, dir) {
                Err(Error::Locked { .. }) if started.elapsed() < wait => {
                    std::thread::park_timeout(POLL);
                }
                other => break other?,
            }
        };
        let recorded = lock.read_epoch()?;
        match recorded {
            Some(current) if epoch < current => Err(Error::Fenced {
                channel: channel.to_owned(),
                epoch,
                current,
            }),
            Some(current) if epoch == current => Ok(lock),
            Some(_) | None => {
                lock.write_epoch(dir, epoch)?;
                Ok(lock)
            }
        }
    }

    fn read_epoch(&self) -> Result<Option<u64>> {
        read_epoch(&self.file, &self.path)
    }

    fn write_epoch(&self, dir: &Path, epoch: u64) -> Result<()> {
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&MAGIC);
        record[8..16].copy_from_slice(&epoch.to_le_bytes());
        let crc = crc32c::crc32c(&record[..16]);
        record[16..].copy_from_slice(&crc.to_le_bytes());
        // Twenty bytes of one sector: a disk writes them all or not at all.
        let write = || -> std::io::Result<()> {
            self.file.write_all_at(&record, 0)?;
            self.file.sync_all()?;
            sync_dir(dir)?;
            // The first owner also makes sure of the channel's own name, whoever made it.
            match dir.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
                _ => Ok(()),
            }
        };
        write().map_err(|error| Error::io("write", &self.path, error))
    }
}

fn read_epoch(file: &File, path: &Path) -> Result<Option<u64>> {
    let failed = |error| Error::io("read", path, error);
    let length = file.metadata().map_err(failed)?.len();
    if length == 0 {
        return Ok(None);
    }
    let corrupt = |reason: &str| Error::Corrupt {
        file: path.to_owned(),
        offset: 0,
        reason: reason.to_owned(),
    };
    if length != RECORD_BYTES as u64 {
        return Err(corrupt("the owner record has a wrong length"));
    }
    let mut record = [0; RECORD_BYTES];
    file.read_exact_at(&mut record, 0).map_err(failed)?;
    if record == [0; RECORD_BYTES] {
        // A power cut between the file's growth and its bytes; nobody has owned the channel yet.
        return Ok(None);
    }
    let (mut epoch, mut crc) = ([0; 8], [0; 4]);
    epoch.copy_from_slice(&record[8..16]);
    crc.copy_from_slice(&record[16..]);
    let sound = record[..8] == MAGIC && crc32c::crc32c(&record[..16]) == u32::from_le_bytes(crc);
    if !sound {
        return Err(corrupt("the owner record's checksum does not match"));
    }
    Ok(Some(u64::from_le_bytes(epoch)))
}

/// What is wrong with a channel's owner record, if anything; takes no lock.
pub(super) fn find_damage(dir: &Path) -> Result<Option<Damage>> {
    let path = dir.join(OWNER_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    match read_epoch(&file, &path) {
        Ok(_) => Ok(None),
        Err(Error::Corrupt { offset, reason, .. }) => Ok(Some(Damage {
            file: path,
            offset,
            reason,
        })),
        Err(error) => Err(error),
    }
}
