//! Makes the nodes serve what the metadata asks for, and again after each change.
//!
//! One loop compares the newest view with the last one, at the cost of what has changed, and now and then
//! looks at everything; a changed collection gets a task of its
//! own that repeats until its nodes have answered for the newest state. Everything is
//! level-triggered: a lost answer or a restart costs another round, never a wrong state.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use parking_lot::Mutex;
use prost::Message;
use redkite_catalog::{Catalog, CatalogView, CollectionEntry, Role, keys};
use redkite_metastore::{Compare, Op, SharedKv, Txn, TxnOutcome};
use redkite_node::Peers;
use redkite_proto::redkite::{
    meta::{ChannelOwner, ObjectState},
    querycoord::PartitionProgress,
    querynode::ReleaseChannelRequest,
};
use redkite_runtime::{Backoff, OnFailure, TaskGroup};
use redkite_types::{CollectionId, Error, Result, Revision};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{Instrument, debug, info, info_span, warn};

use crate::{
    assign::{Assignment, Owners},
    progress::{self, Channels},
    request,
};

/// Owners written in one transaction.
const ASSIGN_BATCH: usize = 128;
/// Collections that are brought up to date at the same time.
const CONCURRENT_COLLECTIONS: usize = 64;
/// How soon a node is asked again while it still loads.
const LOADING_POLL: Duration = Duration::from_millis(20);
/// How often everything is looked at, whether it has changed or not.
const TICK: Duration = Duration::from_secs(1);
/// How often a settled collection's nodes are told again what to serve: a node that has lost a
/// channel without losing its session gets it back.
const REMIND: Duration = Duration::from_secs(10);
/// Settled collections whose nodes are told again with one look at everything. With more than
/// `REMIND` times as many collections each has its turn later, and the nodes have time for other things.
const REMINDERS: usize = 250;

/// What is known of one collection.
struct Tracked {
    /// What the metadata asks for, and the revision that it was first seen at.
    wanted: Arc<CollectionEntry>,
    wanted_revision: Revision,
    /// What the nodes have acted on.
    acted: Option<Arc<CollectionEntry>>,
    /// What they know of, although not all of it may be loaded yet.
    told: Option<Arc<CollectionEntry>>,
    /// Whether a task works on it.
    busy: bool,
    /// When the nodes last answered.
    answered: Instant,
    channels: Channels,
    /// Why the nodes could not act on it, where asking again does not help.
    failure: Option<Error>,
    /// Wakes the task that works on it once something else is wanted.
    renewed: Arc<Notify>,
}

impl Tracked {
    fn is_settled(&self) -> bool {
        self.acted
            .as_ref()
            .is_some_and(|acted| Arc::ptr_eq(acted, &self.wanted))
    }

    fn is_told(&self) -> bool {
        let told = self.told.as_ref();
        told.is_some_and(|told| Arc::ptr_eq(told, &self.wanted))
    }

    /// Whether the nodes have to be told what to serve, for the first time or again.
    fn is_due(&self) -> bool {
        !self.is_settled() || self.is_forgotten()
    }

    /// Whether its nodes were last told so long ago that they are told again.
    fn is_forgotten(&self) -> bool {
        self.answered.elapsed() >= REMIND
    }

    fn partitions(&self) -> Vec<PartitionProgress> {
        let wanted = request::served_partitions(&self.wanted).map(|partition| partition.0);
        let channels = self
            .wanted
            .channels()
            .iter()
            .map(|channel| self.channels.get(channel));
        let mut partitions = progress::add_up(wanted, channels);
        if let Some(failure) = &self.failure {
            for partition in partitions.iter_mut().filter(|said| said.percent < 100) {
                partition.fail_reason.clone_from(&failure.message);
            }
        }
        partitions
    }

    /// Why it is not served, as far as it is known.
    fn fail_reason(&self) -> Option<String> {
        if let Some(failure) = &self.failure {
            return Some(failure.message.clone());
        }
        let mut reasons = self.partitions().into_iter().map(|said| said.fail_reason);
        reasons.find(|reason| !reason.is_empty())
    }
}

/// What the owners of a collection's channels have answered.
struct Answered {
    channels: Channels,
    /// Whether all of them have acted on the order: one that has committed something since waits for
    /// an order that knows of it.
    obeyed: bool,
}

