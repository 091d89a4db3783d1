//! Local writes that survive a power cut.
//!
//! opendal's file service syncs a file but no directory, and checks for absence before it renames,
//! which two writers can both pass. So objects on local disk are written here: into a temporary
//! file on the same file system, synced, then renamed (replace) or linked (only if absent) to their
//! key, and the directory is synced before the write is reported.
//!
//! Whoever writes a temporary file holds a lock on it (`flock`), which goes with the process. So one that nobody
//! holds was left by a process that died, and goes when the next one opens the directory.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::store::PutOutcome;

/// Where temporary files are; no key starts with a dot, so it never holds an object.
const TEMP_DIR: &str = ".tmp";

/// More directories than this are forgotten and synced again when met.
const MAX_KNOWN_DIRS: usize = 10_000;

/// A directory of objects.
#[derive(Debug)]
pub(crate) struct LocalDir {
    root: PathBuf,
    next_temp: AtomicU64,
    /// Directories whose names are durable. That a directory exists does not say so: whoever made
    /// it may still be on the way to sync the one above, or may have died before.
    durable_dirs: Mutex<HashSet<PathBuf>>,
}

/// Removes the temporary file unless it was renamed away.
struct TempFile(PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        // It is gone after a rename; otherwise it is garbage that the next attempt does not need.
        let _ = fs::remove_file(&self.0);
    }
}

/// An object on its way, in a temporary file that goes with it.
pub(crate) struct LocalDraft {
    temp: TempFile,
    file: File,
}

impl LocalDraft {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }
}

impl LocalDir {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        let opened = Self {
            root,
            next_temp: AtomicU64::new(0),
            durable_dirs: Mutex::default(),
        };
        opened.create_dir_durably(&opened.root.join(TEMP_DIR))?;
        opened.remove_left()?;
        Ok(opened)
    }

    /// Removes temporary files of processes that are gone.
    fn remove_left(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join(TEMP_DIR))? {
            let path = entry?.path();
            let Ok(file) = File::open(&path) else {
                // Renamed, or removed by somebody else.
                continue;
            };
            // Where there are no locks, nobody knows, and it stays.
            if file.try_lock().is_ok() {
                // Before its lock was let go, and so before anybody could go on with it.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    pub(crate) fn put(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let target = self.path(key);
        let draft = self.write_temp(bytes)?;
        let parent = parent_of(&target)?;
        self.create_dir_durably(parent)?;
        fs::rename(&draft.temp.0, &target)?;
        sync_dir(parent)
    }

    pub(crate) fn put_if_absent(&self, key: &str, bytes: &[u8]) -> io::Result<PutOutcome> {
        let target = self.path(key);
        let parent = parent_of(&target)?;
        if target.try_exists()? {
            // The winner may still be on its way to sync the directory.
            sync_dir(parent)?;
            return Ok(PutOutcome::AlreadyExists);
        }
        let draft = self.write_temp(bytes)?;
        self.create_dir_durably(parent)?;
        // Linking fails if the name is taken: the file system decides who was first.
        let outcome = match fs::hard_link(&draft.temp.0, &target) {
            Ok(()) => PutOutcome::Created,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => PutOutcome::AlreadyExists,
            Err(error) => return Err(error),
        };
        sync_dir(parent)?;
        Ok(outcome)
    }

    /// Makes a directory below the root, and the root itself, each name synced into the directory
    /// above it.
    fn create_dir_durably(&self, dir: &Path) -> io::Result<()> {
        // Held while syncing, so that nobody builds on a name that is not durable yet. A panic
        // elsewhere leaves the set as sound as it was.
        let mut known = self
            .durable_dirs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<&Path> = dir
            .ancestors()
            .take_while(|dir| !known.contains(*dir))
            .collect();
        for dir in missing.into_iter().rev() {
            let Some(parent) = dir.parent() else { continue };
            match fs::create_dir(dir) {
                Ok(()) => sync_dir(parent)?,
                Err(error) if dir.is_dir() => {
                    // Above the root are the operator's directories, which we may be unable to
                    // open; they were there before.
                    if dir.starts_with(&self.root) {
                        sync_dir(parent).map_err(|_| error)?;
                    }
                }
                Err(error) => return Err(error),
            }
            if known.len() >= MAX_KNOWN_DIRS {
                known.clear();
            }
            known.insert(dir.to_owned());
        }
        Ok(())
    }

    /// Begins an object that is written piece by piece.
    pub(crate) fn begin(&self) -> io::Result<LocalDraft> {
        loop {
            let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{number}", std::process::id());
            let path = self.root.join(TEMP_DIR).join(name);
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            let draft = LocalDraft {
                temp: TempFile(path),
                file,
            };
            // Without locks on the file system nothing is removed. Else somebody who opened the directory may
            // have taken it for one that was left, before it was locked.
            if draft.file.lock().is_err() || draft.file.metadata()?.nlink() > 0 {
                return Ok(draft);
            }
        }
    }

    /// Puts it under its key, in the place of what was there.
    pub(crate) fn finish(&self, draft: LocalDraft, key: &str) -> io::Result<()> {
        draft.file.sync_data()?;
        let target = self.path(key);
        let parent = parent_of(&target)?;
        self.create_dir_durably(parent)?;
        fs::rename(&draft.temp.0, &target)?;
        sync_dir(parent)
    }

    fn write_temp(&self, bytes: &[u8]) -> io::Result<LocalDraft> {
        let mut draft = self.begin()?;
        draft.write(bytes)?;
        draft.file.sync_data()?;
        Ok(draft)
    }
}

fn parent_of(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a key names no directory"))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_processes_left_goes_and_what_is_being_written_stays() {
        let place = tempfile::tempdir().unwrap();
        let first = LocalDir::open(place.path()).unwrap();
        let mut draft = first.begin().unwrap();
        draft.write(b"half of ").unwrap();
        let left = place.path().join(TEMP_DIR).join("1-7");
        fs::write(&left, b"left").unwrap();
        let second = LocalDir::open(place.path()).unwrap();
        assert!(!left.exists() && draft.temp.0.exists());
        draft.write(b"it").unwrap();
        first.finish(draft, "a/b").unwrap();
        second.put("a/c", b"c").unwrap();
        assert_eq!(fs::read(place.path().join("a/b")).unwrap(), b"half of it");
        assert_eq!(fs::read(place.path().join("a/c")).unwrap(), b"c");
        let temporary = fs::read_dir(place.path().join(TEMP_DIR)).unwrap();
        assert_eq!(temporary.count(), 0);
    }
}
