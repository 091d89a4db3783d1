//! Groups records into objects, sends several at a time and answers in order.
//!
//! A record that comes while nothing is on its way is sent at once. While something is, records
//! gather until the oldest has waited for the interval or there are enough bytes, and until fewer
//! objects are on their way than may be. An idle log writes nothing.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use redkite_runtime::CancellationToken;
use redkite_storage::{Error as StoreError, PutOutcome};
use tokio::{sync::oneshot, time::Instant};

use super::{
    format::{self, Damaged, Header, Kind},
    objects::{INLINE_BYTES, Objects, pauses},
    queue::{Group, Shared},
};
use crate::{
    error::{Error, Result},
    log::Lsn,
    metrics,
};

/// What became of an object.
enum Landed {
    /// It is durable under its number.
    Written { size_bytes: usize },
    /// Its number holds a seal of this epoch.
    Deposed { epoch: u64 },
    /// Its number holds what no owner can have put there.
    Foreign(Damaged),
    /// Nobody knows.
    Failed(io::Error),
}

/// An object that was sent and is not answered yet.
struct Flying {
    number: u64,
    first_lsn: u64,
    records: usize,
    replies: Vec<(bool, oneshot::Sender<Result<Lsn>>)>,
    payload_bytes: usize,
    sent: Instant,
    landed: Option<Landed>,
}

