//! Collections: what they are.

use std::sync::Arc;

use redkite_catalog::{CatalogView, CollectionEntry};
use redkite_proto::{
    convert::schema,
    milvus::milvus::{
        BatchDescribeCollectionRequest, BatchDescribeCollectionResponse, BoolResponse,
        DescribeCollectionRequest, DescribeCollectionResponse, HasCollectionRequest,
        ShowCollectionsRequest, ShowCollectionsResponse, ShowType,
    },
    redkite::meta::CollectionInfo,
    status,
};
use redkite_types::{DatabaseId, Error, Result, name};

use super::{load, utc};
use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
};

pub(crate) fn has_collection(
    context: &ProxyContext,
    meta: RequestContext,
    message: HasCollectionRequest,
) -> Result<BoolResponse> {
    name::check_collection(&message.collection_name)?;
    let view = context.view();
    let database = DatabaseId(lookup::database(&view, &meta.database)?.id);
    Ok(BoolResponse {
        status: Some(status::success()),
        value: view
            .collection(database, &message.collection_name)
            .is_some_and(|entry| meta.caller.sees(&view, entry)),
    })
}

pub(crate) fn describe_collection(
    context: &ProxyContext,
    meta: RequestContext,
    message: DescribeCollectionRequest,
) -> Result<DescribeCollectionResponse> {
    describe(
        &context.view(),
        &meta,
        &message.collection_name,
        message.collection_id,
    )
}

pub(crate) fn batch_describe_collection(
    context: &ProxyContext,
    meta: RequestContext,
    message: BatchDescribeCollectionRequest,
) -> Result<BatchDescribeCollectionResponse> {
    let view = context.view();
    let names = message
        .collection_name
        .iter()
        .map(|name| (name.as_str(), 0));
    let ids = message.collection_id.iter().map(|id| ("", *id));
    let responses = names
        .chain(ids)
        .map(|(name, id)| {
            describe(&view, &meta, name, id).unwrap_or_else(|error| DescribeCollectionResponse {
                status: Some(status::failure(&error)),
                ..DescribeCollectionResponse::default()
            })
        })
        .collect();
    Ok(BatchDescribeCollectionResponse {
        status: Some(status::success()),
        responses,
    })
}

fn describe(
    view: &CatalogView,
    meta: &RequestContext,
    name: &str,
    id: i64,
) -> Result<DescribeCollectionResponse> {
    let database = meta.database.as_str();
    let entry = lookup::collection_or_id(view, database, name, id).map_err(|mut error| {
        if lookup::is_absent(&error) {
            // Older clients look for these words.
            error.message = format!("can't find collection {}", error.message);
        }
        error
    })?;
    // Everybody has the privilege, but not for what they have nothing to do with.
    meta.caller.must_see(view, &entry)?;
    let info = entry
        .info()
        .ok_or_else(|| Error::collection_not_found(database, name))?;
    Ok(description(view, &entry, info))
}

fn description(
    view: &CatalogView,
    entry: &CollectionEntry,
    info: &CollectionInfo,
) -> DescribeCollectionResponse {
    let database = view.database_by_id(entry.database_id());
    let db_name = database
        .map(|database| database.name.clone())
        .unwrap_or_default();
    let mut schema = schema::to_client(entry.name(), entry.schema());
    schema.properties.clone_from(&info.properties);
    schema.db_name.clone_from(&db_name);
    DescribeCollectionResponse {
        status: Some(status::success()),
        schema: Some(schema),
        collection_id: info.id,
        virtual_channel_names: info.channels.clone(),
        physical_channel_names: info.channels.clone(),
        created_timestamp: info.created_ts,
        created_utc_timestamp: utc(info.created_ts),
        shards_num: shards(entry),
        aliases: aliases(view, entry),
        start_positions: Vec::new(),
        consistency_level: info.consistency_level,
        collection_name: info.name.clone(),
        properties: info.properties.clone(),
        db_name,
        num_partitions: entry.visible_partitions().count() as i64,
        db_id: info.database_id,
        request_time: 0,
        update_timestamp: info.updated_ts,
        update_timestamp_str: info.updated_ts.to_string(),
    }
}

fn shards(entry: &CollectionEntry) -> i32 {
    i32::try_from(entry.channels().len()).unwrap_or(i32::MAX)
}

/// The aliases of a collection, by name.
pub(super) fn aliases(view: &CatalogView, entry: &CollectionEntry) -> Vec<String> {
    view.aliases(entry.database_id())
        .filter(|alias| alias.collection_id == entry.id().0)
        .map(|alias| alias.alias.clone())
        .collect()
}

pub(crate) async fn show_collections(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: ShowCollectionsRequest,
) -> Result<ShowCollectionsResponse> {
    let view = context.view();
    let database = DatabaseId(lookup::database(&view, &meta.database)?.id);
    let loaded_only = message.r#type() == ShowType::InMemory;
    let names = &message.collection_names;
    let mut response = ShowCollectionsResponse {
        status: Some(status::success()),
        ..Default::default()
    };
    for entry in view.collections(database) {
        let wanted = names.is_empty() || names.iter().any(|name| name == entry.name());
        let Some(info) = entry.info().filter(|_| wanted) else {
            continue;
        };
        if !meta.caller.sees(&view, entry) {
            continue;
        }
        if loaded_only {
            if !entry.is_loaded() {
                continue;
            }
            let progress = load::progress(context, &meta, entry, &[]).await?;
            response.in_memory_percentages.push(progress.percent);
            response
                .query_service_available
                .push(progress.percent >= load::COMPLETE);
        }
        response.collection_names.push(info.name.clone());
        response.collection_ids.push(info.id);
        response.created_timestamps.push(info.created_ts);
        response.created_utc_timestamps.push(utc(info.created_ts));
        response.shards_num.push(shards(entry));
    }
    Ok(response)
}
