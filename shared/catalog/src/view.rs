//! Everything at one revision, cheap to share and to change.

use std::sync::Arc;

use imbl::{HashMap, OrdMap, OrdSet};
use prost::Message;
use redkite_metastore::{KeyValue, WatchEvent};
use redkite_proto::redkite::meta::{
    AliasInfo, ChannelCheckpoint, ChannelOwner, CollectionInfo, CompactionInfo, CredentialInfo,
    DatabaseInfo, DeltaInfo, FieldInfo, GrantInfo, IndexInfo, LoadInfo, ObjectState, PartitionInfo,
    PrivilegeGroupInfo, RestoreJobInfo, RoleInfo, SegmentIndexInfo, SegmentInfo, Session,
    SnapshotExportInfo, SnapshotInfo, UserRoleInfo,
};
use redkite_types::{CollectionId, DatabaseId, PartitionId, Revision, limits};

use crate::{
    access::Access,
    collection::CollectionEntry,
    error::{Error, Result},
    keys::{self, Key},
    readable::describe,
};

mod changes;

pub use self::changes::Changed;
use self::changes::Held;

/// All metadata at one revision.
///
/// Persistent maps share what did not change, so that a new view costs what the change costs.
#[derive(Clone, Debug, Default)]
pub struct CatalogView {
    revision: Revision,
    databases: OrdMap<DatabaseId, Arc<DatabaseInfo>>,
    collections: OrdMap<CollectionId, Held>,
    /// How many of `collections` have a record of their own.
    count: usize,
    /// Every collection that users see, by name.
    names: HashMap<(DatabaseId, String), CollectionId>,
    aliases: OrdMap<(DatabaseId, String), Arc<AliasInfo>>,
    sessions: OrdMap<String, Arc<Session>>,
    restore_jobs: OrdMap<i64, Arc<RestoreJobInfo>>,
    snapshot_exports: OrdMap<i64, Arc<SnapshotExportInfo>>,
    access: Access,
}

impl CatalogView {
    /// The revision that it shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Builds a view from all pairs of the metastore.
    ///
    /// # Errors
    /// [`Error::Decode`] for a record that this version cannot read.
    pub fn from_pairs(pairs: &[KeyValue], revision: Revision) -> Result<Self> {
        let mut view = Self::default();
        let mut dirty = OrdSet::new();
        for pair in pairs {
            view.put(pair, &mut dirty)?;
        }
        view.settle(dirty)?;
        view.revision = revision;
        Ok(view)
    }

    /// The view after the changes of one revision.
    ///
    /// # Errors
    /// [`Error::Decode`] for a record that this version cannot read.
    pub fn apply(&self, events: &[WatchEvent], revision: Revision) -> Result<Self> {
        let mut view = self.clone();
        let mut dirty = OrdSet::new();
        for event in events {
            match event {
                WatchEvent::Put(pair) => view.put(pair, &mut dirty)?,
                WatchEvent::Delete { key } => view.delete(key, &mut dirty),
            }
        }
        view.settle(dirty)?;
        view.revision = view.revision.max(revision);
        Ok(view)
    }

    /// The databases in order of creation.
    pub fn databases(&self) -> impl Iterator<Item = &Arc<DatabaseInfo>> {
        self.databases
            .values()
            .filter(|database| database.state() == ObjectState::Created)
    }

    /// The database of a name.
    pub fn database(&self, name: &str) -> Option<&Arc<DatabaseInfo>> {
        let name = if name.is_empty() {
            limits::DEFAULT_DATABASE
        } else {
            name
        };
        self.databases().find(|database| database.name == name)
    }

    /// The database of an id.
    pub fn database_by_id(&self, id: DatabaseId) -> Option<&Arc<DatabaseInfo>> {
        self.databases.get(&id)
    }

    /// The collections of a database that users see, in order of creation.
    pub fn collections(&self, database: DatabaseId) -> impl Iterator<Item = &Arc<CollectionEntry>> {
        self.all_collections().filter(move |entry| {
            entry.database_id() == database && entry.state() == ObjectState::Created
        })
    }

    /// Every collection in any state.
    pub fn all_collections(&self) -> impl Iterator<Item = &Arc<CollectionEntry>> {
        self.collections.values().filter_map(Held::known)
    }

    /// How many collections there are in any state.
    pub fn collection_count(&self) -> usize {
        self.count
    }

