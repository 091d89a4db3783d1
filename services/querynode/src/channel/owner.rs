//! The owner of a channel: one task, one writer.

use std::sync::Arc;

use redkite_runtime::OnFailure;
use redkite_segment::{Joined, interim::InterimKind};
use redkite_types::{Result, SegmentId, Timestamp};
use redkite_wal::ChannelLog;
use tokio::time::Instant;
use tracing::{Instrument as _, debug_span, info};

use super::{
    Channel, Control, Hold, Inbox,
    flush::FlushControl,
    interim,
    load::Loads,
    pipeline::{Asking, Pipeline},
    state::State,
    write::refuse,
};

/// Writes that get their timestamps together.
const WRITE_BATCH: usize = 1_024;

/// Whether the owner goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    /// The channel is not this node's any more, or memory cannot be trusted.
    GiveUp,
}

pub(super) struct Owner {
    pub(super) channel: Arc<Channel>,
    pub(super) state: State,
    /// `None` after a failure, until it is opened again.
    pub(super) log: Option<Arc<dyn ChannelLog>>,
    /// The writes that come next into the log.
    pub(super) asking: Option<Asking>,
    /// The writes that the log has.
    pub(super) pipeline: Pipeline,
    pub(super) flush: FlushControl,
    pub(super) loads: Loads,
    /// Writes wait as long as there is one.
    pub(super) holds: Vec<Hold>,
}

impl Owner {
    /// Takes over a recovered channel.
    pub(super) fn start(
        channel: Arc<Channel>,
        state: State,
        log: Arc<dyn ChannelLog>,
        inbox: Inbox,
    ) {
        let tasks = channel.tasks.clone();
        let name = format!("owner of {}", channel.name);
        let owner = Self {
            channel,
            state,
            log: Some(log),
            asking: None,
            pipeline: Pipeline::default(),
            flush: FlushControl::new(),
            loads: Loads::default(),
            holds: Vec::new(),
        };
        owner.note_growing();
        if owner.channel.shared.deps.options.interim_index {
            for kind in [InterimKind::Codes, InterimKind::Graph] {
                let name = format!("interim indexes of {}", owner.channel.name);
                let keep = interim::keep(owner.channel.clone(), kind);
                tasks.spawn(name, OnFailure::Log, keep);
            }
        }
        tasks.spawn(name, OnFailure::Log, owner.run(inbox));
    }

