//! What each request needs.
//!
//! # Source
//! Privileges and where the names of objects stand are facts of Milvus's protocol, which has them as
//! options of its messages.

use redkite_catalog::{Access, Privilege, privileges::PUBLIC};
use redkite_proto::milvus::milvus::*;
use redkite_types::CollectionId;

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Object<'a> {
    /// No object, or all of them.
    Any,
    /// A collection by name or alias; the empty name is all of them.
    Collection(&'a str),
    /// The same, or by id where it has no name.
    CollectionOrId(&'a str, CollectionId),
    /// Every one of some collections.
    Collections(&'a [String]),
    /// A user.
    User(&'a str),
}

/// A request that not everybody may make.
///
/// # To ensure correctness
/// Every message of a request has its own, without a default: an RPC that is served without one does
/// not compile.
pub(crate) trait Guarded {
    /// The privilege that the caller needs; without one every user may make the request.
    const NEEDS: Option<Privilege>;

    /// What the caller needs it on.
    fn object(&self) -> Object<'_> {
        Object::Any
    }

    /// In which database, where that is not the one that the call is about.
    fn database(&self) -> Option<&str> {
        None
    }

    /// A privilege that the caller needs in another database too.
    fn also(&self) -> Option<(Privilege, &str)> {
        None
    }

    /// Whether the request is about the caller's own affairs.
    fn is_own(&self, _caller: &str, _access: &Access) -> bool {
        false
    }
}

macro_rules! guarded {
    (
        every_user { $($free:ident,)* }
        in_database { $($global:ident $global_needs:literal,)* }
        on_collection { $($one:ident.$field:ident $one_needs:literal,)* }
    ) => {
        $(
            impl Guarded for $free {
                const NEEDS: Option<Privilege> = None;
            }
        )*
        $(
            impl Guarded for $global {
                const NEEDS: Option<Privilege> = Some(Privilege::named($global_needs));
            }
        )*
        $(
            impl Guarded for $one {
                const NEEDS: Option<Privilege> = Some(Privilege::named($one_needs));

                fn object(&self) -> Object<'_> {
                    Object::Collection(&self.$field)
                }
            }
        )*
    };
}

// Requests that no version serves yet are here as well where Milvus says what they need.
guarded! {
    // What they show is what the caller sees.
    every_user {
        AllocTimestampRequest,
        CheckHealthRequest,
        ComputePhraseMatchSlopRequest,
        ConnectRequest,
        DescribePrewarmTaskRequest,
        GetCompactionPlansRequest,
        GetCompactionStateRequest,
        GetComponentStatesRequest,
        GetFlushAllStateRequest,
        GetMetricsRequest,
        GetPersistentSegmentInfoRequest,
        GetQuerySegmentInfoRequest,
        GetReplicasRequest,
        GetReplicateInfoRequest,
        GetRestoreSnapshotStateRequest,
        GetVersionRequest,
        HasCollectionRequest,
        ListDatabasesRequest,
        RunAnalyzerRequest,
        ShowCollectionsRequest,
    }
    in_database {
        AddCollectionFunctionRequest "CreateCollection",
        AddFileResourceRequest "AddFileResource",
        AlterAliasRequest "CreateAlias",
        AlterCollectionFieldRequest "CreateCollection",
        AlterCollectionFunctionRequest "CreateCollection",
        AlterCollectionRequest "CreateCollection",
        AlterRoleRequest "CreateOwnership",
        BackupRbacMetaRequest "BackupRBAC",
        BatchDescribeCollectionRequest "DescribeCollection",
        CreateAliasRequest "CreateAlias",
        CreateCollectionRequest "CreateCollection",
        CreateCredentialRequest "CreateOwnership",
        CreateDatabaseRequest "CreateDatabase",
        CreatePrivilegeGroupRequest "CreatePrivilegeGroup",
        CreateResourceGroupRequest "CreateResourceGroup",
        CreateRoleRequest "CreateOwnership",
        DeleteCredentialRequest "DropOwnership",
        DescribeAliasRequest "DescribeAlias",
        DescribeCollectionRequest "DescribeCollection",
        DescribeDatabaseRequest "DescribeDatabase",
        DescribeResourceGroupRequest "DescribeResourceGroup",
        DropAliasRequest "DropAlias",
        DropCollectionFunctionRequest "CreateCollection",
        DropCollectionRequest "DropCollection",
        DropPrivilegeGroupRequest "DropPrivilegeGroup",
        DropResourceGroupRequest "DropResourceGroup",
        DropRoleRequest "DropOwnership",
        ExportSnapshotRequest "ExportSnapshot",
        FlushAllRequest "FlushAll",
        GetExportSnapshotStateRequest "ExportSnapshot",
        // Milvus asks for these two on its other interface only.
        GetImportStateRequest "GetImportProgress",
        ListImportTasksRequest "ListImport",
        GetReplicateConfigurationRequest "GetReplicateConfiguration",
        ListAliasesRequest "ListAliases",
        ListCredUsersRequest "SelectOwnership",
        ListFileResourcesRequest "ListFileResources",
        ListPrivilegeGroupsRequest "ListPrivilegeGroups",
        ListResourceGroupsRequest "ListResourceGroups",
        OperatePrivilegeGroupRequest "OperatePrivilegeGroup",
        OperatePrivilegeRequest "ManageOwnership",
        OperatePrivilegeV2Request "ManageOwnership",
        OperateUserRoleRequest "ManageOwnership",
        PinSnapshotDataRequest "PinSnapshotData",
        RemoveFileResourceRequest "RemoveFileResource",
        RestoreExternalSnapshotRequest "RestoreExternalSnapshot",
        RestoreRbacMetaRequest "RestoreRBAC",
        SelectRoleRequest "SelectOwnership",
        TransferNodeRequest "TransferNode",
        TransferReplicaRequest "TransferReplica",
        TruncateCollectionRequest "DropCollection",
        UnpinSnapshotDataRequest "UnpinSnapshotData",
        UpdateReplicateConfigurationRequest "UpdateReplicateConfiguration",
        UpdateResourceGroupsRequest "UpdateResourceGroups",
    }
    on_collection {
        AddCollectionFieldRequest.collection_name "AddCollectionField",
        AddCollectionStructFieldRequest.collection_name "AddCollectionField",
        AlterCollectionSchemaRequest.collection_name "AlterCollectionSchema",
        AlterIndexRequest.collection_name "CreateIndex",
        BatchUpdateManifestRequest.collection_name "Insert",
        CreateIndexRequest.collection_name "CreateIndex",
        CreateNamespaceRequest.collection_name "CreatePartition",
        CreatePartitionRequest.collection_name "CreatePartition",
        CreateSnapshotRequest.collection_name "CreateSnapshot",
        DeleteRequest.collection_name "Delete",
        DescribeIndexRequest.collection_name "IndexDetail",
        DescribeNamespaceRequest.collection_name "ShowPartitions",
        DescribeSnapshotRequest.collection_name "DescribeSnapshot",
        DropIndexRequest.collection_name "DropIndex",
        DropNamespaceRequest.collection_name "DropPartition",
        DropPartitionRequest.collection_name "DropPartition",
        DropSnapshotRequest.collection_name "DropSnapshot",
        GetCollectionStatisticsRequest.collection_name "GetStatistics",
        GetFlushStateRequest.collection_name "GetFlushState",
        GetIndexBuildProgressRequest.collection_name "IndexDetail",
        GetIndexStateRequest.collection_name "IndexDetail",
        GetIndexStatisticsRequest.collection_name "IndexDetail",
        GetLoadStateRequest.collection_name "GetLoadState",
        GetLoadingProgressRequest.collection_name "GetLoadState",
        GetNamespaceStatsRequest.collection_name "ShowPartitions",
        GetPartitionStatisticsRequest.collection_name "GetStatistics",
        HasNamespaceRequest.collection_name "HasPartition",
        HasPartitionRequest.collection_name "HasPartition",
        HybridSearchRequest.collection_name "Search",
        ImportRequest.collection_name "Import",
        InsertRequest.collection_name "Insert",
        ListNamespacesRequest.collection_name "ShowPartitions",
        ListRestoreSnapshotJobsRequest.collection_name "RestoreSnapshot",
        ListSnapshotsRequest.collection_name "ListSnapshots",
        LoadBalanceRequest.collection_name "LoadBalance",
        LoadCollectionRequest.collection_name "Load",
        LoadPartitionsRequest.collection_name "Load",
        PrewarmRequest.collection_name "Load",
        QueryRequest.collection_name "Query",
        RefreshExternalCollectionRequest.collection_name "RefreshExternalCollection",
        ReleaseCollectionRequest.collection_name "Release",
        ReleasePartitionsRequest.collection_name "Release",
        SearchRequest.collection_name "Search",
        UpsertRequest.collection_name "Upsert",
    }
}

impl Guarded for FlushRequest {
    const NEEDS: Option<Privilege> = Some(Privilege::named("Flush"));

    fn object(&self) -> Object<'_> {
        Object::Collections(&self.collection_names)
    }
}

