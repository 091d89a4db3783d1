//! One plan from its record to its end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    convert::schema,
    redkite::{
        datanode::CompactRequest,
        meta::{CompactionInfo, DeltaInfo, SegmentInfo},
    },
};
use redkite_runtime::Backoff;
use redkite_types::{CollectionId, Error, Result, SegmentId};
use tracing::{info, instrument, warn};

use super::{
    Compactor, facts,
    records::{self, End, Recorded},
};

/// How often a plan is begun before it counts as failed, where the error may come again ...
const MAX_ATTEMPTS: u32 = 3;
/// ... and where it is said to pass.
const MAX_RETRIABLE_ATTEMPTS: u32 = 20;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Compactor {
    /// Tries until the plan has ended one way or the other.
    #[instrument(skip(self))]
    pub(super) async fn carry_out(self: &Arc<Self>, collection: CollectionId, plan: i64) {
        let _permit = self.permits.acquire().await;
        let started = Instant::now();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let outcome = loop {
            let reason = match self.attempt(collection, plan).await {
                Ok(()) => break "completed",
                Err(End::NotOurs) => return,
                Err(End::Impossible(reason)) => reason,
                Err(End::Failed(error)) => {
                    if self.goes_on(collection, plan, &error).await {
                        backoff.wait().await;
                        continue;
                    }
                    error.message
                }
            };
            if self.end(collection, plan, &reason).await {
                break "failed";
            }
            backoff.wait().await;
        };
        metrics::counter!("redkite_datacoord_compactions_total", "outcome" => outcome).increment(1);
        metrics::histogram!("redkite_datacoord_compaction_seconds").record(started.elapsed());
    }

    /// Whether a plan that failed is tried again: the metastore is asked as long as it takes, the
    /// rest a few times.
    async fn goes_on(&self, collection: CollectionId, plan: i64, error: &Error) -> bool {
        warn!(plan, %error, "compaction failed");
        match records::executing(&*self.kv, collection, plan).await {
            Ok(Some(recorded)) if error.retriable => {
                recorded.plan.attempts < MAX_RETRIABLE_ATTEMPTS
            }
            Ok(Some(recorded)) => recorded.plan.attempts < MAX_ATTEMPTS,
            // What is not there any more is found out by the next attempt.
            Ok(None) | Err(_) => true,
        }
    }

    /// Writes down that a plan has failed; false when it has to be tried again.
    async fn end(&self, collection: CollectionId, plan: i64, reason: &str) -> bool {
        warn!(plan, reason, "compaction given up");
        match records::executing(&*self.kv, collection, plan).await {
            Ok(Some(recorded)) => records::fail(&*self.kv, &recorded, reason, self.now())
                .await
                .is_ok(),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    async fn attempt(&self, collection: CollectionId, plan: i64) -> Result<(), End> {
        let recorded = records::executing(&*self.kv, collection, plan).await?;
        let recorded = recorded.ok_or(End::NotOurs)?;
        let view = self.catalog.view();
        let entry = view.collection_by_id(collection).ok_or(End::NotOurs)?;
        if !recorded.plan.delta_sources.is_empty() {
            return self.merge_deletes(entry, &recorded).await;
        }
        let sources = sources(entry, &recorded.plan)?;
        let recorded = self.begin(&recorded).await?;
        let request = self.order(entry, &recorded.plan, &sources);
        let answer = self.around.compact(request).await?;
        let view = self.catalog.view();
        let entry = view.collection_by_id(collection).ok_or(End::NotOurs)?;
        let made = &answer.segments;
        let revision = records::commit(
            &*self.kv,
            &self.gate,
            entry,
            &recorded,
            &sources,
            made,
            self.now(),
        )
        .await?;
        info!(
            plan,
            revision = revision.0,
            sources = sources.len(),
            segments = made.len(),
            rows_read = answer.rows_read,
            rows_written = answer.rows_written,
            "compaction committed"
        );
        metrics::counter!("redkite_datacoord_compaction_rows_dropped_total")
            .increment((answer.rows_read - answer.rows_written).max(0) as u64);
        Ok(())
    }

    /// Takes ids for the targets and writes them down. Whoever worked on the plan before wrote under
    /// other ids, and can commit no more.
    pub(super) async fn begin(&self, recorded: &Recorded) -> Result<Recorded, End> {
        let count = recorded.plan.targets.len().max(1);
        let first = self.around.ids(count as u32).await?;
        let plan = CompactionInfo {
            targets: (first..).take(count).collect(),
            attempts: recorded.plan.attempts + 1,
            ..recorded.plan.clone()
        };
        let replaced = records::replace(&*self.kv, recorded, plan).await?;
        replaced.ok_or(End::NotOurs)
    }

    fn order(
        &self,
        entry: &CollectionEntry,
        plan: &CompactionInfo,
        sources: &[SegmentInfo],
    ) -> CompactRequest {
        // Who asks for a compaction wants what is deleted to go now.
        let moment = self.moment(plan.trigger_id == 0);
        let until = facts::deletes_until(entry, &plan.channel, moment);
        let needed = |delta: &&Arc<DeltaInfo>| {
            delta.min_ts <= until.0 && sources.iter().any(|source| facts::may_hit(delta, source))
        };
        let deltas = entry.deltas.values().filter(needed);
        CompactRequest {
            plan_id: plan.plan_id,
            schema: Some(schema::to_proto(entry.name(), entry.schema())),
            sources: sources.to_vec(),
            deltas: deltas.map(|delta| delta.as_ref().clone()).collect(),
            deletes_until: until.0,
            expired_before: facts::expired_before(entry, moment).0,
            targets: plan.targets.clone(),
            ..CompactRequest::default()
        }
    }
}

/// The records of the plan's sources.
fn sources(entry: &CollectionEntry, plan: &CompactionInfo) -> Result<Vec<SegmentInfo>, End> {
    let find = |id: &i64| {
        let found = entry.segments.get(&SegmentId(*id));
        let info = found.and_then(|segment| segment.info.as_deref());
        info.cloned()
            .ok_or_else(|| End::Impossible(records::gone(*id)))
    };
    plan.sources.iter().map(find).collect()
}
