//! Changes of what exists: checked for what needs no metadata, then run by the root coordinator.

use std::sync::Arc;

use redkite_proto::{
    milvus::{common::Status, milvus::*},
    redkite::rootcoord::{DdlRequest, ddl_request::Command},
    status,
};
use redkite_types::{Error, ErrorCode, Result, Revision, name};
use tracing::warn;

use crate::context::{ProxyContext, RequestContext};

/// Implements handlers that check names and submit their message as a command.
macro_rules! ddl {
    ($($handler:ident($message:ident: $request:ident) as $command:ident $checks:block)*) => {
        $(
            pub(crate) async fn $handler(
                context: &Arc<ProxyContext>,
                meta: RequestContext,
                $message: $request,
            ) -> Result<Status> {
                $checks
                submit(context, &meta, Command::$command($message)).await
            }
        )*
    };
}
pub(super) use ddl;

ddl! {
    create_database(message: CreateDatabaseRequest) as CreateDatabase {
        name::check_database(&message.db_name)?;
    }
    drop_database(message: DropDatabaseRequest) as DropDatabase {
        name::check_database(&message.db_name)?;
    }
    alter_database(message: AlterDatabaseRequest) as AlterDatabase {
        name::check_database(&message.db_name)?;
    }
    create_collection(message: CreateCollectionRequest) as CreateCollection {
        name::check_collection(&message.collection_name)?;
    }
    drop_collection(message: DropCollectionRequest) as DropCollection {
        name::check_collection(&message.collection_name)?;
    }
    rename_collection(message: RenameCollectionRequest) as RenameCollection {
        name::check_collection(&message.old_name)?;
        name::check_collection(&message.new_name)?;
    }
    alter_collection(message: AlterCollectionRequest) as AlterCollection {
        name::check_collection(&message.collection_name)?;
    }
    add_collection_field(message: AddCollectionFieldRequest) as AddCollectionField {
        name::check_collection(&message.collection_name)?;
    }
    alter_collection_field(message: AlterCollectionFieldRequest) as AlterCollectionField {
        name::check_collection(&message.collection_name)?;
    }
    alter_index(message: AlterIndexRequest) as AlterIndex {
        name::check_collection(&message.collection_name)?;
    }
    create_partition(message: CreatePartitionRequest) as CreatePartition {
        name::check_collection(&message.collection_name)?;
        name::check_partition(&message.partition_name)?;
    }
    drop_partition(message: DropPartitionRequest) as DropPartition {
        name::check_collection(&message.collection_name)?;
        name::check_partition(&message.partition_name)?;
    }
    create_alias(message: CreateAliasRequest) as CreateAlias {
        name::check_alias(&message.alias)?;
        name::check_collection(&message.collection_name)?;
    }
    drop_alias(message: DropAliasRequest) as DropAlias {
        name::check_alias(&message.alias)?;
    }
    alter_alias(message: AlterAliasRequest) as AlterAlias {
        name::check_alias(&message.alias)?;
        name::check_collection(&message.collection_name)?;
    }
    create_index(message: CreateIndexRequest) as CreateIndex {
        name::check_collection(&message.collection_name)?;
        if !message.index_name.is_empty() {
            name::check_index(&message.index_name)?;
        }
    }
    drop_index(message: DropIndexRequest) as DropIndex {
        name::check_collection(&message.collection_name)?;
    }
    load_collection(message: LoadCollectionRequest) as LoadCollection {
        name::check_collection(&message.collection_name)?;
    }
    release_collection(message: ReleaseCollectionRequest) as ReleaseCollection {
        name::check_collection(&message.collection_name)?;
    }
    load_partitions(message: LoadPartitionsRequest) as LoadPartitions {
        name::check_collection(&message.collection_name)?;
        check_partitions(&message.partition_names)?;
    }
    release_partitions(message: ReleasePartitionsRequest) as ReleasePartitions {
        name::check_collection(&message.collection_name)?;
        check_partitions(&message.partition_names)?;
    }
}

/// Lets go of every row of a collection, and of nothing else.
pub(crate) async fn truncate_collection(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: TruncateCollectionRequest,
) -> Result<TruncateCollectionResponse> {
    name::check_collection(&message.collection_name)?;
    let status = submit(context, &meta, Command::TruncateCollection(message)).await?;
    Ok(TruncateCollectionResponse {
        status: Some(status),
    })
}

fn check_partitions(names: &[String]) -> Result<()> {
    names
        .iter()
        .try_for_each(|partition| name::check_partition(partition))
}

/// Has the root coordinator run a command, and answers once this proxy sees its effect.
pub(super) async fn submit(
    context: &ProxyContext,
    meta: &RequestContext,
    command: Command,
) -> Result<Status> {
    // Not the client's id: it may send the same one with every request, and would then get the
    // answer of an earlier one.
    let request = DdlRequest {
        request_id: context.unique_id(),
        database: meta.database.clone(),
        command: Some(command),
    };
    let revision = submit_until_answered(context, meta, request).await?;
    context
        .catalog
        .at_least(revision, meta.deadline.left())
        .await
        .map_err(|error| Error::from_coded(&error))?;
    Ok(status::success())
}

/// Asks again, under the same id, while the root coordinator is away or changes its leader.
async fn submit_until_answered(
    context: &ProxyContext,
    meta: &RequestContext,
    request: DdlRequest,
) -> Result<Revision> {
    let mut patience = context.patience(meta.deadline);
    loop {
        let error = match submit_once(context, meta, request.clone()).await {
            Ok(revision) => return Ok(revision),
            Err(error) => error,
        };
        let away = matches!(
            error.code,
            ErrorCode::ServiceNotReady | ErrorCode::ServiceUnavailable
        );
        if !away || !error.retriable {
            return Err(error);
        }
        warn!(
            error = %error.message,
            request_id = request.request_id,
            client_request_id = meta.request_id,
            "root coordinator is away"
        );
        if !patience.another_try().await {
            return Err(error);
        }
    }
}

async fn submit_once(
    context: &ProxyContext,
    meta: &RequestContext,
    request: DdlRequest,
) -> Result<Revision> {
    let root = context.peers.root_coord()?;
    let answer = redkite_rpc::call(meta.deadline, request, |request| root.submit(request)).await?;
    Ok(Revision(answer.revision))
}

#[cfg(test)]
mod tests;
