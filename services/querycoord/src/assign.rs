//! Chooses an owner for each channel without one.

use std::collections::{BTreeMap, BTreeSet};

use redkite_catalog::{CatalogView, CollectionEntry, Role};
use redkite_proto::redkite::meta::{ChannelOwner, ObjectState};
use redkite_types::CollectionId;

/// A new owner for a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The owner with its new epoch.
    pub owner: ChannelOwner,
    /// The owner that it replaces, as the view shows it.
    pub former: Option<ChannelOwner>,
}

/// Who owns how many channels, and which collections have some without a living owner. It follows one
/// view after the other at the cost of what has changed.
#[derive(Debug, Default)]
pub struct Owners {
    view: CatalogView,
    /// The living nodes with their addresses.
    nodes: BTreeMap<u64, String>,
    /// Channels by the node that owns them, whether it lives or not.
    load: BTreeMap<u64, usize>,
    orphaned: BTreeSet<CollectionId>,
}

impl Owners {
    /// Takes note of a newer view.
    pub fn follow(&mut self, view: &CatalogView) {
        let sessions = view.sessions(Role::QueryNode.name());
        let nodes: BTreeMap<u64, String> = sessions
            .map(|node| (node.node_id, node.address.clone()))
            .collect();
        if nodes != self.nodes {
            // Who is an orphan may be another question for every collection.
            *self = Self {
                nodes,
                ..Self::default()
            };
        }
        let before = std::mem::replace(&mut self.view, view.clone());
        for changed in view.changed_since(&before) {
            for node in changed.old.into_iter().flat_map(|entry| owning(entry)) {
                if let Some(count) = self.load.get_mut(&node) {
                    *count -= 1;
                }
            }
            for node in changed.new.into_iter().flat_map(|entry| owning(entry)) {
                *self.load.entry(node).or_default() += 1;
            }
            let is_orphaned = changed.new.is_some_and(|entry| self.has_orphans(entry));
            if is_orphaned {
                self.orphaned.insert(changed.id);
            } else {
                self.orphaned.remove(&changed.id);
            }
        }
    }

    fn has_orphans(&self, entry: &CollectionEntry) -> bool {
        let mut channels = entry.channels().iter();
        is_wanted(entry) && channels.any(|channel| self.living_owner(entry, channel).is_none())
    }

    fn living_owner<'a>(
        &self,
        entry: &'a CollectionEntry,
        channel: &str,
    ) -> Option<&'a ChannelOwner> {
        let owner = entry.owners.get(channel)?;
        self.nodes
            .contains_key(&owner.node_id)
            .then_some(owner.as_ref())
    }

    /// Gives every channel that has no living owner to the living node that owns the fewest.
    ///
    /// Ties go to the node with the smallest id, so that the same views always give the same answer.
    /// A channel of a collection that is being dropped gets no new owner.
    pub fn assign(&self) -> Vec<Assignment> {
        let load = |node| self.load.get(node).copied().unwrap_or(0);
        let mut nodes: BTreeSet<(usize, u64)> =
            self.nodes.keys().map(|node| (load(node), *node)).collect();
        let mut assignments = Vec::new();
        for id in &self.orphaned {
            let Some(entry) = self.view.collection_by_id(*id) else {
                continue;
            };
            for channel in entry.channels() {
                if self.living_owner(entry, channel).is_some() {
                    continue;
                }
                let Some((count, node_id)) = nodes.pop_first() else {
                    return assignments;
                };
                nodes.insert((count + 1, node_id));
                let former = entry.owners.get(channel);
                assignments.push(Assignment {
                    owner: ChannelOwner {
                        channel: channel.clone(),
                        collection_id: id.0,
                        node_id,
                        address: self.nodes.get(&node_id).cloned().unwrap_or_default(),
                        epoch: former.map_or(0, |owner| owner.epoch) + 1,
                    },
                    former: former.map(|owner| owner.as_ref().clone()),
                });
            }
        }
        assignments
    }
}

/// The nodes that own a collection's channels, once for each.
fn owning(entry: &CollectionEntry) -> impl Iterator<Item = u64> {
    let channels = entry.channels().iter();
    channels.filter_map(|channel| Some(entry.owners.get(channel)?.node_id))
}

