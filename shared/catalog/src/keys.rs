//! Where each record lives.
//!
//! # Source
//! Milvus's layout in etcd (`root-coord/…`, `datacoord-meta/…`, `field-index/…`, `segment-index/…`,
//! `querycoord-…`), so that people who know it find their way; what Milvus does not keep there has
//! a prefix of its own.

use redkite_types::{
    BuildId, CollectionId, DatabaseId, FieldId, IndexId, NodeId, PartitionId, SegmentId,
};

/// Everything that rootcoord owns.
pub const ROOTCOORD: &str = "root-coord/";
/// Timestamps below this window's end may have been given out.
pub const TSO_WINDOW: &str = "root-coord/tso";
/// Ids below this window's end may have been given out.
pub const ID_WINDOW: &str = "root-coord/id";
/// Ids that replicas of the metastore have, or once had.
pub const REPLICAS: &str = "root-coord/replica/";
/// Running processes.
pub const SESSIONS: &str = "session/";
/// Who acts as the coordinator of which role.
pub const OFFICES: &str = "office/";

/// Everything that datacoord owns, index builds excepted.
pub const DATACOORD: &str = "datacoord-meta/";
/// All collections of all databases.
pub const COLLECTIONS: &str = COLLECTION;
/// All partitions of all collections.
pub const PARTITIONS: &str = PARTITION;
/// All snapshots of all collections.
pub const SNAPSHOTS: &str = SNAPSHOT;
/// All index builds.
pub const SEGMENT_INDEXES: &str = SEGMENT_INDEX;

const DATABASE: &str = "root-coord/database/db-info/";
const COLLECTION: &str = "root-coord/database/collection-info/";
const ALIAS: &str = "root-coord/database/aliases/";
const FIELD: &str = "root-coord/fields/";
const PARTITION: &str = "root-coord/partitions/";
const INDEX: &str = "field-index/";
const SEGMENT_INDEX: &str = "segment-index/";
const SEGMENT: &str = "datacoord-meta/s/";
const DELTA: &str = "datacoord-meta/delta/";
const COMPACTION: &str = "datacoord-meta/compaction/";
const SNAPSHOT: &str = "datacoord-meta/snapshot/";
const RESTORE_JOB: &str = "datacoord-meta/restore/";
/// All exports of snapshots as bundles.
pub const SNAPSHOT_EXPORTS: &str = "datacoord-meta/snapshot-export/";
/// All exports.
pub const EXPORTS: &str = "datacoord-meta/export/";
const CHECKPOINT: &str = "datacoord-meta/channel-cp/";
const LOAD: &str = "querycoord-collection-loadinfo/";
const PARTITION_LOAD: &str = "querycoord-partition-loadinfo/";
const CHANNEL_OWNER: &str = "querycoord-channel/";
const USER: &str = "root-coord/credential/users/";
const ROLE: &str = "root-coord/credential/roles/";
const USER_ROLE: &str = "root-coord/credential/user-role-mapping/";
const GRANT: &str = "root-coord/credential/grantee-privileges/";
const PRIVILEGE_GROUP: &str = "root-coord/privilege-group/";

/// A database.
pub fn database(database: DatabaseId) -> String {
    format!("{DATABASE}{database}")
}

/// A collection.
pub fn collection(database: DatabaseId, collection: CollectionId) -> String {
    format!("{COLLECTION}{database}/{collection}")
}

/// A field of a collection.
pub fn field(collection: CollectionId, field: FieldId) -> String {
    format!("{FIELD}{collection}/{field}")
}

/// All fields of a collection.
pub fn fields(collection: CollectionId) -> String {
    format!("{FIELD}{collection}/")
}

/// A partition.
pub fn partition(collection: CollectionId, partition: PartitionId) -> String {
    format!("{PARTITION}{collection}/{partition}")
}

/// All partitions of a collection.
pub fn partitions(collection: CollectionId) -> String {
    format!("{PARTITION}{collection}/")
}

/// An alias.
pub fn alias(database: DatabaseId, alias: &str) -> String {
    format!("{ALIAS}{database}/{alias}")
}

