//! Until when everything written to a channel can be seen.

use std::collections::VecDeque;

use redkite_runtime::Deadline;
use redkite_types::{Result, Timestamp};
use tokio::sync::watch;

#[derive(Clone, Debug)]
struct State {
    /// Later writes get timestamps after this one: a read has relied on it.
    floor: Timestamp,
    /// Timestamps are being asked for; they will be later than `last`.
    asking: bool,
    /// The latest timestamp that was given to a write.
    last: Timestamp,
    /// The first timestamp of each batch that cannot be seen yet, in order.
    in_flight: VecDeque<Timestamp>,
}

impl State {
    fn is_safe(&self, at: Timestamp) -> bool {
        match self.in_flight.front() {
            Some(first) => at < *first,
            None => !self.asking || at <= self.last,
        }
    }
}

/// Orders reads against the writes that are on their way.
///
/// A read that must see every write up to G waits until none of those on their way can have a
/// timestamp up to G, and binds the owner to give every later one a timestamp after G. So no time
/// ticks are needed, and a read waits at most for the batches that are on their way when it comes.
/// Batches get their timestamps and can be seen in the same order, so the first one on its way says
/// up to when a read is safe.
#[derive(Debug)]
pub(crate) struct SafeTime(watch::Sender<State>);

impl SafeTime {
    pub(crate) fn new() -> Self {
        let state = State {
            floor: Timestamp::ZERO,
            asking: false,
            last: Timestamp::ZERO,
            in_flight: VecDeque::new(),
        };
        Self(watch::Sender::new(state))
    }

    /// Waits until every write up to `guarantee` can be seen.
    ///
    /// # Errors
    /// Code 10001 when the deadline comes first.
    pub(crate) async fn wait(&self, guarantee: Timestamp, deadline: Deadline) -> Result<()> {
        let mut is_safe = false;
        self.0.send_if_modified(|state| {
            state.floor = state.floor.max(guarantee);
            is_safe = state.is_safe(guarantee);
            false
        });
        // Nearly every time.
        if is_safe {
            return Ok(());
        }
        let mut states = self.0.subscribe();
        let safe = async {
            states
                .wait_for(|state| state.is_safe(guarantee))
                .await
                .map(|_| ())
        };
        // The sender lives in `self`, so waiting cannot fail but by the deadline.
        let _ = deadline
            .timeout("earlier writes to be applied", safe)
            .await?;
        Ok(())
    }

    /// The owner is about to ask for timestamps for its next batch.
    pub(crate) fn begin(&self) {
        // Nobody becomes safe by it.
        self.0.send_if_modified(|state| {
            state.asking = true;
            false
        });
    }

    /// The owner was given `count` timestamps from `first` on; false when they must not be used: a
    /// read has relied on there being none up to a later one, or an earlier batch has later ones.
    pub(crate) fn allocated(&self, first: Timestamp, count: usize) -> bool {
        let mut usable = false;
        self.0.send_if_modified(|state| {
            usable = first > state.floor && first > state.last;
            if usable {
                state.asking = false;
                state.last = first.plus(count.saturating_sub(1) as u64);
                state.in_flight.push_back(first);
            }
            usable
        });
        usable
    }

    /// The owner was given no timestamps: the batch is refused.
    pub(crate) fn not_allocated(&self) {
        self.0.send_modify(|state| state.asking = false);
    }

    /// The first batches can be seen, or will never be.
    pub(crate) fn done(&self, batches: usize) {
        self.0.send_modify(|state| {
            let count = batches.min(state.in_flight.len());
            state.in_flight.drain(..count);
        });
    }

    /// The owner has ended: nothing is on its way any more.
    pub(crate) fn end(&self) {
        self.0.send_modify(|state| {
            state.asking = false;
            state.in_flight.clear();
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(10))
    }

    #[tokio::test]
    async fn a_read_waits_for_writes_that_it_must_see_and_for_no_others() {
        let times = SafeTime::new();
        times.wait(Timestamp(100), soon()).await.unwrap();
        times.begin();
        assert!(times.wait(Timestamp(50), soon()).await.is_err());
        assert!(
            !times.allocated(Timestamp(100), 1),
            "a read has relied on it"
        );
        assert!(times.allocated(Timestamp(101), 1));
        times.wait(Timestamp(100), soon()).await.unwrap();
        assert!(times.wait(Timestamp(101), soon()).await.is_err());
        times.done(1);
        times.wait(Timestamp(101), soon()).await.unwrap();
    }

    #[tokio::test]
    async fn the_first_batch_on_its_way_says_what_is_safe() {
        let times = SafeTime::new();
        for first in [10, 20, 30] {
            times.begin();
            assert!(times.allocated(Timestamp(first), 5));
        }
        times.begin();
        assert!(!times.allocated(Timestamp(34), 1), "the last batch has it");
        times.wait(Timestamp(9), soon()).await.unwrap();
        assert!(times.wait(Timestamp(10), soon()).await.is_err());
        times.done(1);
        times.wait(Timestamp(19), soon()).await.unwrap();
        assert!(times.wait(Timestamp(20), soon()).await.is_err());
        times.done(2);
        times.wait(Timestamp(34), soon()).await.unwrap();
        assert!(
            times.wait(Timestamp(35), soon()).await.is_err(),
            "the next batch may get it"
        );
        times.not_allocated();
        times.wait(Timestamp(35), soon()).await.unwrap();
    }
}
