//! Search and query.

use std::sync::Arc;

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    milvus::{
        milvus::{QueryRequest, QueryResults, SearchRequest, SearchResults},
        schema::{
            DataType, FieldData, LongArray, ScalarField, field_data::Field, scalar_field::Data,
        },
    },
    redkite::{querynode, rootcoord::AllocRequest},
    status,
};
use redkite_runtime::Deadline;
use redkite_types::{Result, Timestamp};

use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
    owners::call_owners,
    plan::{QueryPlan, ReadTime, SearchPlan, consistency::Asked, query::COUNT},
    reduce,
};

/// A timestamp later than every write that was acknowledged before the call.
pub(super) async fn now(context: &ProxyContext, deadline: Deadline) -> Result<Timestamp> {
    let root = context.peers.root_coord()?;
    let answer = redkite_rpc::call(deadline, AllocRequest { count: 1 }, |request| {
        root.alloc_timestamp(request)
    })
    .await?;
    Ok(Timestamp(answer.first))
}

async fn read_time(
    context: &ProxyContext,
    meta: &RequestContext,
    entry: &CollectionEntry,
    asked: Asked,
) -> Result<ReadTime> {
    let level = entry.info().map_or(0, |info| info.consistency_level);
    let own = redkite_proto::convert::schema::consistency_from_proto(level)?;
    let now = now(context, meta.deadline).await?;
    ReadTime::decide(asked, own, now, context.options.graceful_time.get())
}

/// Rows written before this have outlived the collection's time to live.
fn expired_before(entry: &CollectionEntry, at: Timestamp) -> u64 {
    let seconds = entry
        .property("collection.ttl.seconds")
        .and_then(|text| text.parse().ok());
    match seconds {
        Some(seconds @ 1..=u64::MAX) => at.minus_ms(seconds.saturating_mul(1_000)).0,
        Some(0) | None => 0,
    }
}

fn millis_left(deadline: Deadline) -> u32 {
    u32::try_from(deadline.left().as_millis()).unwrap_or(u32::MAX)
}

/// Finds the nearest rows to each query vector.
///
/// # Errors
/// Milvus's code and text of the first thing that is wrong; 101 and 201 when not loaded.
pub(crate) async fn search(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    request: SearchRequest,
) -> Result<SearchResults> {
    let view = context.view();
    let entry = lookup::collection(&view, &meta.database, &request.collection_name)?;
    let plan = SearchPlan::new(&entry, request)?;
    let time = read_time(context, &meta, &entry, plan.asked).await?;
    let answers = if plan.partitions.is_empty() {
        Vec::new()
    } else {
        call_owners(context, meta.deadline, &entry, |node, channel| {
            let message = search_message(&plan, &entry, channel, time, meta.deadline);
            async move {
                redkite_rpc::call(meta.deadline, message, |request| node.search(request)).await
            }
        })
        .await?
    };
    let answers = answers.into_iter().map(|(_, answer)| answer).collect();
    let results = reduce::search::reduce(&plan, entry.schema(), answers)?;
    Ok(SearchResults {
        status: Some(status::success()),
        results: Some(results),
        collection_name: entry.name().to_owned(),
        session_ts: time.mvcc.0,
    })
}

fn search_message(
    plan: &SearchPlan,
    entry: &CollectionEntry,
    channel: String,
    time: ReadTime,
    deadline: Deadline,
) -> querynode::SearchRequest {
    querynode::SearchRequest {
        channel,
        collection_id: entry.id().0,
        partition_ids: plan
            .partitions
            .iter()
            .map(|partition| partition.0)
            .collect(),
        field_id: plan.field.0,
        metric_type: plan.metric.name().to_owned(),
        queries: plan.queries.clone(),
        nq: plan.nq as u32,
        topk: plan.topk() as u32,
        params: plan.params.clone(),
        filter: plan.filter.clone(),
        mvcc_ts: time.mvcc.0,
        guarantee_ts: time.guarantee.0,
        ignore_growing: plan.ignore_growing,
        radius: plan.radius,
        range_filter: plan.range_filter,
        output_fields: plan.output.fields.iter().map(|field| field.0).collect(),
        timeout_ms: millis_left(deadline),
        expired_before: expired_before(entry, time.mvcc),
    }
}

/// Finds the rows that match a filter, in order of the primary key, or counts them.
///
/// # Errors
/// Milvus's code and text of the first thing that is wrong; 101 and 201 when not loaded.
pub(crate) async fn query(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    request: QueryRequest,
) -> Result<QueryResults> {
    let view = context.view();
    let entry = lookup::collection(&view, &meta.database, &request.collection_name)?;
    let plan = QueryPlan::new(&entry, request)?;
    let time = read_time(context, &meta, &entry, plan.asked).await?;
    let answers = if plan.partitions.is_empty() {
        Vec::new()
    } else {
        call_owners(context, meta.deadline, &entry, |node, channel| {
            let message = query_message(&plan, &entry, channel, time, meta.deadline);
            async move {
                redkite_rpc::call(meta.deadline, message, |request| node.query(request)).await
            }
        })
        .await?
    };
    let answers: Vec<querynode::QueryResponse> =
        answers.into_iter().map(|(_, answer)| answer).collect();
    let (fields_data, output_fields) = if plan.count_only {
        let count = answers.iter().map(|answer| answer.count).sum::<u64>();
        (vec![count_column(count)], vec![COUNT.to_owned()])
    } else {
        (
            reduce::query::reduce(&plan, entry.schema(), answers)?,
            plan.output.names,
        )
    };
    Ok(QueryResults {
        status: Some(status::success()),
        fields_data,
        collection_name: entry.name().to_owned(),
        output_fields,
        session_ts: time.mvcc.0,
        primary_field_name: entry.schema().primary_key().name.clone(),
        ..QueryResults::default()
    })
}

fn query_message(
    plan: &QueryPlan,
    entry: &CollectionEntry,
    channel: String,
    time: ReadTime,
    deadline: Deadline,
) -> querynode::QueryRequest {
    querynode::QueryRequest {
        channel,
        collection_id: entry.id().0,
        partition_ids: plan
            .partitions
            .iter()
            .map(|partition| partition.0)
            .collect(),
        filter: plan.filter.clone(),
        output_fields: plan.output.fields.iter().map(|field| field.0).collect(),
        limit: plan.rows_wanted(),
        mvcc_ts: time.mvcc.0,
        guarantee_ts: time.guarantee.0,
        ignore_growing: plan.ignore_growing,
        count_only: plan.count_only,
        timeout_ms: millis_left(deadline),
        expired_before: expired_before(entry, time.mvcc),
    }
}

fn count_column(count: u64) -> FieldData {
    let data = vec![i64::try_from(count).unwrap_or(i64::MAX)];
    FieldData {
        r#type: DataType::Int64.into(),
        field_name: COUNT.to_owned(),
        field: Some(Field::Scalars(ScalarField {
            data: Some(Data::LongData(LongArray { data })),
            ..ScalarField::default()
        })),
        ..FieldData::default()
    }
}
