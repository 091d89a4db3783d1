//! The best hits of all channels.

use redkite_proto::{
    convert::{columns, keys},
    milvus::schema::{FieldData, SearchResultData},
    redkite::querynode::SearchResponse,
};
use redkite_types::{CollectionSchema, Column, Error, FieldSchema, PrimaryKeys, Result};

use crate::plan::SearchPlan;

/// One channel's answer, taken apart.
struct Shard {
    /// Where each query's hits start, and behind the last.
    starts: Vec<usize>,
    ids: PrimaryKeys,
    scores: Vec<f32>,
    columns: Vec<Column>,
}

/// A hit: which channel, and where in its answer.
#[derive(Clone, Copy)]
struct Pick {
    shard: usize,
    row: usize,
}

/// Merges the channels' hits, best first with ties in order of the primary key, leaves out the
/// offset and rounds the scores.
///
/// A primary key lives in one channel, so no hit can come twice.
///
/// # Errors
/// Internal when an answer does not add up: a bug of ours.
pub fn reduce(
    plan: &SearchPlan,
    schema: &CollectionSchema,
    answers: Vec<SearchResponse>,
) -> Result<SearchResultData> {
    let shards = answers
        .into_iter()
        .map(|answer| Shard::new(answer, plan, schema))
        .collect::<Result<Vec<_>>>()?;
    let mut picks = Vec::new();
    let mut topks = Vec::with_capacity(plan.nq);
    for query in 0..plan.nq {
        let before = picks.len();
        merge_query(plan, &shards, query, &mut picks);
        topks.push((picks.len() - before) as i64);
    }
    Ok(assemble(plan, schema, &shards, &picks, topks))
}

impl Shard {
    fn new(answer: SearchResponse, plan: &SearchPlan, schema: &CollectionSchema) -> Result<Self> {
        let mut starts = vec![0];
        let mut total = 0;
        for count in &answer.counts {
            total += *count as usize;
            starts.push(total);
        }
        let ids = match answer.ids.filter(|ids| ids.id_field.is_some()) {
            Some(ids) => keys::from_proto(ids)?,
            None => no_keys(schema.primary_key()),
        };
        if starts.len() != plan.nq + 1 || ids.len() != total || answer.scores.len() != total {
            return Err(Error::internal("a query node's hits do not add up"));
        }
        let columns = answer
            .fields
            .into_iter()
            .map(|data| {
                let field = schema
                    .field_by_id(redkite_types::FieldId(data.field_id))
                    .ok_or_else(|| Error::internal("a query node sent an unknown field"))?;
                columns::from_proto(data, field, total)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            starts,
            ids,
            scores: answer.scores,
            columns,
        })
    }
}

fn no_keys(field: &FieldSchema) -> PrimaryKeys {
    if field.data_type.is_integer() {
        PrimaryKeys::Int(Vec::new())
    } else {
        PrimaryKeys::Str(Vec::new())
    }
}

/// Appends the window of one query's merged hits.
fn merge_query(plan: &SearchPlan, shards: &[Shard], query: usize, picks: &mut Vec<Pick>) {
    let mut cursors: Vec<usize> = shards.iter().map(|shard| shard.starts[query]).collect();
    for rank in 0..plan.topk() {
        let best = shards
            .iter()
            .enumerate()
            .filter(|(index, shard)| cursors[*index] < shard.starts[query + 1])
            .min_by(|(a, left), (b, right)| {
                let (a, b) = (cursors[*a], cursors[*b]);
                plan.metric
                    .compare(left.scores[a], right.scores[b])
                    .then_with(|| left.ids.get(a).cmp(&right.ids.get(b)))
            });
        let Some((shard, _)) = best else { return };
        if rank >= plan.offset {
            picks.push(Pick {
                shard,
                row: cursors[shard],
            });
        }
        cursors[shard] += 1;
    }
}

fn assemble(
    plan: &SearchPlan,
    schema: &CollectionSchema,
    shards: &[Shard],
    picks: &[Pick],
    topks: Vec<i64>,
) -> SearchResultData {
    let mut ids = no_keys(schema.primary_key());
    let mut scores = Vec::with_capacity(picks.len());
    for pick in picks {
        ids.push(shards[pick.shard].ids.get(pick.row));
        scores.push(round(
            shards[pick.shard].scores[pick.row],
            plan.round_decimal,
        ));
    }
    SearchResultData {
        num_queries: plan.nq as i64,
        top_k: topks.iter().copied().max().unwrap_or(0),
        fields_data: gather(plan, schema, shards, picks),
        scores,
        ids: Some(keys::to_proto(ids)),
        topks,
        output_fields: plan.output.names.clone(),
        primary_field_name: schema.primary_key().name.clone(),
        ..SearchResultData::default()
    }
}

/// The output fields of the picked rows.
fn gather(
    plan: &SearchPlan,
    schema: &CollectionSchema,
    shards: &[Shard],
    picks: &[Pick],
) -> Vec<FieldData> {
    let fields = plan
        .output
        .fields
        .iter()
        .filter_map(|id| schema.field_by_id(*id));
    fields
        .map(|field| {
            let mut gathered = Column::new(
                field.id,
                redkite_types::ColumnData::empty(field.data_type, field.dim),
            );
            // Runs of hits from one channel are taken at once.
            let mut start = 0;
            while start < picks.len() {
                let shard = picks[start].shard;
                let end = picks[start..]
                    .iter()
                    .position(|pick| pick.shard != shard)
                    .map_or(picks.len(), |length| start + length);
                let rows: Vec<usize> = picks[start..end].iter().map(|pick| pick.row).collect();
                if let Some(column) = shards[shard]
                    .columns
                    .iter()
                    .find(|column| column.field == field.id)
                {
                    gathered.extend(&column.take(&rows));
                }
                start = end;
            }
            columns::to_proto(gathered, field)
        })
        .collect()
}

/// Rounds a score to a number of decimals.
fn round(score: f32, decimals: Option<u32>) -> f32 {
    match decimals {
        None => score,
        Some(decimals) => {
            let scale = 10f64.powi(decimals.cast_signed());
            ((f64::from(score) * scale).round() / scale) as f32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_rounded_half_away_from_zero() {
        assert_eq!(round(0.123_456, Some(3)), 0.123);
        assert_eq!(round(-0.5, Some(0)), -1.0);
        assert_eq!(round(0.123_456, None), 0.123_456);
    }
}
