//! Refusing work at once instead of queueing it without end.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::deadline::Deadline;
use crate::error::{Error, Result};

/// Gives out shares of a fixed capacity. The unit of cost is the owner's choice.
#[derive(Clone, Debug)]
pub struct Admission {
    name: Cow<'static, str>,
    capacity: u32,
    retry_after: Duration,
    free: Arc<Semaphore>,
}

/// A share of the capacity, given back when it is dropped.
#[derive(Debug)]
#[must_use = "dropping the permit gives the share back"]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    /// A capacity in units of cost; `retry_after` is the hint for those who are refused.
    pub fn new(name: impl Into<Cow<'static, str>>, capacity: u32, retry_after: Duration) -> Self {
        let capacity = capacity.max(1);
        Self {
            name: name.into(),
            capacity,
            retry_after,
            // A u32 always fits below the semaphore's limit on 64-bit machines.
            free: Arc::new(Semaphore::new(capacity as usize)),
        }
    }

    /// Takes a share now. Work that costs more than everything takes everything, so that it can
    /// run at all.
    ///
    /// # Errors
    /// [`Error::RateLimited`] with a hint when not enough is free.
    pub fn acquire(&self, cost: u32) -> Result<Permit> {
        let share = cost.clamp(1, self.capacity);
        match Arc::clone(&self.free).try_acquire_many_owned(share) {
            Ok(permit) => Ok(Permit { _permit: permit }),
            Err(TryAcquireError::NoPermits) => Err(Error::RateLimited {
                what: self.name.clone(),
                retry_after: self.retry_after,
            }),
            Err(TryAcquireError::Closed) => Err(Error::Stopping {
                what: self.name.clone(),
            }),
        }
    }

    /// Waits for a share, first come first served.
    ///
    /// # Errors
    /// [`Error::RateLimited`] when the deadline comes first; [`Error::Stopping`].
    pub async fn acquire_until(&self, cost: u32, deadline: Deadline) -> Result<Permit> {
        let share = cost.clamp(1, self.capacity);
        let waiting = Arc::clone(&self.free).acquire_many_owned(share);
        match deadline.timeout("admission", waiting).await {
            Ok(Ok(permit)) => Ok(Permit { _permit: permit }),
            Ok(Err(_closed)) => Err(Error::Stopping {
                what: self.name.clone(),
            }),
            Err(_) => Err(Error::RateLimited {
                what: self.name.clone(),
                retry_after: self.retry_after,
            }),
        }
    }

    /// Refuses everybody from now on.
    pub fn close(&self) {
        self.free.close();
    }

    /// Units of cost that are free.
    pub fn available(&self) -> usize {
        self.free.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_fit_is_refused_at_once_with_a_hint() {
        let admission = Admission::new("search", 10, Duration::from_millis(50));
        let large = admission.acquire(7).unwrap();
        let error = admission.acquire(4).unwrap_err();
        assert_eq!(
            error,
            Error::RateLimited {
                what: "search".into(),
                retry_after: Duration::from_millis(50)
            }
        );
        let small = admission.acquire(3).unwrap();
        let soon = Deadline::after(Duration::from_secs(1));
        assert!(admission.acquire_until(1, soon).await.is_err());
        drop((large, small));
        let everything = admission.acquire(1_000).unwrap();
        assert_eq!(admission.available(), 0);
        drop(everything);
        admission.close();
        assert!(matches!(admission.acquire(1), Err(Error::Stopping { .. })));
    }
}