/// The task behind a log.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// The own seal.
    seal: Header,
    next_number: u64,
    next_lsn: u64,
    flying: VecDeque<Flying>,
    puts: FuturesUnordered<BoxFuture<'static, (u64, Landed)>>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, next_lsn: u64) -> Self {
        let seal = shared.seal;
        Self {
            shared,
            seal,
            next_number: seal.next,
            next_lsn,
            flying: VecDeque::new(),
            puts: FuturesUnordered::new(),
        }
    }

    /// Writes until the log is closed and everything is written, or it fails.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let shared = self.shared.clone();
        let mut is_stopping = false;
        loop {
            let due = self.send_what_is_due();
            if self.flying.is_empty() && shared.queue.lock().is_finished() {
                return;
            }
            tokio::select! {
                Some((number, landed)) = self.puts.next(), if !self.puts.is_empty() => {
                    if let Err(error) = self.landed(number, landed) {
                        self.fail(&error);
                        return;
                    }
                }
                () = shared.wake.notified() => {}
                () = wait_until(due) => {}
                () = stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    shared.stop();
                }
            }
        }
    }

    /// Sends groups as long as they are due; answers when the next one is, if only time is needed.
    fn send_what_is_due(&mut self) -> Option<Instant> {
        let shared = self.shared.clone();
        loop {
            let mut queue = shared.queue.lock();
            let due = queue.due(&shared.options)?;
            if self.flying.len() >= shared.options.max_in_flight {
                return None;
            }
            if !self.flying.is_empty() && due > Instant::now() {
                return Some(due);
            }
            let group = queue.take(&shared.options)?;
            drop(queue);
            self.send(group);
        }
    }

    fn send(&mut self, group: Group) {
        let header = Header {
            kind: Kind::Records,
            number: self.next_number,
            epoch: self.seal.epoch,
            writer: self.seal.writer,
            seal: self.seal.number,
            first_lsn: self.next_lsn,
            floor: group.floor,
            next: self.next_number + 1,
            body_length: 0,
            count: 0,
            window: self.seal.window,
        };
        self.flying.push_back(Flying {
            number: self.next_number,
            first_lsn: self.next_lsn,
            records: group.payloads.len(),
            replies: group.replies,
            payload_bytes: group.payload_bytes,
            sent: Instant::now(),
            landed: None,
        });
        self.next_number += 1;
        self.next_lsn += group.payloads.len() as u64;
        let (objects, patience) = (
            self.shared.objects.clone(),
            self.shared.options.write_patience,
        );
        let number = header.number;
        let put = write_object(objects, header, group.payloads, patience);
        self.puts
            .push(put.map(move |landed| (number, landed)).boxed());
    }

    /// Takes note of an answer and acknowledges everything up to the first object without one.
    fn landed(&mut self, number: u64, landed: Landed) -> Result<()> {
        if let Some(flying) = self
            .flying
            .iter_mut()
            .find(|flying| flying.number == number)
        {
            flying.landed = Some(landed);
        }
        while let Some(front) = self.flying.front_mut() {
            let number = front.number;
            let size_bytes = match front.landed.take() {
                None => break,
                Some(Landed::Written { size_bytes }) => size_bytes,
                Some(other) => return Err(self.error_of(number, other)),
            };
            if let Some(front) = self.flying.pop_front() {
                self.acknowledge(front, size_bytes);
            }
        }
        Ok(())
    }

    fn acknowledge(&self, front: Flying, size_bytes: usize) {
        let shared = &self.shared;
        metrics::record_group(front.records, size_bytes, front.sent.elapsed());
        shared
            .chain
            .lock()
            .push(front.number, front.first_lsn, size_bytes as u64);
        let last = front.first_lsn + front.records as u64 - 1;
        shared.durable.store(last, Ordering::Release);
        shared.queue.lock().settled(front.payload_bytes);
        let mut lsn = front.first_lsn;
        for (is_record, reply) in front.replies {
            // A caller that has gone away does not mind.
            let _ = reply.send(Ok(Lsn(if is_record { lsn } else { last })));
            lsn += u64::from(is_record);
        }
    }

    fn error_of(&self, number: u64, landed: Landed) -> Error {
        let channel = self.shared.channel().to_string();
        match landed {
            Landed::Deposed { epoch } => Error::Fenced {
                channel,
                epoch: self.seal.epoch,
                current: epoch,
            },
            Landed::Foreign(damaged) => self.shared.objects.corrupt(number, damaged),
            Landed::Failed(source) => Error::Failed {
                channel,
                source: Arc::new(source),
            },
            Landed::Written { .. } => Error::Closed { channel },
        }
    }

    /// Fails what is on its way and, because of the order, everything that waits behind it.
    fn fail(&mut self, error: &Error) {
        let channel = self.shared.channel();
        match error {
            Error::Fenced { .. } => tracing::warn!(%channel, %error, "log has another owner"),
            _ => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::error!(%channel, %error, cause, "log write failed");
                metrics::record_failure();
            }
        }
        let mut replies: Vec<_> = Vec::new();
        let mut queue = self.shared.queue.lock();
        for flying in self.flying.drain(..) {
            queue.settled(flying.payload_bytes);
            replies.extend(flying.replies.into_iter().map(|(_, reply)| reply));
        }
        replies.extend(queue.fail(error));
        drop(queue);
        for reply in replies {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

impl Drop for Writer {
    /// However the task ends: nobody waits for ever, and nobody takes for undone what may be done.
    fn drop(&mut self) {
        if !self.flying.is_empty() || !self.shared.queue.lock().is_finished() {
            let source = Arc::new(io::Error::other("the writer was stopped"));
            let channel = self.shared.channel().to_string();
            self.fail(&Error::Failed { channel, source });
        }
        self.shared.ended.send_replace(true);
    }
}

async fn wait_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn encode(header: Header, payloads: Vec<Bytes>) -> io::Result<Bytes> {
    let bytes: usize = payloads.iter().map(Bytes::len).sum();
    if bytes <= INLINE_BYTES {
        return Ok(format::encode(header, &payloads));
    }
    let encoded = tokio::task::spawn_blocking(move || format::encode(header, &payloads));
    encoded.await.map_err(io::Error::from)
}

/// Puts one object under its number, as often as it takes to know what became of it.
async fn write_object(
    objects: Objects,
    header: Header,
    payloads: Vec<Bytes>,
    patience: Duration,
) -> Landed {
    let number = header.number;
    let bytes = match encode(header, payloads).await {
        Ok(bytes) => bytes,
        Err(error) => return Landed::Failed(error),
    };
    let mut backoff = pauses();
    let mut failing_since = None;
    loop {
        let error = match objects.try_put(number, bytes.clone()).await {
            Ok(PutOutcome::Created) => {
                return Landed::Written {
                    size_bytes: bytes.len(),
                };
            }
            // Somebody else was first, or an earlier try was carried out without an answer.
            Ok(PutOutcome::AlreadyExists) => match objects.try_get(number).await {
                Ok(found) => return judge(&found, &bytes, number),
                Err(error) => error,
            },
            Err(error) => error,
        };
        let since = *failing_since.get_or_insert_with(Instant::now);
        let may_pass = matches!(&*error, StoreError::Io { .. } | StoreError::NotFound { .. });
        if !may_pass || since.elapsed() >= patience {
            return Landed::Failed(io::Error::other(error));
        }
        tracing::debug!(channel = %objects.channel, number, %error, "object not written yet");
        backoff.wait().await;
    }
}

/// Tells what holds a number that should hold `own`.
fn judge(found: &Bytes, own: &Bytes, number: u64) -> Landed {
    if found == own {
        return Landed::Written {
            size_bytes: own.len(),
        };
    }
    match Header::decode(found, number) {
        Ok(header) if header.kind == Kind::Seal => Landed::Deposed {
            epoch: header.epoch,
        },
        Ok(header) => Landed::Foreign(Damaged {
            offset: 0,
            reason: format!("it is of the owner with epoch {}", header.epoch),
        }),
        Err(damaged) => Landed::Foreign(damaged),
    }
}
