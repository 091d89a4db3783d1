//! Logs in an object store: `wal/{channel}/{number:020}`, each object created once and never
//! changed.
//!
//! - `format`: bytes of an object
//! - `objects`: the objects of a channel; what is tried again, and for how long
//! - `survey`: where a log ends, found without owning it
//! - `takeover`: becoming a log's owner
//! - `chain`: which objects count, and which record is where
//! - `writer`: groups records into objects, several on the way at a time
//! - `queue`: records that wait
//! - `check`: finds every damaged place without changing anything
//! - `log`: puts these together as a [`ChannelLog`]
//!
//! # Correctness
//! An object is written only with `put_if_absent`, so of all who want a number one gets it, for
//! ever. No clock and no lock is needed for what follows, only that a store keeps this promise.
//!
//! **The log is a chain.** It starts at number 1. A *seal* at number `s` makes its writer the owner
//! and says that the owner's objects begin at `s.next`; they follow each other without a gap. The
//! chain of an owner ends at the first number that holds no object of it. What counts is defined by
//! walking: from a seal to its `next`, from there on to the first number without an object of that
//! owner; if that holds a seal, the log goes on there, else it ends there.
//!
//! **A seal deposes.** Whoever wants to own the log finds its end `e` and puts a seal there. If it
//! is created, then number `e` will never hold an object of the former owner: its chain ends there
//! for ever. The former owner acknowledges an object only when it and all before it are durable, so
//! it cannot acknowledge `e` or anything behind it: when it comes to `e` it finds the seal and is
//! `Fenced`. What it had acknowledged lies before `e` and is part of the chain.
//!
//! **What a deposed owner still writes is never read.** It writes at most `window` objects ahead of
//! what is durable, so below `e + window`; those who tried to seal and lost are limited in the same
//! way. A seal's `next` lies 4096 numbers behind it (`format::SKIP`), beyond all of these, and the
//! chain goes from the seal right to `next`. So nothing needs to be deleted before the new owner
//! writes, no number of its own can be taken by somebody else but a later seal, and a request that
//! was delayed for hours changes nothing.
//!
//! **A gap ends the log.** If an object fails for good, all appends in it and behind it fail with
//! an unknown outcome. The next owner seals the first missing number; should a delayed request fill
//! it first, then the record and those behind it count, which unknown allows. Once it is sealed,
//! what lies behind it is behind a seal and never read.
//!
//! **The higher epoch wins.** A seal carries its owner's epoch. Who finds a higher one on record is
//! `Fenced`. Of two that open at once, one gets the number. If the lower got it, the higher finds
//! a lower seal and seals behind it; if the higher got it, the lower finds that. So epochs along
//! the chain never fall.
//!
//! **A busy owner cannot keep others out.** Whoever loses the race for the next number twice seals
//! many numbers at once, beyond what the owner can have on the way. The first of them that the
//! chain reaches counts, the others lie between it and its `next`.
//!
//! **Truncation frees no number that matters.** A deposed owner may wake up after years and put its
//! next object. If its number were free again it would acknowledge into nowhere. So seals are kept
//! as long as the channel; they are small. Objects with records are deleted only after a durable
//! object says so (`floor`), and the last one always stays, so an emptied log does not begin anew.
//! Who seals looks at the log once more before it counts itself the owner: a seal that was put at a
//! number that has been truncated is below the floor, and does not count. A floor counts only where
//! its object does: one that was written behind a seal was not acknowledged, and whoever deleted by
//! it would delete what the next owner, which looked before it arrived, still reads.
//!
//! **A look at a log that is being truncated proves nothing.** Whoever finds an object gone that was
//! listed begins anew with a new list: from what is left of the old one an end could be found that
//! lies before records which were acknowledged meanwhile.
//!
//! **An own number never changes its content.** A put whose outcome is unknown is put again with
//! the same bytes; if the number is taken, the bytes are compared. So an object is written or not,
//! but never two things.

mod chain;
mod check;
mod format;
mod log;
mod objects;
mod queue;
mod survey;
mod takeover;
mod writer;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use redkite_runtime::TaskGroup;
use redkite_storage::{ObjectStore, layout};

use self::objects::Objects;
use crate::{
    error::{Error, Result},
    log::{ChannelLog, Damage, LogStore, Lsn, check_name},
};

