//! Keeps a second process off a data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use crate::error::{Error, Result};

const FILE: &str = "LOCK";

/// A data directory that is ours until this is dropped or the process ends, however it ends.
#[derive(Debug)]
#[must_use = "dropping the lock lets other processes in"]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Makes the directory if need be, and takes it.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process has it; [`Error::DataDir`].
    pub fn take(dir: &Path) -> Result<Self> {
        let failed = |source| Error::DataDir {
            path: dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(FILE))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only for the message: without the number it is still right.
                let _ = file.read_to_string(&mut pid);
                let pid = pid.trim();
                let holder = if pid.is_empty() {
                    String::new()
                } else {
                    format!(" (pid {pid})")
                };
                return Err(Error::Locked {
                    path: dir.to_owned(),
                    holder,
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("data");
        let first = DataDirLock::take(&path).unwrap();
        let error = DataDirLock::take(&path).unwrap_err();
        let pid = format!("(pid {})", std::process::id());
        assert!(error.to_string().contains(&pid), "{error}");
        drop(first);
        let _second = DataDirLock::take(&path).unwrap();
    }
}
