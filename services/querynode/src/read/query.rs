//! Rows by filter or key, in the order of their keys.

use std::sync::Arc;

use futures::future::try_join_all;
use redkite_proto::{
    convert::keys,
    redkite::querynode::{QueryRequest, QueryResponse},
};
use redkite_runtime::Priority;
use redkite_segment::{RowAt, SegmentRetriever, StopFlag, merge_keyed};
use redkite_types::{Result, Timestamp};
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
    };
    let read = Read::begin(deps, channel, wanted, deadline).await?;
    let limit = (request.limit > 0).then(|| usize::try_from(request.limit).unwrap_or(usize::MAX));
    let retriever = Arc::new(SegmentRetriever {
        filter: read.filter.clone(),
        view: read.view,
        limit: limit.filter(|_| !request.count_only),
    });
    let stop = StopFlag::new();
    let _guard = StopOnDrop(stop.clone());
    let answer = if request.count_only {
        let answer = count(deps, &read, retriever, stop);
        deadline.timeout("the query", answer).await??
    } else {
        let output = Output::new(&request.output_fields, &read.snapshot.schema)?;
        let answer = retrieve(deps, &read, retriever, output, stop);
        deadline.timeout("the query", answer).await??
    };
    metrics::read("query", 1, answer.count, started.elapsed());
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
        let rows = merge_keyed(lists, limit);
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
