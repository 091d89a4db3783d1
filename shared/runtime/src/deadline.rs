//! The time that a request has, from its first hop to its last.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use pin_project_lite::pin_project;
use tokio::task::{Unconstrained, unconstrained};
use tokio::time::{Instant, Sleep, sleep_until};

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
    /// [`Error::DeadlineExceeded`].
    pub fn timeout<T>(
        self,
        what: impl Into<Cow<'static, str>>,
        future: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T>> {
        // As an `async fn` it would have room for the future twice, and copy it.
        let what = what.into();
        until(self.0, future).map(|answer| answer.ok_or(Error::DeadlineExceeded { what }))
    }
}

/// What a future answers, or nothing when `moment` comes first.
///
/// As `tokio::time::timeout_at`, but what is there at once costs no timer: a request passes several
/// such limits, and most are answered without waiting.
pub fn until<F: Future>(moment: Instant, future: F) -> Until<F> {
    Until {
        future,
        moment,
        timer: None,
    }
}

pin_project! {
    /// See [`until`].
    #[must_use = "nothing waits before it is polled"]
    pub struct Until<F> {
        #[pin]
        future: F,
        moment: Instant,
        // Never refused its turn: a future that uses up its task's share must not outlive its time.
        #[pin]
        timer: Option<Unconstrained<Sleep>>,
    }
}

impl<F: Future> Future for Until<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(answer) = this.future.poll(context) {
            return Poll::Ready(Some(answer));
        }
        if this.timer.is_none() {
            this.timer
                .set(Some(unconstrained(sleep_until(*this.moment))));
        }
        match this.timer.as_pin_mut() {
            Some(timer) => timer.poll(context).map(|()| None),
            None => Poll::Pending,
        }
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

    #[tokio::test(start_paused = true)]
    async fn what_is_there_in_time_is_answered_and_nothing_after_it() {
        let moment = Instant::now() + Duration::from_secs(5);
        let after = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        assert_eq!(until(moment, after(4)).await, Some(4));
        assert_eq!(until(moment, after(2)).await, None);
        assert_eq!(Instant::now(), moment);
        // As an answer that is there does not wait, it is never too late.
        assert_eq!(until(moment, std::future::ready(1)).await, Some(1));
    }

    #[tokio::test]
    async fn a_future_that_never_rests_ends_in_time() {
        let moment = Instant::now() + Duration::from_millis(20);
        let restless = async {
            loop {
                tokio::task::consume_budget().await;
            }
        };
        let ended: Option<()> = until(moment, restless).await;
        assert_eq!(ended, None);
    }
}
