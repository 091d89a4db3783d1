//! A saga's task: locks, check, steps, answer.

use std::sync::Arc;

use redkite_runtime::OnFailure;
use redkite_types::Revision;
use tracing::{Instrument as _, error, info_span};

use crate::definition::{AnyArc, Definition};
use crate::driver::{Driver, Halt};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::metrics;
use crate::record::{Record, State};
use crate::retry::guarded;
use crate::spec::StepError;

/// What the callers of a saga in this state are told.
pub(crate) fn answer_of(
    definition: &dyn Definition,
    params: &AnyArc,
    record: &Record,
    revision: Revision,
) -> Result<(AnyArc, Revision)> {
    match (&record.state, &record.error) {
        (State::Done, _) => {
            let output = definition
                .output(params, &record.outputs)
                .map_err(Error::Failed)?;
            Ok((output, record.answered.unwrap_or(revision)))
        }
        (State::Stuck, _) => {
            let reason = record.stuck.clone().unwrap_or_default();
            Err(Error::Stuck {
                id: record.id,
                reason,
            })
        }
        (State::Running | State::Unwinding | State::Failed, Some(error)) => {
            Err(Error::Failed(error.into()))
        }
        (state, None) => Err(Error::Internal {
            what: format!("saga ended {state} without error"),
        }),
    }
}

/// Ends the wait of the callers when a saga's task ends without a word: a panic, or an abort of the
/// whole group. The saga's locks stay held.
struct Ending {
    entry: Arc<Entry>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        metrics::left();
        if !self.entry.has_ended() {
            self.entry.end(Err(Error::Stopped));
        }
    }
}

/// Starts a saga's task.
pub(crate) fn spawn(driver: Driver) {
    let tasks = driver.shared.tasks.clone();
    let kind = driver.definition.kind();
    let id = driver.record.id;
    let span = info_span!("saga", saga_id = %id, kind, request_id = %driver.entry.request_id);
    metrics::started(kind);
    let ending = Ending {
        entry: driver.entry.clone(),
    };
    let work = async move {
        let _ending = ending;
        run(driver).await;
    };
    tasks.spawn(
        format!("saga {kind} {id}"),
        OnFailure::Log,
        work.instrument(span),
    );
}

/// The answer to a request that needs no saga.
async fn check(driver: &Driver) -> Option<Result<(AnyArc, Revision)>> {
    let limit = driver.shared.options.step_timeout;
    let check = driver.definition.check(driver.params.clone());
    let check = async { check.await.map_err(StepError::Rejected) };
    match guarded(check, limit, "check").await {
        Ok(None) => None,
        Ok(Some(output)) => Some(Ok((output, Revision::default()))),
        Err(error) => Some(Err(Error::Failed(error.into_error()))),
    }
}

/// Takes the locks, checks, drives, and tells those who wait.
async fn run(mut driver: Driver) {
    let began = std::time::Instant::now();
    let (shared, entry) = (driver.shared.clone(), driver.entry.clone());
    let mut aborted = false;
    if !entry.holds_locks() {
        let locks = shared.locks.acquire(&driver.record.locks);
        tokio::select! {
            biased;
            () = shared.token.cancelled() => {
                shared.forget(&entry);
                return entry.end(Err(Error::Stopped));
            }
            () = entry.abort_requested() => aborted = true,
            guard = locks => entry.hold(guard),
        }
    }
    if !aborted
        && driver.revision.is_none()
        && let Some(answer) = check(&driver).await
    {
        shared.forget(&entry);
        return entry.end(answer);
    }
    let driving = async {
        if aborted {
            driver.abort(0).await?;
        }
        driver.drive().await
    };
    let halted = Box::pin(driving).await;
    let kind = driver.definition.kind();
    match halted {
        Ok(()) => {
            let record = &driver.record;
            let revision = driver.revision.unwrap_or_default();
            let answer = answer_of(&*driver.definition, &driver.params, record, revision);
            metrics::finished(kind, record.state, began.elapsed());
            if record.state == State::Stuck {
                metrics::stuck(1.0);
                entry.view.lock().last_error.clone_from(&record.stuck);
                *entry.parked.lock() = Some((record.clone(), revision));
            } else {
                shared.finish(&entry, record.finished_ms);
            }
            entry.end(answer);
        }
        Err(Halt::NotRecorded(error)) => {
            shared.forget(&entry);
            entry.end(Err(error));
        }
        Err(Halt::Stopped) => entry.end(Err(Error::Stopped)),
        // The caller of a dead process gets no answer; `Ending` ends the wait.
        Err(Halt::Crashed) => {}
        Err(Halt::Fenced) => {
            shared.depose();
            entry.end(Err(Error::Fenced));
        }
        Err(Halt::Broken(what)) => {
            error!(%what, "saga executor is broken");
            entry.end(Err(Error::Internal { what }));
        }
    }
}