/// An index definition.
pub fn index(collection: CollectionId, index: IndexId) -> String {
    format!("{INDEX}{collection}/{index}")
}

/// All index definitions of a collection.
pub fn indexes(collection: CollectionId) -> String {
    format!("{INDEX}{collection}/")
}

/// One build of an index over a segment.
pub fn segment_index(
    collection: CollectionId,
    partition: PartitionId,
    segment: SegmentId,
    build: BuildId,
) -> String {
    format!("{SEGMENT_INDEX}{collection}/{partition}/{segment}/{build}")
}

/// All index builds of a collection.
pub fn segment_indexes(collection: CollectionId) -> String {
    format!("{SEGMENT_INDEX}{collection}/")
}

/// All index builds of a partition.
pub fn partition_segment_indexes(collection: CollectionId, partition: PartitionId) -> String {
    format!("{SEGMENT_INDEX}{collection}/{partition}/")
}

/// A flushed segment's manifest.
pub fn segment(collection: CollectionId, partition: PartitionId, segment: SegmentId) -> String {
    format!("{SEGMENT}{collection}/{partition}/{segment}")
}

/// All segments of a collection.
pub fn segments(collection: CollectionId) -> String {
    format!("{SEGMENT}{collection}/")
}

/// All segments of a partition.
pub fn partition_segments(collection: CollectionId, partition: PartitionId) -> String {
    format!("{SEGMENT}{collection}/{partition}/")
}

/// Deletes of a channel that were flushed together.
pub fn delta(collection: CollectionId, delta: i64) -> String {
    format!("{DELTA}{collection}/{delta}")
}

/// All flushed deletes of a collection.
pub fn deltas(collection: CollectionId) -> String {
    format!("{DELTA}{collection}/")
}

/// A compaction plan.
pub fn compaction(collection: CollectionId, plan: i64) -> String {
    format!("{COMPACTION}{collection}/{plan}")
}

/// All compaction plans of a collection.
pub fn compactions(collection: CollectionId) -> String {
    format!("{COMPACTION}{collection}/")
}

/// A snapshot of a collection.
pub fn snapshot(collection: CollectionId, name: &str) -> String {
    format!("{SNAPSHOT}{collection}/{name}")
}

/// All snapshots of a collection.
pub fn snapshots(collection: CollectionId) -> String {
    format!("{SNAPSHOT}{collection}/")
}

/// The restore of a snapshot.
pub fn restore_job(job: i64) -> String {
    format!("{RESTORE_JOB}{job}")
}

/// The export of a snapshot as a bundle.
pub fn snapshot_export(job: i64) -> String {
    format!("{SNAPSHOT_EXPORTS}{job}")
}

/// An export of a collection's rows.
pub fn export(collection: CollectionId, task: &str) -> String {
    format!("{EXPORTS}{collection}/{task}")
}

/// All exports of a collection.
pub fn exports(collection: CollectionId) -> String {
    format!("{EXPORTS}{collection}/")
}

/// How far a channel's log is in segments and deltas.
pub fn checkpoint(channel: &str) -> String {
    format!("{CHECKPOINT}{channel}")
}

/// What of a collection is served.
pub fn load(collection: CollectionId) -> String {
    format!("{LOAD}{collection}")
}

/// That a partition is served.
pub fn partition_load(collection: CollectionId, partition: PartitionId) -> String {
    format!("{PARTITION_LOAD}{collection}/{partition}")
}

/// All served partitions of a collection.
pub fn partition_loads(collection: CollectionId) -> String {
    format!("{PARTITION_LOAD}{collection}/")
}

/// The node that owns a channel.
pub fn channel_owner(channel: &str) -> String {
    format!("{CHANNEL_OWNER}{channel}")
}

/// A running process.
pub fn session(role: &str, node: NodeId) -> String {
    format!("{SESSIONS}{role}/{node}")
}

/// The process that acts as the coordinator of a role.
pub fn office(role: &str) -> String {
    format!("{OFFICES}{role}")
}