fn is_wanted(entry: &CollectionEntry) -> bool {
    matches!(entry.state(), ObjectState::Created | ObjectState::Creating)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use redkite_catalog::keys;
    use redkite_metastore::{KeyValue, WatchEvent};
    use redkite_proto::redkite::meta::{CollectionInfo, Session};
    use redkite_types::{CollectionId, DatabaseId, NodeId, Revision};

    use super::*;

    fn pair(key: String, value: &impl Message) -> KeyValue {
        KeyValue {
            key,
            value: value.encode_to_vec().into(),
            revision: Revision(1),
            lease: 0,
        }
    }

    fn node(id: u64) -> KeyValue {
        let session = Session {
            node_id: id,
            role: Role::QueryNode.name().to_owned(),
            address: format!("node-{id}"),
            started_ts: 0,
        };
        pair(keys::session(Role::QueryNode.name(), NodeId(id)), &session)
    }

    fn collection(id: i64, shards: usize, state: ObjectState) -> KeyValue {
        let info = CollectionInfo {
            id,
            database_id: 1,
            name: format!("c{id}"),
            channels: (0..shards)
                .map(|s| keys::channel_name(CollectionId(id), s))
                .collect(),
            state: state.into(),
            ..CollectionInfo::default()
        };
        pair(keys::collection(DatabaseId(1), CollectionId(id)), &info)
    }

    fn owner(collection: i64, shard: usize, node: u64, epoch: u64) -> KeyValue {
        let channel = keys::channel_name(CollectionId(collection), shard);
        let owner = ChannelOwner {
            channel: channel.clone(),
            collection_id: collection,
            node_id: node,
            address: format!("node-{node}"),
            epoch,
        };
        pair(keys::channel_owner(&channel), &owner)
    }

    fn decide(pairs: &[KeyValue]) -> Vec<(String, u64, u64)> {
        let view = CatalogView::from_pairs(pairs, Revision(1)).unwrap();
        let mut owners = Owners::default();
        owners.follow(&view);
        in_short(&owners)
    }

    fn in_short(owners: &Owners) -> Vec<(String, u64, u64)> {
        let assignments = owners.assign().into_iter();
        assignments
            .map(|found| (found.owner.channel, found.owner.node_id, found.owner.epoch))
            .collect()
    }

    #[test]
    fn orphans_go_to_the_node_with_the_fewest_channels() {
        use ObjectState::{Created, Dropping};
        // No node: nothing can be done.
        assert_eq!(decide(&[collection(10, 1, Created)]), []);
        // Fresh channels spread.
        let fresh = decide(&[node(1), node(2), collection(10, 3, Created)]);
        let want = [("10v0", 1, 1), ("10v1", 2, 1), ("10v2", 1, 1)];
        assert_eq!(fresh, want.map(|(c, n, e)| (c.to_owned(), n, e)));
        // A dead owner is replaced under a new epoch, a live one is kept.
        let moved = decide(&[
            node(2),
            collection(10, 2, Created),
            owner(10, 0, 1, 4),
            owner(10, 1, 2, 7),
        ]);
        assert_eq!(moved, [("10v0".to_owned(), 2, 5)]);
        // What is being dropped needs no owner.
        assert_eq!(decide(&[node(2), collection(10, 1, Dropping)]), []);
    }

    /// One that has followed every change assigns as one that sees the last view alone.
    #[test]
    fn following_changes_comes_to_what_counting_everything_does() {
        use ObjectState::{Created, Creating, Dropping};
        let gone = |pair: KeyValue| WatchEvent::Delete { key: pair.key };
        let put = WatchEvent::Put;
        let steps = [
            vec![put(collection(10, 3, Creating))],
            vec![put(node(1)), put(node(2))],
            vec![put(owner(10, 0, 1, 1)), put(owner(10, 1, 1, 1))],
            vec![put(collection(11, 4, Creating)), put(owner(10, 2, 2, 1))],
            vec![put(owner(11, 0, 2, 1)), put(collection(10, 3, Created))],
            vec![put(owner(11, 1, 2, 1)), put(collection(12, 2, Created))],
            vec![gone(node(2)), put(node(3))],
            vec![put(collection(11, 4, Dropping))],
            vec![gone(owner(11, 0, 2, 1)), gone(collection(11, 4, Dropping))],
            vec![put(owner(12, 0, 3, 1)), put(collection(13, 5, Creating))],
            vec![gone(node(1)), gone(node(3))],
            vec![put(node(4))],
        ];
        let mut view = CatalogView::default();
        let mut followed = Owners::default();
        for (events, revision) in steps.iter().zip(1..) {
            view = view.apply(events, Revision(revision)).unwrap();
            followed.follow(&view);
            let mut fresh = Owners::default();
            fresh.follow(&view);
            assert_eq!(in_short(&followed), in_short(&fresh), "at {revision}");
            assert_eq!(followed.orphaned, fresh.orphaned, "at {revision}");
            let counted = |owners: &Owners| -> Vec<(u64, usize)> {
                let load = owners.load.iter().map(|(node, count)| (*node, *count));
                load.filter(|(_, count)| *count > 0).collect()
            };
            assert_eq!(counted(&followed), counted(&fresh), "at {revision}");
        }
    }
}
