//! One saga's task: forward step by step, or back undo by undo.
//!
//! # Writes
//! As few as safety allows, each one transaction:
//! - nothing is written before the first step that has an effect (allocations and waits have none); the
//!   record's creation is one transaction with it if it is a metadata step;
//! - a metadata step's change, its own advance and all outputs since the last write are one;
//! - a call is preceded by a write only if there is an output that is not recorded yet (a repetition
//!   after a crash might bring another one) or no record yet; so calls without output follow each
//!   other freely, and recovery takes all of them for started ([`StepPlan::maybe_started`]);
//! - the last step's write says *done*, the last undo's says *failed*.
//!
//! # Answers
//! Behind the pivot a call without output that is the last step changes nothing in the record but that
//! it is done. The callers are told before that is written: a crash in between has the next executor run
//! the call again and come to the same answer, of which the record keeps the revision. The locks stay held until it is written, so nobody else
//! comes between the two.
//!
//! [`StepPlan::maybe_started`]: crate::definition::StepPlan::maybe_started

use std::sync::Arc;

use redkite_metastore::Txn;
use redkite_runtime::hold_here;
use redkite_types::{Error as UserError, ErrorCode, Outcome, Revision, SagaId};
use tracing::{Instrument as _, debug, debug_span, warn};

use crate::definition::{AnyArc, Definition, RawCx};
use crate::entry::Entry;
use crate::error::Error;
use crate::fault::{Fault, FaultPoint};
use crate::metrics;
use crate::record::{Event, IllegalTransition, Record, State};
use crate::retry::{Retries, guarded};
use crate::shared::Shared;
use crate::spec::{RawEffect, Refusal, StepError, StepKind};
use crate::store::Written;
use crate::task::answer_of;

/// Why a driver ends before its saga does.
#[derive(Debug)]
pub(crate) enum Halt {
    /// Nothing is recorded and nothing was done; this is the answer.
    NotRecorded(Error),
    /// The executor stops; the next one goes on from the record.
    Stopped,
    /// A newer executor has taken over.
    Fenced,
    /// A test plays a crash.
    Crashed,
    /// A bug of ours.
    Broken(String),
}

