//! When leases end: the leader's clock, which no replica's state depends on.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// The deadlines of all leases.
///
/// They are kept by the leader alone and are not durable: a new leader gives every lease its whole
/// time to live again, so that a lease never ends early.
#[derive(Debug)]
pub(crate) struct LeaseTable {
    deadlines: Mutex<Deadlines>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Deadlines {
    of: HashMap<u64, (Instant, Duration)>,
    order: BTreeSet<(Instant, u64)>,
}

impl Deadlines {
    fn set(&mut self, lease: u64, ttl: Duration) {
        let deadline = Instant::now() + ttl;
        if let Some((old, _)) = self.of.insert(lease, (deadline, ttl)) {
            self.order.remove(&(old, lease));
        }
        self.order.insert((deadline, lease));
    }

    fn remove(&mut self, lease: u64) {
        if let Some((deadline, _)) = self.of.remove(&lease) {
            self.order.remove(&(deadline, lease));
        }
    }
}

impl LeaseTable {
    pub(crate) fn new() -> Self {
        Self {
            deadlines: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Starts over: every lease lives for its whole time from now on.
    pub(crate) fn reset(&self, leases: impl Iterator<Item = (u64, Duration)>) {
        let mut deadlines = self.deadlines.lock();
        *deadlines = Deadlines::default();
        for (lease, ttl) in leases {
            deadlines.set(lease, ttl);
        }
        drop(deadlines);
        self.changed.send_replace(());
    }

    pub(crate) fn insert(&self, lease: u64, ttl: Duration) {
        self.deadlines.lock().set(lease, ttl);
        self.changed.send_replace(());
    }

    /// Whether the lease still lived, and now lives for its whole time again.
    pub(crate) fn keep_alive(&self, lease: u64) -> bool {
        let mut deadlines = self.deadlines.lock();
        match deadlines.of.get(&lease) {
            // Past its deadline a lease is lost even if nobody has ended it yet: whoever looked
            // at the clock in between may have counted on that.
            Some((deadline, ttl)) if *deadline > Instant::now() => {
                let ttl = *ttl;
                deadlines.set(lease, ttl);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn remove(&self, lease: u64) {
        self.deadlines.lock().remove(lease);
    }

    /// The leases whose time is over, at most `limit`; they stay in the table until removed.
    pub(crate) fn expired(&self, limit: usize) -> Vec<u64> {
        let now = Instant::now();
        let deadlines = self.deadlines.lock();
        let over = deadlines
            .order
            .iter()
            .take_while(|(deadline, _)| *deadline <= now);
        over.take(limit).map(|(_, lease)| *lease).collect()
    }

    /// Waits until a lease's time is over.
    ///
    /// # Cancel safety
    /// It only waits.
    pub(crate) async fn wait_for_expiry(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            let next = self
                .deadlines
                .lock()
                .order
                .first()
                .map(|(deadline, _)| *deadline);
            match next {
                Some(deadline) if deadline <= Instant::now() => return,
                Some(deadline) => tokio::select! {
                    () = tokio::time::sleep_until(deadline) => {}
                    _ = changed.changed() => {}
                },
                None => {
                    let _ = changed.changed().await;
                }
            }
        }
    }
}
