//! The signals that stop a process, and its phases with their time limits.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::deadline::Deadline;

/// Takes over SIGINT and SIGTERM. The future ends at the first of them, with its name; the next
/// one after that ends the process at once, without any clean-up.
///
/// Call it at the start of the process, await it where the process waits for its end. Needs a
/// tokio runtime.
///
/// # Errors
/// When the system does not let us handle a signal.
pub fn shutdown_signal() -> std::io::Result<impl Future<Output = &'static str> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        info!(signal = name, "stopping, a second signal exits at once");
        exit_at_second(interrupt, terminate);
        name
    })
}

#[allow(
    clippy::disallowed_methods,
    reason = "belongs to no group, it outlives all that is being stopped; and the second signal asks for just this exit"
)]
fn exit_at_second(mut interrupt: Signal, mut terminate: Signal) {
    tokio::spawn(async move {
        let status = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        warn!(status, "second signal, exiting at once");
        std::process::exit(status);
    });
}

/// Runs the phases of a shutdown one after the other, each with its own limit and all within one.
#[derive(Debug)]
pub struct Shutdown {
    deadline: Deadline,
    overrun: Vec<&'static str>,
}

impl Shutdown {
    /// Starts the clock; `grace` bounds all phases together.
    pub fn new(grace: Duration) -> Self {
        Self {
            deadline: Deadline::after(grace),
            overrun: Vec::new(),
        }
    }

    /// Runs one phase. One that takes longer than `limit` is dropped and named in the log, and the
    /// next one runs all the same.
    pub async fn phase<T>(
        &mut self,
        name: &'static str,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        info!(phase = name, "shutdown phase");
        match self.deadline.at_most(limit).timeout(name, work).await {
            Ok(done) => Some(done),
            Err(_) => {
                warn!(
                    phase = name,
                    "shutdown phase took too long and was left behind"
                );
                self.overrun.push(name);
                None
            }
        }
    }

    /// What is left for all phases together.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The phases that took too long.
    pub fn overrun(&self) -> &[&'static str] {
        &self.overrun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_phase_that_hangs_does_not_stop_the_next() {
        let mut shutdown = Shutdown::new(Duration::from_secs(10));
        let hung = shutdown.phase(
            "drain",
            Duration::from_secs(2),
            std::future::pending::<()>(),
        );
        assert_eq!(hung.await, None);
        assert_eq!(
            shutdown
                .phase("data", Duration::from_secs(2), async { 7 })
                .await,
            Some(7)
        );
        assert_eq!(shutdown.overrun(), ["drain"]);
        assert_eq!(shutdown.deadline().left(), Duration::from_secs(8));
    }
}
