//! Merging delete files.

use super::*;

const FILES: std::ops::Range<i64> = 50..54;

/// A world in which only delete files are merged.
async fn world_with_delete_files() -> World {
    let mut world = World::new().await;
    world.options.min_small_segments = 100;
    world.options.delete_share = 1.0;
    world.options.min_delete_files = 3;
    let mut records = Vec::new();
    for id in FILES {
        let delta = delta_file(id, 500 + id as u64);
        world.played.store_delta(&delta).await;
        records.push((keys::delta(C, id), delta.encode_to_vec()));
    }
    // Later than what may be merged.
    records.push((
        keys::delta(C, 60),
        delta_file(60, FLUSHED + 1).encode_to_vec(),
    ));
    let without_file = Txn::new().then(Op::delete(keys::delta(C, 30)));
    world.kv.txn(without_file).await.unwrap();
    world.put(records).await;
    world
}

impl World {
    /// Has rounds run until the delete files are one.
    async fn merge(&self, process: &Process) {
        eventually("delete files are merged", PATIENCE, || async {
            process.compactor.round().await;
            self.settle(process).await;
            (self.deltas().await.len() == 2).then_some(())
        })
        .await;
    }

    async fn check_merged(&self, context: &str) {
        let deltas: Vec<DeltaInfo> = self.records(&keys::deltas(C)).await;
        assert_eq!(deltas.len(), 2, "{context}");
        assert!(deltas.iter().any(|delta| delta.id == 60), "{context}");
        let made = deltas.iter().find(|delta| delta.id != 60).unwrap();
        assert_eq!(
            (made.rows, made.min_ts, made.max_ts),
            (240, 200, 553),
            "{context}"
        );
        let file = made.file.as_ref().unwrap();
        assert!(
            self.played.store.stat(&file.path).await.is_ok(),
            "{context}"
        );
        assert!(
            self.is_old_state().await,
            "{context}: segments have changed"
        );
        let plans = self.plans().await;
        let [plan] = &plans[..] else {
            panic!("{context}: {plans:?}")
        };
        assert_eq!(plan.state(), State::Completed, "{context}");
        assert_eq!(plan.targets, [made.id], "{context}");
        // Loads that have begun may read the old ones a little longer.
        let old: Vec<String> = FILES
            .map(|id| redkite_storage::layout::delta(CHANNEL, id))
            .collect();
        assert_eq!(plan.borrowed_files, old, "{context}");
        let requests = self.played.requests.lock();
        let targets: HashSet<i64> = requests.iter().map(|one| one.delta_target).collect();
        assert_eq!(
            targets.len(),
            requests.len(),
            "{context}: one place for two attempts"
        );
    }
}

#[tokio::test]
async fn delete_files_are_merged_whatever_fails_or_crashes_at_any_step() {
    for fault in [
        Fault::FailBefore,
        Fault::FailAfter,
        Fault::CrashBefore,
        Fault::CrashAfter,
    ] {
        for step in 0.. {
            let context = format!("{fault:?} at step {step}");
            let world = world_with_delete_files().await;
            let mut process = world.start().await;
            *world.steps.fault.lock() = Some((step, fault));
            let crashed = tokio::select! {
                () = world.merge(&process) => false,
                () = world.steps.crashed.notified() => true,
            };
            if crashed {
                process.tasks.abort();
                // The old files or the new one, and nothing in between.
                let left = world.deltas().await.len();
                assert!(left == 2 || left == 5, "{context}: {left} are left");
                process = world.start().await;
                world.merge(&process).await;
            }
            world.settle(&process).await;
            world.check_merged(&context).await;
            process.tasks.abort();
            if world.steps.fault.lock().is_some() {
                assert!(step >= 6, "only {step} steps were tried");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_merge_is_told_which_deletes_are_needed_and_gives_way_to_who_lets_a_file_go() {
    let world = world_with_delete_files().await;
    let process = world.start().await;
    let closed = world.played.gate.write().await;
    process.compactor.round().await;
    eventually("the data node is asked", PATIENCE, || async {
        (!world.played.requests.lock().is_empty()).then_some(())
    })
    .await;
    let request = world.played.requests.lock()[0].clone();
    // No segment has rows before this.
    assert_eq!(request.deletes_needed_after, 100);
    assert_eq!(request.channel, CHANNEL);
    let ids: Vec<i64> = request.deltas.iter().map(|delta| delta.id).collect();
    assert_eq!(ids, FILES.collect::<Vec<_>>());
    let gone = Txn::new().then(Op::delete(keys::delta(C, 51)));
    world.kv.txn(gone).await.unwrap();
    drop(closed);
    world.settle(&process).await;
    let mut left = world.deltas().await;
    left.sort_unstable();
    assert_eq!(left, [50, 52, 53, 60]);
    let plan = &world.plans().await[0];
    assert_eq!(plan.state(), State::Failed);
    assert!(
        plan.fail_reason.contains("delete file 51 is gone"),
        "{plan:?}"
    );
}

#[tokio::test]
async fn a_segment_is_not_written_again_for_delete_files_that_become_one() {
    let mut world = world_with_delete_files().await;
    world.options.max_delete_files = 2;
    let process = world.start().await;
    world.merge(&process).await;
    assert!(world.is_old_state().await);
    // Without merging it is.
    let mut world = world_with_delete_files().await;
    world.options.max_delete_files = 2;
    world.options.min_delete_files = 100;
    let process = world.start().await;
    process.compactor.round().await;
    world.settle(&process).await;
    assert!(!world.is_old_state().await);
}
