//! A channel's log as everyone sees it.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// The number of a record in its log: 1, 2, 3, … without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The record after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One record of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub lsn: Lsn,
    /// What was appended. May share memory with its neighbours: copy what is kept for long.
    pub payload: Bytes,
}

/// A place in a log whose bytes are not those that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, or the key of the object.
    pub file: PathBuf,
    /// The first byte in it that is known to be wrong, or where what is wrong begins.
    pub offset: u64,
    /// What was expected.
    pub reason: String,
}

/// Records in order. An error ends it.
pub type RecordStream = BoxStream<'static, Result<Record>>;

/// All logs of one place.
///
/// # Correctness
/// At most one owner may append to a channel at a time, and once a log was opened with an epoch, no
/// append through an owner with a lower epoch can ever be read.
#[async_trait::async_trait]
pub trait LogStore: Send + Sync + std::fmt::Debug {
    /// Opens a channel's log for its only owner, making it if need be, and cuts off a torn tail.
    ///
    /// # Errors
    /// `Fenced` (give up) · `Locked` (the former owner still lives: retry) · `Corrupt` (the tail
    /// file is damaged before its end) · `Io`
    async fn open(&self, channel: &str, epoch: u64) -> Result<Arc<dyn ChannelLog>>;

    /// Deletes a channel's log, which must be closed. A log that is not there counts as deleted.
    ///
    /// # Errors
    /// `Locked` · `Io`
    async fn remove(&self, channel: &str) -> Result<()>;

    /// The channels that have a log, sorted by name.
    ///
    /// # Errors
    /// `Io`
    async fn channels(&self) -> Result<Vec<String>>;

    /// Reads everything that a channel's log holds, owning and changing nothing, and names every
    /// damaged place that it can find, in the log's order. Records from `from` on must be there;
    /// what a truncation has left of earlier ones is checked too. Leftovers that every log may have
    /// (a torn tail, what a deposed owner wrote) are no damage.
    ///
    /// A log that is being written to meanwhile is checked up to some record between the last one
    /// at the beginning of the call and the last one at its end.
    ///
    /// # Errors
    /// When something could not be read at all, so that nothing is known about it.
    async fn check(&self, channel: &str, from: Lsn) -> Result<Vec<Damage>>;
}

/// One channel's log, held by its only owner.
///
/// # Correctness
/// - An append that answered `Ok` survives a crash of the process and of the machine.
/// - Records are numbered in the order of the `submit` calls of each caller, and acknowledged in
///   the order of their numbers.
/// - After a failed append with [`redkite_types::Outcome::NotApplied`] the record is in no later read.
#[async_trait::async_trait]
pub trait ChannelLog: Send + Sync + std::fmt::Debug {
    /// Queues a record. Its place in the order is fixed when this returns; the future resolves once
    /// the record is durable. Dropping the future does not take the record back.
    ///
    /// # Errors
    /// Through the future: `Overloaded` (back off) · `TooLarge` · `NoSpace` · `Fenced` · `Failed`
    /// (the log is dead until opened again) · `Closed`
    fn submit(&self, payload: Bytes) -> AppendFuture;

    /// Appends a record and waits until it is durable.
    ///
    /// # Errors
    /// As [`ChannelLog::submit`].
    ///
    /// # Cancel safety
    /// When cancelled, the record may be written or not.
    async fn append(&self, payload: Bytes) -> Result<Lsn> {
        self.submit(payload).await
    }

    /// The records from `lsn` on that are durable now, in order.
    ///
    /// # Errors
    /// Here: `Truncated`. Through the stream: `Corrupt` · `Io`
    fn read_from(&self, lsn: Lsn) -> Result<RecordStream>;

    /// Lets go of records below `lsn`; some of them may stay readable for a while.
    ///
    /// # Errors
    /// `Io`; harmless, the next call deletes what this one left.
    async fn truncate_before(&self, lsn: Lsn) -> Result<()>;

    /// The last durable record; [`Lsn::ZERO`] when there never was one.
    fn last_lsn(&self) -> Lsn;

    /// Bytes that the log takes up.
    ///
    /// # Errors
    /// `Io`
    async fn size_bytes(&self) -> Result<u64>;

    /// Writes what is queued, refuses further appends and gives the channel up.
    async fn close(&self);
}

/// Resolves to the record's number once it is durable.
#[must_use = "an append is only done once this resolves"]
#[derive(Debug)]
pub struct AppendFuture {
    channel: Arc<str>,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(oneshot::Receiver<Result<Lsn>>),
    Done(Option<Error>),
}

impl AppendFuture {
    /// A future that the log will resolve.
    pub(crate) fn waiting(channel: Arc<str>) -> (oneshot::Sender<Result<Lsn>>, Self) {
        let (reply, answer) = oneshot::channel();
        let state = State::Waiting(answer);
        (reply, Self { channel, state })
    }

    /// A future that has failed already.
    pub(crate) fn refused(channel: Arc<str>, error: Error) -> Self {
        let state = State::Done(Some(error));
        Self { channel, state }
    }
}

impl Future for AppendFuture {
    type Output = Result<Lsn>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let closed = Error::Closed {
            channel: self.channel.to_string(),
        };
        match &mut self.state {
            State::Waiting(answer) => Pin::new(answer)
                .poll(cx)
                .map(|reply| reply.unwrap_or(Err(closed))),
            State::Done(error) => Poll::Ready(Err(error.take().unwrap_or(closed))),
        }
    }
}

/// Checks that a channel's name can be the name of a directory and a part of an object's key.
///
/// # Errors
/// `InvalidChannel`
pub(crate) fn check_name(channel: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let allowed = !channel.is_empty()
        && channel.len() <= 255
        && !channel.starts_with('.')
        && channel.bytes().all(plain);
    match allowed {
        true => Ok(()),
        false => Err(Error::InvalidChannel {
            channel: channel.to_owned(),
        }),
    }
}
