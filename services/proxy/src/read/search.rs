//! One search.

use redkite_expr::{Plan, Templates};
use redkite_proto::{
    convert::{columns, keys, vectors::QueryVectors},
    milvus::schema::FieldData,
    redkite::querynode::{QueryRequest, SearchRequest},
};
use redkite_types::{Error, FieldId, PrimaryKey, PrimaryKeys, Result, Value, limits};
use std::collections::{HashMap, HashSet};

use super::Reading;
use crate::{
    owners::call_owners,
    plan::{GroupPlan, PagePlan, SearchPlan, encode_filter, scope},
    reduce::search::Found,
};

/// Rows of one score that an iterator's page asks for; with more it asks again.
const USUAL_TIES: usize = limits::MAX_RESULT_WINDOW as usize;
/// Rows of one score that stand on one page, at the most.
const MOST_TIES: usize = 1_000_000;

/// What the owners are asked for.
struct Ask {
    /// Hits of each query, or groups.
    k: usize,
    radius: Option<f64>,
    range_filter: Option<f64>,
    group: Option<AskGroups>,
}

struct AskGroups {
    field: FieldId,
    size: usize,
    /// Whether the search goes on until the groups are full.
    fill: bool,
    /// Numbers of values of each query, and the values.
    within: Option<(Vec<u32>, FieldData)>,
}

/// Finds the hits of a search, its window cut out.
///
/// # Errors
/// What an owner answers; code 1100 for rows to take vectors from that are not there.
pub async fn run(reading: &Reading<'_>, plan: &mut SearchPlan) -> Result<Found> {
    if let Some(ids) = plan.ids.take() {
        plan.queries = vectors_of(reading, plan, &ids).await?;
    }
    if plan.partitions.is_empty() {
        return Ok(Found::nothing(plan.nq));
    }
    if let Some(group) = plan.group {
        return groups(reading, plan, group).await;
    }
    let mut found = match plan.page.clone() {
        Some(page) => self::page(reading, plan, &page).await?,
        None => ask(reading, plan, &plain(plan, plan.topk())).await?,
    };
    found.keep_window(plan.offset, usize::MAX);
    Ok(found)
}

fn plain(plan: &SearchPlan, k: usize) -> Ask {
    Ask {
        k,
        radius: plan.radius,
        range_filter: plan.range_filter,
        group: None,
    }
}

/// The nearest groups, with the rows that are found until there are enough groups; or, if groups are
/// to be full, first which groups are the nearest and then their rows: a row of a near group may lie
/// in a channel or a segment that has nearer groups of its own.
async fn groups(reading: &Reading<'_>, plan: &SearchPlan, group: GroupPlan) -> Result<Found> {
    let fill = group.strict && group.size > 1;
    let groups = |k, size, within| Ask {
        group: Some(AskGroups {
            field: group.field,
            size,
            fill,
            within,
        }),
        ..plain(plan, k)
    };
    if !fill {
        let mut found = ask(reading, plan, &groups(plan.topk(), group.size, None)).await?;
        found.keep_groups_as_found(group.field, plan.offset, plan.limit, group.size);
        return Ok(found);
    }
    let mut first = ask(reading, plan, &groups(plan.topk(), 1, None)).await?;
    first.keep_groups(group.field, plan.offset, plan.limit);
    let most = first.lists.iter().map(Vec::len).max().unwrap_or(0);
    let field = reading.entry.schema().field_by_id(group.field);
    let Some(field) = field.filter(|_| most > 0) else {
        return Ok(first);
    };
    let counts = first.lists.iter().map(|list| list.len() as u32).collect();
    let within = Some((counts, first.column(field)));
    let mut filled = ask(reading, plan, &groups(most, group.size, within)).await?;
    filled.keep_in_groups(group.field, group.size);
    filled.arrange_groups(group.field, &first);
    Ok(filled)
}

/// A page of an iterator: what lies beyond its last bound, as many hits as it asks for, and those
/// that are as near as the last of them.
async fn page(reading: &Reading<'_>, plan: &SearchPlan, page: &PagePlan) -> Result<Found> {
    let larger = plan.metric.larger_is_nearer();
    let behind = |bound: f32| {
        if larger {
            bound.next_down()
        } else {
            bound.next_up()
        }
    };
    let mut wanted = plain(plan, page.size + 1);
    if let Some(bound) = page.last_bound {
        let near = f64::from(behind(bound));
        let given = plan.range_filter.unwrap_or(near);
        let near = if larger {
            near.min(given)
        } else {
            near.max(given)
        };
        wanted.range_filter = Some(near);
        let end = if larger {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        };
        let radius = wanted.radius.unwrap_or(end);
        wanted.radius = Some(radius);
        if larger && radius >= near || !larger && radius <= near {
            return Ok(Found::nothing(plan.nq));
        }
    }
    let found = ask(reading, plan, &wanted).await?;
    let list = &found.lists[0];
    let [.., last, over] = list.as_slice() else {
        return Ok(found);
    };
    if list.len() <= page.size {
        return Ok(found);
    }
    if last.score != over.score {
        let mut found = found;
        found.keep_window(0, page.size);
        return Ok(found);
    }
    // All hits of the last score, and before them those that are nearer.
    let score = last.score;
    let ties = |k| Ask {
        k,
        radius: Some(f64::from(behind(score))),
        range_filter: Some(f64::from(score)),
        group: None,
    };
    let mut found_ties = Found::nothing(plan.nq);
    for most in [USUAL_TIES, MOST_TIES] {
        found_ties = ask(reading, plan, &ties(most)).await?;
        if found_ties.lists[0].len() < most {
            break;
        }
    }
    if found_ties.lists[0].len() >= MOST_TIES {
        return Err(too_many_ties(score));
    }
    let nearer: Vec<_> = list
        .iter()
        .filter(|pick| pick.score != score)
        .copied()
        .collect();
    let (mut all, mut lists) = Found::join(vec![found, found_ties]);
    let mut merged = nearer;
    // The first search's own hits of that score are among them.
    merged.extend(lists.pop().into_iter().flatten().flatten());
    all.lists = vec![merged];
    Ok(all)
}

