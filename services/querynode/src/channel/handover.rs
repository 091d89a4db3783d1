//! Compacted segments in the place of those that they come from.
//!
//! When an order has C where A and B were, A and B go on being served, and go on receiving deletes,
//! until C is in memory with every delete applied and, where they had an index, with its own. Then C
//! takes their place in one snapshot, so that every read sees each row exactly once. C may be
//! several segments, may be replaced itself before it was ever served, and may stand for rows whose
//! flush has not been answered yet.
//!
//! What stands for what is read from the new segments' records alone: their sources and earlier
//! ancestors. Should a record name an ancestor no more, that one is let go at once, and reads are
//! refused until its successor is in memory: never are rows missing or there twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use redkite_proto::redkite::meta::SegmentInfo;
use redkite_types::{FieldId, PartitionId, SegmentId};
use tokio::time::Instant;
use tracing::info;

use super::{
    state::{Sealed, State},
    sync::SegmentTarget,
};
use crate::metrics;

/// A segment without an index takes the place of indexed ones after this time at the latest: until
/// then both are in memory.
const INDEX_WITHIN: Duration = Duration::from_secs(600);

/// A segment that is not served yet because others are in its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behind {
    since: Instant,
    /// Whether the others have all of its rows.
    covered: bool,
}

/// The segments that a segment's rows come from.
fn ancestors(info: &SegmentInfo) -> impl Iterator<Item = SegmentId> + '_ {
    let all = info.compacted_from.iter().chain(&info.ancestors);
    all.map(|id| SegmentId(*id))
}

impl Sealed {
    /// Whether reads find its rows, here or in those that are served in its place.
    pub(super) fn is_covered(&self) -> bool {
        match &self.behind {
            Some(behind) => behind.covered,
            None => self.loaded.is_some(),
        }
    }

    /// Whether a load runs that reads have to wait for.
    pub(super) fn is_awaited(&self) -> bool {
        self.load.is_some() && self.behind.is_none_or(|behind| !behind.covered)
    }

    /// Rows that are deleted or superseded; zero when it is not in memory.
    pub(crate) fn deleted_rows(&self) -> i64 {
        let rows = self.loaded.as_ref();
        rows.map_or(0, |rows| rows.deletes().count() as i64)
    }
}

impl State {
    /// The partitions that reads find whole.
    pub(super) fn complete_partitions(&self) -> BTreeSet<PartitionId> {
        let complete = self.completeness().into_iter();
        complete
            .filter(|(_, complete)| *complete)
            .map(|(partition, _)| partition)
            .collect()
    }

    /// Lets go of segments that an order does not have, but for those that are to stand in for others.
    pub(super) fn retire(&mut self, target: &BTreeMap<SegmentId, SegmentTarget>) {
        let claimed: BTreeSet<SegmentId> = target
            .values()
            .flat_map(|segment| ancestors(&segment.info))
            .collect();
        let gone: Vec<SegmentId> = self
            .sealed
            .keys()
            .filter(|id| !target.contains_key(id))
            .copied()
            .collect();
        for id in gone {
            let Some(mut sealed) = self.sealed.remove(&id) else {
                continue;
            };
            // One that never was served has others in its place already.
            let was_served = sealed.loaded.is_some() && sealed.behind.is_none();
            if was_served && claimed.contains(&id) {
                sealed.load = None;
                sealed.failure = None;
                self.retired.insert(id, sealed);
            }
        }
        let loaded = &self.loaded;
        self.retired
            .retain(|id, old| claimed.contains(id) && loaded.contains(&old.partition()));
        let indexes: BTreeSet<i64> = self.indexes.values().map(|index| index.id).collect();
        for old in self.retired.values_mut() {
            old.builds
                .retain(|_, build| indexes.contains(&build.index_id));
            old.drop_indexes();
        }
    }

    /// Whether a new segment has to wait behind those that it comes from.
    pub(super) fn behind(
        &self,
        info: &SegmentInfo,
        complete: &BTreeSet<PartitionId>,
    ) -> Option<Behind> {
        let is_here = |id: SegmentId| {
            self.retired.contains_key(&id) || self.sealing.iter().any(|sealing| sealing.id == id)
        };
        ancestors(info).any(is_here).then(|| Behind {
            since: Instant::now(),
            covered: complete.contains(&PartitionId(info.partition_id)),
        })
    }

