//! The nearest rows of the nearest groups.

use std::{collections::HashSet, sync::Arc};

use futures::future::try_join_all;
use redkite_proto::{
    convert::columns,
    redkite::querynode::{SearchRequest, SearchResponse},
};
use redkite_runtime::Priority;
use redkite_segment::{GroupBy, Hit, InGroup, SegmentSearcher, StopFlag, TopK, merge_groups};
use redkite_types::{CollectionSchema, Error, ErrorCode, FieldId, GroupKey, Result};

use super::{
    Read, coded,
    fetch::Output,
    search::{Finish, search_jobs},
};
use crate::deps::QueryNodeDeps;

/// How the request's hits are to be grouped, if they are.
///
/// # Errors
/// Code 1700 for a field that is not there, 1100 for values that do not fit the queries.
pub(super) fn by(request: &SearchRequest, schema: &CollectionSchema) -> Result<Option<GroupBy>> {
    if request.group_by_field == 0 {
        return Ok(None);
    }
    let field = FieldId(request.group_by_field);
    let field = schema.field_by_id(field).ok_or_else(|| {
        let text = format!("field not found[field={field}]");
        Error::new(ErrorCode::FieldNotFound, text)
    })?;
    let within = match &request.group_values {
        None => None,
        Some(values) => {
            let counts = &request.group_counts;
            let total = counts.iter().map(|count| *count as usize).sum();
            let column = columns::from_proto(values.clone(), field, total)?;
            let mut keys = (0..total).map(|row| GroupKey::from_value(column.value(row)));
            let sets: Option<Vec<HashSet<GroupKey>>> = counts
                .iter()
                .map(|count| keys.by_ref().take(*count as usize).collect())
                .collect();
            let sets = sets.filter(|sets| sets.len() == request.nq as usize);
            Some(sets.ok_or_else(|| {
                Error::invalid_parameter(format!(
                    "{} lists of values of {} do not group {} queries",
                    counts.len(),
                    field.name,
                    request.nq
                ))
            })?)
        }
    };
    Ok(Some(GroupBy {
        field: field.id,
        size: request.group_size.max(1) as usize,
        fill: !request.groups_as_found,
        within,
    }))
}

/// Searches every segment and merges the groups.
pub(super) async fn run(
    deps: &QueryNodeDeps,
    read: &Read,
    searcher: Arc<SegmentSearcher>,
    by: GroupBy,
    output: Output,
    stop: StopFlag,
) -> Result<SearchResponse> {
    let by = Arc::new(by);
    let finish = Finish::new(read, searcher.clone(), output);
    let jobs = search_jobs(&read.segments, &searcher);
    let parts = jobs.into_iter().map(|job| {
        let (searcher, by, stop) = (searcher.clone(), by.clone(), stop.clone());
        let work = move || {
            let search = |segment| searcher.search_groups(segment, &by, &stop).map_err(coded);
            job.iter().map(search).collect::<Result<Vec<_>>>()
        };
        async move { deps.cpu.run(Priority::Search, work).await? }
    });
    let parts: Vec<_> = try_join_all(parts).await?.into_iter().flatten().collect();
    let work = move || {
        let merged = merge_groups(parts, searcher.k, &by);
        finish.answer(match merged {
            Some(merged) => without_groups(merged),
            None => TopK::empty(searcher.metric, 0),
        })
    };
    deps.cpu.run(Priority::Search, work).await?
}

/// The same hits; their groups come back as an output field.
fn without_groups(found: TopK<InGroup>) -> TopK {
    let plain = |hit: Hit<InGroup>| Hit {
        key: hit.key,
        score: hit.score,
        ts: hit.ts,
        at: hit.at.at,
    };
    let lists = found.lists.into_iter();
    TopK {
        metric: found.metric,
        lists: lists
            .map(|list| list.into_iter().map(plain).collect())
            .collect(),
        rows_searched: found.rows_searched,
    }
}
