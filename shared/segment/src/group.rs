//! The nearest rows of the nearest groups.
//!
//! Rows with one value of a field are a group, and a group is as near as its nearest row. A segment
//! finds its own nearest groups; which groups are the nearest of a whole collection is only known
//! once all answers are merged, and a row of one of them may lie in a segment where the group is
//! far. So full groups of several rows take two searches: the first finds which groups, one row each,
//! and the second, with [`GroupBy::within`], their rows. A search that does not fill its groups ends
//! where the last of them begins: it brings back all rows as near as that, and so the same rows
//! however they are spread over segments.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
};

use redkite_index::ColumnIndex;
use redkite_types::{BitSet, FieldId, GroupKey, SegmentId, StopFlag};

use crate::{
    chunk::Chunk,
    error::{Error, Result},
    reduce::{Hit, RowAt, TopK, merge_hits},
    search::SegmentSearcher,
    segment::{Allowed, Reader, Segment},
};

/// Rows looked for at once, at the least.
const LEAST_STEP: usize = 64;

/// How hits are grouped. The searcher's `k` counts groups.
#[derive(Clone, Debug)]
pub struct GroupBy {
    /// The field whose values make the groups.
    pub field: FieldId,
    /// Hits in a group at most, at least one.
    pub size: usize,
    /// Whether the search goes on until the groups have `size` rows, as long as there are rows. If
    /// not, it ends with the row that begins the last group.
    pub fill: bool,
    /// Only these groups, for each query; `None` looks for the nearest groups.
    pub within: Option<Vec<HashSet<GroupKey>>>,
}

/// Where a hit's row is, and its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InGroup {
    /// Where it is.
    pub at: RowAt,
    /// Its group.
    pub group: GroupKey,
}

impl SegmentSearcher {
    /// Finds the `k` nearest groups of a segment for each query, with the `size` nearest rows of
    /// each, or fewer when the groups are not to be filled.
    ///
    /// As long as groups are missing, or rows of groups that are to be filled, the search goes on among the rows that may still count, so
    /// that near groups with many rows do not push others out.
    ///
    /// # Errors
    /// As [`SegmentSearcher::search`]; `NoField` also for the field of the groups, and for one of a
    /// type that makes no groups.
    pub fn search_groups(
        &self,
        segment: &Segment,
        by: &GroupBy,
        stop: &StopFlag,
    ) -> Result<TopK<InGroup>> {
        let id = segment.id();
        self.check_shape(id)?;
        let mut found = TopK::empty(self.metric, self.queries.len());
        found.rows_searched = segment.rows() as u64;
        if self.k == 0 {
            return Ok(found);
        }
        let index = self.index_of(segment);
        let reader = Reader::new(segment, self.view, &self.filter);
        for (start, chunk) in segment.spans() {
            let allowed = reader.allowed(start, chunk)?;
            if allowed == Allowed::None {
                continue;
            }
            let search = ChunkSearch {
                index,
                segment: id,
                chunk,
                values: Groups::new(id, chunk, by.field),
                stop,
            };
            for (query, list) in found.lists.iter_mut().enumerate() {
                let within = by.within.as_ref().and_then(|within| within.get(query));
                let hits = search.nearest(self.for_query(query), by, &allowed, within)?;
                list.extend(hits.into_iter().map(|(hit, group)| {
                    let row = hit.row as usize;
                    let at = RowAt {
                        segment: id,
                        row: (start + row) as u32,
                    };
                    Hit {
                        key: chunk.key(row),
                        score: hit.score,
                        ts: chunk.timestamps()[row],
                        at: InGroup { at, group },
                    }
                }));
            }
        }
        for list in &mut found.lists {
            let hits = std::mem::take(list);
            *list = nearest_groups(merge_hits(self.metric, vec![hits], usize::MAX), self.k, by);
        }
        Ok(found)
    }

    /// The same search for one of its queries.
    fn for_query(&self, query: usize) -> Self {
        Self {
            queries: self.queries.only(query),
            ..self.clone()
        }
    }
}

/// Merges the answers to the same queries into the `groups` nearest groups of each, with the rows
/// that [`GroupBy`] wants of them. The hits stand best first, whatever their group.
pub fn merge_groups(
    parts: Vec<TopK<InGroup>>,
    groups: usize,
    by: &GroupBy,
) -> Option<TopK<InGroup>> {
    let metric = parts.first()?.metric;
    let mut merged = crate::reduce::merge_topk(metric, parts, usize::MAX);
    for list in &mut merged.lists {
        *list = nearest_groups(std::mem::take(list), groups, by);
    }
    Some(merged)
}

/// Of hits that stand best first, those that count.
fn nearest_groups(hits: Vec<Hit<InGroup>>, groups: usize, by: &GroupBy) -> Vec<Hit<InGroup>> {
    let mut quota = Quota::new(groups, by);
    let mut kept = Vec::new();
    for hit in hits {
        if quota.is_met() {
            break;
        }
        if quota.admit(&hit.at.group) {
            kept.push(hit);
        }
    }
    kept
}

/// Which groups have been found, and how many rows each has got.
struct Quota {
    groups: usize,
    size: usize,
    fill: bool,
    counts: HashMap<GroupKey, usize>,
    full: usize,
}

impl Quota {
    fn new(groups: usize, by: &GroupBy) -> Self {
        Self {
            groups,
            size: by.size.max(1),
            fill: by.fill,
            counts: HashMap::new(),
            full: 0,
        }
    }

