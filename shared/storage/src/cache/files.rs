//! The files of the disk cache: which there are, how much they take, which of them may go.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use crate::{layout::check_key, metrics, options::CacheOptions};

/// Below it are downloads under way; no key starts with a dot.
const TEMP_DIR: &str = ".tmp";
const LOCK_FILE: &str = ".lock";

/// Processes that may share a cache directory.
const MAX_PLACES: usize = 1_024;

/// Stands for `/` in file names, so that no key has to be a directory. Keys do not have it.
const SLASH: char = '%';

/// Between a key and the number that makes each file's name new, so that the removal of an old copy
/// cannot hit a newer one. Keys do not have it.
const NUMBER: char = '@';

/// Copies of objects in a directory that is this process's alone.
pub(crate) struct DiskCache {
    dir: PathBuf,
    limit_bytes: u64,
    /// Bytes of all files that exist or are about to.
    used_bytes: Arc<AtomicU64>,
    state: Mutex<State>,
    next_number: AtomicU64,
    /// Held until the process ends, however it ends.
    _lock: File,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Entry>,
    /// Counts uses.
    clock: u64,
}

struct Entry {
    file: Arc<CachedFile>,
    last_used: u64,
}

/// A copy on disk. Whoever holds it keeps it there.
#[derive(Debug)]
pub(crate) struct CachedFile {
    path: PathBuf,
    /// The file goes when the last holder does.
    is_doomed: AtomicBool,
    space: Space,
}