impl Guarded for ManualCompactionRequest {
    const NEEDS: Option<Privilege> = Some(Privilege::named("Compaction"));

    fn object(&self) -> Object<'_> {
        Object::CollectionOrId(&self.collection_name, CollectionId(self.collection_id))
    }
}

impl Guarded for ShowPartitionsRequest {
    const NEEDS: Option<Privilege> = Some(Privilege::named("ShowPartitions"));

    fn object(&self) -> Object<'_> {
        Object::CollectionOrId(&self.collection_name, CollectionId(self.collection_id))
    }
}

/// Is about the database that it names, whichever one the connection is in.
impl Guarded for AlterDatabaseRequest {
    const NEEDS: Option<Privilege> = Some(Privilege::named("AlterDatabase"));

    fn database(&self) -> Option<&str> {
        Some(self.db_name.as_str()).filter(|name| !name.is_empty())
    }
}

impl Guarded for DropDatabaseRequest {
    const NEEDS: Option<Privilege> = Some(Privilege::named("DropDatabase"));

    fn database(&self) -> Option<&str> {
        Some(self.db_name.as_str()).filter(|name| !name.is_empty())
    }
}

/// A name that moves to another database needs the privilege in both.
impl Guarded for RenameCollectionRequest {
    const NEEDS: Option<Privilege> = Some(Privilege::named("RenameCollection"));

