//! The best hits of all channels.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use redkite_proto::{
    convert::{columns, keys},
    milvus::schema::{FieldData, SearchResultData},
    redkite::querynode::SearchResponse,
};
use redkite_types::{
    CollectionSchema, Column, ColumnData, Error, FieldId, FieldSchema, GroupKey, MetricType,
    PrimaryKey, PrimaryKeys, Result,
};

use crate::plan::OutputFields;

/// One channel's answer, taken apart.
struct Shard {
    /// Where each query's hits start, and behind the last.
    starts: Vec<usize>,
    ids: PrimaryKeys,
    scores: Vec<f32>,
    columns: Vec<Column>,
}

/// A hit: which channel, where in its answer, and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    shard: usize,
    row: usize,
    /// The score that the client gets, not rounded yet.
    pub score: f32,
}

/// The hits of a search, with everything that is known of their rows.
pub struct Found {
    shards: Vec<Shard>,
    /// One list a query, best first.
    pub lists: Vec<Vec<Pick>>,
}

/// What a client gets of the hits.
pub struct Shape<'a> {
    /// The output fields.
    pub output: &'a OutputFields,
    /// Decimals of the scores; `None` leaves them as they are.
    pub round_decimal: Option<u32>,
    /// The field by which hits are grouped.
    pub group: Option<FieldId>,
}

impl Pick {
    /// The same hit with another score.
    #[must_use]
    pub fn with_score(self, score: f32) -> Self {
        Self { score, ..self }
    }
}

impl Found {
    /// No hits of `nq` queries.
    pub fn nothing(nq: usize) -> Self {
        Self {
            shards: Vec::new(),
            lists: vec![Vec::new(); nq],
        }
    }

    /// Merges the channels' hits: the best `k` of each query, best first with ties in order of the
    /// primary key.
    ///
    /// A primary key lives in one channel, so no hit can come twice.
    ///
    /// # Errors
    /// Internal when an answer does not add up: a bug of ours.
    pub fn merge(
        schema: &CollectionSchema,
        metric: MetricType,
        nq: usize,
        k: usize,
        answers: Vec<SearchResponse>,
    ) -> Result<Self> {
        let shards = answers
            .into_iter()
            .map(|answer| Shard::new(answer, nq, schema))
            .collect::<Result<Vec<_>>>()?;
        let lists = (0..nq)
            .map(|query| merge_query(metric, &shards, query, k))
            .collect();
        Ok(Self { shards, lists })
    }

    /// A hit's primary key.
    pub fn key(&self, pick: Pick) -> PrimaryKey {
        self.shards[pick.shard].ids.get(pick.row)
    }

    /// The group that a hit belongs to. A field that was not brought back has no values.
    pub fn group(&self, pick: Pick, field: FieldId) -> GroupKey {
        let column = self.shards[pick.shard].column(field);
        let value = column.map(|column| column.value(pick.row));
        value
            .and_then(GroupKey::from_value)
            .unwrap_or(GroupKey::Null)
    }

    /// Keeps the first hit of each group, and the groups `offset..offset + limit`.
    pub fn keep_groups(&mut self, field: FieldId, offset: usize, limit: usize) {
        for mut list in std::mem::take(&mut self.lists) {
            let mut seen = HashSet::new();
            list.retain(|pick| seen.insert(self.group(*pick, field)));
            self.lists.push(list);
        }
        self.keep_window(offset, limit);
    }