#[derive(Default)]
struct State {
    collections: HashMap<CollectionId, Tracked>,
    /// The newest view that was compared.
    scanned: Revision,
}

/// Makes the nodes serve what the metadata asks for.
pub struct Keeper {
    kv: SharedKv,
    catalog: Arc<Catalog>,
    peers: Arc<Peers>,
    tasks: TaskGroup,
    state: Mutex<State>,
    /// Counts changes of `state`, for those who wait for one.
    changes: watch::Sender<u64>,
    permits: Arc<Semaphore>,
}

impl Keeper {
    /// A keeper that does nothing until [`Keeper::run`].
    pub fn new(
        kv: SharedKv,
        catalog: Arc<Catalog>,
        peers: Arc<Peers>,
        tasks: TaskGroup,
    ) -> Arc<Self> {
        Arc::new(Self {
            kv,
            catalog,
            peers,
            tasks,
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            permits: Arc::new(Semaphore::new(CONCURRENT_COLLECTIONS)),
        })
    }

    /// Follows the metadata until the task group stops.
    pub async fn run(self: Arc<Self>) {
        let stop = self.tasks.token();
        let mut revisions = self.catalog.subscribe();
        let mut owners = Owners::default();
        let mut before: Arc<CatalogView> = Arc::default();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            revisions.mark_unchanged();
            let view = self.catalog.view();
            owners.follow(&view);
            let assignments = owners.assign();
            for batch in assignments.chunks(ASSIGN_BATCH) {
                if let Err(error) = self.write_owners(batch).await {
                    warn!(%error, channels = batch.len(), "channel owners not written, will retry");
                }
            }
            self.compare(&before, &view);
            before = view;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = revisions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                _ = tick.tick() => self.look_at_everything(),
            }
        }
    }

    /// Waits until the nodes have acted on a revision as far as a collection goes.
    ///
    /// Answers whether they have when `within` has passed.
    pub async fn wait(
        &self,
        revision: Revision,
        collection: Option<CollectionId>,
        within: Duration,
    ) -> bool {
        let mut changes = self.changes.subscribe();
        let reached = changes.wait_for(|_| self.has_acted(revision, collection));
        matches!(timeout(within, reached).await, Ok(Ok(_)))
    }

    /// Waits until the owner of each of a collection's channels knows of a revision.
    ///
    /// Answers whether they do when `within` has passed.
    pub async fn wait_told(
        &self,
        revision: Revision,
        collection: CollectionId,
        within: Duration,
    ) -> bool {
        let mut changes = self.changes.subscribe();
        let told = || {
            let state = self.state.lock();
            let tracked = state.collections.get(&collection);
            state.scanned >= revision && tracked.is_none_or(Tracked::is_told)
        };
        let reached = changes.wait_for(|_| told());
        matches!(timeout(within, reached).await, Ok(Ok(_)))
    }

    /// How far a collection's partitions are loaded; empty when none is to be served.
    pub fn load_progress(&self, collection: CollectionId) -> Vec<PartitionProgress> {
        let state = self.state.lock();
        state
            .collections
            .get(&collection)
            .map(Tracked::partitions)
            .unwrap_or_default()
    }

    /// Whether every channel of every collection is owned and everything loaded is served.
    pub fn is_settled(&self) -> bool {
        let state = self.state.lock();
        state.scanned.0 > 0 && state.collections.values().all(Tracked::is_settled)
    }

    /// The collections that are not served, and why, when nothing but these is waited for; `None`
    /// while others are still on their way.
    pub fn only_failures_left(&self) -> Option<Vec<(CollectionId, String)>> {
        let state = self.state.lock();
        let unsettled = state
            .collections
            .iter()
            .filter(|(_, tracked)| !tracked.is_settled());
        unsettled
            .map(|(id, tracked)| Some((*id, tracked.fail_reason()?)))
            .collect()
    }

    fn has_acted(&self, revision: Revision, collection: Option<CollectionId>) -> bool {
        let state = self.state.lock();
        state.scanned >= revision
            && match collection {
                Some(id) => state.collections.get(&id).is_none_or(Tracked::is_settled),
                None => state.collections.values().all(Tracked::is_settled),
            }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Writes new owners; those whose channel has changed hands meanwhile are left to the next round.
    async fn write_owners(&self, batch: &[Assignment]) -> Result<()> {
        let mut txn = Txn::new();
        for assignment in batch {
            let key = keys::channel_owner(&assignment.owner.channel);
            let compare = match &assignment.former {
                Some(former) => Compare::Value {
                    key: key.clone(),
                    value: former.encode_to_vec().into(),
                },
                None => Compare::Absent { key: key.clone() },
            };
            txn = txn
                .when(compare)
                .then(Op::put(key, assignment.owner.encode_to_vec()));
        }
        match self
            .kv
            .txn(txn)
            .await
            .map_err(|error| Error::from_coded(&error))?
        {
            TxnOutcome::Applied { revision } => {
                info!(
                    channels = batch.len(),
                    revision = revision.0,
                    "channel owners assigned"
                );
            }
            TxnOutcome::Refused { .. } => debug!("a channel has changed hands meanwhile"),
        }
        Ok(())
    }

    /// Notes what has changed since the last view and starts a task for each such collection.
    fn compare(self: &Arc<Self>, before: &CatalogView, view: &CatalogView) {
        let mut start = Vec::new();
        {
            let mut state = self.state.lock();
            for changed in view.changed_since(before) {
                let Some(entry) = changed.new else {
                    if let Some(gone) = state.collections.remove(&changed.id) {
                        gone.renewed.notify_one();
                    }
                    continue;
                };
                let tracked = state
                    .collections
                    .entry(changed.id)
                    .or_insert_with(|| Tracked {
                        wanted: entry.clone(),
                        wanted_revision: view.revision(),
                        acted: None,
                        told: None,
                        busy: false,
                        answered: Instant::now(),
                        channels: Channels::new(),
                        failure: None,
                        renewed: Arc::default(),
                    });
                if !Arc::ptr_eq(&tracked.wanted, entry) {
                    tracked.wanted = entry.clone();
                    tracked.wanted_revision = view.revision();
                    tracked.renewed.notify_one();
                }
                if tracked.is_due() && !tracked.busy {
                    tracked.busy = true;
                    start.push(changed.id);
                }
            }
            state.scanned = state.scanned.max(view.revision());
        }
        self.changed();
        self.start(start);
    }

    /// Starts a task for each collection that none works on although it is due, and for some of those
    /// whose nodes are to be told again.
    fn look_at_everything(self: &Arc<Self>) {
        let mut start = Vec::new();
        let mut reminders = 0;
        for (id, tracked) in &mut self.state.lock().collections {
            if tracked.busy || !tracked.is_due() {
                continue;
            }
            if tracked.is_settled() {
                reminders += 1;
                if reminders > REMINDERS {
                    continue;
                }
            }
            tracked.busy = true;
            start.push(*id);
        }
        self.start(start);
    }

    fn start(self: &Arc<Self>, collections: Vec<CollectionId>) {
        for id in collections {
            let keeper = self.clone();
            let span = info_span!("sync collection", collection = id.0);
            let work = async move { keeper.bring_up_to_date(id).await };
            self.tasks.spawn_cancellable(
                format!("sync collection {id}"),
                OnFailure::Log,
                work.instrument(span),
            );
        }
    }

    /// Repeats until the nodes have acted on the newest state of one collection.
    async fn bring_up_to_date(&self, id: CollectionId) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        while let Some((entry, revision, renewed)) = self.next_target(id) {
            let permit = self.permits.acquire().await;
            let outcome = self.sync_collection(&entry, revision).await;
            drop(permit);
            match outcome {
                Ok(answered) => {
                    backoff.reset();
                    if !self.note(id, &entry, answered) {
                        // What is missing may be what the next view shows: then it is not waited for.
                        let newer = self.renewed(id, &entry, &renewed);
                        let _ = timeout(LOADING_POLL, newer).await;
                    }
                }
                Err(error) => {
                    warn!(%error, "collection not in order yet, will retry");
                    self.note_failure(id, error);
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Waits until something else is wanted of a collection than `entry`.
    async fn renewed(&self, id: CollectionId, entry: &Arc<CollectionEntry>, renewed: &Notify) {
        loop {
            let is_same = {
                let state = self.state.lock();
                let tracked = state.collections.get(&id);
                tracked.is_some_and(|tracked| Arc::ptr_eq(&tracked.wanted, entry))
            };
            if !is_same {
                return;
            }
            renewed.notified().await;
        }
    }

    /// The state to bring about next; `None` ends the task, because there is nothing to do.
    fn next_target(
        &self,
        id: CollectionId,
    ) -> Option<(Arc<CollectionEntry>, Revision, Arc<Notify>)> {
        let mut state = self.state.lock();
        let tracked = state.collections.get_mut(&id)?;
        if !tracked.is_due() {
            tracked.busy = false;
            return None;
        }
        Some((
            tracked.wanted.clone(),
            tracked.wanted_revision,
            tracked.renewed.clone(),
        ))
    }

    /// Notes what the nodes answered; whether the collection is settled as far as `entry` goes.
    fn note(&self, id: CollectionId, entry: &Arc<CollectionEntry>, answered: Answered) -> bool {
        let settled = {
            let mut state = self.state.lock();
            let Some(tracked) = state.collections.get_mut(&id) else {
                return true;
            };
            tracked.channels = answered.channels;
            tracked.failure = None;
            tracked.answered = Instant::now();
            let owned = answered.obeyed && is_owned(entry, &tracked.channels);
            tracked.told = owned.then(|| entry.clone());
            let complete = owned && progress::is_complete(&tracked.partitions());
            // Also an answer to a reminder may say that something is missing again.
            tracked.acted = complete.then(|| entry.clone());
            complete
        };
        self.changed();
        settled
    }

    fn note_failure(&self, id: CollectionId, error: Error) {
        if let Some(tracked) = self.state.lock().collections.get_mut(&id) {
            tracked.failure = Some(error).filter(|error| !error.retriable);
        }
        self.changed();
    }

    async fn sync_collection(
        &self,
        entry: &CollectionEntry,
        revision: Revision,
    ) -> Result<Answered> {
        if entry.state() == ObjectState::Dropping {
            self.release(entry).await?;
            return Ok(Answered {
                channels: Channels::new(),
                obeyed: true,
            });
        }
        let live = self.live_owners(entry);
        let calls = live.values().map(|owner| async move {
            let node = self.peers.query_node(&owner.address)?;
            let message = request::sync_channel(entry, owner, revision);
            let answer = node
                .sync_channel(tonic::Request::new(message))
                .await
                .map_err(|status| redkite_rpc::status::from_status(&status).error)?;
            Ok::<_, Error>((owner.channel.clone(), answer.into_inner()))
        });
        let answers = try_join_all(calls).await?;
        Ok(Answered {
            obeyed: answers.iter().all(|(_, said)| said.revision >= revision.0),
            channels: answers
                .into_iter()
                .map(|(channel, said)| (channel, said.partitions))
                .collect(),
        })
    }

    /// Takes the channels of a dropped collection from their owners, logs included.
    async fn release(&self, entry: &CollectionEntry) -> Result<()> {
        for owner in self.live_owners(entry).values() {
            let node = self.peers.query_node(&owner.address)?;
            let message = ReleaseChannelRequest {
                channel: owner.channel.clone(),
                epoch: owner.epoch,
                drop: true,
            };
            node.release_channel(tonic::Request::new(message))
                .await
                .map_err(|status| redkite_rpc::status::from_status(&status).error)?;
        }
        let mut txn = Txn::new();
        for owner in entry.owners.values() {
            let key = keys::channel_owner(&owner.channel);
            txn = txn.then(Op::delete(key));
        }
        if !txn.ops.is_empty() {
            self.kv
                .txn(txn)
                .await
                .map_err(|error| Error::from_coded(&error))?;
        }
        Ok(())
    }

    /// The owners whose process is alive; the others get a successor in the next round.
    fn live_owners(&self, entry: &CollectionEntry) -> BTreeMap<String, Arc<ChannelOwner>> {
        let view = self.catalog.view();
        let live: Vec<u64> = view
            .sessions(Role::QueryNode.name())
            .map(|session| session.node_id)
            .collect();
        entry
            .owners
            .iter()
            .filter(|(_, owner)| live.contains(&owner.node_id))
            .map(|(channel, owner)| (channel.clone(), owner.clone()))
            .collect()
    }
}

/// Whether the live owner of every channel has answered, or, for a dropped one, whether none is left.
fn is_owned(entry: &CollectionEntry, answered: &Channels) -> bool {
    match entry.state() {
        ObjectState::Dropping | ObjectState::Dropped => entry.owners.is_empty(),
        ObjectState::Created | ObjectState::Creating => entry
            .channels()
            .iter()
            .all(|channel| answered.contains_key(channel)),
    }
}

#[cfg(test)]
mod tests;
