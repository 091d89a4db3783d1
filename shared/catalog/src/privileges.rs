//! Which privileges there are, on which objects, and the groups of them that always exist.
//!
//! # Source
//! Names, object types, levels and groups are facts of Milvus's access control.

/// The user who may do everything.
pub const ROOT: &str = "root";
/// The role that may do everything.
pub const ADMIN: &str = "admin";
/// The role that every user has.
pub const PUBLIC: &str = "public";
/// Every database, object or privilege.
pub const ANY: &str = "*";

/// What a privilege is about, as grants name it.
pub const OBJECT_TYPES: [&str; 3] = ["Collection", "Global", "User"];

/// How far a privilege reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// One collection.
    Collection,
    /// One database.
    Database,
    /// The whole deployment.
    Cluster,
}

pub(crate) const ON_COLLECTIONS: &[&str] = &[
    "Load",
    "Release",
    "Compaction",
    "Insert",
    "Delete",
    "Upsert",
    "GetStatistics",
    "CreateIndex",
    "IndexDetail",
    "DropIndex",
    "Search",
    "Flush",
    "Query",
    "LoadBalance",
    "Import",
    "GetLoadingProgress",
    "GetLoadState",
    "CreatePartition",
    "DropPartition",
    "ShowPartitions",
    "HasPartition",
    "GetFlushState",
    "AddCollectionField",
    "CreateSnapshot",
    "DropSnapshot",
    "DescribeSnapshot",
    "ListSnapshots",
    "RestoreSnapshot",
    "AlterCollectionSchema",
    "RefreshExternalCollection",
    "ReadOnly",
    "ReadWrite",
];

pub(crate) const GLOBAL: &[&str] = &[
    "All",
    "CreateCollection",
    "DropCollection",
    "DescribeCollection",
    "ShowCollections",
    "RenameCollection",
    "CreateOwnership",
    "DropOwnership",
    "SelectOwnership",
    "ManageOwnership",
    "BackupRBAC",
    "RestoreRBAC",
    "CreateResourceGroup",
    "UpdateResourceGroups",
    "DropResourceGroup",
    "DescribeResourceGroup",
    "ListResourceGroups",
    "TransferReplica",
    "TransferNode",
    "FlushAll",
    "CreateDatabase",
    "DropDatabase",
    "ListDatabases",
    "AlterDatabase",
    "DescribeDatabase",
    "CreateAlias",
    "DropAlias",
    "DescribeAlias",
    "ListAliases",
    "CreatePrivilegeGroup",
    "DropPrivilegeGroup",
    "ListPrivilegeGroups",
    "OperatePrivilegeGroup",
    "GetImportProgress",
    "ListImport",
    "AddFileResource",
    "RemoveFileResource",
    "ListFileResources",
    "UpdateReplicateConfiguration",
    "GetReplicateConfiguration",
    "PinSnapshotData",
    "UnpinSnapshotData",
    "RestoreExternalSnapshot",
    "ExportSnapshot",
    "Admin",
    "ClusterReadOnly",
    "ClusterReadWrite",
    "ClusterAdmin",
    "DatabaseReadOnly",
    "DatabaseReadWrite",
    "DatabaseAdmin",
    "CollectionReadOnly",
    "CollectionReadWrite",
    "CollectionAdmin",
];

pub(crate) const ON_USERS: &[&str] = &["UpdateUser", "SelectUser"];

