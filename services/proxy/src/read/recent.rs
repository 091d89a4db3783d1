//! About what time it is, between the calls that ask for it.

use std::time::Duration;

use parking_lot::Mutex;
use redkite_types::Timestamp;
use tokio::time::Instant;

/// For how long a timestamp tells the time: clocks of two machines do not go equally fast for ever.
pub(super) const GOOD_FOR: Duration = Duration::from_secs(1);

/// The last timestamp that the root coordinator gave this proxy, and when. It does not depend on the
/// time of day here, which may be wrong, or set.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Option<(Timestamp, Instant)>>);

impl Recent {
    /// Takes note of a timestamp that was just given.
    pub(crate) fn saw(&self, given: Timestamp) {
        let mut last = self.0.lock();
        if last.is_none_or(|(before, _)| before < given) {
            *last = Some((given, Instant::now()));
        }
    }

    /// The time now, no later than the root coordinator has it if its clock was not set; nothing when it
    /// was not asked lately.
    pub(crate) fn now(&self) -> Option<Timestamp> {
        let (given, at) = (*self.0.lock())?;
        let passed = at.elapsed();
        let ms = given.physical_ms() + passed.as_millis() as u64;
        (passed < GOOD_FOR).then(|| Timestamp::new(ms, given.logical()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_for_a_while_and_never_back() {
        let recent = Recent::default();
        assert_eq!(recent.now(), None);
        recent.saw(Timestamp::new(5_000, 7));
        assert_eq!(recent.now(), Some(Timestamp::new(5_000, 7)));
        tokio::time::advance(Duration::from_millis(400)).await;
        // An answer that was overtaken by a later one.
        recent.saw(Timestamp::new(4_999, 0));
        assert_eq!(recent.now(), Some(Timestamp::new(5_400, 7)));
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(recent.now(), None);
        recent.saw(Timestamp::new(6_100, 0));
        assert_eq!(recent.now(), Some(Timestamp::new(6_100, 0)));
    }
}
