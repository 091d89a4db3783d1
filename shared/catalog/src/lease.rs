//! Until when a lease lives for certain, by the clock of the process that holds it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

/// What a process knows of its own lease. Clones are the same lease.
///
/// # Correctness
/// The metastore counts a lease's time from when it has received a renewal, this from before the
/// renewal was sent, and a new leader of the metastore gives every lease its whole time again. So while
/// [`Lease::holds`], the lease lives in the metastore too, and nobody has taken over what goes with it.
/// The clock is monotonic and goes on while the process is stopped. It does not while the whole machine
/// is suspended, and two machines' clocks may run at different rates: what must not happen behind the
/// lease's end asks for a margin ([`Lease::holds_for`]).
#[derive(Clone, Debug)]
pub struct Lease {
    until: Arc<watch::Sender<Option<Instant>>>,
}

impl Lease {
    /// A lease that does not hold yet.
    pub fn new() -> Self {
        Self {
            until: Arc::new(watch::Sender::new(None)),
        }
    }

    /// A lease that holds for as long as anybody may ask; for tests, and where there is nobody else.
    pub fn endless() -> Self {
        let lease = Self::new();
        // A hundred years.
        lease.extend(Instant::now() + Duration::from_secs(100 * 365 * 24 * 3_600));
        lease
    }

    /// Whether it lives for certain.
    pub fn holds(&self) -> bool {
        self.holds_for(Duration::ZERO)
    }

    /// Whether it lives for certain and still will when `margin` has passed.
    pub fn holds_for(&self, margin: Duration) -> bool {
        self.until
            .borrow()
            .is_some_and(|until| until > Instant::now() + margin)
    }

    /// Waits until it holds.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn held(&self) {
        let mut until = self.until.subscribe();
        let holds = |until: &Option<Instant>| until.is_some_and(|until| until > Instant::now());
        // The sender lives in `self`.
        let _ = until.wait_for(holds).await;
    }

    /// It lives until then at least.
    pub(crate) fn extend(&self, until: Instant) {
        self.until
            .send_modify(|known| *known = (*known).max(Some(until)));
    }

    /// It must not be counted on any more, until it is extended again.
    pub(crate) fn end(&self) {
        self.until.send_replace(None);
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_holds_until_its_time_is_over_and_again_once_it_is_renewed() {
        let lease = Lease::new();
        assert!(!lease.holds());
        lease.extend(Instant::now() + Duration::from_secs(10));
        assert!(lease.holds() && lease.holds_for(Duration::from_secs(9)));
        assert!(
            !lease.holds_for(Duration::from_secs(10)),
            "not with that margin"
        );
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!lease.holds());
        let late = tokio::time::timeout(Duration::from_secs(60), lease.held());
        late.await.unwrap_err();
        let renewed = lease.clone();
        let (held, ()) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(60), lease.held()),
            async { renewed.extend(Instant::now() + Duration::from_secs(10)) },
        );
        held.unwrap();
        renewed.end();
        assert!(!lease.holds());
    }
}