    /// The visible collection of a name, not of an alias.
    pub fn collection_by_name(
        &self,
        database: DatabaseId,
        name: &str,
    ) -> Option<&Arc<CollectionEntry>> {
        let id = self.names.get(&(database, name.to_owned()))?;
        self.collections.get(id).map(|held| &held.0)
    }

    /// The visible collection of a name or an alias.
    pub fn collection(&self, database: DatabaseId, name: &str) -> Option<&Arc<CollectionEntry>> {
        self.collection_by_name(database, name).or_else(|| {
            let alias = self.alias(database, name)?;
            self.collections
                .get(&CollectionId(alias.collection_id))
                .map(|held| &held.0)
                .filter(|entry| entry.state() == ObjectState::Created)
        })
    }

    /// All snapshots, those of collections that are gone included.
    pub fn all_snapshots(&self) -> impl Iterator<Item = &Arc<SnapshotInfo>> {
        self.collections
            .values()
            .flat_map(|held| held.0.snapshots.values())
    }

    /// The collection of an id in any state.
    pub fn collection_by_id(&self, id: CollectionId) -> Option<&Arc<CollectionEntry>> {
        self.collections.get(&id).and_then(Held::known)
    }

    /// An alias.
    pub fn alias(&self, database: DatabaseId, alias: &str) -> Option<&Arc<AliasInfo>> {
        self.aliases.get(&(database, alias.to_owned()))
    }

    /// All aliases of a database, by name.
    pub fn aliases(&self, database: DatabaseId) -> impl Iterator<Item = &Arc<AliasInfo>> {
        let from = (database, String::new());
        self.aliases
            .range(from..)
            .take_while(move |((owner, _), _)| *owner == database)
            .map(|(_, alias)| alias)
    }

