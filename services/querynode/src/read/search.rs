//! The nearest rows.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwapOption;
use futures::future::try_join_all;
use redkite_index::{IndexType, Queries, RangeBounds, SearchParams};
use redkite_proto::{
    convert::keys,
    redkite::{
        meta::IndexInfo,
        querynode::{SearchRequest, SearchResponse},
    },
};
use redkite_runtime::Priority;
use redkite_segment::{Segment, SegmentSearcher, StopFlag, TopK, merge_topk};
use redkite_types::{
    CollectionSchema, Error, ErrorCode, FieldId, FieldSchema, MetricType, Result, Timestamp,
};
use serde_json::{Map, Value};
use tokio::time::Instant;
use tracing::instrument;

use super::{Read, ReadRequest, StopOnDrop, coded, deadline, fetch, fetch::Output, jobs};
use crate::{
    channel::{Channel, ShardSnapshot},
    deps::QueryNodeDeps,
    metrics,
};

/// A search of so many compared values at most, some 0.15 ms, is made by whoever asked for it: handing
/// it to the CPU pool and back costs as much, and waits longer where others keep the processors busy.
const SHORT_WORK: usize = 3 << 19;

/// Such a search has so many hits at most, of all its queries.
const SHORT_HITS: usize = 256;

/// A sealed segment with an index costs about as much as comparing this many rows a query.
const INDEX_SEARCH_ROWS: usize = 2_048;

/// Answers a search of any number of queries.
///
/// # Errors
/// What is not loaded, vectors, parameters, a filter or fields that do not fit, a guarantee that
/// was not reached in time.
#[instrument(level = "debug", skip_all, fields(channel = %request.channel, nq = request.nq))]
pub(crate) async fn search(
    deps: &QueryNodeDeps,
    channel: &Channel,
    request: SearchRequest,
) -> Result<SearchResponse> {
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
    metrics::SEARCHES.looked_at(request.partition_ids.len(), read.segments.len());
    let output = Output::new(&request.output_fields, &read.snapshot.schema)?;
    let searcher = Arc::new(searcher(&request, &read, channel)?);
    let stop = StopFlag::new();
    let _guard = StopOnDrop(stop.clone());
    let answer = match super::group::by(&request, &read.snapshot.schema)? {
        Some(by) => {
            let answer = super::group::run(deps, &read, searcher, by, output, stop);
            deadline.timeout("the search", answer).await??
        }
        None => {
            let answer = run(deps, &read, searcher, output, stop);
            deadline.timeout("the search", answer).await??
        }
    };
    metrics::SEARCHES.answered(request.nq as usize, answer.rows_searched, started.elapsed());
    Ok(answer)
}

fn searcher(request: &SearchRequest, read: &Read, channel: &Channel) -> Result<SegmentSearcher> {
    let field = vector_field(request, &read.snapshot.schema)?;
    let metric = MetricType::parse_for(field.data_type, &request.metric_type)?;
    Ok(SegmentSearcher {
        field: field.id,
        metric,
        queries: queries(request, field)?,
        k: request.topk as usize,
        params: params(
            request,
            field,
            metric,
            &read.snapshot,
            channel.last_params(),
        )?,
        filter: read.filter.clone(),
        view: read.view,
    })
}

fn vector_field<'a>(
    request: &SearchRequest,
    schema: &'a CollectionSchema,
) -> Result<&'a FieldSchema> {
    let field = schema.field_by_id(FieldId(request.field_id));
    field
        .filter(|field| field.data_type.is_vector())
        .ok_or_else(|| {
            let text = format!(
                "field not found[field={}][no vector field]",
                request.field_id
            );
            Error::new(ErrorCode::FieldNotFound, text)
        })
}

/// The query vectors, which must be of the field's type and dimension.
fn queries(request: &SearchRequest, field: &FieldSchema) -> Result<Queries> {
    let (kind, dim, nq) = (field.data_type, field.dim, request.nq as usize);
    let (bytes, lengths) = (&request.queries, &request.query_lengths);
    Queries::decode(kind, dim, nq, bytes, lengths).ok_or_else(|| {
        Error::invalid_parameter(format!(
            "{nq} queries of field {} have {} bytes, expected vectors of {kind} of dim {dim}",
            field.name,
            bytes.len()
        ))
    })
}

/// The parameters that were parsed last on a channel: clients send the same ones again and again.
#[derive(Default)]
pub(crate) struct LastParams(ArcSwapOption<ParsedParams>);

/// Parameters and what they were parsed from.
struct ParsedParams {
    indexes: Arc<HashMap<FieldId, IndexInfo>>,
    field: FieldId,
    text: String,
    params: SearchParams,
}

impl LastParams {
    fn of(
        &self,
        text: &str,
        field: &FieldSchema,
        snapshot: &ShardSnapshot,
    ) -> Result<SearchParams> {
        if let Some(last) = &*self.0.load()
            && last.field == field.id
            && last.text == text
            && Arc::ptr_eq(&last.indexes, &snapshot.indexes)
        {
            return Ok(last.params.clone());
        }
        let params = parse(text, field, snapshot)?;
        self.0.store(Some(Arc::new(ParsedParams {
            indexes: snapshot.indexes.clone(),
            field: field.id,
            text: text.to_owned(),
            params: params.clone(),
        })));
        Ok(params)
    }
}

fn parse(text: &str, field: &FieldSchema, snapshot: &ShardSnapshot) -> Result<SearchParams> {
    let index = snapshot.indexes.get(&field.id);
    let index_type = match index {
        Some(index) => IndexType::parse(&index.index_type).map_err(|e| Error::from_coded(&e))?,
        None => IndexType::AutoIndex,
    };
    let map: Map<String, Value> = match text {
        "" => Map::new(),
        text => serde_json::from_str(text).map_err(|error| {
            Error::invalid_parameter(format!("search params are no JSON object: {error}"))
        })?,
    };
    SearchParams::parse_for(field.data_type, index_type, &map).map_err(input)
}

