//! The time that a request has, from its first hop to its last.

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};

/// Longer than any process runs, short enough to be added to any instant.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A moment after which nobody waits for the answer any more.
///
/// Made once where a request arrives; every stage below gets what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// So much time from now.
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span.min(FOREVER))
    }

    /// A deadline that never comes; for work that no caller waits for.
    pub fn never() -> Self {
        Self::after(FOREVER)
    }

    /// The moment itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left, zero when it is over.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it is over.
    pub fn expired(self) -> bool {
        self.left().is_zero()
    }

    /// The nearer of this one and `span` from now: one stage's share.
    #[must_use]
    pub fn at_most(self, span: Duration) -> Self {
        self.min(Self::after(span))
    }

    /// # Errors
    /// [`Error::DeadlineExceeded`] when it is over.
    pub fn check(self, what: impl Into<Cow<'static, str>>) -> Result<()> {
        if self.expired() {
            return Err(Error::DeadlineExceeded { what: what.into() });
        }
        Ok(())
    }

    /// Waits for a future no longer than this; `what` names it in the error.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`]; the future is dropped then.
    pub async fn timeout<T>(
        self,
        what: impl Into<Cow<'static, str>>,
        future: impl Future<Output = T>,
    ) -> Result<T> {
        tokio::time::timeout_at(self.0, future)
            .await
            .map_err(|_| Error::DeadlineExceeded { what: what.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stage_gets_what_is_left_and_never_more() {
        let deadline = Deadline::after(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(deadline.left(), Duration::from_secs(6));
        assert_eq!(deadline.at_most(Duration::from_secs(60)), deadline);
        assert_eq!(
            deadline.at_most(Duration::from_secs(1)).left(),
            Duration::from_secs(1)
        );
        deadline.check("still time").unwrap();

        let error = deadline
            .timeout("nothing", std::future::pending::<()>())
            .await
            .unwrap_err();
        assert_eq!(
            error,
            Error::DeadlineExceeded {
                what: "nothing".into()
            }
        );
        assert!(deadline.expired());
        assert!(deadline.check("late").is_err());
        assert!(!Deadline::never().expired());
    }
}
