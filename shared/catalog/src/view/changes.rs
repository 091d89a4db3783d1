//! What is not the same in two views.

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use redkite_types::CollectionId;

use super::CatalogView;
use crate::collection::CollectionEntry;

/// A collection in the view, equal to itself alone: so two views are compared without looking into what
/// they hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(pub(super) Arc<CollectionEntry>);

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Held {
    /// The entry of a collection that has a record of its own.
    pub(super) fn known(&self) -> Option<&Arc<CollectionEntry>> {
        Some(&self.0).filter(|entry| entry.info.is_some())
    }
}

/// A collection of which two views differ.
#[derive(Clone, Copy, Debug)]
pub struct Changed<'a> {
    /// The collection.
    pub id: CollectionId,
    /// As it was.
    pub old: Option<&'a Arc<CollectionEntry>>,
    /// As it is.
    pub new: Option<&'a Arc<CollectionEntry>>,
}

impl CatalogView {
    /// The collections in any state that are not as in another view, each as it was there and as it is
    /// here; `None` where it is not. It costs what the changes cost, if this view has come from the other
    /// one or the other way round.
    pub fn changed_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = Changed<'a>> + use<'a> {
        let changes = before.collections.diff(&self.collections);
        changes.filter_map(|change| {
            let (id, old, new) = match change {
                DiffItem::Add(id, new) => (id, None, new.known()),
                DiffItem::Update { old, new } => (new.0, old.1.known(), new.1.known()),
                DiffItem::Remove(id, old) => (id, old.known(), None),
            };
            (old.is_some() || new.is_some()).then_some(Changed { id: *id, old, new })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;
    use redkite_metastore::{KeyValue, WatchEvent};
    use redkite_proto::redkite::meta::{CollectionInfo, PartitionInfo};
    use redkite_types::{DatabaseId, PartitionId, Revision};

    use super::*;
    use crate::keys;

    const DB: DatabaseId = DatabaseId(1);

    fn put(key: String, record: &impl Message) -> WatchEvent {
        WatchEvent::Put(KeyValue {
            key,
            value: record.encode_to_vec().into(),
            revision: Revision(1),
            lease: 0,
        })
    }

    fn collection(id: i64) -> WatchEvent {
        let info = CollectionInfo {
            id,
            database_id: DB.0,
            name: format!("c{id}"),
            ..CollectionInfo::default()
        };
        put(keys::collection(DB, CollectionId(id)), &info)
    }

    fn partition(id: i64, partition: i64) -> WatchEvent {
        let key = keys::partition(CollectionId(id), PartitionId(partition));
        put(key, &PartitionInfo::default())
    }

    fn drop_collection(id: i64) -> WatchEvent {
        WatchEvent::Delete {
            key: keys::collection(DB, CollectionId(id)),
        }
    }

    /// The same by looking at everything.
    fn compared(before: &CatalogView, after: &CatalogView) -> BTreeMap<i64, (bool, bool)> {
        let ids = before.all_collections().chain(after.all_collections());
        let pairs = ids.map(|entry| {
            let id = entry.id();
            (id, before.collection_by_id(id), after.collection_by_id(id))
        });
        let differ = pairs.filter(|(_, old, new)| match (old, new) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            _ => true,
        });
        differ
            .map(|(id, old, new)| (id.0, (old.is_some(), new.is_some())))
            .collect()
    }

    #[test]
    fn what_differs_is_what_looking_at_everything_finds() {
        let everything: Vec<WatchEvent> = (0..500).map(collection).collect();
        let first = CatalogView::default()
            .apply(&everything, Revision(1))
            .unwrap();
        let steps: [Vec<WatchEvent>; 7] = [
            vec![],
            vec![partition(7, 1)],
            vec![partition(7, 2), partition(499, 1), collection(500)],
            vec![drop_collection(0), drop_collection(7), collection(501)],
            // A partition is left of a collection that is gone, or there before it.
            vec![partition(600, 1), partition(7, 2)],
            vec![collection(600), collection(7)],
            (100..300).map(drop_collection).collect(),
        ];
        let mut views = vec![first];
        for (events, revision) in steps.iter().zip(2..) {
            let next = views[views.len() - 1].apply(events, Revision(revision));
            views.push(next.unwrap());
        }
        for before in &views {
            for after in &views {
                let changed = after.changed_since(before);
                let found: BTreeMap<i64, (bool, bool)> = changed
                    .map(|one| (one.id.0, (one.old.is_some(), one.new.is_some())))
                    .collect();
                assert_eq!(found, compared(before, after));
            }
            assert_eq!(before.collection_count(), before.all_collections().count());
        }
    }
}
