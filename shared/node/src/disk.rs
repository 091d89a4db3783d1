//! How much room the disks have, so that writes are refused before a disk is full.
//!
//! A full disk stops more than writes: the metastore cannot record that space was made. So the last
//! part of a disk is kept for those who must go on. Rows of users are refused first; flushes, index
//! builds and deletes, which lead to space, may go on into the first half of what is kept free; the
//! second half is the metastore's alone.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use redkite_types::{Error, ErrorCode, Result};

/// Who wants to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskUse {
    /// Rows and definitions of users: nothing is lost when they are refused.
    User,
    /// What turns logs into segments and removes rows: without it no space is ever made.
    Background,
}

/// The room on the disks that a process writes to.
///
/// The measure is taken from time to time; what is claimed in between is subtracted, so that a burst
/// of writes cannot outrun it.
#[derive(Debug)]
pub struct DiskSpace {
    dirs: Vec<PathBuf>,
    min_free: u64,
    room: Mutex<Room>,
}

#[derive(Clone, Debug, Default)]
struct Room {
    /// Bytes free on the fullest disk, less what was claimed since; `None` while unknown.
    free: Option<u64>,
    /// A directory on that disk.
    dir: PathBuf,
}

impl DiskSpace {
    /// Watches the disks of some directories and keeps `min_free` bytes free on each; 0 refuses
    /// nothing. Measures once; blocks for as long as a question to the file system takes.
    pub fn new(dirs: Vec<PathBuf>, min_free: u64) -> Self {
        let space = Self {
            dirs,
            min_free,
            room: Mutex::default(),
        };
        space.measure();
        space
    }

    /// Refuses nothing; for tests and for processes that write nothing.
    pub fn unlimited() -> Self {
        Self::new(Vec::new(), 0)
    }

    /// Looks at the disks again. Blocks.
    pub fn measure(&self) {
        let mut room = Room::default();
        for dir in &self.dirs {
            let Some(free) = free_bytes(dir) else {
                continue;
            };
            if room.free.is_none_or(|least| free < least) {
                room = Room {
                    free: Some(free),
                    dir: dir.clone(),
                };
            }
        }
        *self.room.lock() = room;
    }

    /// Takes room for bytes that are about to be written.
    ///
    /// # Errors
    /// Code 7, naming the directory; nothing was taken. The same may succeed once there is space.
    pub fn claim(&self, by: DiskUse, bytes: u64) -> Result<()> {
        let kept = match by {
            DiskUse::User => self.min_free,
            DiskUse::Background => self.min_free / 2,
        };
        if kept == 0 {
            return Ok(());
        }
        let mut room = self.room.lock();
        let Some(free) = room.free else {
            return Ok(());
        };
        if free < kept.saturating_add(bytes) {
            return Err(Error::new(
                ErrorCode::DiskLimitExceeded,
                format!(
                    "disk limit exceeded[dir={}][{free} bytes free, {kept} are kept free, {bytes} needed]",
                    room.dir.display()
                ),
            ));
        }
        room.free = Some(free - bytes);
        Ok(())
    }

    /// The directory of a disk with so little room that rows of users are refused.
    pub fn is_low(&self) -> Option<PathBuf> {
        let room = self.room.lock();
        let low = self.min_free > 0 && room.free.is_some_and(|free| free < self.min_free);
        low.then(|| room.dir.clone())
    }
}

/// Bytes that this process may still write below a directory, which may not exist yet.
fn free_bytes(dir: &Path) -> Option<u64> {
    let dir = std::path::absolute(dir).ok()?;
    let mut found = dir.ancestors().map(rustix::fs::statvfs);
    let stat = found.find_map(std::result::Result::ok)?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(min_free: u64, free: u64) -> DiskSpace {
        let space = DiskSpace::new(Vec::new(), min_free);
        *space.room.lock() = Room {
            free: Some(free),
            dir: "/data".into(),
        };
        space
    }

    #[test]
    fn users_are_refused_first_and_what_makes_space_goes_on_for_a_while() {
        let space = space(100, 130);
        space.claim(DiskUse::User, 20).unwrap();
        let refused = space.claim(DiskUse::User, 20).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DiskLimitExceeded);
        assert!(refused.message.contains("/data"), "{refused}");
        assert!(space.is_low().is_none());
        space.claim(DiskUse::Background, 50).unwrap();
        assert_eq!(space.is_low().unwrap(), Path::new("/data"));
        assert!(space.claim(DiskUse::Background, 11).is_err());
        space.claim(DiskUse::Background, 10).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_yet_counts_with_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("not/yet");
        let plenty = DiskSpace::new(vec![below.clone()], 1);
        plenty.claim(DiskUse::User, 1).unwrap();
        let never = DiskSpace::new(vec![below], u64::MAX);
        assert!(never.claim(DiskUse::User, 1).is_err());
        DiskSpace::unlimited()
            .claim(DiskUse::User, u64::MAX)
            .unwrap();
    }
}
