//! Chance, replaceable in tests.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// A source of random numbers that many parts share; the same seed gives the same numbers.
#[derive(Clone)]
pub struct Random(Arc<Mutex<StdRng>>);

impl Random {
    /// A source that repeats itself for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A source that nobody can predict.
    pub fn from_system() -> Self {
        Self::seeded(rand::random())
    }

    /// Any number.
    pub fn next_u64(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// A number below `limit`; zero when the limit is.
    pub fn below(&self, limit: u64) -> u64 {
        if limit == 0 {
            0
        } else {
            self.0.lock().random_range(0..limit)
        }
    }

    /// A span of time no longer than `span`.
    pub fn up_to(&self, span: Duration) -> Duration {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }

    /// A generator of its own for one part, so that parts do not change each other's numbers.
    pub fn fork(&self) -> StdRng {
        StdRng::seed_from_u64(self.next_u64())
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (left, right) = (Random::seeded(42), Random::seeded(42));
        for _ in 0..10 {
            assert_eq!(left.next_u64(), right.next_u64());
        }
        assert_eq!(left.below(0), 0);
        assert!(left.below(3) < 3);
        assert!(left.up_to(Duration::from_millis(2)) <= Duration::from_millis(2));
    }
}
