//! For how long restores are remembered.

use redkite_proto::redkite::meta::{RestoreJobInfo, restore_job_info::State};

use super::*;

/// Longer than a job is remembered after its end.
const LONG: Duration = Duration::from_millis(REMEMBER_JOBS_MS + 1);

impl World {
    async fn job(&self, job_id: i64, state: State, finished_ms: u64) {
        let job = RestoreJobInfo {
            job_id,
            state: state.into(),
            started_ms: START - 1,
            finished_ms,
            ..RestoreJobInfo::default()
        };
        self.put(keys::restore_job(job_id), job).await;
    }

    async fn jobs(&self) -> Vec<i64> {
        self.snapshots.tidy().await.unwrap();
        let view = self.snapshots.fresh_view().await.unwrap();
        let mut jobs: Vec<i64> = view.restore_jobs().map(|job| job.job_id).collect();
        jobs.sort_unstable();
        jobs
    }
}

#[tokio::test]
async fn jobs_are_remembered_for_a_while_after_their_end_and_always_before_it() {
    let world = World::new().await;
    world.job(1, State::Completed, START).await;
    world.job(2, State::Failed, START).await;
    world.job(3, State::Executing, 0).await;
    world.job(4, State::Completed, START + 1_000).await;
    assert_eq!(world.jobs().await, [1, 2, 3, 4]);
    world.clock.advance(LONG - Duration::from_millis(1));
    assert_eq!(world.jobs().await, [1, 2, 3, 4]);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.jobs().await, [3, 4]);
    world.clock.advance(LONG);
    // One that has not ended is never forgotten.
    assert_eq!(world.jobs().await, [3]);
    world.end();
}
