//! What a process says about itself to load balancers and operators.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::deadline::Deadline;
use crate::error::Result;

/// The three phases of a process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// It does not serve yet.
    Starting,
    /// It serves.
    Ready,
    /// It finishes what it has and takes nothing new.
    Stopping,
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
        })
    }
}

/// The state of one process or service; cheap to clone, all clones show the same.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<(HealthState, String)>>);

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A process that is starting.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new((
            HealthState::Starting,
            String::new(),
        ))))
    }

    /// Changes the state; `detail` says in words what it waits for or what is wrong.
    pub fn set(&self, state: HealthState, detail: impl Into<String>) {
        self.0.send_replace((state, detail.into()));
    }

    /// It serves now.
    pub fn ready(&self) {
        self.set(HealthState::Ready, "");
    }

    /// It stops now.
    pub fn stopping(&self) {
        self.set(HealthState::Stopping, "");
    }

    /// The state.
    pub fn state(&self) -> HealthState {
        self.0.borrow().0
    }

    /// Whether it serves.
    pub fn is_ready(&self) -> bool {
        self.state() == HealthState::Ready
    }

    /// State and detail in one line.
    pub fn describe(&self) -> String {
        let status = self.0.borrow();
        let (state, detail) = &*status;
        if detail.is_empty() {
            state.to_string()
        } else {
            format!("{state}: {detail}")
        }
    }

    /// A receiver that is woken at every change.
    pub fn subscribe(&self) -> watch::Receiver<(HealthState, String)> {
        self.0.subscribe()
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// [`crate::Error::DeadlineExceeded`], with what it still waits for.
    pub async fn wait_ready(&self, deadline: Deadline) -> Result<()> {
        let mut changes = self.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let ready = changes.wait_for(|(state, _)| *state == HealthState::Ready);
        let waited = deadline.timeout("readiness", ready).await;
        match waited {
            Ok(_) => Ok(()),
            Err(_) => deadline.check(format!("readiness ({})", self.describe())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readiness_is_seen_by_all_clones_and_says_what_is_missing() {
        let health = Health::new();
        let seen = health.clone();
        health.set(HealthState::Starting, "loading the catalog");
        let error = seen
            .wait_ready(Deadline::after(Duration::from_secs(1)))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("loading the catalog"), "{error}");
        health.ready();
        seen.wait_ready(Deadline::after(Duration::from_secs(1)))
            .await
            .unwrap();
        health.stopping();
        assert_eq!(seen.describe(), "stopping");
        assert!(!seen.is_ready());
    }
}
