//! Indexes over growing rows: built in the background as rows come, one of each kind at a time.

use std::{ops::Range, sync::Arc, time::Duration};

use redkite_index::IndexType;
use redkite_node::MemoryUse;
use redkite_proto::redkite::meta::IndexInfo;
use redkite_runtime::Priority;
use redkite_segment::{Chunk, Joined, StopFlag, interim::InterimKind};
use redkite_types::{FieldId, MetricType, Result, SegmentId};
use tokio::{sync::oneshot, time::Instant};
use tracing::warn;

use super::{Channel, Control};
use crate::{metrics, read::StopOnDrop};

/// Between two looks at what there is: single rows come faster than a look is worth.
const PAUSE: Duration = Duration::from_millis(50);
/// The same after a build that was refused, as a rule because memory is short: that passes slowly.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// What is to be built.
struct Due {
    segment: SegmentId,
    field: FieldId,
    metric: MetricType,
    kind: InterimKind,
    chunk: Arc<Chunk>,
    rows: Range<usize>,
}

/// Builds what is missing of a kind whenever the channel's rows have changed, until the channel is
/// given up.
pub(super) async fn keep(channel: Arc<Channel>, kind: InterimKind) {
    let stop = channel.tasks.token();
    let mut changes = channel.growing_bytes.subscribe();
    loop {
        changes.borrow_and_update();
        let round = async {
            let mut pause = PAUSE;
            loop {
                let more = match next(&channel, kind) {
                    Some(due) => build(&channel, due).await.map(|()| true),
                    // The larger graphs are built when nothing else is due.
                    None if kind == InterimKind::Graph => join(&channel).await,
                    None => Ok(false),
                };
                match more {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        warn!(channel = %channel.name, %error, "growing rows keep the indexes that they have for now");
                        pause = PAUSE_AFTER_FAILURE;
                        break;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            changes.changed().await
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = round => if changed.is_err() {
                return;
            },
        }
    }
}

/// The next index to build, of the rows as they are now.
fn next(channel: &Channel, kind: InterimKind) -> Option<Due> {
    let snapshot = channel.published.load();
    for (field, index) in &*snapshot.indexes {
        let Some(metric) = metric_of(index) else {
            continue;
        };
        for growing in &snapshot.growing {
            if let Some((chunk, rows)) = growing.next_interim(*field, metric, kind) {
                return Some(Due {
                    segment: growing.meta().segment,
                    field: *field,
                    metric,
                    kind,
                    chunk: chunk.clone(),
                    rows,
                });
            }
        }
    }
    None
}

/// The metric of an index whose users expect approximate answers; FLAT's expect exact ones.
fn metric_of(index: &IndexInfo) -> Option<MetricType> {
    match IndexType::parse(&index.index_type) {
        Ok(IndexType::Flat) | Err(_) => None,
        Ok(_) => MetricType::parse(&index.metric_type).ok(),
    }
}

/// The next chunks to join, and the segment that they are of.
fn next_join(channel: &Channel) -> Option<(SegmentId, Vec<Arc<Chunk>>)> {
    let snapshot = channel.published.load();
    let indexes = snapshot.indexes.iter();
    let mut measured = indexes.filter_map(|(field, index)| Some((*field, metric_of(index)?)));
    measured.find_map(|(field, metric)| {
        let mut growing = snapshot.growing.iter();
        growing.find_map(|rows| Some((rows.meta().segment, rows.next_join(field, metric)?)))
    })
}

/// Joins some chunks of growing rows whose graphs are better replaced by one; answers whether.
async fn join(channel: &Channel) -> Result<bool> {
    let Some((segment, parts)) = next_join(channel) else {
        return Ok(false);
    };
    let deps = &channel.shared.deps;
    let rows = parts.iter().map(|part| part.len()).sum();
    let bytes: usize = parts.iter().map(|part| part.memory_bytes()).sum();
    let what = "growing rows in larger chunks";
    deps.memory
        .claim(MemoryUse::Background, what, bytes as u64)?;
    let work = move || Joined::new(parts);
    let Some(joined) = deps.cpu.run(Priority::Build, work).await? else {
        return Ok(false);
    };
    let (reply, answer) = oneshot::channel();
    let message = Control::Joined(segment, Box::new(joined), reply);
    // Without an owner nothing is to be done any more.
    let is_told = channel.control.send(message).await.is_ok();
    let is_joined = is_told && answer.await.unwrap_or(false);
    if is_joined {
        metrics::rows_joined(rows);
    }
    Ok(is_joined)
}

async fn build(channel: &Channel, due: Due) -> Result<()> {
    let started = Instant::now();
    let (deps, rows) = (&channel.shared.deps, due.rows.len());
    let bytes = due.chunk.interim_bytes(due.field, rows) as u64;
    let what = "an index over growing rows";
    deps.memory.claim(MemoryUse::Background, what, bytes)?;
    let stop = StopFlag::new();
    let _guard = StopOnDrop(stop.clone());
    let priority = match due.kind {
        // Without them each search compares with the whole rows, and they are made in a moment.
        InterimKind::Codes => Priority::Segment,
        InterimKind::Graph => Priority::Build,
    };
    let work = move || {
        let place = (due.segment, due.field);
        due.chunk
            .build_interim(place, due.metric, due.kind, due.rows, &stop)
    };
    deps.cpu
        .run(priority, work)
        .await?
        .map_err(|error| redkite_types::Error::from_coded(&error))?;
    metrics::interim_built(rows, started.elapsed());
    Ok(())
}
