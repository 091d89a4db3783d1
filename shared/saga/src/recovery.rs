//! What a new executor does with the records it finds: a pure plan, then its execution.

use redkite_types::SagaId;

use crate::record::{Record, State};

/// One thing to do with one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take its locks, before anything runs.
    Lock(SagaId),
    /// Keep it, with its locks, for a human.
    Park {
        /// Which saga.
        id: SagaId,
        /// Why nothing else can be done.
        reason: ParkReason,
    },
    /// Go on with it, forward or back.
    Resume(SagaId),
    /// Keep its answer for a repeated request.
    Remember(SagaId),
}

/// Why a saga cannot go on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkReason {
    /// An undo was rejected.
    Stuck,
    /// Its kind or version is not registered, or its parameters or cursor do not fit it.
    Unreadable,
}

/// Decides what to do with all records. All locks come first, in the order of the sagas' ids, so
/// that nothing runs against a saga that is still to be resumed.
///
/// `is_readable` says whether a registered definition fits the record.
pub fn plan(records: &[Record], is_readable: impl Fn(&Record) -> bool) -> Vec<Action> {
    let mut records: Vec<&Record> = records.iter().collect();
    records.sort_by_key(|record| record.id);
    let is_open = |record: &&&Record| !record.state.is_finished();
    let mut actions: Vec<Action> = records
        .iter()
        .filter(is_open)
        .map(|record| Action::Lock(record.id))
        .collect();
    actions.extend(records.iter().filter(is_open).map(|record| {
        let id = record.id;
        if !is_readable(record) {
            Action::Park {
                id,
                reason: ParkReason::Unreadable,
            }
        } else if record.state == State::Stuck {
            Action::Park {
                id,
                reason: ParkReason::Stuck,
            }
        } else {
            Action::Resume(id)
        }
    }));
    let mut finished: Vec<&&Record> = records
        .iter()
        .filter(|record| record.state.is_finished())
        .collect();
    finished.sort_by_key(|record| (record.finished_ms, record.id));
    actions.extend(finished.iter().map(|record| Action::Remember(record.id)));
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Outputs;

    fn record(id: i64, kind: &str, state: State, finished_ms: Option<u64>) -> Record {
        Record {
            id: SagaId(id),
            kind: kind.to_owned(),
            version: 1,
            request_id: String::new(),
            params: serde_json::Value::Null,
            locks: Vec::new(),
            outputs: Outputs::default(),
            cursor: 0,
            state,
            owner_epoch: 1,
            answered: None,
            error: None,
            stuck: None,
            created_ms: 0,
            finished_ms,
        }
    }

    #[test]
    fn the_plan_follows_the_table() {
        use Action::{Lock, Park, Remember, Resume};
        use ParkReason::{Stuck, Unreadable};
        let id = SagaId;
        let cases = [
            (vec![], vec![]),
            (
                vec![record(1, "a", State::Running, None)],
                vec![Lock(id(1)), Resume(id(1))],
            ),
            (
                vec![record(1, "a", State::Unwinding, None)],
                vec![Lock(id(1)), Resume(id(1))],
            ),
            (
                vec![record(1, "a", State::Stuck, None)],
                vec![
                    Lock(id(1)),
                    Park {
                        id: id(1),
                        reason: Stuck,
                    },
                ],
            ),
            (
                vec![record(1, "gone", State::Running, None)],
                vec![
                    Lock(id(1)),
                    Park {
                        id: id(1),
                        reason: Unreadable,
                    },
                ],
            ),
            (
                vec![record(1, "a", State::Done, Some(5))],
                vec![Remember(id(1))],
            ),
            (
                vec![record(1, "gone", State::Failed, Some(5))],
                vec![Remember(id(1))],
            ),
            (
                vec![
                    record(9, "a", State::Running, None),
                    record(4, "a", State::Done, Some(7)),
                    record(5, "a", State::Failed, Some(6)),
                    record(10, "a", State::Stuck, None),
                ],
                vec![
                    Lock(id(9)),
                    Lock(id(10)),
                    Resume(id(9)),
                    Park {
                        id: id(10),
                        reason: Stuck,
                    },
                    Remember(id(5)),
                    Remember(id(4)),
                ],
            ),
        ];
        for (records, expected) in cases {
            assert_eq!(
                plan(&records, |record| record.kind == "a"),
                expected,
                "{records:?}"
            );
        }
    }
}