    /// Keeps the groups `offset..offset + limit` with at most `size` hits each, up to the hit that
    /// begins the last of them, and puts the hits of each group together, the nearest group first.
    pub fn keep_groups_as_found(
        &mut self,
        field: FieldId,
        offset: usize,
        limit: usize,
        size: usize,
    ) {
        for list in std::mem::take(&mut self.lists) {
            let mut groups: Vec<Vec<Pick>> = Vec::new();
            let mut places: HashMap<GroupKey, usize> = HashMap::new();
            for pick in list {
                if groups.len() >= offset + limit {
                    break;
                }
                let place = *places.entry(self.group(pick, field)).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                });
                if groups[place].len() < size {
                    groups[place].push(pick);
                }
            }
            self.lists
                .push(groups.into_iter().skip(offset).flatten().collect());
        }
    }

    /// Keeps the first `size` hits of each group.
    pub fn keep_in_groups(&mut self, field: FieldId, size: usize) {
        for mut list in std::mem::take(&mut self.lists) {
            let mut counts: HashMap<GroupKey, usize> = HashMap::new();
            list.retain(|pick| {
                let count = counts.entry(self.group(*pick, field)).or_default();
                *count += 1;
                *count <= size
            });
            self.lists.push(list);
        }
    }

    /// Puts the hits of each group together, the groups in the order of `first`'s hits.
    pub fn arrange_groups(&mut self, field: FieldId, first: &Self) {
        let lists = std::mem::take(&mut self.lists);
        for (mut list, order) in lists.into_iter().zip(&first.lists) {
            let groups = order.iter().enumerate();
            let rank: HashMap<GroupKey, usize> = groups
                .map(|(rank, pick)| (first.group(*pick, field), rank))
                .collect();
            list.sort_by_key(|pick| {
                let group = self.group(*pick, field);
                rank.get(&group).copied().unwrap_or(usize::MAX)
            });
            self.lists.push(list);
        }
    }

    /// Keeps the hits `offset..offset + limit` of each query.
    pub fn keep_window(&mut self, offset: usize, limit: usize) {
        for list in &mut self.lists {
            list.truncate(offset.saturating_add(limit));
            list.drain(..offset.min(list.len()));
        }
    }

    /// The hits of several searches side by side: their rows in one place, their lists one after
    /// the other in the answer's second part, `[search][query]`.
    pub fn join(parts: Vec<Self>) -> (Self, Vec<Vec<Vec<Pick>>>) {
        let mut shards = Vec::new();
        let mut lists = Vec::with_capacity(parts.len());
        for part in parts {
            let before = shards.len();
            shards.extend(part.shards);
            let mut moved = part.lists;
            for pick in moved.iter_mut().flatten() {
                pick.shard += before;
            }
            lists.push(moved);
        }
        let all = Self {
            shards,
            lists: Vec::new(),
        };
        (all, lists)
    }

    /// A field's values of all hits, one query after the other.
    pub fn column(&self, field: &FieldSchema) -> FieldData {
        let picks: Vec<Pick> = self.lists.iter().flatten().copied().collect();
        let mut gathered = Column::new(field.id, ColumnData::empty(field.data_type, field.dim));
        // Runs of hits from one channel are taken at once.
        let mut start = 0;
        while start < picks.len() {
            let shard = picks[start].shard;
            let end = picks[start..]
                .iter()
                .position(|pick| pick.shard != shard)
                .map_or(picks.len(), |length| start + length);
            let rows: Vec<usize> = picks[start..end].iter().map(|pick| pick.row).collect();
            if let Some(column) = self.shards[shard].column(field.id) {
                gathered.extend(&column.take(&rows));
            }
            start = end;
        }
        columns::to_proto(gathered, field)
    }

    /// The answer to the client.
    pub fn into_results(self, shape: &Shape<'_>, schema: &CollectionSchema) -> SearchResultData {
        let total = self.lists.iter().map(Vec::len).sum();
        let mut ids = PrimaryKeys::with_capacity(schema.primary_key().data_type, total);
        let mut scores = Vec::with_capacity(total);
        for pick in self.lists.iter().flatten() {
            ids.push(self.key(*pick));
            scores.push(round(pick.score, shape.round_decimal));
        }
        let topks: Vec<i64> = self.lists.iter().map(|list| list.len() as i64).collect();
        let fields = shape.output.fields.iter();
        let fields = fields.filter_map(|id| schema.field_by_id(*id));
        let group = shape.group.and_then(|field| schema.field_by_id(field));
        SearchResultData {
            num_queries: self.lists.len() as i64,
            top_k: topks.iter().copied().max().unwrap_or(0),
            fields_data: fields.map(|field| self.column(field)).collect(),
            group_by_field_value: group.map(|field| self.column(field)),
            scores,
            ids: Some(keys::to_proto(ids)),
            topks,
            output_fields: shape.output.names.clone(),
            primary_field_name: schema.primary_key().name.clone(),
            ..SearchResultData::default()
        }
    }
}

