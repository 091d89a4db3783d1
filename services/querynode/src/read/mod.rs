//! Search and query on the last published snapshot of a channel.
//!
//! A read takes one snapshot and looks at nothing later than it, whatever arrives meanwhile; each
//! segment is searched by a job in the CPU pool. Dropping a read raises a flag that stops its jobs.
//!
//! - `search`, `query`: the two kinds of reads
//! - `group`: a search for the nearest groups
//! - `fetch`: output columns for the rows that won

mod fetch;
mod group;
mod query;
mod search;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redkite_expr::Plan;
use redkite_runtime::Deadline;
use redkite_segment::{ReadView, Segment, StopFlag};
use redkite_types::{Error, Result, Timestamp};

pub(crate) use self::{
    query::query,
    search::{LastParams, search},
};
use crate::{
    channel::{Channel, ShardSnapshot, check_version},
    deps::QueryNodeDeps,
};

/// Segments are put together into one job up to this much work, in compared values.
const JOB_WORK: usize = 2 << 20;

/// A read with everything that it looks at.
struct Read {
    snapshot: Arc<ShardSnapshot>,
    segments: Vec<Segment>,
    view: ReadView,
    filter: Arc<Plan>,
}

/// What searches and queries have in common.
struct ReadRequest<'a> {
    partitions: &'a [i64],
    filter: &'a [u8],
    mvcc: Timestamp,
    guarantee: Timestamp,
    expired_before: Timestamp,
    ignore_growing: bool,
    schema_version: i32,
}

impl Read {
    /// Waits until everything that must be seen can be, and takes a snapshot.
    async fn begin(
        deps: &QueryNodeDeps,
        channel: &Channel,
        request: ReadRequest<'_>,
        deadline: Deadline,
    ) -> Result<Self> {
        let filter = match request.filter {
            [] => Plan::all(),
            bytes => Plan::decode(bytes)?,
        };
        // What is not loaded, or not known yet, is said at once, not after a wait.
        check_version(request.schema_version, &channel.snapshot().schema)?;
        channel.snapshot().check_loaded(request.partitions)?;
        reached(deps, request.guarantee, deadline).await?;
        channel.times().wait(request.guarantee, deadline).await?;
        let snapshot = channel.snapshot();
        let segments = snapshot.select(request.partitions, request.ignore_growing)?;
        // Later than asked for is better than rows that are neither there before nor after.
        let at = match request.mvcc {
            Timestamp::ZERO => snapshot.applied,
            mvcc => mvcc.max(snapshot.whole_from).min(snapshot.applied),
        };
        let filter = Arc::new(filter);
        Ok(Self {
            snapshot,
            segments,
            view: ReadView {
                at,
                expired_before: request.expired_before,
            },
            filter,
        })
    }
}

/// Waits until a timestamp is not in the future any more: only then do later writes get later ones.
async fn reached(deps: &QueryNodeDeps, guarantee: Timestamp, deadline: Deadline) -> Result<()> {
    loop {
        let ahead = guarantee.physical_ms().saturating_sub(now_ms());
        if ahead == 0 || deps.coordinators.timestamps(1).await? >= guarantee {
            return Ok(());
        }
        let pause = Duration::from_millis(ahead.min(1_000));
        deadline
            .timeout("the guaranteed timestamp", tokio::time::sleep(pause))
            .await?;
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.as_millis() as u64
}

fn deadline(deps: &QueryNodeDeps, timeout_ms: u32) -> Deadline {
    match timeout_ms {
        0 => Deadline::after(deps.options.read_timeout.get()),
        ms => Deadline::after(Duration::from_millis(ms.into())),
    }
}

/// Raises the flag when the read is over, or nobody waits for it any more.
pub(crate) struct StopOnDrop(pub(crate) StopFlag);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Puts segments together so that each job is worth its start; `work` is in compared values.
fn jobs(segments: &[Segment], work: impl Fn(&Segment) -> usize) -> Vec<Vec<Segment>> {
    let mut jobs: Vec<Vec<Segment>> = Vec::new();
    let mut last_work = usize::MAX;
    for segment in segments {
        let work = work(segment);
        match jobs.last_mut() {
            Some(job) if last_work.saturating_add(work) <= JOB_WORK => {
                last_work += work;
                job.push(segment.clone());
            }
            Some(_) | None => {
                last_work = work;
                jobs.push(vec![segment.clone()]);
            }
        }
    }
    jobs
}

fn coded(error: redkite_segment::Error) -> Error {
    Error::from_coded(&error)
}
