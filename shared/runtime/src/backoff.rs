//! Growing, jittered pauses between attempts.

use std::time::Duration;

use crate::random::Random;

/// Doubles from `initial` up to `max`, each pause drawn from its upper half so that many callers
/// that failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
    random: Option<Random>,
}

impl Backoff {
    /// A sequence of pauses with jitter.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            next: initial.min(max),
            random: Some(Random::from_system()),
        }
    }

    /// The same pauses, exact.
    #[must_use]
    pub fn without_jitter(mut self) -> Self {
        self.random = None;
        self
    }

    /// The same pauses, jittered from this source.
    #[must_use]
    pub fn with_random(mut self, random: Random) -> Self {
        self.random = Some(random);
        self
    }

    /// The next pause; each is twice the one before.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.max);
        match &self.random {
            Some(random) => delay / 2 + random.up_to(delay / 2),
            None => delay,
        }
    }

    /// Sleeps for the next pause.
    ///
    /// # Cancel safety
    /// Dropping it only forgets the rest of the pause.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// Starts again with the shortest pause, after a success.
    pub fn reset(&mut self) {
        self.next = self.initial.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_jitter_only_shortens_them() {
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut exact = Backoff::new(initial, max).without_jitter();
        let pauses: Vec<_> = (0..6).map(|_| exact.next_delay().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        exact.reset();
        assert_eq!(exact.next_delay(), initial);

        let mut jittered = Backoff::new(initial, max).with_random(Random::seeded(7));
        for pause in pauses {
            let drawn = jittered.next_delay().as_millis();
            assert!(drawn >= pause / 2 && drawn <= pause, "{drawn} of {pause}");
        }
    }
}