    /// The running processes of a role.
    pub fn sessions(&self, role: &str) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions
            .values()
            .filter(move |session| session.role == role)
    }

    /// A restore of a snapshot.
    pub fn restore_job(&self, job: i64) -> Option<&Arc<RestoreJobInfo>> {
        self.restore_jobs.get(&job)
    }

    /// All restores of snapshots that are remembered, in order of their beginning.
    pub fn restore_jobs(&self) -> impl Iterator<Item = &Arc<RestoreJobInfo>> {
        self.restore_jobs.values()
    }

    /// An export of a snapshot as a bundle.
    pub fn snapshot_export(&self, job: i64) -> Option<&Arc<SnapshotExportInfo>> {
        self.snapshot_exports.get(&job)
    }

    /// All exports of snapshots that are remembered, in order of their beginning.
    pub fn snapshot_exports(&self) -> impl Iterator<Item = &Arc<SnapshotExportInfo>> {
        self.snapshot_exports.values()
    }

    /// Users, roles and what they may do.
    pub fn access(&self) -> &Access {
        &self.access
    }

    fn put(&mut self, pair: &KeyValue, dirty: &mut OrdSet<CollectionId>) -> Result<()> {
        let key = Key::parse(&pair.key);
        if key.is_of_access() {
            self.access.changed();
        }
        match key {
            Key::Database(id) => {
                self.databases
                    .insert(id, Arc::new(decode::<DatabaseInfo>(pair)?));
            }
            Key::Alias(database, alias) => {
                let info = decode::<AliasInfo>(pair)?;
                self.aliases
                    .insert((database, alias.to_owned()), Arc::new(info));
            }
            Key::Session(key) => {
                self.sessions
                    .insert(key.to_owned(), Arc::new(decode::<Session>(pair)?));
            }
            Key::User(name) => {
                let info = decode::<CredentialInfo>(pair)?;
                self.access.users.insert(name.to_owned(), Arc::new(info));
            }
            Key::Role(name) => {
                let info = decode::<RoleInfo>(pair)?;
                self.access.roles.insert(name.to_owned(), Arc::new(info));
            }
            Key::UserRole(_) => {
                let info = decode::<UserRoleInfo>(pair)?;
                self.access
                    .user_roles
                    .insert((info.username, info.role_name));
            }
            Key::Grant(key) => {
                let info = decode::<GrantInfo>(pair)?;
                self.access.grants.insert(key.to_owned(), Arc::new(info));
            }
            Key::PrivilegeGroup(name) => {
                let info = decode::<PrivilegeGroupInfo>(pair)?;
                self.access.groups.insert(name.to_owned(), Arc::new(info));
            }
            Key::RestoreJob(job) => {
                let info = decode::<RestoreJobInfo>(pair)?;
                self.restore_jobs.insert(job, Arc::new(info));
            }
            Key::SnapshotExport(job) => {
                let info = decode::<SnapshotExportInfo>(pair)?;
                self.snapshot_exports.insert(job, Arc::new(info));
            }
            // Large, and asked for where they are kept; or for those alone who hold or want one.
            Key::Export(..) | Key::Office(_) | Key::Other => {}
            key => return self.put_in_collection(key, pair, dirty),
        }
        Ok(())
    }

    fn put_in_collection(
        &mut self,
        key: Key<'_>,
        pair: &KeyValue,
        dirty: &mut OrdSet<CollectionId>,
    ) -> Result<()> {
        let Some(id) = key.collection() else {
            return Ok(());
        };
        if let Key::Collection(_) = key {
            self.forget_name(id);
        }
        let entry = Arc::make_mut(&mut self.collections.entry(id).or_default().0);
        match key {
            Key::Collection(_) => {
                let info = decode::<CollectionInfo>(pair)?;
                if info.state() == ObjectState::Created {
                    let name = (DatabaseId(info.database_id), info.name.clone());
                    self.names.insert(name, id);
                }
                self.count += usize::from(entry.info.is_none());
                entry.info = Some(Arc::new(info));
                dirty.insert(id);
            }
            Key::Field(_, field) => {
                entry
                    .fields
                    .insert(field, Arc::new(decode::<FieldInfo>(pair)?));
                dirty.insert(id);
            }
            Key::Partition(_, partition) => {
                entry
                    .partitions
                    .insert(partition, Arc::new(decode::<PartitionInfo>(pair)?));
            }
            Key::Index(_, index) => {
                entry
                    .indexes
                    .insert(index, Arc::new(decode::<IndexInfo>(pair)?));
            }
            Key::Segment(_, segment) => {
                let info = decode::<SegmentInfo>(pair)?;
                entry.segments.entry(segment).or_default().info = Some(Arc::new(info));
            }
            Key::SegmentIndex(_, segment, build) => {
                let info = decode::<SegmentIndexInfo>(pair)?;
                entry
                    .segments
                    .entry(segment)
                    .or_default()
                    .indexes
                    .insert(build, Arc::new(info));
            }
            Key::Delta(_, delta) => {
                entry
                    .deltas
                    .insert(delta, Arc::new(decode::<DeltaInfo>(pair)?));
            }
            Key::Compaction(_, plan) => {
                entry
                    .compactions
                    .insert(plan, Arc::new(decode::<CompactionInfo>(pair)?));
            }
            Key::Snapshot(_, name) => {
                entry
                    .snapshots
                    .insert(name.to_owned(), Arc::new(decode::<SnapshotInfo>(pair)?));
            }
            Key::Checkpoint(channel) => {
                let info = decode::<ChannelCheckpoint>(pair)?;
                entry.checkpoints.insert(channel.to_owned(), Arc::new(info));
            }
            Key::ChannelOwner(channel) => {
                let info = decode::<ChannelOwner>(pair)?;
                entry.owners.insert(channel.to_owned(), Arc::new(info));
            }
            Key::Load(_) => entry.load = Some(Arc::new(decode::<LoadInfo>(pair)?)),
            Key::PartitionLoad(_, partition) => {
                entry.loaded_partitions.insert(partition);
            }
            Key::Database(_)
            | Key::RestoreJob(_)
            | Key::SnapshotExport(_)
            | Key::Alias(..)
            | Key::Session(_)
            | Key::Office(_)
            | Key::User(_)
            | Key::Role(_)
            | Key::UserRole(_)
            | Key::Grant(_)
            | Key::PrivilegeGroup(_)
            | Key::Export(..)
            | Key::Other => {}
        }
        Ok(())
    }

    fn delete(&mut self, key: &str, dirty: &mut OrdSet<CollectionId>) {
        let key = Key::parse(key);
        if key.is_of_access() {
            self.access.changed();
        }
        match key {
            Key::Database(id) => {
                self.databases.remove(&id);
            }
            Key::Alias(database, alias) => {
                self.aliases.remove(&(database, alias.to_owned()));
            }
            Key::Session(key) => {
                self.sessions.remove(key);
            }
            Key::User(name) => {
                self.access.users.remove(name);
            }
            Key::Role(name) => {
                self.access.roles.remove(name);
            }
            Key::UserRole(key) => {
                if let Some((user, role)) = key.split_once('/') {
                    let pair = (user.to_owned(), role.to_owned());
                    self.access.user_roles.remove(&pair);
                }
            }
            Key::Grant(key) => {
                self.access.grants.remove(key);
            }
            Key::PrivilegeGroup(name) => {
                self.access.groups.remove(name);
            }
            Key::RestoreJob(job) => {
                self.restore_jobs.remove(&job);
            }
            Key::SnapshotExport(job) => {
                self.snapshot_exports.remove(&job);
            }
            Key::Export(..) | Key::Office(_) | Key::Other => {}
            key => self.delete_in_collection(key, dirty),
        }
    }

    fn delete_in_collection(&mut self, key: Key<'_>, dirty: &mut OrdSet<CollectionId>) {
        let Some(id) = key.collection() else { return };
        if let Key::Collection(_) = key {
            self.forget_name(id);
        }
        let Some(Held(entry)) = self.collections.get_mut(&id) else {
            return;
        };
        let entry = Arc::make_mut(entry);
        match key {
            Key::Collection(_) => {
                self.count -= usize::from(entry.info.is_some());
                entry.info = None;
                dirty.insert(id);
            }
            Key::Field(_, field) => {
                entry.fields.remove(&field);
                dirty.insert(id);
            }
            Key::Partition(_, partition) => {
                entry.partitions.remove(&partition);
            }
            Key::Index(_, index) => {
                entry.indexes.remove(&index);
            }
            Key::Segment(_, segment) => {
                if let Some(found) = entry.segments.get_mut(&segment) {
                    found.info = None;
                    if found.indexes.is_empty() {
                        entry.segments.remove(&segment);
                    }
                }
            }
            Key::SegmentIndex(_, segment, build) => {
                if let Some(found) = entry.segments.get_mut(&segment) {
                    found.indexes.remove(&build);
                    if found.info.is_none() && found.indexes.is_empty() {
                        entry.segments.remove(&segment);
                    }
                }
            }
            Key::Delta(_, delta) => {
                entry.deltas.remove(&delta);
            }
            Key::Compaction(_, plan) => {
                entry.compactions.remove(&plan);
            }
            Key::Snapshot(_, name) => {
                entry.snapshots.remove(name);
            }
            Key::Checkpoint(channel) => {
                entry.checkpoints.remove(channel);
            }
            Key::ChannelOwner(channel) => {
                entry.owners.remove(channel);
            }
            Key::Load(_) => entry.load = None,
            Key::PartitionLoad(_, partition) => {
                entry.loaded_partitions.remove(&partition);
            }
            Key::Database(_)
            | Key::RestoreJob(_)
            | Key::SnapshotExport(_)
            | Key::Alias(..)
            | Key::Session(_)
            | Key::Office(_)
            | Key::User(_)
            | Key::Role(_)
            | Key::UserRole(_)
            | Key::Grant(_)
            | Key::PrivilegeGroup(_)
            | Key::Export(..)
            | Key::Other => {}
        }
        if entry.is_empty() {
            self.collections.remove(&id);
        }
    }

    /// Takes the collection's present name out, which a new record may change.
    fn forget_name(&mut self, id: CollectionId) {
        let Some(info) = self
            .collections
            .get(&id)
            .and_then(|held| held.0.info.clone())
        else {
            return;
        };
        let name = (DatabaseId(info.database_id), info.name.clone());
        if self.names.get(&name) == Some(&id) {
            self.names.remove(&name);
        }
    }

    fn settle(&mut self, dirty: OrdSet<CollectionId>) -> Result<()> {
        for id in dirty {
            let Some(Held(entry)) = self.collections.get_mut(&id) else {
                continue;
            };
            Arc::make_mut(entry)
                .rebuild_schema()
                .map_err(|error| Error::Decode {
                    key: keys::fields(id),
                    source: Box::new(error),
                })?;
        }
        Ok(())
    }
}

/// Whether a record is one that the view knows and cannot decode.
pub fn is_damaged(pair: &KeyValue) -> bool {
    Key::parse(&pair.key) != Key::Other && describe(pair).is_none()
}

fn decode<M: Message + Default>(pair: &KeyValue) -> Result<M> {
    M::decode(pair.value.clone()).map_err(|source| Error::Decode {
        key: pair.key.clone(),
        source: Box::new(source),
    })
}

/// Whether a partition of a collection is to be served.
pub fn is_partition_loaded(entry: &CollectionEntry, partition: PartitionId) -> bool {
    entry.load.is_some() && entry.loaded_partitions.contains(&partition)
}