/// More objects than this are never written at a time.
pub const MAX_IN_FLIGHT: usize = 64;

/// Sizes and times of logs in an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectOptions {
    /// While an object is on its way, records gather for so long before the next one is sent. A
    /// record that comes to an idle log is sent at once.
    pub group_interval: Duration,
    /// Records that take up this much are sent without waiting for more (one record may be larger).
    pub max_group_bytes: usize,
    /// Objects on their way at a time, 1 to [`MAX_IN_FLIGHT`].
    pub max_in_flight: usize,
    /// Bytes that may wait or be on their way before appends are refused.
    pub max_pending_bytes: usize,
    /// Bytes of one record at most.
    pub max_record_bytes: usize,
    /// How long one request may take before it is sent again.
    pub try_timeout: Duration,
    /// How long an object that cannot be written is tried again before the log fails.
    pub write_patience: Duration,
    /// How long reads, lists and deletions are tried again.
    pub read_patience: Duration,
    /// Objects read at a time.
    pub read_ahead: usize,
}

impl Default for ObjectOptions {
    fn default() -> Self {
        Self {
            group_interval: Duration::from_millis(10),
            max_group_bytes: 4 << 20,
            max_in_flight: 8,
            max_pending_bytes: 256 << 20,
            max_record_bytes: 512 << 20,
            try_timeout: Duration::from_secs(10),
            write_patience: Duration::from_secs(30),
            read_patience: Duration::from_secs(10),
            read_ahead: 16,
        }
    }
}

/// All logs of one object store.
#[derive(Debug)]
pub struct ObjectLogStore {
    store: Arc<dyn ObjectStore>,
    options: ObjectOptions,
    tasks: TaskGroup,
}

impl ObjectLogStore {
    /// Logs below `wal/`. Their writers run in `tasks`; when it is stopped they write what was
    /// queued and take no more.
    pub fn new(store: Arc<dyn ObjectStore>, options: ObjectOptions, tasks: TaskGroup) -> Self {
        let max_in_flight = options.max_in_flight.clamp(1, MAX_IN_FLIGHT);
        Self {
            store,
            options: ObjectOptions {
                max_in_flight,
                ..options
            },
            tasks,
        }
    }

    fn objects(&self, channel: &str) -> Result<Objects> {
        check_name(channel)?;
        let options = &self.options;
        Ok(Objects::new(
            self.store.clone(),
            channel,
            options.try_timeout,
            options.read_patience,
        ))
    }
}

#[async_trait::async_trait]
impl LogStore for ObjectLogStore {
    async fn open(&self, channel: &str, epoch: u64) -> Result<Arc<dyn ChannelLog>> {
        let objects = self.objects(channel)?;
        let taken = Box::pin(takeover::take_over(&objects, epoch, &self.options)).await?;
        let log = log::ObjectLog::start(objects, taken, self.options.clone(), &self.tasks);
        Ok(Arc::new(log))
    }

    /// An owner elsewhere is not noticed: whoever removes a log must know that nobody needs it.
    async fn remove(&self, channel: &str) -> Result<()> {
        let objects = self.objects(channel)?;
        // From the oldest on: what is left by a crash has no beginning and is not mistaken for a
        // whole log.
        let numbers: Vec<u64> = objects.list().await?.into_keys().collect();
        stream::iter(numbers)
            .map(|number| objects.delete(number))
            .buffered(self.options.read_ahead)
            .try_collect()
            .await
    }

    async fn channels(&self) -> Result<Vec<String>> {
        let objects = self.store.list(layout::WAL_PREFIX).await;
        let objects = objects.map_err(|error| Error::Store {
            operation: "list",
            channel: "*".to_owned(),
            source: Arc::new(error),
        })?;
        let names = objects.iter().filter_map(|object| {
            let rest = object.key.strip_prefix(layout::WAL_PREFIX)?;
            Some(rest.split_once('/')?.0.to_owned())
        });
        let mut names: Vec<String> = names.collect();
        names.dedup();
        Ok(names)
    }

    async fn check(&self, channel: &str, from: Lsn) -> Result<Vec<Damage>> {
        let objects = self.objects(channel)?;
        Box::pin(check::check(&objects, from, self.options.read_ahead)).await
    }
}
