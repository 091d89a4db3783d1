//! A saga's record: all that the metastore knows about it, and its only transition function.

use std::collections::BTreeMap;
use std::fmt;

use redkite_types::{ErrorCode, Revision, SagaId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lock::LockKey;
use crate::spec::StepKey;

/// The keys of all records start with this; the saga's id follows.
pub const RECORD_PREFIX: &str = "root-coord/saga/";

/// Where a saga stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Goes forward.
    Running,
    /// Failed before its pivot; takes back what it did.
    Unwinding,
    /// All steps are done.
    Done,
    /// All that was done is undone.
    Failed,
    /// An undo was rejected; waits for a human with its locks held.
    Stuck,
}

impl State {
    /// Whether nothing will happen to the saga any more.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }

    /// Its name, as in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Unwinding => "unwinding",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stuck => "stuck",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the steps have handed on, by the name of the step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Outputs(BTreeMap<String, Value>);

impl Outputs {
    /// A step's output.
    ///
    /// # Errors
    /// Internal: the step has not run yet, or its output has another type; its author's bug.
    pub fn get<T: DeserializeOwned>(&self, key: StepKey<T>) -> redkite_types::Result<T> {
        self.find(key)?.ok_or_else(|| {
            redkite_types::Error::internal(format!("step {} has no output yet", key.name()))
        })
    }

    /// A step's output, or `None` when it did not come to that. Undos need this one: a step whose
    /// outcome is unknown is undone too.
    ///
    /// # Errors
    /// Internal: the output has another type; the author's bug.
    pub fn find<T: DeserializeOwned>(&self, key: StepKey<T>) -> redkite_types::Result<Option<T>> {
        let Some(value) = self.0.get(key.name()) else {
            return Ok(None);
        };
        T::deserialize(value).map(Some).map_err(|error| {
            let name = key.name();
            redkite_types::Error::internal(format!("output of step {name} is unreadable: {error}"))
        })
    }

    pub(crate) fn insert(&mut self, step: &str, output: Value) {
        self.0.insert(step.to_owned(), output);
    }
}

/// The error that a saga failed with, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedError {
    /// Milvus's code.
    pub code: i32,
    /// What happened.
    pub message: String,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retriable: bool,
    /// Whether the caller's input is to blame.
    #[serde(default)]
    pub is_input_error: bool,
}

impl From<&redkite_types::Error> for RecordedError {
    fn from(error: &redkite_types::Error) -> Self {
        Self {
            code: error.code.number(),
            message: error.message.clone(),
            retriable: error.retriable,
            is_input_error: error.is_input_error,
        }
    }
}

impl From<&RecordedError> for redkite_types::Error {
    fn from(error: &RecordedError) -> Self {
        Self {
            code: ErrorCode::from_number(error.code).unwrap_or(ErrorCode::Unexpected),
            message: error.message.clone(),
            retriable: error.retriable,
            is_input_error: error.is_input_error,
        }
    }
}

/// A saga's record, JSON in the metastore under [`RECORD_PREFIX`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The saga, part of every idempotency key; never used again.
    pub id: SagaId,
    /// What it does.
    pub kind: String,
    /// Which list of steps.
    pub version: u32,
    /// The request it answers.
    pub request_id: String,
    /// What was asked for.
    pub params: Value,
    /// The locks it holds, kept so that recovery can take them without the definition.
    pub locks: Vec<LockKey>,
    /// What its steps handed on; absent for steps without output.
    #[serde(default)]
    pub outputs: Outputs,
    /// Running: the next step to run. Unwinding and stuck: how many steps are left to undo.
    pub cursor: usize,
    /// Where it stands.
    pub state: State,
    /// The epoch of the executor that wrote this.
    pub owner_epoch: u64,
    /// Done: the revision that the callers were told, where that is not the one of the last write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Revision>,
    /// Why it unwinds or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RecordedError>,
    /// Why its undo is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
    /// When it was recorded, Unix milliseconds.
    pub created_ms: u64,
    /// When it was finished, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<u64>,
}

/// What can happen to a saga.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// The step at the cursor is done, more follow.
    StepDone {
        step: &'static str,
        output: Option<Value>,
    },
    /// The last step is done.
    LastStepDone {
        step: &'static str,
        output: Option<Value>,
        now_ms: u64,
    },
    /// A step failed; the first `from` steps are to be undone.
    Unwind { from: usize, error: RecordedError },
    /// All steps from `to` on are undone.
    Undone { to: usize },
    /// Nothing is left to undo.
    Unwound { now_ms: u64 },
    /// The undo at the cursor was rejected.
    Stick { reason: String },
    /// A human asks to try the undo again.
    Retry,
    /// A human has undone the rest.
    Abandon { now_ms: u64 },
}

