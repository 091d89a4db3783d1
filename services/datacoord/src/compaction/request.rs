//! What clients ask for.

use std::{sync::Arc, time::Duration};

use redkite_catalog::CollectionEntry;
use redkite_proto::redkite::{
    datacoord::{CompactRequest, CompactResponse, ListCompactionsRequest, ListCompactionsResponse},
    meta::{CompactionInfo, ObjectState, SegmentInfo, compaction_info::State},
};
use redkite_types::{CollectionId, Error, ErrorCode, PartitionId, Result, Revision, SegmentId};

use super::{Compactor, SEEN_WITHIN, facts, policy};

/// How long a compaction that is asked for waits for those that run.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(20);

impl Compactor {
    /// Plans what a client asks for, from metadata that is as new as the request, and returns once
    /// the plans are recorded. Segments that another plan works on are waited for a while.
    ///
    /// # Errors
    /// Codes 100, 200, 500 and 600 for what is not there; 2 when the metastore did not answer.
    pub async fn request(self: &Arc<Self>, request: CompactRequest) -> Result<CompactResponse> {
        let collection = CollectionId(request.collection_id);
        self.catch_up().await?;
        self.wait_for_others(collection).await;
        let _planning = self.planning.lock().await;
        let view = self.catalog.view();
        let found = view.collection_by_id(collection);
        let entry = found
            .filter(|entry| entry.state() == ObjectState::Created)
            .ok_or_else(|| Error::collection_not_found("", &collection.to_string()))?;
        check_scope(entry, &request)?;
        let deleted = self.deleted_rows(entry).await;
        let mut candidates = facts::candidates(
            entry,
            self.moment(false),
            &deleted,
            &facts::being_merged(entry),
        );
        candidates.retain(|one| {
            let all = |empty: bool, same: bool| empty || same;
            all(
                request.partition_id == 0,
                one.partition == request.partition_id,
            ) && all(request.channel.is_empty(), one.channel == request.channel)
                && all(
                    request.segment_ids.is_empty(),
                    request.segment_ids.contains(&one.id),
                )
        });
        if candidates.is_empty() {
            self.refuse_if_protected(entry, &request)?;
        }
        let target = match request.target_size {
            0 => self.options.segment_target_size.as_u64(),
            size => size,
        };
        let plans = policy::manual(candidates, request.only_deletes, target);
        if plans.is_empty() {
            return Ok(CompactResponse::default());
        }
        let trigger = self.around.ids(1).await?;
        let plans = plans.into_iter();
        let plans = plans.filter_map(|plan| super::of_segments(entry, plan));
        let plans = self.record(entry, plans.collect(), trigger).await?;
        Ok(CompactResponse {
            compaction_id: if plans == 0 { 0 } else { trigger },
            plans: plans as i32,
        })
    }

    /// Milvus's answer when snapshots keep all that was asked for from being compacted.
    fn refuse_if_protected(&self, entry: &CollectionEntry, request: &CompactRequest) -> Result<()> {
        let now = self.now();
        let asked = facts::infos(entry).filter(|one| is_asked_for(request, one));
        let protected = asked.filter_map(|one| {
            let snapshots = entry.snapshots.values().map(AsRef::as_ref);
            facts::protecting_snapshot(snapshots, one.id, now)
        });
        let names: std::collections::BTreeSet<&str> = protected.collect();
        if names.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = names.into_iter().collect();
        Err(Error::input(
            ErrorCode::CompactionProtected,
            format!(
                "{}[collection={}][snapshots={}]",
                ErrorCode::CompactionProtected.text(),
                entry.id(),
                names.join(",")
            ),
        ))
    }

    /// The plans of one compaction, or all that are remembered of a collection.
    pub fn list(&self, request: &ListCompactionsRequest) -> ListCompactionsResponse {
        let view = self.catalog.view();
        let in_scope = |plan: &CompactionInfo| match request.compaction_id {
            0 => plan.collection_id == request.collection_id,
            id => plan.trigger_id == id,
        };
        let plans = view
            .all_collections()
            .flat_map(|entry| entry.compactions.values())
            .filter(|plan| in_scope(plan));
        ListCompactionsResponse {
            plans: plans.map(|plan| shown(plan)).collect(),
            revision: view.revision().0,
        }
    }

    /// Waits until the view shows everything that was committed before now.
    async fn catch_up(&self) -> Result<Revision> {
        let page = self.kv.range("datacoord-meta/", None, 1).await;
        let revision = page.map_err(|error| Error::from_coded(&error))?.revision;
        let seen = self.catalog.at_least(revision, SEEN_WITHIN).await;
        seen.map_err(|error| Error::from_coded(&error))?;
        Ok(revision)
    }

    async fn wait_for_others(&self, collection: CollectionId) {
        let mut revisions = self.catalog.subscribe();
        let idle = revisions.wait_for(|_| {
            let view = self.catalog.view();
            view.collection_by_id(collection).is_none_or(|entry| {
                let mut plans = entry.compactions.values();
                plans.all(|plan| plan.state() != State::Executing)
            })
        });
        // What is still busy then is left to a later request.
        let _ = tokio::time::timeout(WAIT_FOR_OTHERS, idle).await;
    }
}

fn is_asked_for(request: &CompactRequest, segment: &SegmentInfo) -> bool {
    (request.partition_id == 0 || segment.partition_id == request.partition_id)
        && (request.channel.is_empty() || segment.channel == request.channel)
        && (request.segment_ids.is_empty() || request.segment_ids.contains(&segment.id))
}

/// Without the places of targets that have no id yet.
fn shown(plan: &CompactionInfo) -> CompactionInfo {
    let mut plan = plan.clone();
    plan.targets.retain(|target| *target != 0);
    plan
}

fn check_scope(entry: &CollectionEntry, request: &CompactRequest) -> Result<()> {
    if request.partition_id != 0 {
        let id = PartitionId(request.partition_id);
        let known = entry.partitions.get(&id);
        if known.is_none_or(|partition| partition.state() != ObjectState::Created) {
            return Err(Error::partition_not_found(&id.to_string()));
        }
    }
    if !request.channel.is_empty() && !entry.channels().contains(&request.channel) {
        let text = format!("channel not found[channel={}]", request.channel);
        return Err(Error::input(ErrorCode::ChannelNotFound, text));
    }
    for id in &request.segment_ids {
        if !entry.segments.contains_key(&SegmentId(*id)) {
            let text = format!("segment not found[segment={id}]");
            return Err(Error::input(ErrorCode::SegmentNotFound, text));
        }
    }
    Ok(())
}
