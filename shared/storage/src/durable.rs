//! Local writes that survive a power cut.
//!
//! opendal's file service syncs a file but no directory, and checks for absence before it renames,
//! which two writers can both pass. So objects on local disk are written here: into a temporary
//! file on the same file system, synced, then renamed (replace) or linked (only if absent) to their
//! key, and the directory is synced before the write is reported.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
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
        Ok(opened)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    pub(crate) fn put(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let target = self.path(key);
        let temp = self.write_temp(bytes)?;
        let parent = parent_of(&target)?;
        self.create_dir_durably(parent)?;
        fs::rename(&temp.0, &target)?;
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
        let temp = self.write_temp(bytes)?;
        self.create_dir_durably(parent)?;
        // Linking fails if the name is taken: the file system decides who was first.
        let outcome = match fs::hard_link(&temp.0, &target) {
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
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        let temp = TempFile(self.root.join(TEMP_DIR).join(name));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temp.0)?;
        Ok(LocalDraft { temp, file })
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

    fn write_temp(&self, bytes: &[u8]) -> io::Result<TempFile> {
        let LocalDraft { temp, mut file } = self.begin()?;
        file.write_all(bytes)?;
        file.sync_data()?;
        Ok(temp)
    }
}

fn parent_of(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a key names no directory"))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