fn params(
    request: &SearchRequest,
    field: &FieldSchema,
    metric: MetricType,
    snapshot: &ShardSnapshot,
    last: &LastParams,
) -> Result<SearchParams> {
    let mut params = last.of(&request.params, field, snapshot)?;
    if let Some(radius) = request.radius {
        params.range = Some(RangeBounds {
            radius: radius as f32,
            range_filter: request.range_filter.map(|near| near as f32),
        });
    }
    if let Some(range) = &params.range {
        range.validate(metric).map_err(input)?;
    }
    Ok(params)
}

fn input(error: redkite_index::Error) -> Error {
    Error::input(ErrorCode::InvalidParameter, error.to_string())
}

async fn run(
    deps: &QueryNodeDeps,
    read: &Read,
    searcher: Arc<SegmentSearcher>,
    output: Output,
    stop: StopFlag,
) -> Result<SearchResponse> {
    if is_short(&read.segments, &searcher, &output) {
        match search_now(&searcher, &read.segments, &stop)? {
            Some(parts) => return Finish::new(read, searcher, output).run(parts),
            None => metrics::search_waited(),
        }
    }
    let mut jobs = search_jobs(&read.segments, &searcher);
    let finish = Finish::new(read, searcher.clone(), output);
    if jobs.len() <= 1 {
        // The usual case of little data: one job does everything.
        let job = jobs.pop().unwrap_or_default();
        let work = move || {
            let parts = searcher.search_all(&job, &stop).map_err(coded)?;
            finish.run(parts)
        };
        return deps.cpu.run(Priority::Search, work).await?;
    }
    let parts = jobs.into_iter().map(|job| {
        let (searcher, stop) = (searcher.clone(), stop.clone());
        let work = move || searcher.search_all(&job, &stop).map_err(coded);
        async move { deps.cpu.run(Priority::Search, work).await? }
    });
    let parts = try_join_all(parts).await?.into_iter().flatten().collect();
    deps.cpu
        .run(Priority::Search, move || finish.run(parts))
        .await?
}

/// Whether a search is over so soon that it does not hold up others on the caller's thread.
fn is_short(segments: &[Segment], searcher: &SegmentSearcher, output: &Output) -> bool {
    let mut left = SHORT_WORK;
    for segment in segments {
        let waits = !output.is_empty() && segment.is_in_file();
        let work = searcher.work(segment).filter(|_| !waits);
        match work.and_then(|work| left.checked_sub(work)) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    searcher.k.saturating_mul(searcher.queries.len()) <= SHORT_HITS
}

/// The segments put together so that each job is worth its start.
pub(super) fn search_jobs(segments: &[Segment], searcher: &SegmentSearcher) -> Vec<Vec<Segment>> {
    jobs(segments, |segment| {
        let rows = match segment.index(searcher.field) {
            Some(_) => INDEX_SEARCH_ROWS.min(segment.rows()),
            // Growing rows, most of which may be in graphs of their own.
            None => match searcher.work(segment) {
                Some(work) => return work,
                None => segment.rows(),
            },
        };
        rows.saturating_mul(searcher.queries.values())
    })
}

/// As [`SegmentSearcher::search_all`], on a thread that must not wait; `None` when a vector would have to be waited
/// for.
fn search_now(
    searcher: &SegmentSearcher,
    segments: &[Segment],
    stop: &StopFlag,
) -> Result<Option<Vec<TopK>>> {
    match searcher.search_now(segments, stop) {
        Ok(parts) => Ok(Some(parts)),
        Err(error) if error.would_wait() => Ok(None),
        Err(error) => Err(coded(error)),
    }
}

/// From the segments' hits to the answer.
pub(super) struct Finish {
    segments: Vec<Segment>,
    schema: Arc<CollectionSchema>,
    searcher: Arc<SegmentSearcher>,
    output: Output,
}

impl Finish {
    pub(super) fn new(read: &Read, searcher: Arc<SegmentSearcher>, output: Output) -> Self {
        Self {
            segments: read.segments.clone(),
            schema: read.snapshot.schema.clone(),
            searcher,
            output,
        }
    }

    fn run(self, parts: Vec<TopK>) -> Result<SearchResponse> {
        let merged = merge_topk(self.searcher.metric, parts, self.searcher.k);
        self.answer(merged)
    }

    /// The answer of merged hits.
    pub(super) fn answer(self, mut merged: TopK) -> Result<SearchResponse> {
        let searcher = &self.searcher;
        let nq = searcher.queries.len();
        merged.lists.resize_with(nq, Vec::new);
        let counts = merged.lists.iter().map(|list| list.len() as u32).collect();
        let total = merged.lists.iter().map(Vec::len).sum();
        let hits = merged.lists.into_iter().flatten();
        let (mut rows, mut scores) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let (mut timestamps, mut found) = (Vec::with_capacity(total), Vec::with_capacity(total));
        for hit in hits {
            rows.push(hit.at);
            scores.push(hit.score);
            timestamps.push(hit.ts.0);
            found.push(hit.key);
        }
        let fields = self.output.read(&self.segments, &rows)?;
        let found = fetch::keys(&self.schema, found.into_iter());
        Ok(SearchResponse {
            counts,
            ids: Some(keys::to_proto(found)),
            scores,
            timestamps,
            fields,
            rows_searched: merged.rows_searched,
        })
    }
}
