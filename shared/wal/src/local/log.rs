//! One channel's log in local files.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{
    LocalOptions, blocking,
    files::{self, DirFiles, FileMaker},
    frame::{Damage, read_frames},
    owner::OwnerLock,
    queue::Shared,
    writer::Writer,
};
use crate::{
    error::{Error, Result},
    log::{AppendFuture, ChannelLog, Lsn, Record, RecordStream},
};

/// The handle; when the last one is dropped, what is queued is still written.
pub(crate) struct LocalLog {
    dir: PathBuf,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for LocalLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalLog")
            .field("dir", &self.dir)
            .field("last_lsn", &self.last_lsn())
            .finish_non_exhaustive()
    }
}

impl LocalLog {
    pub(super) fn open(
        channel: &str,
        dir: PathBuf,
        epoch: u64,
        options: LocalOptions,
    ) -> Result<Self> {
        let maker = Box::new(DirFiles { dir: dir.clone() });
        Self::open_with(channel, dir, epoch, options, maker)
    }

    /// Opens with another way to make files, for tests that make them fail.
    pub(super) fn open_with(
        channel: &str,
        dir: PathBuf,
        epoch: u64,
        options: LocalOptions,
        maker: Box<dyn FileMaker>,
    ) -> Result<Self> {
        files::make_dir(&dir)?;
        let lock = OwnerLock::acquire(channel, &dir, epoch, options.lock_wait)?;
        let listed = files::list(&dir)?;
        let next_lsn = match listed.last_key_value() {
            Some((&first_lsn, path)) => recover_tail(first_lsn, path)?,
            None => 1,
        };
        let writer = Writer::new(maker, epoch, options.file_size_bytes, next_lsn);
        let shared = Shared::new(channel, options, listed, next_lsn, writer, lock);
        Ok(Self {
            dir,
            shared: Arc::new(shared),
        })
    }
}

/// Cuts the last file at its last whole frame; answers the number of the next record.
fn recover_tail(first_lsn: u64, path: &Path) -> Result<u64> {
    let (header, bytes) = files::read(path, first_lsn)?;
    let end = read_frames(&bytes, &header, None, u64::MAX, |_, _| {})
        .map_err(|damage| corrupt(path, damage))?;
    if bytes.len() > end.offset {
        let tail = &bytes[end.offset..];
        if tail.iter().any(|&byte| byte != 0) {
            tracing::info!(file = %path.display(), offset = end.offset, "cutting the log's tail");
        }
    }
    // Frames of the last group may be whole without ever having been synced: they count from now
    // on, so they must be durable now.
    files::cut(path, &bytes[..end.offset], end.unproven)?;
    Ok(end.next_lsn)
}

fn corrupt(path: &Path, damage: Damage) -> Error {
    Error::Corrupt {
        file: path.to_owned(),
        offset: damage.offset as u64,
        reason: damage.reason,
    }
}

/// One file of a read: `(first record, path, first record of the file that follows)`.
type FileToRead = (u64, PathBuf, Option<u64>);

/// Reads the records `from..=to` of one file. Blocks.
fn read_file((first_lsn, path, next): FileToRead, from: u64, to: u64) -> Result<VecDeque<Record>> {
    let (header, bytes) = files::read(&path, first_lsn)?;
    let mut records = VecDeque::new();
    let visit = |lsn: u64, payload| {
        if lsn >= from {
            let lsn = Lsn(lsn);
            records.push_back(Record { lsn, payload });
        }
    };
    read_frames(&bytes, &header, next, to, visit).map_err(|damage| corrupt(&path, damage))?;
    Ok(records)
}

/// Where a stream of records stands.
struct Reading {
    files: VecDeque<FileToRead>,
    records: VecDeque<Record>,
    next_lsn: u64,
    to: u64,
    dir: PathBuf,
}

impl Reading {
    async fn next(mut self) -> Option<(Result<Record>, Self)> {
        loop {
            if let Some(record) = self.records.pop_front() {
                self.next_lsn = record.lsn.0 + 1;
                return Some((Ok(record), self));
            }
            if self.next_lsn > self.to {
                return None;
            }
            let (from, to) = (self.next_lsn, self.to);
            let read = match self.files.pop_front() {
                Some(file) => blocking("read", &self.dir, move || read_file(file, from, to)).await,
                None => Err(Error::Corrupt {
                    file: self.dir.clone(),
                    offset: 0,
                    reason: format!("record {from} is in no file"),
                }),
            };
            match read {
                Ok(records) => self.records = records,
                Err(error) => {
                    self.files.clear();
                    self.to = 0;
                    return Some((Err(error), self));
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl ChannelLog for LocalLog {
    fn submit(&self, payload: Bytes) -> AppendFuture {
        self.shared.submit(payload)
    }

    fn read_from(&self, lsn: Lsn) -> Result<RecordStream> {
        let to = self.shared.durable.load(Ordering::Acquire);
        let files = self.shared.files.lock();
        let wanted = lsn.0.max(1);
        let first = files.first_key_value().map_or(1, |(&first, _)| first);
        if wanted < first {
            return Err(Error::Truncated {
                channel: self.shared.channel.to_string(),
                wanted: lsn,
                first: Lsn(first),
            });
        }
        let nexts = files.keys().skip(1).copied().map(Some).chain([None]);
        let files = files
            .iter()
            .zip(nexts)
            .filter(|(_, next)| next.is_none_or(|next| next > wanted))
            .map(|((&first, path), next)| (first, path.clone(), next))
            .collect();
        let reading = Reading {
            files,
            records: VecDeque::new(),
            next_lsn: wanted,
            to,
            dir: self.dir.clone(),
        };
        Ok(stream::unfold(reading, Reading::next).boxed())
    }

    async fn truncate_before(&self, lsn: Lsn) -> Result<()> {
        let shared = self.shared.clone();
        blocking("truncate", &self.dir, move || {
            // A file goes when the one after it starts at or before the point, oldest first, so
            // that a crash leaves no hole. The last one stays: it knows the next number.
            loop {
                let mut files = shared.files.lock();
                let mut firsts = files.keys();
                let (Some(&oldest), Some(&second)) = (firsts.next(), firsts.next()) else {
                    return Ok(());
                };
                if second > lsn.0 {
                    return Ok(());
                }
                let path = files.remove(&oldest);
                drop(files);
                let Some(path) = path else { continue };
                if let Err(error) = std::fs::remove_file(&path) {
                    let failed = Error::io("delete", &path, error);
                    shared.files.lock().insert(oldest, path);
                    return Err(failed);
                }
            }
        })
        .await
    }

    fn last_lsn(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Acquire))
    }

    async fn size_bytes(&self) -> Result<u64> {
        let paths: Vec<PathBuf> = self.shared.files.lock().values().cloned().collect();
        blocking("measure", &self.dir, move || {
            let mut total = 0;
            for path in paths {
                match std::fs::metadata(&path) {
                    Ok(metadata) => total += metadata.len(),
                    // Truncated in the meantime.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Error::io("measure", path, error)),
                }
            }
            Ok(total)
        })
        .await
    }

    async fn close(&self) {
        let shared = self.shared.clone();
        let closed = blocking("close", &self.dir, move || {
            shared.stop_and_wait();
            Ok(())
        });
        if let Err(error) = closed.await {
            tracing::warn!(channel = %self.shared.channel, %error, "cannot wait for the log to close");
        }
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
