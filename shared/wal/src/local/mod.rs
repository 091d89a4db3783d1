//! Logs in local files: `{dir}/{channel}/{first_lsn:020}.log`.
//!
//! - `frame`: bytes of the file header and of a frame; what is a torn tail and what is corruption
//! - `files`: making, listing and deleting a channel's files
//! - `owner`: the lock file that holds the owner's epoch
//! - `writer`: encodes a group of records, writes and syncs it, rotates files
//! - `queue`: records that wait, and the sync thread that drains them
//! - `check`: finds every damaged place without changing anything
//! - `log`: puts these together as a [`ChannelLog`]

mod check;
mod files;
mod frame;
mod log;
mod owner;
mod queue;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    error::{Error, Result},
    log::{ChannelLog, Damage, LogStore, Lsn, check_name},
};
pub(crate) use log::LocalLog;

/// Sizes and times of local logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOptions {
    /// A file that has grown past this is followed by a new one.
    pub file_size_bytes: u64,
    /// Bytes that may wait to be written before appends are refused.
    pub max_pending_bytes: usize,
    /// Bytes of one record at most.
    pub max_record_bytes: usize,
    /// Bytes that one write and sync takes at most (one record may be larger).
    pub max_group_bytes: usize,
    /// How long `open` waits for a former owner's process to end.
    pub lock_wait: Duration,
    /// How long the sync thread waits for more before it ends; the next append starts another.
    pub thread_idle: Duration,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            file_size_bytes: 64 << 20,
            max_pending_bytes: 256 << 20,
            max_record_bytes: 512 << 20,
            max_group_bytes: 16 << 20,
            lock_wait: Duration::from_secs(5),
            thread_idle: Duration::from_secs(5),
        }
    }
}

/// All logs below one directory.
#[derive(Debug)]
pub struct LocalLogStore {
    dir: PathBuf,
    options: LocalOptions,
}

impl LocalLogStore {
    /// Logs below a directory, which is made when the first log is.
    pub fn new(dir: impl Into<PathBuf>, options: LocalOptions) -> Self {
        Self {
            dir: dir.into(),
            options,
        }
    }

    fn channel_dir(&self, channel: &str) -> Result<PathBuf> {
        check_name(channel)?;
        Ok(self.dir.join(channel))
    }
}

#[async_trait::async_trait]
impl LogStore for LocalLogStore {
    async fn open(&self, channel: &str, epoch: u64) -> Result<Arc<dyn ChannelLog>> {
        let dir = self.channel_dir(channel)?;
        let (name, options) = (channel.to_owned(), self.options.clone());
        let log = blocking("open", &self.dir, move || {
            LocalLog::open(&name, dir, epoch, options)
        });
        Ok(Arc::new(log.await?))
    }

    async fn remove(&self, channel: &str) -> Result<()> {
        let dir = self.channel_dir(channel)?;
        let name = channel.to_owned();
        blocking("remove", &self.dir, move || files::remove(&name, &dir)).await
    }

    async fn channels(&self) -> Result<Vec<String>> {
        let dir = self.dir.clone();
        blocking("list", &self.dir, move || files::channels(&dir)).await
    }

    async fn check(&self, channel: &str, from: Lsn) -> Result<Vec<Damage>> {
        let dir = self.channel_dir(channel)?;
        let name = channel.to_owned();
        blocking("check", &self.dir, move || check::check(&name, &dir, from)).await
    }
}

/// Runs file operations where blocking is allowed.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => Err(Error::io(operation, path, std::io::Error::other(stopped))),
    }
}