/// The client's bound is a score, so the next page could only leave the rest of them out.
fn too_many_ties(score: f32) -> Error {
    Error::invalid_parameter(format!(
        "search iterator cannot go on: at least {MOST_TIES} rows have the score {score}, and they have to \
         stand on one page"
    ))
}

async fn ask(reading: &Reading<'_>, plan: &SearchPlan, ask: &Ask) -> Result<Found> {
    let answers = call_owners(
        reading.context,
        reading.deadline,
        reading.entry,
        |node, channel| {
            let message = message(reading, plan, ask, channel);
            async move {
                redkite_rpc::call(reading.deadline, message, |request| node.search(request)).await
            }
        },
    )
    .await?;
    let answers = answers.into_iter().map(|(_, answer)| answer).collect();
    let k = match ask.group {
        Some(_) => usize::MAX,
        None => ask.k,
    };
    Found::merge(reading.entry.schema(), plan.metric, plan.nq, k, answers)
}

fn message(reading: &Reading<'_>, plan: &SearchPlan, ask: &Ask, channel: String) -> SearchRequest {
    let group = ask.group.as_ref();
    let within = group.and_then(|group| group.within.clone());
    let (group_counts, group_values) = within.unzip();
    SearchRequest {
        channel,
        collection_id: reading.entry.id().0,
        partition_ids: plan.partitions.iter().map(|id| id.0).collect(),
        field_id: plan.field.0,
        metric_type: plan.metric.name().to_owned(),
        queries: plan.queries.bytes.clone(),
        query_lengths: plan.queries.lengths.clone(),
        nq: plan.nq as u32,
        topk: ask.k as u32,
        params: plan.params_for(ask.k),
        filter: plan.filter.clone(),
        mvcc_ts: reading.time.mvcc.0,
        guarantee_ts: reading.time.guarantee.0,
        ignore_growing: plan.ignore_growing,
        radius: ask.radius,
        range_filter: ask.range_filter,
        output_fields: plan.fetched(),
        timeout_ms: reading.millis_left(),
        expired_before: reading.expired_before(),
        group_by_field: group.map_or(0, |group| group.field.0),
        group_size: group.map_or(0, |group| group.size as u32),
        group_counts: group_counts.unwrap_or_default(),
        group_values,
        groups_as_found: group.is_some_and(|group| !group.fill),
        schema_version: reading.entry.schema().version,
    }
}

/// The vectors of some rows, in their order, as query vectors.
async fn vectors_of(
    reading: &Reading<'_>,
    plan: &SearchPlan,
    ids: &PrimaryKeys,
) -> Result<QueryVectors> {
    let schema = reading.entry.schema();
    let key = schema.primary_key();
    let value = |id| match id {
        PrimaryKey::Int(id) => Value::Int(id),
        PrimaryKey::Str(id) => Value::Str(id),
    };
    let templates = Templates::from([(
        "ids".to_owned(),
        Value::List(ids.iter().map(value).collect()),
    )]);
    let filter = redkite_expr::compile(&format!("{} in {{ids}}", key.name), &templates, schema)
        .map_err(Error::from)?;
    let filter = encode_filter(&filter)?;
    let all = scope::partitions(reading.entry, &[], &Plan::all())?;
    let partitions: Vec<i64> = all.iter().map(|partition| partition.0).collect();
    let answers = call_owners(
        reading.context,
        reading.deadline,
        reading.entry,
        |node, channel| {
            let message = QueryRequest {
                channel,
                collection_id: reading.entry.id().0,
                partition_ids: partitions.clone(),
                filter: filter.clone(),
                output_fields: vec![plan.field.0],
                mvcc_ts: reading.time.mvcc.0,
                guarantee_ts: reading.time.guarantee.0,
                timeout_ms: reading.millis_left(),
                expired_before: reading.expired_before(),
                schema_version: schema.version,
                ..QueryRequest::default()
            };
            async move {
                redkite_rpc::call(reading.deadline, message, |request| node.query(request)).await
            }
        },
    )
    .await?;
    let field = schema.field_by_id(plan.field);
    let field = field.ok_or_else(|| Error::internal("a search on an unknown field"))?;
    let mut found: HashMap<PrimaryKey, Vec<u8>> = HashMap::new();
    for (_, answer) in answers {
        let Some(keys) = answer.ids.filter(|ids| ids.id_field.is_some()) else {
            continue;
        };
        let keys = keys::from_proto(keys)?;
        for data in answer.fields {
            let column = columns::from_proto(data, field, keys.len())?;
            let rows = keys.iter().enumerate();
            found.extend(rows.filter_map(|(row, key)| {
                let vector = column.data.vector_bytes(row)?;
                Some((key, vector.into_owned()))
            }));
        }
    }
    let mut missing: Vec<PrimaryKey> = Vec::new();
    let mut seen = HashSet::new();
    let mut queries: Vec<&[u8]> = Vec::with_capacity(ids.len());
    for id in ids.iter() {
        match found.get(&id) {
            Some(vector) => queries.push(vector),
            None if seen.insert(id.clone()) => missing.push(id),
            None => {}
        }
    }
    if missing.is_empty() {
        return Ok(QueryVectors::join(field.data_type, queries.into_iter()));
    }
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(Error::invalid_parameter(format!(
        "some of the provided primary key IDs do not exist: missing IDs = [{}]: invalid parameter",
        missing.join(", ")
    )))
}