impl CachedFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn doom(&self) {
        self.is_doomed.store(true, Ordering::Release);
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        if self.is_doomed.load(Ordering::Acquire) {
            // What cannot be removed is found at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Bytes of the limit that are spoken for until this is dropped.
#[derive(Debug)]
pub(crate) struct Space {
    used_bytes: Arc<AtomicU64>,
    bytes: u64,
}

impl Space {
    fn take(used_bytes: &Arc<AtomicU64>, bytes: u64) -> Self {
        let before = used_bytes.fetch_add(bytes, Ordering::AcqRel);
        metrics::cache_size(before + bytes);
        Self {
            used_bytes: used_bytes.clone(),
            bytes,
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let before = self.used_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        metrics::cache_size(before - self.bytes);
    }
}

/// A download under way; removed unless it is admitted.
#[derive(Debug)]
pub(crate) struct Download {
    file: File,
    path: PathBuf,
    is_admitted: AtomicBool,
}

impl Download {
    /// Writes bytes to their place. Blocks.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.is_admitted.load(Ordering::Acquire) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl DiskCache {
    /// Takes the first free place below the directory and looks at what an earlier process has left
    /// there. Blocks.
    pub(crate) fn open(options: &CacheOptions) -> io::Result<Self> {
        let base = std::path::absolute(&options.dir)?;
        let (dir, lock) = take_place(&base)?;
        let temp = dir.join(TEMP_DIR);
        match fs::remove_dir_all(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&temp)?;
        let cache = Self {
            dir,
            limit_bytes: options.size_bytes,
            used_bytes: Arc::default(),
            state: Mutex::default(),
            next_number: AtomicU64::new(0),
            _lock: lock,
        };
        cache.scan()?;
        // Within the limit, which may be another one than last time.
        drop(cache.reserve(0));
        Ok(cache)
    }

    /// Takes over the files that are there, oldest first. Of two copies of a key the newer counts.
    fn scan(&self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if !meta.is_file() || name == LOCK_FILE {
                continue;
            }
            match parse_name(&name) {
                Some((key, number)) => {
                    let written = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push((written, number, key, meta.len(), entry.path()));
                }
                None => fs::remove_file(entry.path())?,
            }
        }
        found.sort();
        for (_, number, key, size_bytes, path) in found {
            self.next_number.fetch_max(number + 1, Ordering::AcqRel);
            let space = Space::take(&self.used_bytes, size_bytes);
            self.insert(key, path, space);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Between two statements that hold it nothing can panic that would leave it unsound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copy of an object, used now.
    pub(crate) fn find(&self, key: &str) -> Option<Arc<CachedFile>> {
        let file = {
            let mut state = self.lock();
            state.clock += 1;
            let now = state.clock;
            let entry = state.files.get_mut(key)?;
            entry.last_used = now;
            entry.file.clone()
        };
        // Operators may empty the directory of a running process.
        if fs::exists(file.path()).unwrap_or(false) {
            return Some(file);
        }
        self.forget(key);
        None
    }

    /// Makes room for so many bytes: the copies that were not used for longest go, unless someone
    /// holds them. `None` when that does not suffice. Blocks.
    pub(crate) fn reserve(&self, bytes: u64) -> Option<Space> {
        if bytes > self.limit_bytes {
            return None;
        }
        loop {
            let victims = {
                let mut state = self.lock();
                let used = self.used_bytes.load(Ordering::Acquire);
                let excess = (used + bytes).saturating_sub(self.limit_bytes);
                if excess == 0 {
                    return Some(Space::take(&self.used_bytes, bytes));
                }
                state.take_idle(excess)?
            };
            // Their files go here, outside of the lock; then there is room, unless others took it.
            metrics::cache_evicted(victims.len());
            drop(victims);
        }
    }

    /// Removes idle copies of so many bytes, or all there are; whether there were any. Blocks.
    pub(crate) fn shrink(&self, bytes: u64) -> bool {
        let victims = {
            let mut state = self.lock();
            let idle = state.idle_bytes();
            state.take_idle(bytes.min(idle))
        };
        victims.is_some_and(|victims| {
            metrics::cache_evicted(victims.len());
            !victims.is_empty()
        })
    }

    /// Starts a download. Blocks.
    pub(crate) fn start(&self) -> io::Result<Download> {
        let temp = self.dir.join(TEMP_DIR);
        fs::create_dir_all(&temp)?;
        let path = temp.join(self.number().to_string());
        Ok(Download {
            file: File::create(&path)?,
            path,
            is_admitted: AtomicBool::new(false),
        })
    }

    /// Makes a whole download the copy of an object. Blocks.
    ///
    /// It is not synced: after a power cut its bytes may be wrong, as those of any copy may, and
    /// whoever reads it checks them.
    pub(crate) fn admit(
        &self,
        key: &str,
        download: &Download,
        space: Space,
    ) -> io::Result<Arc<CachedFile>> {
        let path = self.dir.join(file_name(key, self.number()));
        fs::rename(&download.path, &path)?;
        download.is_admitted.store(true, Ordering::Release);
        Ok(self.insert(key.to_owned(), path, space))
    }

    fn insert(&self, key: String, path: PathBuf, space: Space) -> Arc<CachedFile> {
        let file = Arc::new(CachedFile {
            path,
            is_doomed: AtomicBool::new(false),
            space,
        });
        let older = {
            let mut state = self.lock();
            state.clock += 1;
            let entry = Entry {
                file: file.clone(),
                last_used: state.clock,
            };
            state.files.insert(key, entry)
        };
        if let Some(older) = older {
            older.file.doom();
        }
        file
    }

    /// Drops the copy of an object; its file goes when nobody holds it any more.
    pub(crate) fn forget(&self, key: &str) {
        let entry = self.lock().files.remove(key);
        if let Some(entry) = entry {
            entry.file.doom();
        }
    }

    /// Whether an object of this key can have a file name.
    pub(crate) fn can_hold(&self, key: &str) -> bool {
        // A number has at most 20 digits; file systems take names of 255 bytes.
        key.len() + 21 <= 255
    }

    fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::AcqRel)
    }
}

impl State {
    /// Takes out and dooms the idle copies that were not used for longest, until they have so many
    /// bytes. `None`, and nothing taken, when all idle ones have less.
    fn take_idle(&mut self, bytes: u64) -> Option<Vec<Entry>> {
        if self.idle_bytes() < bytes {
            return None;
        }
        let mut idle: Vec<(u64, String)> = self
            .files
            .iter()
            .filter(|(_, entry)| entry.is_idle())
            .map(|(key, entry)| (entry.last_used, key.clone()))
            .collect();
        idle.sort();
        let mut taken = Vec::new();
        let mut freed = 0;
        for (_, key) in idle {
            if freed >= bytes {
                break;
            }
            if let Some(entry) = self.files.remove(&key) {
                freed += entry.file.space.bytes;
                entry.file.doom();
                taken.push(entry);
            }
        }
        Some(taken)
    }

    fn idle_bytes(&self) -> u64 {
        let idle = self.files.values().filter(|entry| entry.is_idle());
        idle.map(|entry| entry.file.space.bytes).sum()
    }
}

impl Entry {
    /// Nobody else has it. Further holders come only from the map, under its lock.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.file) == 1
    }
}

impl fmt::Debug for DiskCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskCache")
            .field("dir", &self.dir)
            .field("limit_bytes", &self.limit_bytes)
            .finish_non_exhaustive()
    }
}

/// The first directory `0`, `1`, … that no other process has.
fn take_place(base: &Path) -> io::Result<(PathBuf, File)> {
    for number in 0..MAX_PLACES {
        let dir = base.join(number.to_string());
        fs::create_dir_all(&dir)?;
        let lock = File::create(dir.join(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => return Ok((dir, lock)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::other("too many processes share the cache"))
}

fn file_name(key: &str, number: u64) -> String {
    let flat: String = key
        .chars()
        .map(|letter| if letter == '/' { SLASH } else { letter })
        .collect();
    format!("{flat}{NUMBER}{number}")
}

fn parse_name(name: &str) -> Option<(String, u64)> {
    let (flat, number) = name.rsplit_once(NUMBER)?;
    let key = flat.replace(SLASH, "/");
    check_key(&key).ok()?;
    Some((key, number.parse().ok()?))
}
