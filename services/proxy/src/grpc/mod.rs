//! `MilvusService`: every RPC that Milvus has, served or refused by name.
//!
//! - [`access`]: users, roles, grants
//! - [`ddl`]: changes what exists; forwarded to the root coordinator
//! - [`dml`]: changes rows
//! - [`dql`]: finds rows
//! - [`info`]: tells about what exists, flushes and compacts
//! - [`snapshot`]: takes, shows, pins and drops snapshots

pub(crate) mod access;
mod call;
pub(crate) mod ddl;
pub(crate) mod dml;
pub(crate) mod dql;
pub(crate) mod info;
mod message;
pub(crate) mod snapshot;

use std::sync::Arc;

use futures::stream;
use redkite_proto::milvus::{
    common, feder,
    milvus::{milvus_service_server::MilvusService, *},
};
use tonic::{Request, Response, Status, Streaming};

use self::call::Call;
use crate::{
    context::ProxyContext,
    metrics::{self, Rpc},
};

/// `milvus.proto.milvus.MilvusService`.
#[derive(Clone)]
pub struct Front {
    context: Arc<ProxyContext>,
}

impl Front {
    /// The service of a proxy.
    pub fn new(context: Arc<ProxyContext>) -> Self {
        Self { context }
    }
}

/// The refusal of an RPC that this version does not have. Clients do not retry it, and fall back
/// to an older RPC where there is one.
fn unserved(rpc: &'static str) -> Status {
    metrics::unserved(rpc);
    Status::unimplemented(format!("{rpc} is not served by this version"))
}

/// A stream that is never made: its RPC is refused before.
type NoStream<T> = stream::Empty<Result<T, Status>>;

/// Implements the service from a table. A change runs detached from its client, a read does not,
/// and what the view of the metadata tells needs no waiting at all.
macro_rules! milvus_service {
    (
        changes { $($change:ident $change_fn:ident($change_in:ty) -> $change_out:ty = $change_to:path;)* }
        reads { $($read:ident $read_fn:ident($read_in:ty) -> $read_out:ty = $read_to:path;)* }
        views { $($view:ident $view_fn:ident($view_in:ty) -> $view_out:ty = $view_to:path;)* }
        unserved { $($none:ident $none_fn:ident($none_in:ty) -> $none_out:ty;)* }
    ) => {
        /// Every RPC that is served, with the privilege that it needs.
        #[cfg(test)]
        pub(crate) const SERVED: &[(&str, Option<redkite_catalog::Privilege>)] = &[
            $((stringify!($change), <$change_in as crate::auth::guarded::Guarded>::NEEDS),)*
            $((stringify!($read), <$read_in as crate::auth::guarded::Guarded>::NEEDS),)*
            $((stringify!($view), <$view_in as crate::auth::guarded::Guarded>::NEEDS),)*
        ];

        #[tonic::async_trait]
        impl MilvusService for Front {
            $(
                async fn $change_fn(
                    &self,
                    request: Request<$change_in>,
                ) -> Result<Response<$change_out>, Status> {
                    static RPC: Rpc = Rpc::new(stringify!($change));
                    let (call, meta, message) =
                        Call::begin(&RPC, &self.context, request).await?;
                    let context = self.context.clone();
                    let work = async move { $change_to(&context, meta, message).await };
                    Ok(call.detached(&self.context, work).await)
                }
            )*

            $(
                async fn $read_fn(
                    &self,
                    request: Request<$read_in>,
                ) -> Result<Response<$read_out>, Status> {
                    static RPC: Rpc = Rpc::new(stringify!($read));
                    let (call, meta, message) =
                        Call::begin(&RPC, &self.context, request).await?;
                    Ok(call.inline($read_to(&self.context, meta, message)).await)
                }
            )*

            $(
                async fn $view_fn(
                    &self,
                    request: Request<$view_in>,
                ) -> Result<Response<$view_out>, Status> {
                    static RPC: Rpc = Rpc::new(stringify!($view));
                    let (call, meta, message) =
                        Call::begin(&RPC, &self.context, request).await?;
                    Ok(call.answer($view_to(&self.context, meta, message)))
                }
            )*

            $(
                async fn $none_fn(
                    &self,
                    _: Request<$none_in>,
                ) -> Result<Response<$none_out>, Status> {
                    Err(unserved(stringify!($none)))
                }
            )*

            type CreateReplicateStreamStream = NoStream<ReplicateResponse>;

            async fn create_replicate_stream(
                &self,
                _: Request<Streaming<ReplicateRequest>>,
            ) -> Result<Response<Self::CreateReplicateStreamStream>, Status> {
                Err(unserved("CreateReplicateStream"))
            }

            type DumpMessagesStream = NoStream<DumpMessagesResponse>;

            async fn dump_messages(
                &self,
                _: Request<DumpMessagesRequest>,
            ) -> Result<Response<Self::DumpMessagesStream>, Status> {
                Err(unserved("DumpMessages"))
            }
        }
    };
}

