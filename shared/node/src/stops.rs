//! What is to be done at the end of a process, in phases.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use redkite_runtime::{Shutdown, TaskGroup};
use tracing::warn;

/// The phases of a stop, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Sessions end, so that nobody chooses this process any more.
    Sessions,
    /// No new connections; calls that run finish.
    Servers,
    /// Control loops and sagas stop at a step's end. Nothing is unwound.
    Control,
    /// Logs are written out and channels given up.
    Data,
    /// The views of the metadata stop.
    Metadata,
    /// The metastore's replica stops.
    Metastore,
}

impl Phase {
    const ALL: [Self; 6] = [
        Self::Sessions,
        Self::Servers,
        Self::Control,
        Self::Data,
        Self::Metadata,
        Self::Metastore,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Servers => "servers",
            Self::Control => "control",
            Self::Data => "data",
            Self::Metadata => "metadata",
            Self::Metastore => "metastore",
        }
    }

    /// Servers have a limit of their own, which is to fit into this one.
    const fn limit(self) -> Duration {
        match self {
            Self::Sessions | Self::Metadata => Duration::from_secs(2),
            Self::Servers => Duration::from_secs(12),
            Self::Control | Self::Metastore => Duration::from_secs(6),
            Self::Data => Duration::from_secs(10),
        }
    }
}

/// What is to be done in a phase.
type Work = BoxFuture<'static, ()>;

/// What is to be done at the end of a process. Clones are the same list.
#[derive(Clone, Default)]
pub struct Stops(Arc<Mutex<Vec<(Phase, Work)>>>);

impl Stops {
    /// Adds something to be done in a phase, together with all else of that phase.
    pub fn add(&self, phase: Phase, work: impl Future<Output = ()> + Send + 'static) {
        self.0.lock().push((phase, work.boxed()));
    }

    /// Adds a task group to be stopped in a phase.
    pub fn add_group(&self, phase: Phase, group: TaskGroup) {
        self.add(phase, async move {
            if let Err(left) = group.shutdown(phase.limit()).await {
                warn!(group = group.name(), %left, "tasks did not stop in time");
            }
        });
    }

    /// Does everything, once.
    pub async fn run(&self, shutdown: &mut Shutdown) {
        for phase in Phase::ALL {
            let mut work = Vec::new();
            self.0.lock().retain_mut(|(when, one)| {
                let now = *when == phase;
                if now {
                    work.push(std::mem::replace(one, std::future::ready(()).boxed()));
                }
                !now
            });
            if !work.is_empty() {
                shutdown
                    .phase(phase.name(), phase.limit(), join_all(work))
                    .await;
            }
        }
    }
}

impl std::fmt::Debug for Stops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stops")
            .field("left", &self.0.lock().len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn phases_run_in_order_whatever_the_order_of_adding_and_one_that_hangs_is_left_behind() {
        let stops = Stops::default();
        let seen = Arc::new(Mutex::new(Vec::new()));
        for phase in Phase::ALL.into_iter().rev() {
            let seen = seen.clone();
            stops.add(phase, async move {
                seen.lock().push(phase);
            });
        }
        stops.add(Phase::Servers, std::future::pending());
        let mut shutdown = Shutdown::new(Duration::from_secs(60));
        stops.run(&mut shutdown).await;
        assert_eq!(*seen.lock(), Phase::ALL);
        assert_eq!(shutdown.overrun(), ["servers"]);
    }
}