    /// Whether a segment that is here has been replaced.
    pub(crate) fn is_replaced(&self, id: SegmentId) -> bool {
        self.successors(id).next().is_some()
    }

    fn successors(&self, id: SegmentId) -> impl Iterator<Item = SegmentId> + '_ {
        let claims = move |(_, sealed): &(&SegmentId, &Sealed)| {
            ancestors(&sealed.info).any(|ancestor| ancestor == id)
        };
        self.sealed.iter().filter(claims).map(|(id, _)| *id)
    }

    /// Takes a segment whose flush was answered only after it had been compacted; gives back one
    /// that was not.
    pub(super) fn retire_flushed(&mut self, sealed: Sealed) -> Option<Sealed> {
        let id = SegmentId(sealed.info.id);
        let successors: Vec<SegmentId> = self.successors(id).collect();
        if successors.is_empty() {
            return Some(sealed);
        }
        if sealed.loaded.is_some() {
            self.retired.insert(id, sealed);
            return None;
        }
        // Its rows are not served any more, and those that hold them not yet.
        for successor in successors {
            if let Some(behind) = self
                .sealed
                .get_mut(&successor)
                .and_then(|sealed| sealed.behind.as_mut())
            {
                behind.covered = false;
            }
        }
        None
    }

    /// Puts every group of new segments that is ready in the place of the old ones.
    pub(super) fn take_over(&mut self, now: Instant) {
        let waiting: Vec<SegmentId> = self
            .sealed
            .iter()
            .filter(|(_, sealed)| sealed.behind.is_some())
            .map(|(id, _)| *id)
            .collect();
        let mut seen: BTreeSet<SegmentId> = BTreeSet::new();
        for id in waiting {
            if seen.contains(&id) {
                continue;
            }
            let group = self.group(id);
            seen.extend(&group.new);
            if !self.is_ready(&group, now) {
                continue;
            }
            info!(old = ?group.old, new = ?group.new, "compacted segments take over");
            for id in &group.new {
                if let Some(sealed) = self.sealed.get_mut(id) {
                    sealed.behind = None;
                }
            }
            for id in &group.old {
                self.retired.remove(id);
            }
            metrics::replaced(group.old.len());
        }
    }

    /// Everything that can only change hands together with a segment that waits.
    fn group(&self, id: SegmentId) -> Group {
        let mut group = Group {
            new: BTreeSet::from([id]),
            old: BTreeSet::new(),
        };
        loop {
            let before = group.new.len() + group.old.len();
            let news: Vec<&Sealed> = group
                .new
                .iter()
                .filter_map(|id| self.sealed.get(id))
                .collect();
            let claimed: BTreeSet<SegmentId> = news
                .into_iter()
                .flat_map(|sealed| ancestors(&sealed.info))
                .collect();
            let here = self.retired.keys().copied();
            let here = here.chain(self.sealing.iter().map(|sealing| sealing.id));
            group.old.extend(here.filter(|id| claimed.contains(id)));
            for (id, sealed) in &self.sealed {
                let shares = ancestors(&sealed.info).any(|old| group.old.contains(&old));
                if shares && sealed.behind.is_some() {
                    group.new.insert(*id);
                }
            }
            if group.new.len() + group.old.len() == before {
                return group;
            }
        }
    }

    fn is_ready(&self, group: &Group, now: Instant) -> bool {
        let is_flushing = self
            .sealing
            .iter()
            .any(|sealing| group.old.contains(&sealing.id));
        let old = group.old.iter().filter_map(|id| self.retired.get(id));
        let indexed: BTreeSet<_> = old.flat_map(|old| old.opened.keys().copied()).collect();
        let is_ready = |sealed: &Sealed| {
            let waits_for_index = |field: &FieldId| {
                let index = self.indexes.get(field);
                index.is_some_and(|index| !sealed.without_file.contains(&index.id))
                    && !sealed.opened.contains_key(field)
            };
            // Where reads are refused meanwhile, any answer is better than a fast one.
            let may_wait = sealed.behind.is_some_and(|behind| {
                behind.covered && now.duration_since(behind.since) < INDEX_WITHIN
            });
            sealed.loaded.is_some() && !(may_wait && indexed.iter().any(waits_for_index))
        };
        let mut new = group.new.iter().filter_map(|id| self.sealed.get(id));
        !is_flushing && new.all(is_ready)
    }
}

/// Segments that change hands together.
struct Group {
    new: BTreeSet<SegmentId>,
    old: BTreeSet<SegmentId>,
}
