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

impl Asked {
    /// The level that counts for a collection whose own is `collection`.
    ///
    /// # Errors
    /// Code 1100 for an unknown level.
    pub fn level(&self, collection: ConsistencyLevel) -> Result<ConsistencyLevel> {
        if self.use_default {
            Ok(collection)
        } else {
            schema::consistency_from_proto(self.level)
        }
    }
}

/// How often a read asks the owners of the channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// Once.
    One,
    /// Several times: all have to look at one time.
    Several,
}

/// When a read arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// At this time of the root coordinator: every write that was acknowledged before is earlier.
    Exactly(Timestamp),
    /// At about this time, by a timestamp that was given a little earlier.
    About(Timestamp),
}

/// The times of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTime {
    /// Writes up to this time are seen; zero stands for all that have been applied.
    pub mvcc: Timestamp,
    /// Writes up to this time must be seen.
    pub guarantee: Timestamp,
    /// The time of the answer, as clients are told.
    pub answered: Timestamp,
}

impl ReadTime {
    /// Decides the times of a read by its level.
    pub fn decide(
        asked: Asked,
        level: ConsistencyLevel,
        arrival: Arrival,
        graceful: Duration,
    ) -> Self {
        let (Arrival::Exactly(now) | Arrival::About(now)) = arrival;
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
        if pinned {
            return Self {
                mvcc: given,
                guarantee: given,
                answered: given,
            };
        }
        // A guarantee in the future waits for its time to come, and then looks at that.
        let answered = now.max(guarantee);
        let mvcc = match arrival {
            Arrival::Exactly(_) => answered,
            Arrival::About(_) => Timestamp::ZERO,
        };
        Self {
            mvcc,
            guarantee,
            answered,
        }
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
        let level = asked.level(ConsistencyLevel::Bounded).unwrap();
        ReadTime::decide(asked, level, Arrival::Exactly(NOW), Duration::from_secs(5))
    }

    #[test]
    fn levels_mean_what_milvus_means() {
        let early = NOW.minus_ms(9_000).0;
        assert_eq!(
            decide(0, false, 0, false),
            ReadTime {
                mvcc: NOW,
                guarantee: NOW,
                answered: NOW,
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
            answered: Timestamp(early),
        };
        assert_eq!(decide(4, false, early, true), pinned);
    }

    #[test]
    fn a_read_at_about_a_time_sees_what_has_been_applied() {
        let asked = Asked {
            level: 2,
            use_default: false,
            guarantee_ts: 2,
            iterator: false,
        };
        let level = asked.level(ConsistencyLevel::Strong).unwrap();
        assert_eq!(level, ConsistencyLevel::Bounded);
        let time = ReadTime::decide(asked, level, Arrival::About(NOW), Duration::from_secs(5));
        assert_eq!(time.mvcc, Timestamp::ZERO);
        assert_eq!(time.guarantee, NOW.minus_ms(5_000));
        assert_eq!(time.answered, NOW);
    }
}