const COLLECTION_READ_ONLY: &[&str] = &[
    "Query",
    "Search",
    "IndexDetail",
    "GetFlushState",
    "GetLoadState",
    "GetLoadingProgress",
    "HasPartition",
    "ShowPartitions",
    "DescribeCollection",
    "DescribeAlias",
    "GetStatistics",
    "ListAliases",
];
const COLLECTION_READ_WRITE: &[&str] = &[
    "Load",
    "Release",
    "Insert",
    "Delete",
    "Upsert",
    "Import",
    "Flush",
    "Compaction",
    "LoadBalance",
    "CreateIndex",
    "DropIndex",
    "CreatePartition",
    "DropPartition",
];
const COLLECTION_ADMIN: &[&str] = &["CreateAlias", "DropAlias"];
const DATABASE_READ_ONLY: &[&str] = &["ShowCollections", "DescribeDatabase"];
const DATABASE_READ_WRITE: &[&str] = &["AlterDatabase"];
const DATABASE_ADMIN: &[&str] = &["CreateCollection", "DropCollection"];
const CLUSTER_READ_ONLY: &[&str] = &[
    "ListDatabases",
    "SelectOwnership",
    "SelectUser",
    "DescribeResourceGroup",
    "ListResourceGroups",
    "ListPrivilegeGroups",
];
const CLUSTER_READ_WRITE: &[&str] = &[
    "FlushAll",
    "TransferNode",
    "TransferReplica",
    "UpdateResourceGroups",
];
const CLUSTER_ADMIN: &[&str] = &[
    "BackupRBAC",
    "RestoreRBAC",
    "CreateDatabase",
    "DropDatabase",
    "CreateOwnership",
    "DropOwnership",
    "ManageOwnership",
    "CreateResourceGroup",
    "DropResourceGroup",
    "UpdateUser",
    "RenameCollection",
    "CreatePrivilegeGroup",
    "DropPrivilegeGroup",
    "OperatePrivilegeGroup",
];

/// What the groups of earlier versions have beyond the lists of newer ones.
const READ_ONLY: &[&str] = &["ShowCollections", "ListDatabases", "DescribeDatabase"];
const READ_WRITE: &[&str] = &[
    "CreateCollection",
    "DropCollection",
    "RenameCollection",
    "CreateAlias",
    "DropAlias",
];
const ADMINISTER: &[&str] = &[
    "CreateOwnership",
    "DropOwnership",
    "SelectOwnership",
    "ManageOwnership",
    "SelectUser",
    "UpdateUser",
    "BackupRBAC",
    "RestoreRBAC",
    "CreateResourceGroup",
    "UpdateResourceGroups",
    "DropResourceGroup",
    "DescribeResourceGroup",
    "ListResourceGroups",
    "TransferReplica",
    "TransferNode",
    "CreateDatabase",
    "DropDatabase",
    "AlterDatabase",
    "FlushAll",
    "CreatePrivilegeGroup",
    "DropPrivilegeGroup",
    "ListPrivilegeGroups",
    "OperatePrivilegeGroup",
];

/// Groups of earlier versions, which can be granted and are not listed.
const UNLISTED_GROUPS: &[(&str, &[&[&str]])] = &[
    ("ReadOnly", &[COLLECTION_READ_ONLY, READ_ONLY]),
    (
        "ReadWrite",
        &[
            COLLECTION_READ_ONLY,
            READ_ONLY,
            COLLECTION_READ_WRITE,
            READ_WRITE,
        ],
    ),
    (
        "Admin",
        &[
            COLLECTION_READ_ONLY,
            READ_ONLY,
            COLLECTION_READ_WRITE,
            READ_WRITE,
            ADMINISTER,
        ],
    ),
];

/// Privileges that others bring along.
const RELATED: &[(&str, &[&str])] = &[
    ("Load", &["GetLoadState", "GetLoadingProgress"]),
    ("Flush", &["GetFlushState"]),
];

/// The groups that always exist: each is its level's lists up to its own.
const GROUPS: &[(&str, Level, &[&[&str]])] = &[
    ("ClusterReadOnly", Level::Cluster, &[CLUSTER_READ_ONLY]),
    (
        "ClusterReadWrite",
        Level::Cluster,
        &[CLUSTER_READ_ONLY, CLUSTER_READ_WRITE],
    ),
    (
        "ClusterAdmin",
        Level::Cluster,
        &[CLUSTER_READ_ONLY, CLUSTER_READ_WRITE, CLUSTER_ADMIN],
    ),
    ("DatabaseReadOnly", Level::Database, &[DATABASE_READ_ONLY]),
    (
        "DatabaseReadWrite",
        Level::Database,
        &[DATABASE_READ_ONLY, DATABASE_READ_WRITE],
    ),
    (
        "DatabaseAdmin",
        Level::Database,
        &[DATABASE_READ_ONLY, DATABASE_READ_WRITE, DATABASE_ADMIN],
    ),
    (
        "CollectionReadOnly",
        Level::Collection,
        &[COLLECTION_READ_ONLY],
    ),
    (
        "CollectionReadWrite",
        Level::Collection,
        &[COLLECTION_READ_ONLY, COLLECTION_READ_WRITE],
    ),
    (
        "CollectionAdmin",
        Level::Collection,
        &[
            COLLECTION_READ_ONLY,
            COLLECTION_READ_WRITE,
            COLLECTION_ADMIN,
        ],
    ),
];

