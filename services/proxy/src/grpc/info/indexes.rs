//! Indexes: what they are and how far they are built.

use std::{collections::HashMap, sync::Arc};

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    convert::kv,
    milvus::{
        common::{IndexState, KeyValuePair},
        milvus::{
            DescribeIndexRequest, DescribeIndexResponse, GetIndexBuildProgressRequest,
            GetIndexBuildProgressResponse, GetIndexStateRequest, GetIndexStateResponse,
            GetIndexStatisticsRequest, GetIndexStatisticsResponse, IndexDescription,
        },
    },
    redkite::{
        datacoord::{
            DescribeIndexesRequest, IndexProgress, SyncRequest, data_coord_server::DataCoord,
        },
        meta::IndexInfo,
    },
    status,
};
use redkite_types::{Error, ErrorCode, FieldId, Result, Revision};

use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
};

/// Which indexes of a collection are asked for.
struct Selection<'a> {
    collection: &'a str,
    /// Empty means on every field.
    field: &'a str,
    /// Empty means of every name.
    index: &'a str,
    /// Only segments that existed at this timestamp count; zero means all.
    timestamp: u64,
}

pub(crate) async fn describe_index(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: DescribeIndexRequest,
) -> Result<DescribeIndexResponse> {
    let selection = Selection {
        collection: &message.collection_name,
        field: &message.field_name,
        index: &message.index_name,
        timestamp: message.timestamp,
    };
    let index_descriptions = describe(context, &meta, selection).await?;
    Ok(DescribeIndexResponse {
        status: Some(status::success()),
        index_descriptions,
    })
}

pub(crate) async fn get_index_statistics(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetIndexStatisticsRequest,
) -> Result<GetIndexStatisticsResponse> {
    let selection = Selection {
        collection: &message.collection_name,
        field: "",
        index: &message.index_name,
        timestamp: message.timestamp,
    };
    let index_descriptions = describe(context, &meta, selection).await?;
    Ok(GetIndexStatisticsResponse {
        status: Some(status::success()),
        index_descriptions,
    })
}

/// The state of the index that is furthest from being finished.
pub(crate) async fn get_index_state(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetIndexStateRequest,
) -> Result<GetIndexStateResponse> {
    let selection = Selection {
        collection: &message.collection_name,
        field: &message.field_name,
        index: &message.index_name,
        timestamp: 0,
    };
    let indexes = describe(context, &meta, selection).await?;
    let worst = indexes
        .iter()
        .find(|index| index.state() == IndexState::Failed)
        .or_else(|| {
            indexes
                .iter()
                .find(|index| index.state() != IndexState::Finished)
        });
    let mut response = GetIndexStateResponse {
        status: Some(status::success()),
        state: IndexState::Finished.into(),
        fail_reason: String::new(),
    };
    if let Some(index) = worst {
        response.state = index.state;
        response
            .fail_reason
            .clone_from(&index.index_state_fail_reason);
    }
    Ok(response)
}

pub(crate) async fn get_index_build_progress(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetIndexBuildProgressRequest,
) -> Result<GetIndexBuildProgressResponse> {
    let selection = Selection {
        collection: &message.collection_name,
        field: &message.field_name,
        index: &message.index_name,
        timestamp: 0,
    };
    let indexes = describe(context, &meta, selection).await?;
    Ok(GetIndexBuildProgressResponse {
        status: Some(status::success()),
        indexed_rows: indexes.iter().map(|index| index.indexed_rows).sum(),
        total_rows: indexes.iter().map(|index| index.total_rows).sum(),
    })
}