impl From<IllegalTransition> for Halt {
    fn from(error: IllegalTransition) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Why a step's change cannot be committed; nothing was.
#[derive(Debug)]
pub(crate) enum Refused {
    Compare(Box<Refusal>),
    /// The transaction makes no sense to the metastore: the author's bug.
    Invalid(UserError),
}

pub(crate) struct Driver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) definition: Arc<dyn Definition>,
    pub(crate) params: AnyArc,
    /// As it is now; ahead of the metastore's between writes.
    pub(crate) record: Record,
    /// Of the last write; `None` before the first.
    pub(crate) revision: Option<Revision>,
    /// Whether there is an output that is not written yet.
    has_unwritten: bool,
    /// Steps before this one may have been started by an earlier executor.
    pub(crate) maybe_started: usize,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        entry: Arc<Entry>,
        definition: Arc<dyn Definition>,
        params: AnyArc,
        record: Record,
        revision: Option<Revision>,
    ) -> Self {
        let is_resumed = revision.is_some() && record.state == State::Running;
        let maybe_started = if is_resumed {
            definition.plan().maybe_started(record.cursor)
        } else {
            0
        };
        Self {
            shared,
            entry,
            definition,
            params,
            record,
            revision,
            has_unwritten: false,
            maybe_started,
        }
    }

    /// Runs until the record's state is `Done`, `Failed` or `Stuck`.
    pub(crate) async fn drive(&mut self) -> Result<(), Halt> {
        let is_past_pivot = self.definition.plan().is_past_pivot(self.record.cursor);
        if let (State::Running, Some(revision), true) =
            (self.record.state, self.revision, is_past_pivot)
        {
            self.entry.commit(revision);
        }
        loop {
            match self.record.state {
                State::Running => self.forward().await?,
                State::Unwinding => self.backward().await?,
                State::Done | State::Failed | State::Stuck => return Ok(()),
            }
        }
    }

    /// Brings the step at the cursor to its end, or begins to unwind.
    async fn forward(&mut self) -> Result<(), Halt> {
        let step = self.record.cursor;
        let definition = self.definition.clone();
        let plan = definition.plan();
        let info = &plan.steps[step];
        let can_go_back = !plan.is_past_pivot(step);
        self.check_stop()?;
        self.show(info.name);
        if info.kind == StepKind::Call && (self.has_unwritten || self.revision.is_none()) {
            let record = self.record.clone();
            self.write_own(record).await?;
        }
        let budget = self
            .shared
            .options
            .budget
            .unwrap_or_else(|| definition.budget());
        let mut retries = Retries::new(&self.shared, can_go_back.then_some(budget));
        let mut maybe_happened = false;
        loop {
            if can_go_back && self.entry.is_abort_requested() {
                return self.abort(step + usize::from(maybe_happened)).await;
            }
            let error = match self.attempt(step, retries.attempt).await? {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            maybe_happened |= info.kind == StepKind::Call && matches!(error, StepError::Unknown(_));
            let is_final = matches!(error, StepError::Rejected(_)) || retries.is_over_budget();
            if can_go_back && is_final {
                debug!(step = info.name, error = %error.error(), "saga step failed");
                return self
                    .unwind(step + usize::from(maybe_happened), error.into_error())
                    .await;
            }
            let pause = self.pause(&mut retries, info.name, error.error());
            tokio::select! {
                paused = pause => paused?,
                () = self.entry.abort_requested(), if can_go_back => {}
            }
        }
    }

    /// Runs a step once and takes note of its success, in the metastore where that is due.
    async fn attempt(&mut self, step: usize, attempt: u32) -> Result<Result<(), StepError>, Halt> {
        let definition = self.definition.clone();
        let plan = definition.plan();
        let name = plan.steps[step].name;
        let is_call = plan.steps[step].kind == StepKind::Call;
        let began = std::time::Instant::now();
        let times = match self.fault(&FaultPoint::BeforeStep {
            step: name,
            attempt,
        })? {
            Fault::Fail(error) => return Ok(Err(error)),
            Fault::Twice if is_call => 2,
            Fault::None | Fault::Twice | Fault::Crash => 1,
        };
        hold_here(&["saga", definition.kind(), name]).await;
        let mut effect = Ok(RawEffect::default());
        for _ in 0..times {
            effect = self.run_step(step, attempt).await;
        }
        if is_call {
            let point = FaultPoint::AfterStep {
                step: name,
                attempt,
            };
            if let Fault::Fail(error) = self.fault(&point)? {
                return Ok(Err(error));
            }
        }
        let effect = match effect {
            Ok(effect) => effect,
            Err(error) => return Ok(Err(error)),
        };
        let has_output = effect.output.is_some();
        let event = if step + 1 == plan.steps.len() {
            let now_ms = self.shared.now_ms();
            Event::LastStepDone {
                step: name,
                output: effect.output,
                now_ms,
            }
        } else {
            Event::StepDone {
                step: name,
                output: effect.output,
            }
        };
        let mut next = self.record.after(event)?;
        if is_call && !has_output && next.state == State::Done && plan.is_past_pivot(step) {
            next.answered = self.revision;
            self.answer_early(&next);
        }
        if plan.writes_at_end(step) {
            if let Err(refused) = self.write(next, &effect.txn).await? {
                let error = match refused {
                    Refused::Compare(refusal) => {
                        definition.refused(step, self.cx(attempt), &refusal)
                    }
                    Refused::Invalid(error) => error,
                };
                return Ok(Err(StepError::Rejected(error)));
            }
            if plan.is_past_pivot(step + 1) && !plan.is_past_pivot(step) && !self.is_over() {
                self.entry.commit(self.revision.unwrap_or_default());
            }
        } else {
            self.record = next;
            self.has_unwritten |= has_output;
        }
        metrics::step(definition.kind(), name, began.elapsed());
        if !is_call {
            self.fault(&FaultPoint::AfterStep {
                step: name,
                attempt,
            })?;
        }
        Ok(Ok(()))
    }

    /// Tells the callers that all is done. An answer that cannot be made is told with the end.
    fn answer_early(&self, done: &Record) {
        let Some(revision) = self.revision else {
            return;
        };
        let answer = answer_of(&*self.definition, &self.params, done, revision);
        if let Ok((output, revision)) = answer {
            self.entry.answer(output, revision);
        }
    }

    /// Calls the author's function; a panic, a timeout or an operator who does not want it any more leaves
    /// its outcome unknown.
    async fn run_step(&self, step: usize, attempt: u32) -> Result<RawEffect, StepError> {
        let info = &self.definition.plan().steps[step];
        let limit = info.timeout.unwrap_or(self.shared.options.step_timeout);
        let run = async { self.definition.run(step, self.cx(attempt)).await };
        let span = debug_span!("saga_step", step = info.name, attempt);
        let can_go_back = !self.definition.plan().is_past_pivot(step);
        tokio::select! {
            effect = guarded(run, limit, info.name).instrument(span) => effect,
            () = self.entry.abort_requested(), if can_go_back => Err(StepError::Unknown(aborted())),
        }
    }

    pub(crate) async fn write_own(&mut self, next: Record) -> Result<(), Halt> {
        match self.write(next, &Txn::new()).await? {
            Ok(()) => Ok(()),
            Err(refused) => Err(Halt::Broken(format!(
                "a record alone was refused: {refused:?}"
            ))),
        }
    }

    /// Writes a record with a step's change, again and again until its fate is known.
    pub(crate) async fn write(
        &mut self,
        mut next: Record,
        effect: &Txn,
    ) -> Result<Result<(), Refused>, Halt> {
        next.owner_epoch = self.shared.store.epoch();
        let (state, cursor) = (next.state, next.cursor);
        self.fault(&FaultPoint::BeforeWrite { state, cursor })?;
        let garbage = if self.revision.is_none() {
            self.shared.take_garbage()
        } else {
            Vec::new()
        };
        let mut retries = Retries::new(&self.shared, None);
        let revision = loop {
            let result = self
                .shared
                .store
                .write(&next, self.revision, effect, &garbage)
                .await;
            let error = match result {
                Ok(Written::Applied(revision)) => break revision,
                Ok(Written::Fenced) => return Err(Halt::Fenced),
                Ok(Written::Refused(refusal)) => {
                    self.shared.return_garbage(garbage);
                    return Ok(Err(Refused::Compare(refusal)));
                }
                Err(
                    error @ (redkite_metastore::Error::Invalid { .. }
                    | redkite_metastore::Error::LeaseNotFound { .. }),
                ) => {
                    self.shared.return_garbage(garbage);
                    return Ok(Err(Refused::Invalid(UserError::from_coded(&error))));
                }
                Err(error) => error,
            };
            self.check_recorded(error, retries.attempt, &garbage)?;
            let error = UserError::new(ErrorCode::ServiceUnavailable, "metastore is unavailable");
            self.pause(&mut retries, "write the record", &error).await?;
        };
        metrics::written();
        self.record = next;
        self.revision = Some(revision);
        self.has_unwritten = false;
        self.show_written();
        self.fault(&FaultPoint::AfterWrite { state, cursor })?;
        Ok(Ok(()))
    }

    /// A failed write ends the saga if it would have been the first, and certainly was not applied.
    fn check_recorded(
        &self,
        error: redkite_metastore::Error,
        earlier_attempts: u32,
        garbage: &[SagaId],
    ) -> Result<(), Halt> {
        let is_certain = error.outcome() == Outcome::NotApplied && earlier_attempts == 0;
        if self.revision.is_none() && is_certain {
            self.shared.return_garbage(garbage.to_vec());
            return Err(Halt::NotRecorded(Error::store(error)));
        }
        warn!(saga_id = %self.record.id, %error, "saga record was not written, trying again");
        Ok(())
    }

    pub(crate) fn cx(&self, attempt: u32) -> RawCx {
        RawCx {
            params: self.params.clone(),
            outputs: Arc::new(self.record.outputs.clone()),
            saga_id: self.record.id,
            request_id: self.entry.request_id.clone(),
            revision: self.revision.unwrap_or_default(),
            attempt,
        }
    }

    fn is_over(&self) -> bool {
        self.record.state.is_finished()
    }

    pub(crate) fn show(&self, step: &'static str) {
        let mut view = self.entry.view.lock();
        view.state = self.record.state;
        view.cursor = self.record.cursor;
        view.step = Some(step);
        view.retries = 0;
    }

    fn show_written(&self) {
        let mut view = self.entry.view.lock();
        view.state = self.record.state;
        view.cursor = self.record.cursor;
        drop(view);
        if self.record.state == State::Unwinding {
            self.entry.turned_back();
        }
    }

    fn show_retry(&self, retries: u32, error: &UserError) {
        let mut view = self.entry.view.lock();
        view.retries = retries;
        view.last_error = Some(error.to_string());
    }

    pub(crate) fn check_stop(&self) -> Result<(), Halt> {
        if self.shared.has_crashed() {
            Err(Halt::Crashed)
        } else if self.shared.token.is_cancelled() {
            Err(Halt::Stopped)
        } else {
            Ok(())
        }
    }

    pub(crate) fn fault(&self, point: &FaultPoint) -> Result<Fault, Halt> {
        if self.shared.has_crashed() {
            return Err(Halt::Crashed);
        }
        match self.shared.fault(self.record.id, point) {
            Fault::Crash => {
                self.shared.crash();
                Err(Halt::Crashed)
            }
            fault @ (Fault::None | Fault::Fail(_) | Fault::Twice) => Ok(fault),
        }
    }

    /// Waits before the next attempt, not longer than until the executor stops.
    pub(crate) async fn pause(
        &self,
        retries: &mut Retries,
        what: &'static str,
        error: &UserError,
    ) -> Result<(), Halt> {
        metrics::retried(self.definition.kind(), what);
        self.show_retry(retries.attempt + 1, error);
        if let Some(waited) = retries.warning_due() {
            let (saga_id, kind) = (self.record.id, self.definition.kind());
            let waited_s = waited.as_secs();
            warn!(%saga_id, kind, what, waited_s, %error, "saga makes no progress");
        }
        let delay = retries.next_delay();
        tokio::select! {
            () = self.shared.token.cancelled() => {}
            () = tokio::time::sleep(delay) => {}
        }
        self.check_stop()
    }
}

/// What the callers of a saga are told that an operator had taken back.
pub(crate) fn aborted() -> UserError {
    UserError::new(ErrorCode::Canceled, "saga was aborted by an operator")
}
