//! Wall-clock time, replaceable in tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time of day.
///
/// For timestamps that are stored or shown. Waiting uses tokio's time, and no decision about
/// ownership ever uses a clock.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since 1970, UTC. May jump in either direction.
    fn unix_millis(&self) -> u64;
}

/// A clock that many parts share.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clock, to be shared.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    fn unix_millis(&self) -> u64 {
        // A machine whose clock stands before 1970 gets 1970.
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A clock that stands still until a test moves it.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows this many milliseconds since 1970.
    pub fn new(unix_millis: u64) -> Self {
        Self(Arc::new(AtomicU64::new(unix_millis)))
    }

    /// Moves it, also backwards.
    pub fn set(&self, unix_millis: u64) {
        self.0.store(unix_millis, Ordering::SeqCst);
    }

    /// Moves it forward.
    pub fn advance(&self, span: Duration) {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(millis, Ordering::SeqCst);
    }

    /// The same clock, to be shared.
    pub fn shared(&self) -> SharedClock {
        Arc::new(self.clone())
    }
}

impl Clock for ManualClock {
    fn unix_millis(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_for_everybody_who_shares_it() {
        let clock = ManualClock::new(1_000);
        let shared = clock.shared();
        clock.advance(Duration::from_millis(5));
        assert_eq!(shared.unix_millis(), 1_005);
        clock.set(3);
        assert_eq!(shared.unix_millis(), 3);
        assert!(SystemClock::shared().unix_millis() > 1_600_000_000_000);
    }
}