/// A user.
pub fn user(name: &str) -> String {
    format!("{USER}{name}")
}

/// A role.
pub fn role(name: &str) -> String {
    format!("{ROLE}{name}")
}

/// That a user has a role.
pub fn user_role(user: &str, role: &str) -> String {
    format!("{USER_ROLE}{user}/{role}")
}

/// All roles of a user.
pub fn user_roles(user: &str) -> String {
    format!("{USER_ROLE}{user}/")
}

/// That a role has a privilege on an object.
pub fn grant(
    role: &str,
    object_type: &str,
    database: &str,
    object: &str,
    privilege: &str,
) -> String {
    format!("{GRANT}{role}/{object_type}/{database}.{object}/{privilege}")
}

/// All privileges of a role.
pub fn grants(role: &str) -> String {
    format!("{GRANT}{role}/")
}

/// A group of privileges that a user has made.
pub fn privilege_group(name: &str) -> String {
    format!("{PRIVILEGE_GROUP}{name}")
}

/// That a replica of the metastore has this id, or once had it.
pub fn replica(id: u64) -> String {
    format!("{REPLICAS}{id}")
}

/// Name of a collection's channel.
pub fn channel_name(collection: CollectionId, shard: usize) -> String {
    format!("{collection}v{shard}")
}

/// What a key holds, with the ids that stand in the key alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// [`database`].
    Database(DatabaseId),
    /// [`collection`].
    Collection(CollectionId),
    /// [`field`].
    Field(CollectionId, FieldId),
    /// [`partition`].
    Partition(CollectionId, PartitionId),
    /// [`alias`].
    Alias(DatabaseId, &'a str),
    /// [`index`].
    Index(CollectionId, IndexId),
    /// [`segment_index`].
    SegmentIndex(CollectionId, SegmentId, BuildId),
    /// [`segment`].
    Segment(CollectionId, SegmentId),
    /// [`delta`].
    Delta(CollectionId, i64),
    /// [`compaction`].
    Compaction(CollectionId, i64),
    /// [`snapshot`].
    Snapshot(CollectionId, &'a str),
    /// [`restore_job`].
    RestoreJob(i64),
    /// [`snapshot_export`].
    SnapshotExport(i64),
    /// [`export`].
    Export(CollectionId, &'a str),
    /// [`checkpoint`].
    Checkpoint(&'a str),
    /// [`load`].
    Load(CollectionId),
    /// [`partition_load`].
    PartitionLoad(CollectionId, PartitionId),
    /// [`channel_owner`].
    ChannelOwner(&'a str),
    /// [`session`], behind the prefix.
    Session(&'a str),
    /// [`office`].
    Office(&'a str),
    /// [`user`].
    User(&'a str),
    /// [`role`].
    Role(&'a str),
    /// [`user_role`], behind the prefix.
    UserRole(&'a str),
    /// [`grant`], behind the prefix.
    Grant(&'a str),
    /// [`privilege_group`].
    PrivilegeGroup(&'a str),
    /// Not a record that the view shows.
    Other,
}

impl<'a> Key<'a> {
    /// Takes a key apart.
    pub fn parse(key: &'a str) -> Self {
        Self::parse_known(key).unwrap_or(Self::Other)
    }

    /// Whether the record is about who may do what.
    pub fn is_of_access(self) -> bool {
        matches!(
            self,
            Self::User(_)
                | Self::Role(_)
                | Self::UserRole(_)
                | Self::Grant(_)
                | Self::PrivilegeGroup(_)
        )
    }

    /// The collection that the record belongs to, where it belongs to one.
    pub fn collection(self) -> Option<CollectionId> {
        match self {
            Self::Collection(id)
            | Self::Field(id, _)
            | Self::Partition(id, _)
            | Self::Index(id, _)
            | Self::SegmentIndex(id, _, _)
            | Self::Segment(id, _)
            | Self::Delta(id, _)
            | Self::Compaction(id, _)
            | Self::Snapshot(id, _)
            | Self::Export(id, _)
            | Self::Load(id)
            | Self::PartitionLoad(id, _) => Some(id),
            Self::Checkpoint(channel) | Self::ChannelOwner(channel) => {
                collection_of_channel(channel)
            }
            Self::Database(_)
            | Self::RestoreJob(_)
            | Self::SnapshotExport(_)
            | Self::Alias(..)
            | Self::Session(_)
            | Self::Office(_)
            | Self::User(_)
            | Self::Role(_)
            | Self::UserRole(_)
            | Self::Grant(_)
            | Self::PrivilegeGroup(_)
            | Self::Other => None,
        }
    }

    fn parse_known(key: &'a str) -> Option<Self> {
        if let Some(rest) = key.strip_prefix(DATABASE) {
            return Some(Self::Database(DatabaseId(rest.parse().ok()?)));
        }
        if let Some(rest) = key.strip_prefix(COLLECTION) {
            let [_, collection] = ids(rest)?;
            return Some(Self::Collection(CollectionId(collection)));
        }
        if let Some(rest) = key.strip_prefix(ALIAS) {
            let (database, alias) = rest.split_once('/')?;
            return Some(Self::Alias(DatabaseId(database.parse().ok()?), alias));
        }
        if let Some(rest) = key.strip_prefix(FIELD) {
            let [collection, field] = ids(rest)?;
            return Some(Self::Field(CollectionId(collection), FieldId(field)));
        }
        if let Some(rest) = key.strip_prefix(PARTITION) {
            let [collection, partition] = ids(rest)?;
            return Some(Self::Partition(
                CollectionId(collection),
                PartitionId(partition),
            ));
        }
        if let Some(rest) = key.strip_prefix(INDEX) {
            let [collection, index] = ids(rest)?;
            return Some(Self::Index(CollectionId(collection), IndexId(index)));
        }
        if let Some(rest) = key.strip_prefix(SEGMENT_INDEX) {
            let [collection, _, segment, build] = ids(rest)?;
            return Some(Self::SegmentIndex(
                CollectionId(collection),
                SegmentId(segment),
                BuildId(build),
            ));
        }
        if let Some(rest) = key.strip_prefix(SEGMENT) {
            let [collection, _, segment] = ids(rest)?;
            return Some(Self::Segment(CollectionId(collection), SegmentId(segment)));
        }
        if let Some(rest) = key.strip_prefix(DELTA) {
            let [collection, delta] = ids(rest)?;
            return Some(Self::Delta(CollectionId(collection), delta));
        }
        if let Some(rest) = key.strip_prefix(COMPACTION) {
            let [collection, plan] = ids(rest)?;
            return Some(Self::Compaction(CollectionId(collection), plan));
        }
        if let Some(rest) = key.strip_prefix(SNAPSHOT) {
            let (collection, name) = rest.split_once('/')?;
            return Some(Self::Snapshot(CollectionId(collection.parse().ok()?), name));
        }
        if let Some(job) = key.strip_prefix(RESTORE_JOB) {
            return Some(Self::RestoreJob(job.parse().ok()?));
        }
        if let Some(job) = key.strip_prefix(SNAPSHOT_EXPORTS) {
            return Some(Self::SnapshotExport(job.parse().ok()?));
        }
        if let Some(rest) = key.strip_prefix(EXPORTS) {
            let (collection, task) = rest.split_once('/')?;
            return Some(Self::Export(CollectionId(collection.parse().ok()?), task));
        }
        if let Some(channel) = key.strip_prefix(CHECKPOINT) {
            return Some(Self::Checkpoint(channel));
        }
        if let Some(rest) = key.strip_prefix(LOAD) {
            return Some(Self::Load(CollectionId(rest.parse().ok()?)));
        }
        if let Some(rest) = key.strip_prefix(PARTITION_LOAD) {
            let [collection, partition] = ids(rest)?;
            return Some(Self::PartitionLoad(
                CollectionId(collection),
                PartitionId(partition),
            ));
        }
        if let Some(channel) = key.strip_prefix(CHANNEL_OWNER) {
            return Some(Self::ChannelOwner(channel));
        }
        Self::parse_access(key)
            .or_else(|| key.strip_prefix(SESSIONS).map(Self::Session))
            .or_else(|| key.strip_prefix(OFFICES).map(Self::Office))
    }

    fn parse_access(key: &'a str) -> Option<Self> {
        type Make<'a> = fn(&'a str) -> Key<'a>;
        let kinds: [(&str, Make<'a>); 5] = [
            (USER, Self::User),
            (ROLE, Self::Role),
            (USER_ROLE, Self::UserRole),
            (GRANT, Self::Grant),
            (PRIVILEGE_GROUP, Self::PrivilegeGroup),
        ];
        kinds
            .into_iter()
            .find_map(|(prefix, make)| key.strip_prefix(prefix).map(make))
    }
}

/// Exactly `N` ids with slashes between them.
fn ids<const N: usize>(text: &str) -> Option<[i64; N]> {
    let mut parts = text.split('/');
    let mut found = [0; N];
    for id in &mut found {
        *id = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// The collection that a channel belongs to, from [`channel_name`].
pub fn collection_of_channel(channel: &str) -> Option<CollectionId> {
    let (collection, _) = channel.split_once('v')?;
    collection.parse().ok().map(CollectionId)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A key of each kind.
    pub(crate) fn examples() -> Vec<(String, Key<'static>)> {
        let (c, p, s) = (CollectionId(7), PartitionId(8), SegmentId(9));
        vec![
            (database(DatabaseId(1)), Key::Database(DatabaseId(1))),
            (collection(DatabaseId(1), c), Key::Collection(c)),
            (field(c, FieldId(100)), Key::Field(c, FieldId(100))),
            (partition(c, p), Key::Partition(c, p)),
            (alias(DatabaseId(1), "a"), Key::Alias(DatabaseId(1), "a")),
            (index(c, IndexId(3)), Key::Index(c, IndexId(3))),
            (
                segment_index(c, p, s, BuildId(4)),
                Key::SegmentIndex(c, s, BuildId(4)),
            ),
            (segment(c, p, s), Key::Segment(c, s)),
            (delta(c, 5), Key::Delta(c, 5)),
            (compaction(c, 6), Key::Compaction(c, 6)),
            (snapshot(c, "nightly"), Key::Snapshot(c, "nightly")),
            (restore_job(12), Key::RestoreJob(12)),
            (snapshot_export(13), Key::SnapshotExport(13)),
            (export(c, "a-b"), Key::Export(c, "a-b")),
            (checkpoint("7v0"), Key::Checkpoint("7v0")),
            (load(c), Key::Load(c)),
            (partition_load(c, p), Key::PartitionLoad(c, p)),
            (channel_owner("7v0"), Key::ChannelOwner("7v0")),
            (session("proxy", NodeId(3)), Key::Session("proxy/3")),
            (office("datacoord"), Key::Office("datacoord")),
            (user("ann"), Key::User("ann")),
            (role("reader"), Key::Role("reader")),
            (user_role("ann", "reader"), Key::UserRole("ann/reader")),
            (
                grant("reader", "Collection", "default", "*", "Search"),
                Key::Grant("reader/Collection/default.*/Search"),
            ),
            (privilege_group("g"), Key::PrivilegeGroup("g")),
            ("root-coord/saga/1".to_owned(), Key::Other),
            (TSO_WINDOW.to_owned(), Key::Other),
        ]
    }

    #[test]
    fn every_key_is_parsed_back() {
        for (key, want) in &examples() {
            assert_eq!(Key::parse(key), *want, "{key}");
        }
    }

    #[test]
    fn layout_is_milvus_s() {
        assert_eq!(
            partition(CollectionId(4), PartitionId(5)),
            "root-coord/partitions/4/5"
        );
        assert_eq!(
            collection(DatabaseId(1), CollectionId(4)),
            "root-coord/database/collection-info/1/4"
        );
        assert_eq!(
            collection_of_channel(&channel_name(CollectionId(4), 2)),
            Some(CollectionId(4))
        );
    }
}
