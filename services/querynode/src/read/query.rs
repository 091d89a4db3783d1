//! Rows by filter or key, in the order of their keys or of fields.

use std::sync::Arc;

use futures::future::try_join_all;
use redkite_proto::{
    convert::keys,
    redkite::querynode::{self, QueryRequest, QueryResponse},
};
use redkite_runtime::Priority;
use redkite_segment::{Keyed, RowAt, Segment, SegmentRetriever, StopFlag, merge_keyed};
use redkite_types::{
    FieldId, Result, Timestamp, Value,
    order::{OrderBy, compare_rows},
};
use tokio::time::Instant;
use tracing::instrument;

use super::{Read, ReadRequest, StopOnDrop, coded, deadline, fetch, fetch::Output, jobs};
use crate::{channel::Channel, deps::QueryNodeDeps, metrics};

/// Answers a query.
///
/// # Errors
/// What is not loaded, a filter or field that does not fit, a guarantee that was not reached in
/// time.
#[instrument(level = "debug", skip_all, fields(channel = %request.channel))]
pub(crate) async fn query(
    deps: &QueryNodeDeps,
    channel: &Channel,
    request: QueryRequest,
) -> Result<QueryResponse> {
    let started = Instant::now();
    let deadline = deadline(deps, request.timeout_ms);
    let wanted = ReadRequest {
        partitions: &request.partition_ids,
        filter: &request.filter,
        mvcc: Timestamp(request.mvcc_ts),
        guarantee: Timestamp(request.guarantee_ts),
        expired_before: Timestamp(request.expired_before),
        ignore_growing: request.ignore_growing,
        schema_version: request.schema_version,
    };
    let read = Read::begin(deps, channel, wanted, deadline).await?;
    metrics::QUERIES.looked_at(request.partition_ids.len(), read.segments.len());
    let limit = (request.limit > 0).then(|| usize::try_from(request.limit).unwrap_or(usize::MAX));
    let retriever = Arc::new(SegmentRetriever {
        filter: read.filter.clone(),
        view: read.view,
        // Which rows come first by a field is known once all of them are.
        limit: limit.filter(|_| !request.count_only && request.order_by.is_empty()),
    });
    let stop = StopFlag::new();
    let _guard = StopOnDrop(stop.clone());
    let answer = if request.count_only {
        let answer = count(deps, &read, retriever, stop);
        deadline.timeout("the query", answer).await??
    } else {
        let output = Output::new(&request.output_fields, &read.snapshot.schema)?;
        let order = Order {
            by: request.order_by.iter().map(order_by).collect(),
            limit,
        };
        let answer = retrieve(deps, &read, retriever, order, output, stop);
        deadline.timeout("the query", answer).await??
    };
    metrics::QUERIES.answered(1, answer.count, started.elapsed());
    Ok(answer)
}

async fn count(
    deps: &QueryNodeDeps,
    read: &Read,
    retriever: Arc<SegmentRetriever>,
    stop: StopFlag,
) -> Result<QueryResponse> {
    let parts = jobs(&read.segments, |segment| segment.rows())
        .into_iter()
        .map(|job| {
            let (retriever, stop) = (retriever.clone(), stop.clone());
            let work = move || {
                let counts = job.iter().map(|segment| retriever.count(segment, &stop));
                counts.sum::<redkite_segment::Result<usize>>()
            };
            async move { deps.cpu.run(Priority::Search, work).await?.map_err(coded) }
        });
    let count: usize = try_join_all(parts).await?.into_iter().sum();
    let no_keys = fetch::keys(&read.snapshot.schema, std::iter::empty());
    Ok(QueryResponse {
        ids: Some(keys::to_proto(no_keys)),
        fields: Vec::new(),
        count: count as u64,
    })
}

async fn retrieve(
    deps: &QueryNodeDeps,
    read: &Read,
    retriever: Arc<SegmentRetriever>,
    order: Order,
    output: Output,
    stop: StopFlag,
) -> Result<QueryResponse> {
    let parts = jobs(&read.segments, |segment| segment.rows())
        .into_iter()
        .map(|job| {
            let (retriever, stop) = (retriever.clone(), stop.clone());
            let work = move || {
                let lists = job.iter().map(|segment| retriever.retrieve(segment, &stop));
                lists.collect::<redkite_segment::Result<Vec<_>>>()
            };
            async move { deps.cpu.run(Priority::Search, work).await?.map_err(coded) }
        });
    let lists: Vec<_> = try_join_all(parts).await?.into_iter().flatten().collect();
    let (segments, limit) = (read.segments.clone(), retriever.limit);
    let schema = read.snapshot.schema.clone();
    let finish = move || {
        let rows = order.apply(&segments, merge_keyed(lists, limit))?;
        let at: Vec<RowAt> = rows.iter().map(|row| row.at).collect();
        let fields = output.read(&segments, &at)?;
        let found = fetch::keys(&schema, rows.into_iter().map(|row| row.key));
        let count = found.len() as u64;
        Ok(QueryResponse {
            ids: Some(keys::to_proto(found)),
            fields,
            count,
        })
    };
    deps.cpu.run(Priority::Search, finish).await?
}

/// The order of the rows, and how many of them are wanted.
struct Order {
    by: Vec<OrderBy>,
    limit: Option<usize>,
}

fn order_by(message: &querynode::OrderBy) -> OrderBy {
    OrderBy {
        field: FieldId(message.field_id),
        descending: message.descending,
        nulls_first: message.nulls_first,
    }
}

impl Order {
    /// Puts rows that stand in the order of their keys into this one.
    fn apply(&self, segments: &[Segment], rows: Vec<Keyed>) -> Result<Vec<Keyed>> {
        if self.by.is_empty() || rows.is_empty() {
            return Ok(rows);
        }
        let at: Vec<RowAt> = rows.iter().map(|row| row.at).collect();
        let fields: Vec<FieldId> = self.by.iter().map(|by| by.field).collect();
        let batch = redkite_segment::fetch(segments, &at, &fields).map_err(coded)?;
        let values = |row: usize| -> Vec<Value> {
            let columns = batch.columns().iter();
            columns.map(|column| column.value(row)).collect()
        };
        let keyed = rows.into_iter().enumerate();
        let mut keyed: Vec<(Vec<Value>, Keyed)> =
            keyed.map(|(row, keyed)| (values(row), keyed)).collect();
        let compare = |a: &(Vec<Value>, Keyed), b: &(Vec<Value>, Keyed)| {
            compare_rows(&self.by, &a.0, &b.0).then_with(|| a.1.key.cmp(&b.1.key))
        };
        if let Some(limit) = self.limit.filter(|limit| *limit < keyed.len()) {
            if limit > 0 {
                keyed.select_nth_unstable_by(limit - 1, compare);
            }
            keyed.truncate(limit);
        }
        keyed.sort_unstable_by(compare);
        Ok(keyed.into_iter().map(|(_, row)| row).collect())
    }
}
