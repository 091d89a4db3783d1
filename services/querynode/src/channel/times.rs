//! Until when everything written to a channel can be seen.

use redkite_runtime::Deadline;
use redkite_types::{Result, Timestamp};
use tokio::sync::watch;

/// What the owner is writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InFlight {
    /// Nothing.
    None,
    /// Writes whose timestamps are being asked for.
    Unknown,
    /// Writes from this timestamp on.
    From(Timestamp),
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Later writes get timestamps after this one: a read has relied on it.
    floor: Timestamp,
    in_flight: InFlight,
}

impl State {
    fn is_safe(&self, at: Timestamp) -> bool {
        match self.in_flight {
            InFlight::None => true,
            InFlight::Unknown => false,
            InFlight::From(first) => at < first,
        }
    }
}

/// Orders reads against the writes that are on their way.
///
/// A read that must see every write up to G waits until none of those on their way can have a
/// timestamp up to G, and binds the owner to give every later one a timestamp after G. So no time
/// ticks are needed, and a read waits at most for the batch that is being written.
#[derive(Debug)]
pub(crate) struct SafeTime(watch::Sender<State>);

impl SafeTime {
    pub(crate) fn new() -> Self {
        let state = State {
            floor: Timestamp::ZERO,
            in_flight: InFlight::None,
        };
        Self(watch::Sender::new(state))
    }

    /// Waits until every write up to `guarantee` can be seen.
    ///
    /// # Errors
    /// Code 10001 when the deadline comes first.
    pub(crate) async fn wait(&self, guarantee: Timestamp, deadline: Deadline) -> Result<()> {
        self.0.send_if_modified(|state| {
            state.floor = state.floor.max(guarantee);
            false
        });
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

    /// The owner is about to ask for timestamps.
    pub(crate) fn begin(&self) {
        self.0
            .send_modify(|state| state.in_flight = InFlight::Unknown);
    }

    /// The owner was given timestamps from `first` on; false when a read has relied on there being
    /// none up to a later one: they must not be used.
    pub(crate) fn allocated(&self, first: Timestamp) -> bool {
        let mut usable = false;
        self.0.send_if_modified(|state| {
            usable = first > state.floor;
            if usable {
                state.in_flight = InFlight::From(first);
            }
            usable
        });
        usable
    }

    /// The writes can be seen, or will never be.
    pub(crate) fn done(&self) {
        self.0.send_modify(|state| state.in_flight = InFlight::None);
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
        assert!(!times.allocated(Timestamp(100)), "a read has relied on it");
        assert!(times.allocated(Timestamp(101)));
        times.wait(Timestamp(100), soon()).await.unwrap();
        assert!(times.wait(Timestamp(101), soon()).await.is_err());
        times.done();
        times.wait(Timestamp(101), soon()).await.unwrap();
    }
}