/// Whether a name is that of a privilege or of a group that always exists.
pub fn is_defined(name: &str) -> bool {
    [ON_COLLECTIONS, GLOBAL, ON_USERS]
        .iter()
        .any(|names| names.contains(&name))
}

/// Whether a name is that of a group that always exists.
pub fn is_builtin_group(name: &str) -> bool {
    UNLISTED_GROUPS.iter().any(|(group, _)| *group == name)
        || GROUPS.iter().any(|(group, ..)| *group == name)
}

/// The object type that a privilege is granted on; `Global` for groups that users have made.
pub fn object_type(privilege: &str) -> &'static str {
    let [collection, global, user] = OBJECT_TYPES;
    if ON_COLLECTIONS.contains(&privilege) {
        collection
    } else if ON_USERS.contains(&privilege) {
        user
    } else {
        global
    }
}

/// How far a privilege or a built-in group reaches; `None` for what is in no such group.
pub fn level(privilege: &str) -> Option<Level> {
    GROUPS
        .iter()
        .find(|(group, _, lists)| {
            *group == privilege || lists.iter().any(|list| list.contains(&privilege))
        })
        .map(|(_, level, _)| *level)
}

/// The listed built-in groups with their privileges.
pub fn builtin_groups() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    GROUPS
        .iter()
        .map(|(group, _, lists)| (*group, lists.concat()))
}

/// The privileges in a group that always exists, listed or not; none for other names.
pub fn members(group: &str) -> impl Iterator<Item = &'static str> {
    let listed = GROUPS.iter().find(|(name, ..)| *name == group);
    let unlisted = UNLISTED_GROUPS.iter().find(|(name, _)| *name == group);
    let lists = listed.map(|(.., lists)| *lists);
    let lists = lists.or(unlisted.map(|(_, lists)| *lists)).unwrap_or(&[]);
    lists.iter().flat_map(|list| list.iter().copied())
}

/// Privileges that come with a privilege: who may start something may look how far it is.
pub fn related(privilege: &str) -> &'static [&'static str] {
    let found = RELATED.iter().find(|(name, _)| *name == privilege);
    found.map_or(&[], |(_, related)| related)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrivilegeSet;

    #[test]
    fn every_member_of_a_group_is_a_privilege_of_the_group_s_level() {
        for (group, members) in builtin_groups() {
            assert!(is_builtin_group(group) && is_defined(group));
            for member in members {
                assert!(is_defined(member), "{member}");
                assert_eq!(level(member), level(group), "{member} in {group}");
            }
        }
    }

    #[test]
    fn a_privilege_belongs_to_one_object_type() {
        let all = [ON_COLLECTIONS, GLOBAL, ON_USERS].concat();
        for name in &all {
            assert_eq!(
                all.iter().filter(|other| *other == name).count(),
                1,
                "{name}"
            );
        }
        assert_eq!(object_type("Search"), "Collection");
        assert_eq!(object_type("DescribeCollection"), "Global");
        assert_eq!(object_type("UpdateUser"), "User");
        assert!(!is_defined("Nothing"));
    }

    #[test]
    fn unlisted_groups_hold_each_other() {
        let set = |group: &str| PrivilegeSet::named(members(group));
        let names = ["ReadOnly", "ReadWrite", "Admin"];
        for pair in names.windows(2) {
            assert!(set(pair[0]).without(set(pair[1])).is_empty());
        }
        assert_eq!(members("ReadOnly").count(), 15);
        for name in names {
            assert!(members(name).all(is_defined) && is_builtin_group(name));
        }
        assert_eq!(members("Search").count(), 0);
        assert_eq!(related("Flush"), ["GetFlushState"]);
        assert!(related("Search").is_empty());
    }
}
