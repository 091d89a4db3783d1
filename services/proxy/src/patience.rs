//! Calls of other services that are tried again.

use std::time::Duration;

use redkite_runtime::{Backoff, Deadline};
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The pauses between the tries of one call.
pub(crate) struct Patience<'a> {
    /// Most calls need none, and its randomness costs a system call.
    backoff: Option<Backoff>,
    deadline: Deadline,
    leaving: &'a CancellationToken,
}

impl<'a> Patience<'a> {
    /// For a call that must be answered by `deadline`, by a proxy that stops once `leaving` is
    /// cancelled.
    pub(crate) fn new(deadline: Deadline, leaving: &'a CancellationToken) -> Self {
        Self {
            backoff: None,
            deadline,
            leaving,
        }
    }

    /// Pauses before another try, and says whether there is to be one: not if the time is up before
    /// it, nor when this process stops. What the call waits for may be a part of the same process,
    /// and its client can ask elsewhere, or later.
    pub(crate) async fn another_try(&mut self) -> bool {
        let backoff = self
            .backoff
            .get_or_insert_with(|| Backoff::new(FIRST_PAUSE, LONGEST_PAUSE));
        let pause = backoff.next_delay();
        if self.deadline.left() < pause {
            return false;
        }
        let leaves = self.leaving.cancelled();
        tokio::time::timeout(pause, leaves).await.is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tries_end_with_the_time() {
        let leaving = CancellationToken::new();
        let mut patience = Patience::new(Deadline::after(Duration::from_secs(5)), &leaving);
        let begun = tokio::time::Instant::now();
        let mut tries = 0;
        while patience.another_try().await {
            tries += 1;
        }
        assert!(begun.elapsed() <= Duration::from_secs(5));
        assert!(tries > 4, "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_stops_tries_nothing_again() {
        let leaving = CancellationToken::new();
        let mut patience = Patience::new(Deadline::never(), &leaving);
        assert!(patience.another_try().await);
        let (another, ()) = tokio::join!(patience.another_try(), async { leaving.cancel() });
        assert!(!another);
        assert!(!patience.another_try().await);
    }
}