/// The selected indexes with their progress; at least one.
async fn describe(
    context: &ProxyContext,
    meta: &RequestContext,
    selection: Selection<'_>,
) -> Result<Vec<IndexDescription>> {
    let view = context.view();
    let entry = lookup::collection(&view, &meta.database, selection.collection)?;
    let selected: Vec<Arc<IndexInfo>> = entry
        .visible_indexes()
        .filter(|index| selection.index.is_empty() || index.name == selection.index)
        .filter(|index| selection.field.is_empty() || field_name(&entry, index) == selection.field)
        .cloned()
        .collect();
    if selected.is_empty() {
        return Err(index_not_found(&selection));
    }
    let timestamp = selection.timestamp;
    let progress = progress(context, meta, &entry, &selected, timestamp, view.revision()).await?;
    Ok(selected
        .iter()
        .map(|index| description(&entry, index, progress.get(&index.id)))
        .collect())
}

fn index_not_found(selection: &Selection<'_>) -> Error {
    let text = ErrorCode::IndexNotFound.text();
    let message = if selection.index.is_empty() {
        format!("{text}[collection={}]", selection.collection)
    } else {
        format!("{text}[indexName={}]", selection.index)
    };
    Error::new(ErrorCode::IndexNotFound, message)
}

fn field_name<'a>(entry: &'a CollectionEntry, index: &IndexInfo) -> &'a str {
    let field = entry.schema().field_by_id(FieldId(index.field_id));
    field.map_or("", |field| field.name.as_str())
}

/// The data coordinator's word about each index; one that has not heard of an index yet is given
/// the time to catch up with us.
async fn progress(
    context: &ProxyContext,
    meta: &RequestContext,
    entry: &CollectionEntry,
    selected: &[Arc<IndexInfo>],
    timestamp: u64,
    revision: Revision,
) -> Result<HashMap<i64, IndexProgress>> {
    let coord = context.peers.data_coord()?;
    let progress = ask(coord.as_ref(), meta, entry, timestamp).await?;
    if selected
        .iter()
        .all(|index| progress.contains_key(&index.id))
    {
        return Ok(progress);
    }
    let message = SyncRequest {
        revision: revision.0,
    };
    redkite_rpc::call(meta.deadline, message, |request| coord.sync(request)).await?;
    ask(coord.as_ref(), meta, entry, timestamp).await
}

async fn ask(
    coord: &dyn DataCoord,
    meta: &RequestContext,
    entry: &CollectionEntry,
    timestamp: u64,
) -> Result<HashMap<i64, IndexProgress>> {
    let message = DescribeIndexesRequest {
        collection_id: entry.id().0,
        timestamp,
    };
    let answer = redkite_rpc::call(meta.deadline, message, |request| {
        coord.describe_indexes(request)
    })
    .await?;
    Ok(answer
        .indexes
        .into_iter()
        .map(|index| (index.index_id, index))
        .collect())
}

fn description(
    entry: &CollectionEntry,
    index: &IndexInfo,
    progress: Option<&IndexProgress>,
) -> IndexDescription {
    let mut description = IndexDescription {
        index_name: index.name.clone(),
        index_id: index.id,
        params: params(index),
        field_name: field_name(entry, index).to_owned(),
        state: IndexState::Unissued.into(),
        ..IndexDescription::default()
    };
    // Without progress the index was dropped between the two looks.
    if let Some(progress) = progress {
        description.indexed_rows = progress.indexed_rows;
        description.total_rows = progress.total_rows;
        description.pending_index_rows = (progress.total_rows - progress.indexed_rows).max(0);
        description.state = progress.state;
        description
            .index_state_fail_reason
            .clone_from(&progress.fail_reason);
    }
    description
}

/// What the user gave, with the type and the metric in front where the user left them to us.
fn params(index: &IndexInfo) -> Vec<KeyValuePair> {
    let decided = [
        ("index_type", &index.index_type),
        ("metric_type", &index.metric_type),
    ];
    let mut params: Vec<KeyValuePair> = decided
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| kv::pair(key, value))
        .collect();
    let given = index.params.iter().filter(|pair| pair.key != "index_type");
    params.extend(given.filter(|pair| pair.key != "metric_type").cloned());
    params
}
