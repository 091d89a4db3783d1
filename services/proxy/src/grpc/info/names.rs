//! Databases and aliases.

use redkite_proto::{
    milvus::milvus::{
        DescribeAliasRequest, DescribeAliasResponse, DescribeDatabaseRequest,
        DescribeDatabaseResponse, ListAliasesRequest, ListAliasesResponse, ListDatabasesRequest,
        ListDatabasesResponse,
    },
    redkite::meta::ObjectState,
    status,
};
use redkite_types::{CollectionId, DatabaseId, Error, ErrorCode, Result, name};

use super::collections;
use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
};

pub(crate) fn list_databases(
    context: &ProxyContext,
    meta: RequestContext,
    _: ListDatabasesRequest,
) -> Result<ListDatabasesResponse> {
    let mut response = ListDatabasesResponse {
        status: Some(status::success()),
        ..Default::default()
    };
    let view = context.view();
    let sees = |name: &str| meta.caller.sees_database(&view, name);
    for database in view.databases().filter(|database| sees(&database.name)) {
        response.db_names.push(database.name.clone());
        response.created_timestamp.push(database.created_ts);
        response.db_ids.push(database.id);
    }
    Ok(response)
}

pub(crate) fn describe_database(
    context: &ProxyContext,
    meta: RequestContext,
    _: DescribeDatabaseRequest,
) -> Result<DescribeDatabaseResponse> {
    let database = lookup::database(&context.view(), &meta.database)?;
    Ok(DescribeDatabaseResponse {
        status: Some(status::success()),
        db_name: database.name.clone(),
        db_id: database.id,
        created_timestamp: database.created_ts,
        properties: database.properties.clone(),
    })
}

pub(crate) fn describe_alias(
    context: &ProxyContext,
    meta: RequestContext,
    message: DescribeAliasRequest,
) -> Result<DescribeAliasResponse> {
    name::check_alias(&message.alias)?;
    let view = context.view();
    let database = DatabaseId(lookup::database(&view, &meta.database)?.id);
    let collection = view
        .alias(database, &message.alias)
        .and_then(|alias| view.collection_by_id(CollectionId(alias.collection_id)))
        .filter(|entry| entry.state() == ObjectState::Created)
        .ok_or_else(|| {
            let text = ErrorCode::AliasNotFound.text();
            let (database, alias) = (&meta.database, &message.alias);
            Error::new(
                ErrorCode::AliasNotFound,
                format!("{text}[database={database}][alias={alias}]"),
            )
        })?;
    Ok(DescribeAliasResponse {
        status: Some(status::success()),
        db_name: meta.database,
        alias: message.alias,
        collection: collection.name().to_owned(),
    })
}

/// The aliases of a collection, or of the whole database where none is named.
pub(crate) fn list_aliases(
    context: &ProxyContext,
    meta: RequestContext,
    message: ListAliasesRequest,
) -> Result<ListAliasesResponse> {
    let view = context.view();
    let aliases = if message.collection_name.is_empty() {
        let database = DatabaseId(lookup::database(&view, &meta.database)?.id);
        view.aliases(database)
            .map(|alias| alias.alias.clone())
            .collect()
    } else {
        let entry = lookup::collection(&view, &meta.database, &message.collection_name)?;
        collections::aliases(&view, &entry)
    };
    Ok(ListAliasesResponse {
        status: Some(status::success()),
        db_name: meta.database,
        collection_name: message.collection_name,
        aliases,
    })
}
