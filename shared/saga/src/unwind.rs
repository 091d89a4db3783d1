//! The way back: undo by undo, to the beginning.

use redkite_metastore::Txn;
use redkite_types::Error as UserError;
use tracing::{Instrument as _, debug_span, warn};

use crate::driver::{Driver, Halt, Refused, aborted};
use crate::error::Error;
use crate::fault::{Fault, FaultPoint};
use crate::record::{Event, Record, State};
use crate::retry::{Retries, guarded};
use crate::spec::{StepError, UndoKind};

impl Driver {
    /// Turns round: the first `from` steps are to be undone, and all that an earlier executor may
    /// have started.
    pub(crate) async fn unwind(&mut self, from: usize, error: UserError) -> Result<(), Halt> {
        if self.revision.is_none() {
            return Err(Halt::NotRecorded(Error::Failed(error)));
        }
        let from = from.max(self.maybe_started);
        let next = self.record.after(Event::Unwind {
            from,
            error: (&error).into(),
        })?;
        let next = self.settled(next)?;
        if next.state == State::Unwinding && self.undo_kind(&next) == Some(UndoKind::Meta) {
            // The undo's own transaction records the turn.
            self.record = next;
            return Ok(());
        }
        self.write_own(next).await
    }

    /// Turns round because an operator wants it. That is on record at once, also where nothing is to be
    /// undone: whoever leads next takes the saga back too, and who asked for it gets the same answer.
    pub(crate) async fn abort(&mut self, from: usize) -> Result<(), Halt> {
        let from = from.max(self.maybe_started);
        let next = self.record.after(Event::Unwind {
            from,
            error: (&aborted()).into(),
        })?;
        let next = self.settled(next)?;
        self.write_own(next).await
    }

    /// Brings the undo of the step before the cursor to its end.
    pub(crate) async fn backward(&mut self) -> Result<(), Halt> {
        self.check_stop()?;
        let record = self.settled(self.record.clone())?;
        if record.state != State::Unwinding {
            return self.write_own(record).await;
        }
        self.record = record;
        let step = self.record.cursor - 1;
        let definition = self.definition.clone();
        let name = definition.plan().steps[step].name;
        self.show(name);
        let mut retries = Retries::new(&self.shared, None);
        loop {
            match self.attempt_undo(step, retries.attempt).await? {
                Ok(()) => return Ok(()),
                Err(StepError::Rejected(error)) => {
                    let reason = format!("undo of step {name}: {error}");
                    warn!(saga_id = %self.record.id, step = name, %error, "saga is stuck");
                    let stuck = self.record.after(Event::Stick { reason })?;
                    return self.write_own(stuck).await;
                }
                Err(StepError::Unknown(error)) => {
                    self.pause(&mut retries, name, &error).await?;
                }
            }
        }
    }

    async fn attempt_undo(
        &mut self,
        step: usize,
        attempt: u32,
    ) -> Result<Result<(), StepError>, Halt> {
        let definition = self.definition.clone();
        let info = &definition.plan().steps[step];
        let name = info.name;
        let is_call = info.undo == Some(UndoKind::Call);
        let times = match self.fault(&FaultPoint::BeforeUndo {
            step: name,
            attempt,
        })? {
            Fault::Fail(error) => return Ok(Err(error)),
            Fault::Twice if is_call => 2,
            Fault::None | Fault::Twice | Fault::Crash => 1,
        };
        let mut undone = Ok(Txn::new());
        for _ in 0..times {
            undone = self.run_undo(step, attempt).await;
        }
        if is_call {
            let point = FaultPoint::AfterUndo {
                step: name,
                attempt,
            };
            if let Fault::Fail(error) = self.fault(&point)? {
                return Ok(Err(error));
            }
        }
        let txn = match undone {
            Ok(txn) => txn,
            Err(error) => return Ok(Err(error)),
        };
        let next = self.settled(self.record.after(Event::Undone { to: step })?)?;
        if let Err(refused) = self.write(next, &txn).await? {
            let error = match refused {
                Refused::Compare(refusal) => refusal.default_error(name),
                Refused::Invalid(error) => error,
            };
            return Ok(Err(StepError::Rejected(error)));
        }
        if !is_call {
            self.fault(&FaultPoint::AfterUndo {
                step: name,
                attempt,
            })?;
        }
        Ok(Ok(()))
    }

    async fn run_undo(&self, step: usize, attempt: u32) -> Result<Txn, StepError> {
        let info = &self.definition.plan().steps[step];
        let limit = info.timeout.unwrap_or(self.shared.options.step_timeout);
        let undo = async {
            match self.definition.undo(step, self.cx(attempt)) {
                Some(undo) => undo.await,
                None => Ok(Txn::new()),
            }
        };
        let span = debug_span!("saga_undo", step = info.name, attempt);
        guarded(undo, limit, info.name).instrument(span).await
    }

    /// Passes over steps that have no undo; with none left the saga has failed.
    fn settled(&self, record: Record) -> Result<Record, Halt> {
        let to = self.definition.plan().next_undo(record.cursor);
        let record = if to < record.cursor {
            record.after(Event::Undone { to })?
        } else {
            record
        };
        if to > 0 {
            return Ok(record);
        }
        Ok(record.after(Event::Unwound {
            now_ms: self.shared.now_ms(),
        })?)
    }

    /// How the next step to undo is undone.
    fn undo_kind(&self, record: &Record) -> Option<UndoKind> {
        let step = record.cursor.checked_sub(1)?;
        self.definition.plan().steps[step].undo
    }
}
