//! One channel's log in an object store.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use redkite_runtime::{OnFailure, TaskGroup};

use super::{
    ObjectOptions,
    chain::{Located, Span, locate},
    format::{Damaged, Header, Kind},
    objects::Objects,
    queue::Shared,
    takeover::{Taken, steady_survey},
    writer::Writer,
};
use crate::{
    error::{Error, Result},
    log::{AppendFuture, ChannelLog, Lsn, Record, RecordStream},
};

/// The handle; when the last one is dropped, what is queued is still written.
pub(super) struct ObjectLog {
    shared: Arc<Shared>,
    /// Held while truncating.
    truncation: tokio::sync::Mutex<Truncation>,
}

/// What a truncation leaves to the next one.
struct Truncation {
    /// Everything before this is to be deleted.
    floor: u64,
    /// Whether there may be something before it.
    has_leftovers: bool,
    /// Seals before it, which stay.
    seals: HashSet<u64>,
}

impl std::fmt::Debug for ObjectLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectLog")
            .field("channel", self.shared.channel())
            .field("last_lsn", &self.last_lsn())
            .finish_non_exhaustive()
    }
}

impl ObjectLog {
    /// A log that was taken over, and the task that writes it.
    pub(super) fn start(
        objects: Objects,
        taken: Taken,
        options: ObjectOptions,
        tasks: &TaskGroup,
    ) -> Self {
        let shared = Arc::new(Shared::new(objects, options, &taken));
        let writer = Writer::new(shared.clone(), taken.next_lsn);
        let name = format!("log of {}", shared.channel());
        tasks.spawn(name, OnFailure::Log, writer.run(tasks.token()));
        let oldest = taken.chain.sizes.keys().next().copied();
        let truncation = Truncation {
            floor: taken.floor,
            has_leftovers: oldest.is_some_and(|oldest| oldest < taken.floor),
            seals: HashSet::new(),
        };
        Self {
            shared,
            truncation: tokio::sync::Mutex::new(truncation),
        }
    }
}

#[async_trait::async_trait]
impl ChannelLog for ObjectLog {
    fn submit(&self, payload: Bytes) -> AppendFuture {
        self.shared.submit(payload)
    }

    fn read_from(&self, lsn: Lsn) -> Result<RecordStream> {
        let to = self.last_lsn().0;
        let wanted = lsn.0.max(1);
        let first = self.shared.chain.lock().first_lsn;
        if wanted < first {
            return Err(truncated(&self.shared, lsn, first));
        }
        if wanted > to {
            return Ok(stream::empty().boxed());
        }
        let shared = self.shared.clone();
        let records = async move {
            let Some((number, _)) = located(&shared, wanted).await? else {
                let first = shared.chain.lock().first_lsn;
                return Err(truncated(&shared, lsn, first));
            };
            let objects = shared.chain.lock().from(number);
            Ok(read_objects(shared, objects, wanted, to))
        };
        // An error ends it.
        let records = stream::once(records)
            .try_flatten()
            .scan(false, |failed, record| {
                let record = (!*failed).then_some(record);
                *failed |= matches!(record, Some(Err(_)));
                std::future::ready(record)
            });
        Ok(records.boxed())
    }

    async fn truncate_before(&self, lsn: Lsn) -> Result<()> {
        let mut truncation = self.truncation.lock().await;
        let shared = &self.shared;
        let wanted = lsn.0.min(self.last_lsn().0 + 1);
        let located = located(shared, wanted).await?;
        // The object with the point stays, and so does the last one.
        if let Some((floor, first_lsn)) = located
            && floor > truncation.floor
            && shared.chain.lock().numbers().next() < Some(floor)
        {
            shared.submit_floor(floor).await?;
            shared.chain.lock().truncate(floor, first_lsn);
            truncation.floor = floor;
            truncation.has_leftovers = true;
        }
        if truncation.has_leftovers {
            self.delete_leftovers(&mut truncation).await?;
            truncation.has_leftovers = false;
        }
        Ok(())
    }

    fn last_lsn(&self) -> Lsn {
        self.shared.last_lsn()
    }

    async fn size_bytes(&self) -> Result<u64> {
        Ok(self.shared.chain.lock().sizes.values().sum())
    }

    async fn close(&self) {
        self.shared.stop();
        self.shared.wait_for_end().await;
    }
}

