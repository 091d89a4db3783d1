//! Waiting for a saga's answer.

use std::fmt;
use std::marker::PhantomData;

use redkite_types::{Revision, SagaId};
use tokio::sync::watch;

use crate::definition::AnyArc;
use crate::error::{Error, Result};

/// How far a saga has come, for those who wait.
#[derive(Clone)]
pub(crate) enum Progress {
    Running,
    /// It is on record that it is taken back.
    Unwinding,
    Committed(Revision),
    /// All is done, and nothing is left but to write that down.
    Answered(AnyArc, Revision),
    Ended(Result<(AnyArc, Revision)>),
}

impl Progress {
    /// What the callers are told, as soon as that is certain.
    fn answer(&self) -> Option<Result<(AnyArc, Revision)>> {
        match self {
            Self::Answered(output, revision) => Some(Ok((output.clone(), *revision))),
            Self::Ended(ended) => Some(ended.clone()),
            Self::Running | Self::Unwinding | Self::Committed(_) => None,
        }
    }
}

/// A finished saga's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed<T> {
    /// What the caller asked for.
    pub output: T,
    /// The metastore's revision with which all of it is there: a cache that has reached it shows
    /// it. Zero when nothing had to be done.
    pub revision: Revision,
}

/// Waits for one saga. Dropping it does not stop the saga.
pub struct SagaHandle<T> {
    id: SagaId,
    progress: watch::Receiver<Progress>,
    output: PhantomData<fn() -> T>,
}

impl<T: Clone + Send + Sync + 'static> SagaHandle<T> {
    pub(crate) fn new(id: SagaId, progress: watch::Receiver<Progress>) -> Self {
        Self {
            id,
            progress,
            output: PhantomData,
        }
    }

    /// The saga.
    pub fn id(&self) -> SagaId {
        self.id
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// [`Error::Failed`]: it ended without effect, for the reason inside. [`Error::Stopped`],
    /// [`Error::Fenced`]: the next executor continues it; ask there with the same request id.
    /// [`Error::Stuck`]: a human must look at it. [`Error::Store`]: it was not recorded.
    ///
    /// # Cancel safety
    /// The saga goes on; ask again with the same request id for its answer.
    pub async fn wait(mut self) -> Result<Completed<T>> {
        let answered = self
            .progress
            .wait_for(|progress| progress.answer().is_some())
            .await;
        let answer = answered.ok().and_then(|progress| progress.answer());
        // Without one the executor is gone without a word, as in a crash.
        let (output, revision) = answer.unwrap_or(Err(Error::Stopped))?;
        let output = output.downcast_ref::<T>().ok_or_else(|| Error::Internal {
            what: format!("saga {} has an answer of another type", self.id),
        })?;
        Ok(Completed {
            output: output.clone(),
            revision,
        })
    }

    /// Waits until the saga is past its pivot: it will be completed, whatever happens. The revision
    /// is that of the pivot.
    ///
    /// # Errors
    /// As [`SagaHandle::wait`].
    pub async fn committed(&mut self) -> Result<Revision> {
        let reached = self.progress.wait_for(|progress| match progress {
            Progress::Running | Progress::Unwinding => false,
            Progress::Committed(_) | Progress::Answered(..) | Progress::Ended(_) => true,
        });
        match reached.await.as_deref() {
            Ok(Progress::Committed(revision) | Progress::Answered(_, revision)) => Ok(*revision),
            Ok(Progress::Ended(Ok((_, revision)))) => Ok(*revision),
            Ok(Progress::Ended(Err(error))) => Err(error.clone()),
            Ok(Progress::Running | Progress::Unwinding) | Err(_) => Err(Error::Stopped),
        }
    }
}

impl<T> fmt::Debug for SagaHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SagaHandle").field("id", &self.id).finish()
    }
}
