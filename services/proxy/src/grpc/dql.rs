//! Search and query.

use std::sync::Arc;

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    milvus::{
        milvus::{HybridSearchRequest, QueryRequest, QueryResults, SearchRequest, SearchResults},
        schema::{
            DataType, FieldData, LongArray, ScalarField, SearchIteratorV2Results, SearchResultData,
            field_data::Field, scalar_field::Data,
        },
    },
    redkite::querynode,
    status,
};
use redkite_types::{ErrorCode, Result};

use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
    owners::call_owners,
    plan::{HybridPlan, QueryPlan, SearchPlan, consistency::Rounds, query::COUNT},
    read::{self, Reading},
    reduce::{self, search::Shape},
};

/// Finds the nearest rows to each query vector.
///
/// # Errors
/// Milvus's code and text of the first thing that is wrong; 101 and 201 when not loaded.
pub(crate) async fn search(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    request: SearchRequest,
) -> Result<SearchResults> {
    let attempt = |entry| search_once(context, &meta, entry, &request);
    replanned(context, &meta, &request.collection_name, attempt).await
}

async fn search_once(
    context: &Arc<ProxyContext>,
    meta: &RequestContext,
    entry: Arc<CollectionEntry>,
    request: &SearchRequest,
) -> Result<SearchResults> {
    let mut plan = SearchPlan::new(&context.shapes, &entry, request)?;
    let reading = Reading::begin(context, meta, &entry, plan.asked, plan.rounds()).await?;
    let found = read::search::run(&reading, &mut plan).await?;
    let page = plan.page.as_ref().map(|page| SearchIteratorV2Results {
        token: page.token.clone(),
        last_bound: found
            .lists
            .iter()
            .flatten()
            .last()
            .map_or_else(|| page.last_bound.unwrap_or_default(), |last| last.score),
    });
    let shape = Shape {
        output: &plan.output,
        round_decimal: plan.round_decimal,
        group: plan.group.map(|group| group.field),
    };
    let mut results = found.into_results(&shape, entry.schema());
    results.search_iterator_v2_results = page;
    Ok(answer(&entry, results, &reading))
}

/// Finds the nearest rows by several searches, put in one order.
///
/// # Errors
/// Milvus's code and text of the first thing that is wrong; 101 and 201 when not loaded.
pub(crate) async fn hybrid_search(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    request: HybridSearchRequest,
) -> Result<SearchResults> {
    let attempt = |entry| hybrid_search_once(context, &meta, entry, request.clone());
    replanned(context, &meta, &request.collection_name, attempt).await
}

async fn hybrid_search_once(
    context: &Arc<ProxyContext>,
    meta: &RequestContext,
    entry: Arc<CollectionEntry>,
    request: HybridSearchRequest,
) -> Result<SearchResults> {
    let mut plan = HybridPlan::new(&entry, request)?;
    let reading = Reading::begin(context, meta, &entry, plan.asked, Rounds::Several).await?;
    let found = read::hybrid::run(&reading, &mut plan).await?;
    let shape = Shape {
        output: &plan.output,
        round_decimal: plan.round_decimal,
        group: plan.group.map(|group| group.field),
    };
    let results = found.into_results(&shape, entry.schema());
    Ok(answer(&entry, results, &reading))
}

/// Carries a read of a collection out, and again when the collection was truncated under it:
/// partitions that it was planned with have given their names to others.
pub(crate) async fn replanned<T, F, Fut>(
    context: &ProxyContext,
    meta: &RequestContext,
    collection: &str,
    attempt: F,
) -> Result<T>
where
    F: Fn(Arc<CollectionEntry>) -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let partitions = |entry: &CollectionEntry| -> Vec<i64> {
        let visible = entry.visible_partitions();
        visible.map(|partition| partition.id).collect()
    };
    let find = || lookup::collection(&context.view(), &meta.database, collection);
    loop {
        let entry = find()?;
        let error = match Box::pin(attempt(entry.clone())).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let gone = matches!(
            error.code,
            ErrorCode::PartitionNotLoaded | ErrorCode::PartitionNotFound
        );
        let replaced = || find().ok().as_deref().map(partitions) != Some(partitions(&entry));
        if !gone || meta.deadline.left().is_zero() || !replaced() {
            return Err(error);
        }
    }
}

fn answer(
    entry: &CollectionEntry,
    results: SearchResultData,
    reading: &Reading<'_>,
) -> SearchResults {
    SearchResults {
        status: Some(status::success()),
        results: Some(results),
        collection_name: entry.name().to_owned(),
        session_ts: reading.time.answered.0,
    }
}

/// Finds the rows that match a filter, in order of fields or of the primary key, or counts them.
///
/// # Errors
/// Milvus's code and text of the first thing that is wrong; 101 and 201 when not loaded.
pub(crate) async fn query(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    request: QueryRequest,
) -> Result<QueryResults> {
    let attempt = |entry| query_once(context, &meta, entry, request.clone());
    replanned(context, &meta, &request.collection_name, attempt).await
}

async fn query_once(
    context: &Arc<ProxyContext>,
    meta: &RequestContext,
    entry: Arc<CollectionEntry>,
    request: QueryRequest,
) -> Result<QueryResults> {
    let plan = QueryPlan::new(&entry, request)?;
    let reading = Reading::begin(context, meta, &entry, plan.asked, Rounds::One).await?;
    let answers = if plan.partitions.is_empty() {
        Vec::new()
    } else {
        call_owners(context, meta.deadline, &entry, |node, channel| {
            let message = query_message(&plan, &reading, channel);
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
        session_ts: reading.time.answered.0,
        primary_field_name: entry.schema().primary_key().name.clone(),
        ..QueryResults::default()
    })
}

fn query_message(
    plan: &QueryPlan,
    reading: &Reading<'_>,
    channel: String,
) -> querynode::QueryRequest {
    querynode::QueryRequest {
        channel,
        collection_id: reading.entry.id().0,
        partition_ids: plan
            .partitions
            .iter()
            .map(|partition| partition.0)
            .collect(),
        filter: plan.filter.clone(),
        output_fields: plan.fetched(),
        limit: plan.rows_wanted(),
        mvcc_ts: reading.time.mvcc.0,
        guarantee_ts: reading.time.guarantee.0,
        ignore_growing: plan.ignore_growing,
        count_only: plan.count_only,
        timeout_ms: reading.millis_left(),
        expired_before: reading.expired_before(),
        schema_version: reading.entry.schema().version,
        order_by: plan
            .order
            .iter()
            .map(|by| querynode::OrderBy {
                field_id: by.field.0,
                descending: by.descending,
                nulls_first: by.nulls_first,
            })
            .collect(),
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