impl Shard {
    fn new(answer: SearchResponse, nq: usize, schema: &CollectionSchema) -> Result<Self> {
        let mut starts = Vec::with_capacity(answer.counts.len() + 1);
        starts.push(0);
        let mut total = 0;
        for count in &answer.counts {
            total += *count as usize;
            starts.push(total);
        }
        let ids = match answer.ids.filter(|ids| ids.id_field.is_some()) {
            Some(ids) => keys::from_proto(ids)?,
            None => PrimaryKeys::with_capacity(schema.primary_key().data_type, 0),
        };
        if starts.len() != nq + 1 || ids.len() != total || answer.scores.len() != total {
            return Err(Error::internal("a query node's hits do not add up"));
        }
        let columns = answer
            .fields
            .into_iter()
            .map(|data| {
                let field = schema
                    .field_by_id(FieldId(data.field_id))
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

    fn column(&self, field: FieldId) -> Option<&Column> {
        self.columns.iter().find(|column| column.field == field)
    }
}

/// The best `k` of one query's hits.
fn merge_query(metric: MetricType, shards: &[Shard], query: usize, k: usize) -> Vec<Pick> {
    let mut cursors: Vec<usize> = shards.iter().map(|shard| shard.starts[query]).collect();
    let found = shards
        .iter()
        .map(|shard| shard.starts[query + 1] - shard.starts[query]);
    let mut picks = Vec::with_capacity(found.sum::<usize>().min(k));
    let order = |(a, left): (usize, &Shard), (b, right): (usize, &Shard)| -> Ordering {
        metric
            .compare(left.scores[a], right.scores[b])
            .then_with(|| left.ids.get(a).cmp(&right.ids.get(b)))
    };
    while picks.len() < k {
        let best = shards
            .iter()
            .enumerate()
            .filter(|(index, shard)| cursors[*index] < shard.starts[query + 1])
            .min_by(|(a, left), (b, right)| order((cursors[*a], left), (cursors[*b], right)));
        let Some((shard, found)) = best else { break };
        let row = cursors[shard];
        picks.push(Pick {
            shard,
            row,
            score: found.scores[row],
        });
        cursors[shard] += 1;
    }
    picks
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

    /// One channel with hits of one query in groups, the nearest first.
    fn hits(groups: &[i64]) -> Found {
        let scores: Vec<f32> = (0..groups.len()).map(|at| at as f32).collect();
        let picks = scores.iter().enumerate().map(|(row, score)| Pick {
            shard: 0,
            row,
            score: *score,
        });
        Found {
            lists: vec![picks.collect()],
            shards: vec![Shard {
                starts: vec![0, groups.len()],
                ids: PrimaryKeys::Int((0..).take(groups.len()).collect()),
                scores,
                columns: vec![Column::new(
                    FieldId(101),
                    ColumnData::Int64(groups.to_vec()),
                )],
            }],
        }
    }

    #[test]
    fn groups_that_need_not_be_full_end_where_the_last_begins() {
        for (offset, limit, size, want) in [
            (0, 2, 3, vec![0, 1, 2]),
            (0, 3, 2, vec![0, 1, 2, 3]),
            (0, 3, 9, vec![0, 1, 2, 3]),
            (0, 4, 2, vec![0, 1, 2, 5, 3, 7]),
            (1, 2, 9, vec![2, 3]),
            (0, 4, 9, vec![0, 1, 4, 6, 2, 5, 3, 7]),
            (3, 5, 9, vec![7]),
        ] {
            let mut found = hits(&[7, 7, 8, 9, 7, 8, 7, 6]);
            found.keep_groups_as_found(FieldId(101), offset, limit, size);
            let rows: Vec<usize> = found.lists[0].iter().map(|pick| pick.row).collect();
            assert_eq!(rows, want, "{offset} {limit} {size}");
        }
    }

    #[test]
    fn scores_are_rounded_half_away_from_zero() {
        assert_eq!(round(0.123_456, Some(3)), 0.123);
        assert_eq!(round(-0.5, Some(0)), -1.0);
        assert_eq!(round(0.123_456, None), 0.123_456);
    }
}