    /// Takes a row into its group, if there is room for the group and in it.
    fn admit(&mut self, group: &GroupKey) -> bool {
        if self.is_closed(group) {
            return false;
        }
        let count = self.counts.entry(group.clone()).or_default();
        *count += 1;
        self.full += usize::from(*count == self.size);
        true
    }

    /// Whether no row of the group can be taken any more.
    fn is_closed(&self, group: &GroupKey) -> bool {
        match self.counts.get(group) {
            Some(count) => *count >= self.size,
            None => self.counts.len() >= self.groups,
        }
    }

    /// Whether no more rows are needed, if they came best first.
    fn is_met(&self) -> bool {
        if self.fill {
            self.full >= self.groups
        } else {
            self.counts.len() >= self.groups
        }
    }
}

/// One chunk of one segment, while queries are answered on it.
struct ChunkSearch<'a> {
    index: Option<&'a ColumnIndex>,
    segment: SegmentId,
    chunk: &'a Chunk,
    values: Groups<'a>,
    stop: &'a StopFlag,
}

impl ChunkSearch<'_> {
    /// The nearest rows of the nearest groups for one query.
    fn nearest(
        &self,
        mut query: SegmentSearcher,
        by: &GroupBy,
        allowed: &Allowed,
        within: Option<&HashSet<GroupKey>>,
    ) -> Result<Vec<(redkite_index::Hit, GroupKey)>> {
        let mut quota = Quota::new(query.k, by);
        let mut left = match allowed.bits() {
            Some(bits) => bits.clone(),
            None => BitSet::full(self.chunk.len()),
        };
        if let Some(within) = within {
            self.values
                .retain(&mut left, |group| within.contains(group))?;
        }
        let mut taken = Vec::new();
        let rows = if by.fill { by.size } else { 1 };
        query.k = query
            .k
            .saturating_mul(rows)
            .saturating_mul(2)
            .max(LEAST_STEP);
        while left.any() {
            self.stop.check().map_err(|_| Error::Cancelled)?;
            query.k = query.k.min(self.chunk.len());
            let allowed = Allowed::from_bits(left);
            let mut lists = Vec::new();
            query.nearest(
                self.index,
                self.segment,
                self.chunk,
                &allowed,
                self.stop,
                &mut lists,
            )?;
            let hits = lists.pop().unwrap_or_default();
            let rows: Vec<usize> = hits.iter().map(|hit| hit.row as usize).collect();
            // An index may find less than there is; a scan does not.
            let exhausted = hits.is_empty() || (self.index.is_none() && hits.len() < query.k);
            let groups = self.values.of(&rows)?;
            taken.extend(
                hits.into_iter()
                    .zip(groups)
                    .filter(|(_, group)| quota.admit(group)),
            );
            if exhausted || quota.is_met() {
                break;
            }
            left = match allowed {
                Allowed::Some(bits) => bits,
                Allowed::All | Allowed::None => BitSet::full(self.chunk.len()),
            };
            for row in rows {
                left.clear(row);
            }
            self.values
                .retain(&mut left, |group| !quota.is_closed(group))?;
            query.k = query.k.saturating_mul(2);
        }
        Ok(taken)
    }
}

/// The groups of a chunk's rows. All of them are looked at only when a search has to go on.
struct Groups<'a> {
    segment: SegmentId,
    chunk: &'a Chunk,
    field: FieldId,
    all: OnceCell<Numbered>,
}

/// Every row's group, by number.
struct Numbered {
    groups: Vec<GroupKey>,
    of_row: Vec<u32>,
}

impl<'a> Groups<'a> {
    fn new(segment: SegmentId, chunk: &'a Chunk, field: FieldId) -> Self {
        Self {
            segment,
            chunk,
            field,
            all: OnceCell::new(),
        }
    }

    /// The groups of some rows.
    fn of(&self, rows: &[usize]) -> Result<Vec<GroupKey>> {
        let no_field = Error::NoField {
            segment: self.segment,
            field: self.field,
        };
        if let Some(all) = self.all.get() {
            let group = |row: &usize| all.groups[all.of_row[*row] as usize].clone();
            return Ok(rows.iter().map(group).collect());
        }
        let Some(column) = self.chunk.take(self.field, rows)? else {
            return Err(no_field);
        };
        (0..rows.len())
            .map(|at| GroupKey::from_value(column.value(at)))
            .collect::<Option<_>>()
            .ok_or(no_field)
    }

    /// Keeps the rows of the groups that are wanted.
    fn retain(&self, rows: &mut BitSet, wanted: impl Fn(&GroupKey) -> bool) -> Result<()> {
        let all = match self.all.get() {
            Some(all) => all,
            None => {
                let numbered = self.number()?;
                self.all.get_or_init(|| numbered)
            }
        };
        let wanted: Vec<bool> = all.groups.iter().map(wanted).collect();
        let gone: Vec<usize> = rows
            .iter()
            .filter(|row| !wanted[all.of_row[*row] as usize])
            .collect();
        for row in gone {
            rows.clear(row);
        }
        Ok(())
    }

    fn number(&self) -> Result<Numbered> {
        let rows: Vec<usize> = (0..self.chunk.len()).collect();
        let mut numbers: HashMap<GroupKey, u32> = HashMap::new();
        let mut groups = Vec::new();
        let of_row = self.of(&rows)?.into_iter().map(|group| {
            *numbers.entry(group).or_insert_with_key(|group| {
                groups.push(group.clone());
                // A chunk has no more rows than a u32 counts.
                (groups.len() - 1) as u32
            })
        });
        let of_row = of_row.collect();
        Ok(Numbered { groups, of_row })
    }
}