impl Record {
    /// The key of a saga's record.
    pub fn key(id: SagaId) -> String {
        format!("{RECORD_PREFIX}{id}")
    }

    /// The record after an event; the one place that knows which transitions are legal.
    pub(crate) fn after(&self, event: Event) -> Result<Self, IllegalTransition> {
        let illegal = |event: &Event| IllegalTransition {
            state: self.state,
            cursor: self.cursor,
            event: format!("{event:?}"),
        };
        let mut next = self.clone();
        match (self.state, event) {
            (State::Running, Event::StepDone { step, output }) => {
                next.cursor += 1;
                if let Some(output) = output {
                    next.outputs.insert(step, output);
                }
            }
            (
                State::Running,
                Event::LastStepDone {
                    step,
                    output,
                    now_ms,
                },
            ) => {
                next.cursor += 1;
                if let Some(output) = output {
                    next.outputs.insert(step, output);
                }
                next.state = State::Done;
                next.finished_ms = Some(now_ms);
            }
            (State::Running, Event::Unwind { from, error }) => {
                next.state = State::Unwinding;
                next.cursor = from;
                next.error = Some(error);
            }
            (State::Unwinding, Event::Undone { to }) if to < self.cursor => next.cursor = to,
            (State::Unwinding, Event::Unwound { now_ms }) if self.cursor == 0 => {
                next.state = State::Failed;
                next.finished_ms = Some(now_ms);
            }
            (State::Unwinding, Event::Stick { reason }) => {
                next.state = State::Stuck;
                next.stuck = Some(reason);
            }
            (State::Stuck, Event::Retry) => {
                next.state = State::Unwinding;
                next.stuck = None;
            }
            (State::Stuck, Event::Abandon { now_ms }) => {
                next.state = State::Failed;
                next.cursor = 0;
                next.finished_ms = Some(now_ms);
            }
            (_, event) => return Err(illegal(&event)),
        }
        Ok(next)
    }
}

/// A transition that must not happen: a bug of ours, or a damaged record.
#[derive(Debug, thiserror::Error)]
#[error("saga record is {state} at {cursor}, which does not allow {event}")]
pub(crate) struct IllegalTransition {
    state: State,
    cursor: usize,
    event: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: State, cursor: usize) -> Record {
        Record {
            id: SagaId(7),
            kind: "toy".to_owned(),
            version: 1,
            request_id: "r".to_owned(),
            params: Value::Null,
            locks: vec![LockKey::write("a")],
            outputs: Outputs::default(),
            cursor,
            state,
            owner_epoch: 3,
            answered: None,
            error: None,
            stuck: None,
            created_ms: 1,
            finished_ms: None,
        }
    }

    fn events() -> Vec<Event> {
        let error = RecordedError::from(&redkite_types::Error::internal("x"));
        vec![
            Event::StepDone {
                step: "a",
                output: None,
            },
            Event::LastStepDone {
                step: "a",
                output: None,
                now_ms: 9,
            },
            Event::Unwind { from: 1, error },
            Event::Undone { to: 0 },
            Event::Unwound { now_ms: 9 },
            Event::Stick {
                reason: "x".to_owned(),
            },
            Event::Retry,
            Event::Abandon { now_ms: 9 },
        ]
    }

    /// Which event leads where, for every state: `-` is illegal.
    #[test]
    fn the_transition_table_is_exactly_this() {
        let table = [
            (State::Running, 1, "running done unwinding - - - - -"),
            (State::Unwinding, 1, "- - - unwinding - stuck - -"),
            (State::Unwinding, 0, "- - - - failed stuck - -"),
            (State::Done, 1, "- - - - - - - -"),
            (State::Failed, 0, "- - - - - - - -"),
            (State::Stuck, 1, "- - - - - - unwinding failed"),
        ];
        for (state, cursor, expected) in table {
            let found: Vec<&str> = events()
                .into_iter()
                .map(|event| match record(state, cursor).after(event) {
                    Ok(next) => next.state.as_str(),
                    Err(_) => "-",
                })
                .collect();
            assert_eq!(found.join(" "), expected, "from {state} at {cursor}");
        }
    }

    #[test]
    fn the_persisted_form_is_pinned() {
        let mut record = record(State::Running, 2);
        record.outputs.insert("allocate", Value::from(5));
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(
            json,
            r#"{"id":7,"kind":"toy","version":1,"request_id":"r","params":null,"#.to_owned()
                + r#""locks":[{"name":"a","mode":"write"}],"outputs":{"allocate":5},"cursor":2,"#
                + r#""state":"running","owner_epoch":3,"created_ms":1}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }

    #[test]
    fn an_error_comes_back_as_it_was() {
        let error = redkite_types::Error::invalid_parameter("bad name");
        assert_eq!(
            redkite_types::Error::from(&RecordedError::from(&error)),
            error
        );
    }
}
