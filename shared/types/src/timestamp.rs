//! The hybrid timestamp that orders every write.

use serde::{Deserialize, Serialize};

/// A hybrid timestamp: Unix milliseconds in the upper 46 bits, a counter in the lower 18.
///
/// # Source
/// Milvus's TSO: clients compute `ts >> 18` to get Unix milliseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Bits of the counter.
    pub const LOGICAL_BITS: u32 = 18;
    /// Later than every timestamp that is ever given out.
    pub const MAX: Self = Self(u64::MAX);
    /// Earlier than every timestamp that is ever given out.
    pub const ZERO: Self = Self(0);

    /// Builds a timestamp from Unix milliseconds and a counter.
    pub const fn new(physical_ms: u64, logical: u64) -> Self {
        Self((physical_ms << Self::LOGICAL_BITS) | (logical & ((1 << Self::LOGICAL_BITS) - 1)))
    }

    /// Unix milliseconds.
    pub const fn physical_ms(self) -> u64 {
        self.0 >> Self::LOGICAL_BITS
    }

    /// The counter within the millisecond.
    pub const fn logical(self) -> u64 {
        self.0 & ((1 << Self::LOGICAL_BITS) - 1)
    }

    /// The timestamp `count` steps later; the counter overflows into the milliseconds.
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// The timestamp that many milliseconds earlier, at least zero.
    pub const fn minus_ms(self, ms: u64) -> Self {
        // The shift alone would lose the upper bits of a span that is longer than time itself.
        if ms > u64::MAX >> Self::LOGICAL_BITS {
            return Self::ZERO;
        }
        Self(self.0.saturating_sub(ms << Self::LOGICAL_BITS))
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_and_order_is_by_time_then_counter() {
        let ts = Timestamp::new(1_700_000_000_123, 77);
        assert_eq!((ts.physical_ms(), ts.logical()), (1_700_000_000_123, 77));
        assert!(Timestamp::new(5, 262_143) < Timestamp::new(6, 0));
        assert_eq!(Timestamp::new(5, 262_143).plus(1), Timestamp::new(6, 0));
        assert_eq!(Timestamp::new(5, 3).minus_ms(9), Timestamp::ZERO);
        assert_eq!(Timestamp::new(5, 3).minus_ms(1 << 46), Timestamp::ZERO);
        assert_eq!(Timestamp::new(5, 3).minus_ms(u64::MAX), Timestamp::ZERO);
    }
}
