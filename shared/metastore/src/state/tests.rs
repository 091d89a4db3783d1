//! The state against a model as plain as it can be.

use std::collections::BTreeMap;

use rand::RngExt as _;
use redkite_runtime::testing::test_rng;

use super::*;
use crate::kv::{WatchBatch, WatchEvent};

/// The state as plain as it can be written down.
#[derive(Default)]
struct Model {
    pairs: BTreeMap<String, KeyValue>,
    leases: Vec<u64>,
    granted: u64,
    revision: u64,
}

impl Model {
    fn apply(&mut self, command: &MetaCommand) {
        match command {
            MetaCommand::Txn(txn) => self.apply_txn(txn),
            MetaCommand::LeaseGrant { .. } => {
                self.granted += 1;
                self.leases.push(self.granted);
            }
            MetaCommand::LeaseEnd { leases } => {
                let before = self.pairs.len();
                self.pairs.retain(|_, pair| !leases.contains(&pair.lease));
                self.leases.retain(|lease| !leases.contains(lease));
                self.revision += u64::from(self.pairs.len() != before);
            }
            MetaCommand::Prune { .. } => {}
            MetaCommand::Batch(commands) => commands.iter().for_each(|one| self.apply(one)),
        }
    }

    fn apply_txn(&mut self, txn: &Txn) {
        let holds = txn.compares.iter().all(|compare| match compare {
            Compare::Absent { key } => !self.pairs.contains_key(key),
            Compare::Exists { key } => self.pairs.contains_key(key),
            Compare::Revision { key, revision } => self
                .pairs
                .get(key)
                .is_some_and(|pair| pair.revision == *revision),
            Compare::Value { key, value } => {
                self.pairs.get(key).is_some_and(|pair| pair.value == *value)
            }
        });
        let leases_live = txn.ops.iter().all(|op| match op {
            Op::Put { lease, .. } => *lease == 0 || self.leases.contains(lease),
            Op::Delete { .. } | Op::DeletePrefix { .. } => true,
        });
        if !holds || !leases_live {
            return;
        }
        let revision = Revision(self.revision + 1);
        let mut changed = false;
        for op in &txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    let (key, value, lease) = (key.clone(), value.clone(), *lease);
                    self.pairs.insert(
                        key.clone(),
                        KeyValue {
                            key,
                            value,
                            revision,
                            lease,
                        },
                    );
                    changed = true;
                }
                Op::Delete { key } => changed |= self.pairs.remove(key).is_some(),
                Op::DeletePrefix { prefix } => {
                    let before = self.pairs.len();
                    self.pairs.retain(|key, _| !key.starts_with(prefix));
                    changed |= self.pairs.len() != before;
                }
            }
        }
        self.revision += u64::from(changed);
    }
}

struct Chance<R>(R, u64);

impl<R: rand::Rng> Chance<R> {
    fn below(&mut self, limit: u64) -> u64 {
        self.0.random_range(0..limit)
    }

    fn key(&mut self) -> String {
        let (first, second) = (self.below(4), self.below(5));
        if second == 4 {
            format!("k{first}")
        } else {
            format!("k{first}/{second}")
        }
    }

    fn value(&mut self) -> Bytes {
        self.below(3).to_string().into()
    }

    fn lease(&mut self) -> u64 {
        if self.below(3) == 0 {
            1 + self.below(self.1 + 1)
        } else {
            0
        }
    }

    fn command(&mut self) -> MetaCommand {
        match self.below(20) {
            0 => {
                self.1 += 1;
                MetaCommand::LeaseGrant {
                    ttl: Duration::from_secs(1),
                }
            }
            1 => MetaCommand::LeaseEnd {
                leases: vec![1 + self.below(self.1 + 1)],
            },
            2 => {
                let count = self.below(4);
                MetaCommand::Batch((0..count).map(|_| MetaCommand::Txn(self.txn())).collect())
            }
            _ => MetaCommand::Txn(self.txn()),
        }
    }

    fn txn(&mut self) -> Txn {
        let mut txn = Txn::new();
        if self.below(3) == 0 {
            let key = self.key();
            txn = txn.when(match self.below(4) {
                0 => Compare::Absent { key },
                1 => Compare::Exists { key },
                2 => Compare::Revision {
                    key,
                    revision: Revision(self.below(50)),
                },
                _ => Compare::Value {
                    key,
                    value: self.value(),
                },
            });
        }
        for _ in 0..self.below(4) {
            let key = self.key();
            txn = txn.then(match self.below(6) {
                0 => Op::Delete { key },
                1 => Op::DeletePrefix { prefix: key },
                _ => Op::Put {
                    key,
                    value: self.value(),
                    lease: self.lease(),
                },
            });
        }
        txn
    }
}

fn replay(view: &mut BTreeMap<String, KeyValue>, batch: WatchBatch) {
    for event in batch.events {
        match event {
            WatchEvent::Put(pair) => {
                view.insert(pair.key.clone(), pair);
            }
            WatchEvent::Delete { key } => {
                assert!(
                    view.remove(&key).is_some(),
                    "{key} is deleted but was not there"
                );
            }
        }
    }
}

#[test]
fn it_behaves_as_its_model_and_its_history_tells_all() {
    let mut chance = Chance(test_rng(), 0);
    for _ in 0..100 {
        let (mut state, mut model) = (KvState::new(), Model::default());
        let mut view = BTreeMap::new();
        let mut revision = 0;
        chance.1 = 0;
        for _ in 0..100 {
            let command = chance.command();
            let frozen = state.clone();
            let frozen_form = frozen.encode();
            let (_, batches) = state.apply(&command);
            model.apply(&command);
            for batch in batches {
                revision += 1;
                assert_eq!(batch.revision, Revision(revision));
                replay(&mut view, batch.under(""));
            }
            assert_eq!(state.revision(), Revision(revision));
            assert_eq!(model.revision, revision, "{command:?}");
            let all = state.range("", None, usize::MAX);
            assert!(all.pairs.iter().eq(model.pairs.values()), "{command:?}");
            assert!(all.pairs.iter().eq(view.values()), "{command:?}");
            assert_eq!(frozen.encode(), frozen_form, "a clone never changes");
            let leased: usize = state.leases.values().map(|lease| lease.keys.len()).sum();
            assert_eq!(
                leased,
                all.pairs.iter().filter(|pair| pair.lease != 0).count()
            );
        }
        assert_eq!(KvState::decode(&state.encode()).unwrap(), state);
    }
}
