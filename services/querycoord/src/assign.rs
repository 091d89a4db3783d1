//! Chooses an owner for each channel without one.

use std::collections::BTreeMap;

use redkite_catalog::{CatalogView, CollectionEntry, Role};
use redkite_proto::redkite::meta::{ChannelOwner, ObjectState, Session};

/// A new owner for a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The owner with its new epoch.
    pub owner: ChannelOwner,
    /// The owner that it replaces, as the view shows it.
    pub former: Option<ChannelOwner>,
}

/// Gives every channel that has no live owner to the live node that owns the fewest.
///
/// Ties go to the node with the smallest id, so that the same view always gives the same answer.
/// A channel of a collection that is being dropped gets no new owner.
pub fn assign(view: &CatalogView) -> Vec<Assignment> {
    let nodes: BTreeMap<u64, &Session> = view
        .sessions(Role::QueryNode.name())
        .map(|node| (node.node_id, node.as_ref()))
        .collect();
    if nodes.is_empty() {
        return Vec::new();
    }
    let mut load: BTreeMap<u64, usize> = nodes.keys().map(|node| (*node, 0)).collect();
    let mut orphans = Vec::new();
    for entry in view.all_collections() {
        let wanted = is_wanted(entry);
        for channel in entry.channels() {
            let owner = entry.owners.get(channel);
            match owner.and_then(|owner| load.get_mut(&owner.node_id)) {
                Some(count) => *count += 1,
                None if wanted => orphans.push((entry, channel, owner)),
                None => {}
            }
        }
    }
    let mut assignments = Vec::with_capacity(orphans.len());
    for (entry, channel, former) in orphans {
        let Some((&node_id, _)) = load.iter().min_by_key(|(_, count)| **count) else {
            break;
        };
        if let Some(count) = load.get_mut(&node_id) {
            *count += 1;
        }
        assignments.push(Assignment {
            owner: ChannelOwner {
                channel: channel.clone(),
                collection_id: entry.id().0,
                node_id,
                address: nodes
                    .get(&node_id)
                    .map(|node| node.address.clone())
                    .unwrap_or_default(),
                epoch: former.map_or(0, |owner| owner.epoch) + 1,
            },
            former: former.map(|owner| owner.as_ref().clone()),
        });
    }
    assignments
}

fn is_wanted(entry: &CollectionEntry) -> bool {
    matches!(entry.state(), ObjectState::Created | ObjectState::Creating)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use redkite_catalog::keys;
    use redkite_metastore::KeyValue;
    use redkite_proto::redkite::meta::CollectionInfo;
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
        assign(&view)
            .into_iter()
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
}
