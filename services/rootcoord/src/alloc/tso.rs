//! The timestamp oracle.

use parking_lot::Mutex;
use redkite_catalog::keys;
use redkite_metastore::SharedKv;
use redkite_runtime::SharedClock;
use redkite_types::{Result, Timestamp};

use super::window::Window;

/// How far ahead of the clock a window reaches, in milliseconds; a successor may have to start that
/// far in the future.
const WINDOW_MS: u64 = 3_000;

struct State {
    /// The next timestamp to give out.
    next: Timestamp,
    /// Timestamps from here on are not durable yet.
    end: Timestamp,
}

/// Gives out strictly increasing timestamps, also over restarts and when the clock jumps back.
///
/// # Source
/// Milvus's and TiDB's timestamp oracle: the clock's milliseconds and a counter, in windows whose
/// end is durable before anything of them is given out.
pub struct TimestampOracle {
    window: Window,
    clock: SharedClock,
    state: Mutex<State>,
    /// One extension at a time.
    extending: tokio::sync::Mutex<()>,
}

impl TimestampOracle {
    /// Starts behind everything that any earlier oracle may have given out.
    ///
    /// # Errors
    /// Code 2 when the metastore does not answer; retry.
    pub async fn open(kv: SharedKv, clock: SharedClock) -> Result<Self> {
        let (window, end) = Window::open(kv, keys::TSO_WINDOW).await?;
        let next = Timestamp(end).max(Timestamp::new(clock.unix_millis(), 0));
        Ok(Self {
            window,
            clock,
            state: Mutex::new(State { next, end: next }),
            extending: tokio::sync::Mutex::new(()),
        })
    }

    /// Gives out `count` consecutive timestamps; returns the first.
    ///
    /// # Errors
    /// Code 2 when a new window cannot be made durable; retry.
    pub async fn alloc(&self, count: u32) -> Result<Timestamp> {
        let count = u64::from(count.max(1));
        loop {
            if let Some(first) = self.try_alloc(count) {
                return Ok(first);
            }
            let _one = self.extending.lock().await;
            let end = {
                let state = self.state.lock();
                let start = self.start(&state);
                if start.plus(count) <= state.end {
                    continue;
                }
                Timestamp::new(start.plus(count).physical_ms() + WINDOW_MS, 0)
            };
            self.window.extend(end.0).await?;
            self.state.lock().end = end;
        }
    }

    fn try_alloc(&self, count: u64) -> Option<Timestamp> {
        let mut state = self.state.lock();
        let first = self.start(&state);
        (first.plus(count) <= state.end).then(|| {
            state.next = first.plus(count);
            first
        })
    }

    /// The clock's time in Unix milliseconds, for what people read.
    pub fn now_ms(&self) -> u64 {
        self.clock.unix_millis()
    }

    /// The clock's time, unless it lies behind what was given out already.
    fn start(&self, state: &State) -> Timestamp {
        state.next.max(Timestamp::new(self.clock.unix_millis(), 0))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redkite_metastore::MemKv;
    use redkite_runtime::ManualClock;

    use super::*;

    #[tokio::test]
    async fn timestamps_grow_over_restarts_and_when_the_clock_jumps_back() {
        let kv: SharedKv = Arc::new(MemKv::new());
        let clock = ManualClock::new(1_700_000_000_000);
        let mut last = Timestamp::ZERO;
        for _ in 0..3 {
            let oracle = TimestampOracle::open(kv.clone(), clock.shared())
                .await
                .unwrap();
            for count in [1, 300_000, 1, 1_000] {
                let first = oracle.alloc(count).await.unwrap();
                assert!(first > last);
                last = first.plus(u64::from(count) - 1);
            }
            clock.set(1_699_999_000_000);
        }
    }

    #[tokio::test]
    async fn ten_million_timestamps_take_few_writes_also_when_the_clock_jumps_back() {
        let kv: SharedKv = Arc::new(MemKv::new());
        let clock = ManualClock::new(1_700_000_000_000);
        let oracle = TimestampOracle::open(kv.clone(), clock.shared())
            .await
            .unwrap();
        let mut last = Timestamp::ZERO;
        for round in 0..10_000 {
            if round == 5_000 {
                clock.set(1_700_000_000_000 - 3_600_000);
            }
            let first = oracle.alloc(1_000).await.unwrap();
            assert!(first > last, "{first:?} after {last:?}");
            last = first.plus(999);
        }
        let writes = kv.range(keys::TSO_WINDOW, None, 1).await.unwrap().revision;
        assert!(writes.0 <= 2, "{writes:?} writes");
    }

    #[tokio::test]
    async fn timestamps_follow_the_clock() {
        let kv: SharedKv = Arc::new(MemKv::new());
        let clock = ManualClock::new(1_700_000_000_000);
        let oracle = TimestampOracle::open(kv, clock.shared()).await.unwrap();
        assert_eq!(
            oracle.alloc(1).await.unwrap(),
            Timestamp::new(1_700_000_000_000, 0)
        );
        clock.set(1_700_000_050_000);
        assert_eq!(
            oracle.alloc(1).await.unwrap(),
            Timestamp::new(1_700_000_050_000, 0)
        );
    }
}