    fn also(&self) -> Option<(Privilege, &str)> {
        let other = Some(self.new_db_name.as_str()).filter(|name| !name.is_empty());
        Self::NEEDS.zip(other)
    }
}

/// In another database it makes a collection.
impl Guarded for RestoreSnapshotRequest {
    const NEEDS: Option<Privilege> = Some(Privilege::named("RestoreSnapshot"));

    fn object(&self) -> Object<'_> {
        Object::Collection(&self.collection_name)
    }

    fn also(&self) -> Option<(Privilege, &str)> {
        let other = Some(self.target_db_name.as_str()).filter(|name| !name.is_empty());
        other.map(|other| (Privilege::named("CreateCollection"), other))
    }
}

impl Guarded for UpdateCredentialRequest {
    const NEEDS: Option<Privilege> = Some(Privilege::named("UpdateUser"));

    fn object(&self) -> Object<'_> {
        Object::User(&self.username)
    }

    fn is_own(&self, caller: &str, _: &Access) -> bool {
        self.username == caller
    }
}

impl Guarded for SelectUserRequest {
    const NEEDS: Option<Privilege> = Some(Privilege::named("SelectUser"));

    fn object(&self) -> Object<'_> {
        match &self.user {
            Some(user) => Object::User(&user.name),
            None => Object::Any,
        }
    }

    fn is_own(&self, caller: &str, _: &Access) -> bool {
        self.user.as_ref().is_some_and(|user| user.name == caller)
    }
}

/// Users may look at the grants of their own roles.
impl Guarded for SelectGrantRequest {
    const NEEDS: Option<Privilege> = Some(Privilege::named("SelectOwnership"));

    fn is_own(&self, caller: &str, access: &Access) -> bool {
        let entity = self.entity.as_ref();
        let role = entity.and_then(|entity| entity.role.as_ref());
        role.is_some_and(|asked| {
            asked.name == PUBLIC || access.roles_of(caller).any(|role| role == asked.name)
        })
    }
}