milvus_service! {
    changes {
        CreateCollection create_collection(CreateCollectionRequest) -> common::Status = ddl::create_collection;
        DropCollection drop_collection(DropCollectionRequest) -> common::Status = ddl::drop_collection;
        LoadCollection load_collection(LoadCollectionRequest) -> common::Status = ddl::load_collection;
        ReleaseCollection release_collection(ReleaseCollectionRequest) -> common::Status = ddl::release_collection;
        AlterCollection alter_collection(AlterCollectionRequest) -> common::Status = ddl::alter_collection;
        AddCollectionField add_collection_field(AddCollectionFieldRequest) -> common::Status = ddl::add_collection_field;
        AlterCollectionField alter_collection_field(AlterCollectionFieldRequest) -> common::Status = ddl::alter_collection_field;
        TruncateCollection truncate_collection(TruncateCollectionRequest) -> TruncateCollectionResponse = ddl::truncate_collection;
        CreatePartition create_partition(CreatePartitionRequest) -> common::Status = ddl::create_partition;
        DropPartition drop_partition(DropPartitionRequest) -> common::Status = ddl::drop_partition;
        LoadPartitions load_partitions(LoadPartitionsRequest) -> common::Status = ddl::load_partitions;
        ReleasePartitions release_partitions(ReleasePartitionsRequest) -> common::Status = ddl::release_partitions;
        CreateAlias create_alias(CreateAliasRequest) -> common::Status = ddl::create_alias;
        DropAlias drop_alias(DropAliasRequest) -> common::Status = ddl::drop_alias;
        AlterAlias alter_alias(AlterAliasRequest) -> common::Status = ddl::alter_alias;
        CreateIndex create_index(CreateIndexRequest) -> common::Status = ddl::create_index;
        AlterIndex alter_index(AlterIndexRequest) -> common::Status = ddl::alter_index;
        DropIndex drop_index(DropIndexRequest) -> common::Status = ddl::drop_index;
        Insert insert(InsertRequest) -> MutationResult = dml::insert;
        Delete delete(DeleteRequest) -> MutationResult = dml::delete;
        Upsert upsert(UpsertRequest) -> MutationResult = dml::upsert;
        Flush flush(FlushRequest) -> FlushResponse = info::flush::flush;
        FlushAll flush_all(FlushAllRequest) -> FlushAllResponse = info::flush::flush_all;
        ManualCompaction manual_compaction(ManualCompactionRequest) -> ManualCompactionResponse = info::compaction::manual_compaction;
        RenameCollection rename_collection(RenameCollectionRequest) -> common::Status = ddl::rename_collection;
        CreateDatabase create_database(CreateDatabaseRequest) -> common::Status = ddl::create_database;
        DropDatabase drop_database(DropDatabaseRequest) -> common::Status = ddl::drop_database;
        AlterDatabase alter_database(AlterDatabaseRequest) -> common::Status = ddl::alter_database;
        CreateCredential create_credential(CreateCredentialRequest) -> common::Status = access::create_credential;
        UpdateCredential update_credential(UpdateCredentialRequest) -> common::Status = access::update_credential;
        DeleteCredential delete_credential(DeleteCredentialRequest) -> common::Status = access::delete_credential;
        CreateRole create_role(CreateRoleRequest) -> common::Status = access::create_role;
        AlterRole alter_role(AlterRoleRequest) -> common::Status = access::alter_role;
        DropRole drop_role(DropRoleRequest) -> common::Status = access::drop_role;
        OperateUserRole operate_user_role(OperateUserRoleRequest) -> common::Status = access::operate_user_role;
        OperatePrivilege operate_privilege(OperatePrivilegeRequest) -> common::Status = access::operate_privilege;
        OperatePrivilegeV2 operate_privilege_v2(OperatePrivilegeV2Request) -> common::Status = access::operate_privilege_v2;
        CreatePrivilegeGroup create_privilege_group(CreatePrivilegeGroupRequest) -> common::Status = access::create_privilege_group;
        DropPrivilegeGroup drop_privilege_group(DropPrivilegeGroupRequest) -> common::Status = access::drop_privilege_group;
        OperatePrivilegeGroup operate_privilege_group(OperatePrivilegeGroupRequest) -> common::Status = access::operate_privilege_group;
        CreateSnapshot create_snapshot(CreateSnapshotRequest) -> common::Status = snapshot::create_snapshot;
        DropSnapshot drop_snapshot(DropSnapshotRequest) -> common::Status = snapshot::drop_snapshot;
        PinSnapshotData pin_snapshot_data(PinSnapshotDataRequest) -> PinSnapshotDataResponse = snapshot::pin_snapshot_data;
        UnpinSnapshotData unpin_snapshot_data(UnpinSnapshotDataRequest) -> common::Status = snapshot::unpin_snapshot_data;
        RestoreSnapshot restore_snapshot(RestoreSnapshotRequest) -> RestoreSnapshotResponse = snapshot::restore::restore_snapshot;
        RestoreExternalSnapshot restore_external_snapshot(RestoreExternalSnapshotRequest) -> RestoreExternalSnapshotResponse = snapshot::bundle::restore_external_snapshot;
        ExportSnapshot export_snapshot(ExportSnapshotRequest) -> ExportSnapshotResponse = snapshot::bundle::export_snapshot;
    }
    reads {
        GetCollectionStatistics get_collection_statistics(GetCollectionStatisticsRequest) -> GetCollectionStatisticsResponse = info::stats::get_collection_statistics;
        ShowCollections show_collections(ShowCollectionsRequest) -> ShowCollectionsResponse = info::collections::show_collections;
        GetPartitionStatistics get_partition_statistics(GetPartitionStatisticsRequest) -> GetPartitionStatisticsResponse = info::stats::get_partition_statistics;
        ShowPartitions show_partitions(ShowPartitionsRequest) -> ShowPartitionsResponse = info::partitions::show_partitions;
        GetLoadingProgress get_loading_progress(GetLoadingProgressRequest) -> GetLoadingProgressResponse = info::load::get_loading_progress;
        GetLoadState get_load_state(GetLoadStateRequest) -> GetLoadStateResponse = info::load::get_load_state;
        DescribeIndex describe_index(DescribeIndexRequest) -> DescribeIndexResponse = info::indexes::describe_index;
        GetIndexStatistics get_index_statistics(GetIndexStatisticsRequest) -> GetIndexStatisticsResponse = info::indexes::get_index_statistics;
        GetIndexState get_index_state(GetIndexStateRequest) -> GetIndexStateResponse = info::indexes::get_index_state;
        GetIndexBuildProgress get_index_build_progress(GetIndexBuildProgressRequest) -> GetIndexBuildProgressResponse = info::indexes::get_index_build_progress;
        Search search(SearchRequest) -> SearchResults = dql::search;
        HybridSearch hybrid_search(HybridSearchRequest) -> SearchResults = dql::hybrid_search;
        Query query(QueryRequest) -> QueryResults = dql::query;
        GetFlushState get_flush_state(GetFlushStateRequest) -> GetFlushStateResponse = info::flush::get_flush_state;
        GetFlushAllState get_flush_all_state(GetFlushAllStateRequest) -> GetFlushAllStateResponse = info::flush::get_flush_all_state;
        GetQuerySegmentInfo get_query_segment_info(GetQuerySegmentInfoRequest) -> GetQuerySegmentInfoResponse = info::segments::get_query_segment_info;
        GetCompactionState get_compaction_state(GetCompactionStateRequest) -> GetCompactionStateResponse = info::compaction::get_compaction_state;
        GetCompactionStateWithPlans get_compaction_state_with_plans(GetCompactionPlansRequest) -> GetCompactionPlansResponse = info::compaction::get_compaction_state_with_plans;
        AllocTimestamp alloc_timestamp(AllocTimestampRequest) -> AllocTimestampResponse = info::server::alloc_timestamp;
    }
    views {
        HasCollection has_collection(HasCollectionRequest) -> BoolResponse = info::collections::has_collection;
        DescribeCollection describe_collection(DescribeCollectionRequest) -> DescribeCollectionResponse = info::collections::describe_collection;
        BatchDescribeCollection batch_describe_collection(BatchDescribeCollectionRequest) -> BatchDescribeCollectionResponse = info::collections::batch_describe_collection;
        HasPartition has_partition(HasPartitionRequest) -> BoolResponse = info::partitions::has_partition;
        DescribeAlias describe_alias(DescribeAliasRequest) -> DescribeAliasResponse = info::names::describe_alias;
        ListAliases list_aliases(ListAliasesRequest) -> ListAliasesResponse = info::names::list_aliases;
        GetPersistentSegmentInfo get_persistent_segment_info(GetPersistentSegmentInfoRequest) -> GetPersistentSegmentInfoResponse = info::segments::get_persistent_segment_info;
        GetReplicas get_replicas(GetReplicasRequest) -> GetReplicasResponse = info::segments::get_replicas;
        GetComponentStates get_component_states(GetComponentStatesRequest) -> ComponentStates = info::server::get_component_states;
        GetVersion get_version(GetVersionRequest) -> GetVersionResponse = info::server::get_version;
        CheckHealth check_health(CheckHealthRequest) -> CheckHealthResponse = info::server::check_health;
        Connect connect(ConnectRequest) -> ConnectResponse = info::server::connect;
        ListDatabases list_databases(ListDatabasesRequest) -> ListDatabasesResponse = info::names::list_databases;
        DescribeDatabase describe_database(DescribeDatabaseRequest) -> DescribeDatabaseResponse = info::names::describe_database;
        ListCredUsers list_cred_users(ListCredUsersRequest) -> ListCredUsersResponse = access::list_cred_users;
        SelectRole select_role(SelectRoleRequest) -> SelectRoleResponse = access::select_role;
        SelectUser select_user(SelectUserRequest) -> SelectUserResponse = access::select_user;
        SelectGrant select_grant(SelectGrantRequest) -> SelectGrantResponse = access::select_grant;
        ListPrivilegeGroups list_privilege_groups(ListPrivilegeGroupsRequest) -> ListPrivilegeGroupsResponse = access::list_privilege_groups;
        ListSnapshots list_snapshots(ListSnapshotsRequest) -> ListSnapshotsResponse = snapshot::list_snapshots;
        DescribeSnapshot describe_snapshot(DescribeSnapshotRequest) -> DescribeSnapshotResponse = snapshot::describe_snapshot;
        GetRestoreSnapshotState get_restore_snapshot_state(GetRestoreSnapshotStateRequest) -> GetRestoreSnapshotStateResponse = snapshot::restore::get_restore_snapshot_state;
        GetExportSnapshotState get_export_snapshot_state(GetExportSnapshotStateRequest) -> GetExportSnapshotStateResponse = snapshot::bundle::get_export_snapshot_state;
        ListRestoreSnapshotJobs list_restore_snapshot_jobs(ListRestoreSnapshotJobsRequest) -> ListRestoreSnapshotJobsResponse = snapshot::restore::list_restore_snapshot_jobs;
    }
    unserved {
        AddCollectionFunction add_collection_function(AddCollectionFunctionRequest) -> common::Status;
        AlterCollectionFunction alter_collection_function(AlterCollectionFunctionRequest) -> common::Status;
        DropCollectionFunction drop_collection_function(DropCollectionFunctionRequest) -> common::Status;
        Prewarm prewarm(PrewarmRequest) -> PrewarmResponse;
        DescribePrewarmTask describe_prewarm_task(DescribePrewarmTaskRequest) -> DescribePrewarmTaskResponse;
        CreateNamespace create_namespace(CreateNamespaceRequest) -> CreateNamespaceResponse;
        DescribeNamespace describe_namespace(DescribeNamespaceRequest) -> DescribeNamespaceResponse;
        ListNamespaces list_namespaces(ListNamespacesRequest) -> ListNamespacesResponse;
        DropNamespace drop_namespace(DropNamespaceRequest) -> DropNamespaceResponse;
        HasNamespace has_namespace(HasNamespaceRequest) -> HasNamespaceResponse;
        GetNamespaceStats get_namespace_stats(GetNamespaceStatsRequest) -> GetNamespaceStatsResponse;
        CalcDistance calc_distance(CalcDistanceRequest) -> CalcDistanceResults;
        AddCollectionStructField add_collection_struct_field(AddCollectionStructFieldRequest) -> common::Status;
        Dummy dummy(DummyRequest) -> DummyResponse;
        RegisterLink register_link(RegisterLinkRequest) -> RegisterLinkResponse;
        GetMetrics get_metrics(GetMetricsRequest) -> GetMetricsResponse;
        LoadBalance load_balance(LoadBalanceRequest) -> common::Status;
        Import import(ImportRequest) -> ImportResponse;
        GetImportState get_import_state(GetImportStateRequest) -> GetImportStateResponse;
        ListImportTasks list_import_tasks(ListImportTasksRequest) -> ListImportTasksResponse;
        CreateResourceGroup create_resource_group(CreateResourceGroupRequest) -> common::Status;
        DropResourceGroup drop_resource_group(DropResourceGroupRequest) -> common::Status;
        UpdateResourceGroups update_resource_groups(UpdateResourceGroupsRequest) -> common::Status;
        TransferNode transfer_node(TransferNodeRequest) -> common::Status;
        TransferReplica transfer_replica(TransferReplicaRequest) -> common::Status;
        ListResourceGroups list_resource_groups(ListResourceGroupsRequest) -> ListResourceGroupsResponse;
        DescribeResourceGroup describe_resource_group(DescribeResourceGroupRequest) -> DescribeResourceGroupResponse;
        ListIndexedSegment list_indexed_segment(feder::ListIndexedSegmentRequest) -> feder::ListIndexedSegmentResponse;
        DescribeSegmentIndexData describe_segment_index_data(feder::DescribeSegmentIndexDataRequest) -> feder::DescribeSegmentIndexDataResponse;
        ReplicateMessage replicate_message(ReplicateMessageRequest) -> ReplicateMessageResponse;
        BackupRBAC backup_rbac(BackupRbacMetaRequest) -> BackupRbacMetaResponse;
        RestoreRBAC restore_rbac(RestoreRbacMetaRequest) -> common::Status;
        RunAnalyzer run_analyzer(RunAnalyzerRequest) -> RunAnalyzerResponse;
        AddFileResource add_file_resource(AddFileResourceRequest) -> common::Status;
        RemoveFileResource remove_file_resource(RemoveFileResourceRequest) -> common::Status;
        ListFileResources list_file_resources(ListFileResourcesRequest) -> ListFileResourcesResponse;
        AddUserTags add_user_tags(AddUserTagsRequest) -> common::Status;
        DeleteUserTags delete_user_tags(DeleteUserTagsRequest) -> common::Status;
        GetUserTags get_user_tags(GetUserTagsRequest) -> GetUserTagsResponse;
        ListUsersWithTag list_users_with_tag(ListUsersWithTagRequest) -> ListUsersWithTagResponse;
        CreateRowPolicy create_row_policy(CreateRowPolicyRequest) -> common::Status;
        DropRowPolicy drop_row_policy(DropRowPolicyRequest) -> common::Status;
        ListRowPolicies list_row_policies(ListRowPoliciesRequest) -> ListRowPoliciesResponse;
        UpdateRowPolicy update_row_policy(UpdateRowPolicyRequest) -> common::Status;
        SetRLSPrincipalTags set_rls_principal_tags(SetRlsPrincipalTagsRequest) -> common::Status;
        GetRLSPrincipalTags get_rls_principal_tags(GetRlsPrincipalTagsRequest) -> GetRlsPrincipalTagsResponse;
        ListRLSPrincipals list_rls_principals(ListRlsPrincipalsRequest) -> ListRlsPrincipalsResponse;
        DeleteRLSPrincipalTags delete_rls_principal_tags(DeleteRlsPrincipalTagsRequest) -> common::Status;
        UpdateReplicateConfiguration update_replicate_configuration(UpdateReplicateConfigurationRequest) -> common::Status;
        GetReplicateConfiguration get_replicate_configuration(GetReplicateConfigurationRequest) -> GetReplicateConfigurationResponse;
        GetReplicateInfo get_replicate_info(GetReplicateInfoRequest) -> GetReplicateInfoResponse;
        ComputePhraseMatchSlop compute_phrase_match_slop(ComputePhraseMatchSlopRequest) -> ComputePhraseMatchSlopResponse;
        AlterCollectionSchema alter_collection_schema(AlterCollectionSchemaRequest) -> AlterCollectionSchemaResponse;
        BatchUpdateManifest batch_update_manifest(BatchUpdateManifestRequest) -> common::Status;
        RefreshExternalCollection refresh_external_collection(RefreshExternalCollectionRequest) -> RefreshExternalCollectionResponse;
        GetRefreshExternalCollectionProgress get_refresh_external_collection_progress(GetRefreshExternalCollectionProgressRequest) -> GetRefreshExternalCollectionProgressResponse;
        ListRefreshExternalCollectionJobs list_refresh_external_collection_jobs(ListRefreshExternalCollectionJobsRequest) -> ListRefreshExternalCollectionJobsResponse;
    }
}

#[cfg(test)]
mod tests;