impl Drop for ObjectLog {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl ObjectLog {
    /// Deletes what lies before the floor and is no seal. The floor is on record, so it may be
    /// deleted in any order.
    async fn delete_leftovers(&self, truncation: &mut Truncation) -> Result<()> {
        let shared = &self.shared;
        // Requests of former owners that came late are only found by looking.
        let listed = shared.objects.list().await?;
        let before: Vec<u64> = listed
            .range(..truncation.floor)
            .map(|(number, _)| *number)
            .filter(|number| !truncation.seals.contains(number))
            .collect();
        let deletions = stream::iter(before).map(|number| async move {
            let is_seal = match shared.objects.header(number).await {
                Ok(Some(header)) => header.kind == Kind::Seal,
                Ok(None) => return Ok(None),
                // Nobody reads it, but it may have been a seal.
                Err(Error::Corrupt { .. }) => true,
                Err(error) => return Err(error),
            };
            if is_seal {
                return Ok(Some(number));
            }
            shared.objects.delete(number).await?;
            shared.chain.lock().sizes.remove(&number);
            Ok(None)
        });
        let mut deletions = deletions.buffer_unordered(shared.options.read_ahead);
        while let Some(seal) = deletions.try_next().await? {
            truncation.seals.extend(seal);
        }
        Ok(())
    }
}

fn truncated(shared: &Shared, wanted: Lsn, first: u64) -> Error {
    Error::Truncated {
        channel: shared.channel().to_string(),
        wanted,
        first: Lsn(first),
    }
}

/// The records `from..=to` of these objects, several of which are fetched at a time.
fn read_objects(
    shared: Arc<Shared>,
    numbers: Vec<(u64, Span)>,
    from: u64,
    to: u64,
) -> impl Stream<Item = Result<Record>> + Send {
    let read_ahead = shared.options.read_ahead;
    let fetch = move |(number, span)| {
        let shared = shared.clone();
        async move { read_object(&shared, number, span).await }
    };
    let in_order = |next: &mut Option<u64>, object: Result<(Header, Vec<Bytes>, Objects)>| {
        let checked = object.and_then(|(header, payloads, objects)| {
            if next.is_some_and(|next| next != header.first_lsn) {
                let reason = format!("it begins at record {}", header.first_lsn);
                let damaged = Damaged { offset: 48, reason };
                return Err(objects.corrupt(header.number, damaged));
            }
            *next = Some(header.end_lsn());
            Ok((header.first_lsn, payloads))
        });
        std::future::ready(Some(checked))
    };
    let records = move |(first_lsn, payloads): (u64, Vec<Bytes>)| {
        let records = (first_lsn..).zip(payloads).map(|(lsn, payload)| {
            let lsn = Lsn(lsn);
            Ok(Record { lsn, payload })
        });
        stream::iter(records)
    };
    stream::iter(numbers)
        .map(fetch)
        .buffered(read_ahead)
        .scan(None, in_order)
        .map_ok(records)
        .try_flatten()
        .try_filter(move |record| std::future::ready((from..=to).contains(&record.lsn.0)))
}

async fn read_object(
    shared: &Shared,
    number: u64,
    span: Span,
) -> Result<(Header, Vec<Bytes>, Objects)> {
    let objects = &shared.objects;
    match objects.records(number).await? {
        Some((header, payloads)) if span.wrote(&header) => Ok((header, payloads, objects.clone())),
        Some((header, _)) => {
            let reason = format!("it is of the owner with epoch {}", header.epoch);
            Err(objects.corrupt(number, Damaged { offset: 24, reason }))
        }
        None => Err(why_missing(shared, number).await),
    }
}

/// The object with a record, as [`locate`].
async fn located(shared: &Shared, lsn: u64) -> Result<Option<(u64, u64)>> {
    match locate(&shared.chain, &shared.objects, lsn).await {
        Ok(located) => Ok(located),
        Err(Located::Missing(number)) => Err(why_missing(shared, number).await),
        Err(Located::Failed(error)) => Err(error),
    }
}

/// Why an object that counted when the log was opened is not there.
async fn why_missing(shared: &Shared, number: u64) -> Error {
    {
        let chain = shared.chain.lock();
        if chain.numbers().next().is_none_or(|oldest| oldest > number) {
            return truncated(shared, Lsn::ZERO, chain.first_lsn);
        }
    }
    // Another owner may have truncated it, and may still be at it while this looks.
    match Box::pin(steady_survey(&shared.objects)).await {
        Ok(found)
            if found
                .seal
                .is_none_or(|seal| seal.writer != shared.seal.writer) =>
        {
            Error::Fenced {
                channel: shared.channel().to_string(),
                epoch: shared.seal.epoch,
                current: found.epoch,
            }
        }
        Ok(_) => shared.objects.missing(number),
        Err(error) => error,
    }
}
