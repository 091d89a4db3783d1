//! How fresh a read must be, and at which time it looks.

use std::time::Duration;

use redkite_proto::convert::schema;
use redkite_types::{ConsistencyLevel, Result, Timestamp};

/// The guarantee timestamp by which clients say "bounded".
const BOUNDED: u64 = 2;

/// What a request says about freshness.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The number of the consistency level.
    pub level: i32,
    /// Whether the collection's own level counts instead.
    pub use_default: bool,
    /// The guarantee timestamp as sent.
    pub guarantee_ts: u64,
    /// Whether the read is a page of an iterator: all pages look at one time.
    pub iterator: bool,
}

/// The times of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTime {
    /// Writes up to this time are seen.
    pub mvcc: Timestamp,
    /// Writes up to this time must be seen.
    pub guarantee: Timestamp,
}

impl ReadTime {
    /// Decides the times of a read that arrived at `now`.
    ///
    /// # Errors
    /// Code 1100 for an unknown level.
    pub fn decide(
        asked: Asked,
        collection: ConsistencyLevel,
        now: Timestamp,
        graceful: Duration,
    ) -> Result<Self> {
        let level = if asked.use_default {
            collection
        } else {
            schema::consistency_from_proto(asked.level)?
        };
        let given = Timestamp(asked.guarantee_ts);
        let guarantee = match level {
            ConsistencyLevel::Strong => now,
            ConsistencyLevel::Bounded => {
                now.minus_ms(u64::try_from(graceful.as_millis()).unwrap_or(u64::MAX))
            }
            ConsistencyLevel::Eventually => Timestamp::ZERO,
            ConsistencyLevel::Session | ConsistencyLevel::Customized => given,
        };
        let pinned = asked.iterator && asked.guarantee_ts > BOUNDED;
        Ok(if pinned {
            Self {
                mvcc: given,
                guarantee: given,
            }
        } else {
            // A guarantee in the future waits for its time to come, and then looks at that.
            Self {
                mvcc: now.max(guarantee),
                guarantee,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::new(1_700_000_000_000, 5);

    fn decide(level: i32, use_default: bool, guarantee_ts: u64, iterator: bool) -> ReadTime {
        let asked = Asked {
            level,
            use_default,
            guarantee_ts,
            iterator,
        };
        ReadTime::decide(
            asked,
            ConsistencyLevel::Bounded,
            NOW,
            Duration::from_secs(5),
        )
        .unwrap()
    }

    #[test]
    fn levels_mean_what_milvus_means() {
        let early = NOW.minus_ms(9_000).0;
        assert_eq!(
            decide(0, false, 0, false),
            ReadTime {
                mvcc: NOW,
                guarantee: NOW
            }
        );
        assert_eq!(decide(2, false, 2, false).guarantee, NOW.minus_ms(5_000));
        assert_eq!(decide(3, false, 1, false).guarantee, Timestamp::ZERO);
        assert_eq!(decide(1, false, early, false).guarantee, Timestamp(early));
        assert_eq!(decide(4, false, early, false).mvcc, NOW);
        // The collection's level counts, not the zero on the wire.
        assert_eq!(decide(0, true, 1, false).guarantee, NOW.minus_ms(5_000));
        // All pages of an iterator look at the time of the first.
        let pinned = ReadTime {
            mvcc: Timestamp(early),
            guarantee: Timestamp(early),
        };
        assert_eq!(decide(4, false, early, true), pinned);
    }
}
