//! A channel's files: names, making, listing, deleting.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    frame::{FILE_HEADER_BYTES, FileHeader},
    owner::{OWNER_FILE, OwnerLock},
};
use crate::error::{Error, Result};

/// A file that the writer appends to; a trait so that tests can make it fail.
pub(super) trait LogFile: Send {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Makes what was written durable, the file's length included.
    fn sync(&self) -> io::Result<()>;
}

impl LogFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Makes new files.
pub(super) trait FileMaker: Send {
    /// Makes an empty file, durable with its name, that holds only its header.
    fn create(&self, header: &FileHeader) -> io::Result<(PathBuf, Box<dyn LogFile>)>;
}

/// Makes files in a channel's directory.
#[derive(Debug)]
pub(super) struct DirFiles {
    pub(super) dir: PathBuf,
}

impl FileMaker for DirFiles {
    fn create(&self, header: &FileHeader) -> io::Result<(PathBuf, Box<dyn LogFile>)> {
        let path = self.dir.join(file_name(header.first_lsn));
        let temp = path.with_extension("tmp");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temp)?;
        // Under its final name a file has a whole header, always.
        FileExt::write_all_at(&file, &header.encode(), 0)?;
        file.sync_all()?;
        fs::rename(&temp, &path)?;
        sync_dir(&self.dir)?;
        Ok((path, Box::new(file)))
    }
}

fn file_name(first_lsn: u64) -> String {
    format!("{first_lsn:020}.log")
}

/// What is in a channel's directory.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// The log's files by the number of their first record.
    pub(super) files: BTreeMap<u64, PathBuf>,
    /// What the making of a file left behind.
    pub(super) leftovers: Vec<PathBuf>,
    /// What no log makes.
    pub(super) unknown: Vec<PathBuf>,
}

/// Looks into a channel's directory without changing anything.
pub(super) fn scan(dir: &Path) -> Result<Listed> {
    let mut listed = Listed::default();
    let failed = |error| Error::io("list", dir, error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let first_lsn = name.strip_suffix(".log").and_then(|n| n.parse().ok());
        match first_lsn {
            Some(first_lsn) if name == file_name(first_lsn) => {
                listed.files.insert(first_lsn, path);
            }
            _ if name == OWNER_FILE => {}
            _ if name.ends_with(".tmp") => listed.leftovers.push(path),
            _ => listed.unknown.push(path),
        }
    }
    Ok(listed)
}

/// The files by the number of their first record; leftovers of file creation are deleted.
pub(super) fn list(dir: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let listed = scan(dir)?;
    for path in listed.leftovers {
        fs::remove_file(&path).map_err(|error| Error::io("delete", &path, error))?;
    }
    for path in listed.unknown {
        tracing::warn!(file = %path.display(), "unknown file in the log directory");
    }
    Ok(listed.files)
}

/// Reads a whole file and its header, which must agree with its name.
pub(super) fn read(path: &Path, first_lsn: u64) -> Result<(FileHeader, Bytes)> {
    let bytes = fs::read(path).map_err(|error| Error::io("read", path, error))?;
    let corrupt = |reason: String| Error::Corrupt {
        file: path.to_owned(),
        offset: 0,
        reason,
    };
    let header = FileHeader::decode(&bytes).map_err(corrupt)?;
    if header.first_lsn != first_lsn {
        return Err(corrupt(format!(
            "the header says that it starts at record {}",
            header.first_lsn
        )));
    }
    debug_assert!(bytes.len() >= FILE_HEADER_BYTES, "the header was decoded");
    Ok((header, Bytes::from(bytes)))
}

/// Cuts a file behind `kept` and makes what stays durable; the bytes from `unproven` on, which may
/// never have been synced, are written again.
///
/// A sync that failed leaves pages behind which the kernel shows to readers, takes for clean and
/// never writes: a second sync would succeed and do nothing.
pub(super) fn cut(path: &Path, kept: &[u8], unproven: usize) -> Result<()> {
    let cut = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(kept.len() as u64)?;
        FileExt::write_all_at(&file, &kept[unproven.min(kept.len())..], unproven as u64)?;
        file.sync_data()
    };
    cut().map_err(|error| Error::io("cut", path, error))
}

/// Makes a channel's directory, durable in the one above.
pub(super) fn make_dir(dir: &Path) -> Result<()> {
    let make = || -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let mut missing = vec![dir];
        while let Some(parent) = missing.last().and_then(|dir| dir.parent()) {
            if parent.as_os_str().is_empty() || parent.is_dir() {
                break;
            }
            missing.push(parent);
        }
        for dir in missing.into_iter().rev() {
            match fs::create_dir(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            match dir.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent)?,
                _ => sync_dir(Path::new("."))?,
            }
        }
        Ok(())
    };
    make().map_err(|error| Error::io("make", dir, error))
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Deletes a channel's directory if nobody holds its lock.
pub(super) fn remove(channel: &str, dir: &Path) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    // Held until the directory is gone, so that nobody opens the log in between.
    let _lock = OwnerLock::try_lock(channel, dir)?;
    let remove = || -> io::Result<()> {
        fs::remove_dir_all(dir)?;
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
            _ => sync_dir(Path::new(".")),
        }
    };
    remove().map_err(|error| Error::io("delete", dir, error))
}

/// The names of the directories below `dir`.
pub(super) fn channels(dir: &Path) -> Result<Vec<String>> {
    let failed = |error| Error::io("list", dir, error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