    async fn run(mut self, mut inbox: Inbox) {
        // However this ends, a panic included, nobody must wait for it.
        let _end = End(self.channel.clone());
        let stop = self.channel.tasks.token();
        let mut batch = Vec::new();
        let mut flow = Flow::Continue;
        while flow == Flow::Continue {
            let retry_at = self
                .flush
                .retry_at()
                .into_iter()
                .chain(self.load_retry_at())
                .min();
            let held_until = self.held_until();
            let takes_more =
                held_until.is_none() && self.asking.is_none() && self.pipeline.has_room();
            let span = debug_span!("write", channel = %self.channel.name);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(message) = inbox.control.recv() => flow = Box::pin(self.handle(message)).await,
                () = self.pipeline.settled() => flow = Box::pin(self.advance()).instrument(span).await,
                first = timestamps_of(&mut self.asking) => {
                    Box::pin(self.submit(first)).instrument(span).await;
                }
                () = wait_until(retry_at) => flow = Box::pin(self.retry()).await,
                () = wait_until(held_until), if held_until.is_some() => {}
                _ = inbox.writes.recv_many(&mut batch, WRITE_BATCH), if takes_more => {
                    let writes = std::mem::take(&mut batch);
                    Box::pin(self.take(writes)).instrument(span).await;
                }
            }
        }
        // What the log has is answered; of the others nothing was done.
        if flow == Flow::Continue {
            Box::pin(self.settle()).await;
        }
        info!(channel = %self.channel.name, epoch = self.channel.epoch, "channel given up");
        inbox.writes.close();
        if let Some(asking) = self.asking.take() {
            refuse(asking.writes, &self.channel.unavailable());
        }
        while let Ok(queued) = inbox.writes.try_recv() {
            refuse([queued], &self.channel.unavailable());
        }
        if let Some(log) = self.log.take() {
            log.close().await;
        }
    }

    /// Takes over what the log has answered, and flushes when that makes too much.
    async fn advance(&mut self) -> Flow {
        let flow = self.complete().await;
        if flow == Flow::GiveUp || !self.is_too_full() {
            return flow;
        }
        let flow = self.quiet().await;
        if flow == Flow::Continue {
            self.relieve();
        }
        flow
    }

    /// Tries again what has failed and is due.
    async fn retry(&mut self) -> Flow {
        let now = Instant::now();
        if self.flush.retry_at().is_some_and(|moment| moment <= now) {
            if self.quiet().await == Flow::GiveUp {
                return Flow::GiveUp;
            }
            self.flush_again();
        }
        if self.load_retry_at().is_some_and(|moment| moment <= now) {
            self.start_loads();
            self.note_progress();
        }
        Flow::Continue
    }

    async fn handle(&mut self, message: Control) -> Flow {
        // Rows on their way have the schema of now and go into the segments of now, and once writes
        // are held nothing is written. Loads and looks change neither: deletes that come later reach
        // what was loaded meanwhile.
        let changes_segments = match &message {
            Control::Sync { .. }
            | Control::Flush(_)
            | Control::Hold(..)
            | Control::Relieve
            | Control::Flushed(_) => true,
            Control::Loaded(_) | Control::Joined(..) | Control::Stats(..) => false,
        };
        if changes_segments && self.quiet().await == Flow::GiveUp {
            return Flow::GiveUp;
        }
        match message {
            Control::Sync { target, reply } => {
                self.sync(*target);
                // Nobody minds if the caller has left.
                let _ = reply.send(());
            }
            Control::Flush(waiter) => self.request_flush(waiter),
            Control::Hold(hold, reply) => self.hold(hold, reply),
            Control::Relieve => self.relieve(),
            Control::Flushed(outcome) => return self.flushed(*outcome),
            Control::Loaded(outcome) => self.loaded(*outcome),
            Control::Joined(segment, joined, reply) => {
                let _ = reply.send(self.join(segment, *joined));
            }
            Control::Stats(seen, reply) => {
                let _ = reply.send(crate::stats::of(&self.state, seen));
            }
        }
        Flow::Continue
    }

    /// Puts joined chunks of growing rows in place, if they still grow or are not committed yet.
    fn join(&self, segment: SegmentId, joined: Joined) -> bool {
        let state = &self.state;
        let mut growing = state.growing.values().chain(&state.sealing);
        let found = growing.find(|growing| growing.id == segment);
        let is_joined = found.is_some_and(|growing| growing.rows.join(joined));
        if is_joined {
            self.publish();
        }
        is_joined
    }

    /// Publishes the whole state.
    pub(super) fn publish(&self) {
        self.channel
            .published
            .store(Arc::new(self.state.snapshot()));
        self.note_growing();
        self.note_progress();
    }

    pub(super) fn note_growing(&self) {
        let after = self.state.growing_bytes();
        let before = self.channel.growing_bytes.send_replace(after);
        self.channel.shared.growing_changed(before, after);
    }
}

async fn timestamps_of(asking: &mut Option<Asking>) -> Result<Timestamp> {
    match asking {
        Some(asking) => (&mut asking.first).await,
        None => std::future::pending().await,
    }
}

async fn wait_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Tells everybody that the owner has ended.
struct End(Arc<Channel>);

impl Drop for End {
    fn drop(&mut self) {
        let bytes = self.0.growing_bytes.send_replace(0);
        self.0.shared.growing_changed(bytes, 0);
        self.0.times.end();
        self.0.tasks.cancel();
        self.0.closed.send_replace(true);
    }
}
