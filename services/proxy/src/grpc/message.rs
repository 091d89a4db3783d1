//! What all requests and all replies have in common.

use redkite_proto::{
    milvus::{common::Status, milvus::*},
    status,
};
use redkite_types::Error;

/// A request's message.
pub(super) trait Message {
    /// Whether it is answered only after files were written.
    const WRITES_FILES: bool = false;

    /// The database that it names to look in; empty when it leaves that to the connection.
    fn db_name(&self) -> &str {
        ""
    }
}

/// A reply's message.
pub(super) trait Reply: Send + 'static {
    /// The reply to a request that failed.
    fn failed(error: &Error) -> Self;
}

impl Reply for Status {
    fn failed(error: &Error) -> Self {
        status::failure(error)
    }
}

impl Reply for MutationResult {
    fn failed(error: &Error) -> Self {
        Self {
            status: Some(status::mutation_failure(error)),
            ..Self::default()
        }
    }
}

macro_rules! messages {
    (
        in_database { $($named:ident,)* }
        in_database_writing_files { $($slow:ident,)* }
        elsewhere { $($other:ident,)* }
    ) => {
        $(
            impl Message for $named {
                fn db_name(&self) -> &str {
                    &self.db_name
                }
            }
        )*
        $(
            impl Message for $slow {
                const WRITES_FILES: bool = true;

                fn db_name(&self) -> &str {
                    &self.db_name
                }
            }
        )*
        $(impl Message for $other {})*
    };
}

macro_rules! replies {
    ($($reply:ident,)*) => {
        $(
            impl Reply for $reply {
                #[allow(clippy::needless_update, reason = "some replies have nothing but a status")]
                fn failed(error: &Error) -> Self {
                    Self { status: Some(status::failure(error)), ..Self::default() }
                }
            }
        )*
    };
}

messages! {
    in_database {
        AddCollectionFieldRequest,
        AlterAliasRequest,
        AlterCollectionFieldRequest,
        AlterCollectionRequest,
        AlterIndexRequest,
        BatchDescribeCollectionRequest,
        CreateAliasRequest,
        CreateCollectionRequest,
        CreateIndexRequest,
        CreatePartitionRequest,
        DeleteRequest,
        DescribeAliasRequest,
        DescribeCollectionRequest,
        DescribeDatabaseRequest,
        DescribeIndexRequest,
        DescribeSnapshotRequest,
        DropAliasRequest,
        DropCollectionRequest,
        DropIndexRequest,
        DropPartitionRequest,
        DropSnapshotRequest,
        ExportSnapshotRequest,
        GetCollectionStatisticsRequest,
        GetCompactionPlansRequest,
        GetFlushAllStateRequest,
        GetFlushStateRequest,
        GetIndexBuildProgressRequest,
        GetIndexStateRequest,
        GetIndexStatisticsRequest,
        GetLoadStateRequest,
        GetLoadingProgressRequest,
        GetPartitionStatisticsRequest,
        GetPersistentSegmentInfoRequest,
        GetQuerySegmentInfoRequest,
        GetReplicasRequest,
        HasCollectionRequest,
        HasPartitionRequest,
        HybridSearchRequest,
        InsertRequest,
        ListAliasesRequest,
        ListSnapshotsRequest,
        LoadCollectionRequest,
        LoadPartitionsRequest,
        ManualCompactionRequest,
        QueryRequest,
        ReleaseCollectionRequest,
        ReleasePartitionsRequest,
        RenameCollectionRequest,
        ListRestoreSnapshotJobsRequest,
        RestoreExternalSnapshotRequest,
        RestoreSnapshotRequest,
        SearchRequest,
        ShowCollectionsRequest,
        ShowPartitionsRequest,
        TruncateCollectionRequest,
        OperatePrivilegeV2Request,
        PinSnapshotDataRequest,
        UpsertRequest,
    }
    in_database_writing_files {
        // It may be asked to flush first.
        CreateSnapshotRequest,
        FlushAllRequest,
        FlushRequest,
    }
    // Requests about the connection, about databases themselves or by an id.
    elsewhere {
        AllocTimestampRequest,
        AlterDatabaseRequest,
        CheckHealthRequest,
        ConnectRequest,
        CreateDatabaseRequest,
        DropDatabaseRequest,
        GetCompactionStateRequest,
        GetComponentStatesRequest,
        GetVersionRequest,
        ListDatabasesRequest,
        AlterRoleRequest,
        CreateCredentialRequest,
        CreatePrivilegeGroupRequest,
        CreateRoleRequest,
        DeleteCredentialRequest,
        DropPrivilegeGroupRequest,
        DropRoleRequest,
        ListCredUsersRequest,
        ListPrivilegeGroupsRequest,
        OperatePrivilegeGroupRequest,
        OperatePrivilegeRequest,
        OperateUserRoleRequest,
        SelectGrantRequest,
        SelectRoleRequest,
        SelectUserRequest,
        GetExportSnapshotStateRequest,
        GetRestoreSnapshotStateRequest,
        UnpinSnapshotDataRequest,
        UpdateCredentialRequest,
    }
}

replies! {
    AllocTimestampResponse,
    BatchDescribeCollectionResponse,
    BoolResponse,
    CheckHealthResponse,
    ComponentStates,
    ConnectResponse,
    DescribeAliasResponse,
    DescribeCollectionResponse,
    DescribeDatabaseResponse,
    DescribeIndexResponse,
    DescribeSnapshotResponse,
    FlushAllResponse,
    FlushResponse,
    GetCollectionStatisticsResponse,
    GetCompactionPlansResponse,
    GetCompactionStateResponse,
    GetFlushAllStateResponse,
    GetFlushStateResponse,
    GetIndexBuildProgressResponse,
    GetIndexStateResponse,
    GetIndexStatisticsResponse,
    GetLoadStateResponse,
    GetLoadingProgressResponse,
    GetPartitionStatisticsResponse,
    GetPersistentSegmentInfoResponse,
    GetQuerySegmentInfoResponse,
    GetReplicasResponse,
    GetVersionResponse,
    ListAliasesResponse,
    ListDatabasesResponse,
    ListSnapshotsResponse,
    ExportSnapshotResponse,
    GetExportSnapshotStateResponse,
    GetRestoreSnapshotStateResponse,
    RestoreExternalSnapshotResponse,
    ListRestoreSnapshotJobsResponse,
    RestoreSnapshotResponse,
    ManualCompactionResponse,
    PinSnapshotDataResponse,
    QueryResults,
    SearchResults,
    ShowCollectionsResponse,
    ListCredUsersResponse,
    ListPrivilegeGroupsResponse,
    SelectGrantResponse,
    SelectRoleResponse,
    SelectUserResponse,
    ShowPartitionsResponse,
    TruncateCollectionResponse,
}
