//! Many answers become one: on a node over its segments, and in the proxy over the shards.

use std::{cmp::Ordering, collections::HashMap};

use redkite_types::{MetricType, PrimaryKey, SegmentId, Timestamp};

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowAt {
    /// The segment.
    pub segment: SegmentId,
    /// The row's number in it.
    pub row: u32,
}

/// One result of a search; `L` says where its row is to be found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit<L = RowAt> {
    /// The row's primary key.
    pub key: PrimaryKey,
    /// Its score as Milvus reports the metric.
    pub score: f32,
    /// When it was written.
    pub ts: Timestamp,
    /// Where it is.
    pub at: L,
}

/// One result of a query; `L` says where its row is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed<L = RowAt> {
    /// The row's primary key.
    pub key: PrimaryKey,
    /// When it was written.
    pub ts: Timestamp,
    /// Where it is.
    pub at: L,
}

/// The nearest rows of each query.
#[derive(Clone, Debug, PartialEq)]
pub struct TopK<L = RowAt> {
    /// How nearness was measured.
    pub metric: MetricType,
    /// One list a query, best first; of equal scores the smaller key first; each key once.
    pub lists: Vec<Vec<Hit<L>>>,
    /// Rows that were compared or skipped by the filter.
    pub rows_searched: u64,
}

impl<L> TopK<L> {
    /// No hits for `queries` queries.
    pub fn empty(metric: MetricType, queries: usize) -> Self {
        Self {
            metric,
            lists: std::iter::repeat_with(Vec::new).take(queries).collect(),
            rows_searched: 0,
        }
    }
}

/// Merges the answers to the same queries into the `k` best of each.
///
/// # Shapes
/// Every part has one list for each query; parts with fewer count as empty for the others.
pub fn merge_topk<L>(metric: MetricType, mut parts: Vec<TopK<L>>, k: usize) -> TopK<L> {
    // The usual case: one segment, and nothing to be merged.
    if parts.len() == 1
        && let Some(mut only) = parts.pop()
    {
        only.metric = metric;
        for list in &mut only.lists {
            keep_best(metric, list, k);
        }
        return only;
    }
    let queries = parts.iter().map(|part| part.lists.len()).max().unwrap_or(0);
    let mut by_query: Vec<Vec<Vec<Hit<L>>>> = Vec::with_capacity(queries);
    by_query.resize_with(queries, Vec::new);
    let mut rows_searched = 0;
    for part in parts {
        rows_searched += part.rows_searched;
        for (lists, list) in by_query.iter_mut().zip(part.lists) {
            lists.push(list);
        }
    }
    TopK {
        metric,
        lists: by_query
            .into_iter()
            .map(|lists| merge_hits(metric, lists, k))
            .collect(),
        rows_searched,
    }
}

/// Merges lists of hits of one query into the `k` best: by score, then by primary key. Of one key
/// only the newest row stays, however near an older one is.
pub fn merge_hits<L>(metric: MetricType, lists: Vec<Vec<Hit<L>>>, k: usize) -> Vec<Hit<L>> {
    let several = lists.iter().filter(|list| !list.is_empty()).count() > 1;
    let mut hits: Vec<Hit<L>> = lists.into_iter().flatten().collect();
    if several {
        keep_newest(&mut hits);
    }
    keep_best(metric, &mut hits, k);
    hits
}

/// Of hits with different keys keeps the `k` best, and orders them.
fn keep_best<L>(metric: MetricType, hits: &mut Vec<Hit<L>>, k: usize) {
    let order = |a: &Hit<L>, b: &Hit<L>| compare_hits(metric, a, b);
    if k < hits.len() {
        if k > 0 {
            hits.select_nth_unstable_by(k - 1, order);
        }
        hits.truncate(k);
    }
    hits.sort_unstable_by(order);
}

/// Best first; of equal scores the smaller key first.
pub(crate) fn compare_hits<L>(metric: MetricType, a: &Hit<L>, b: &Hit<L>) -> Ordering {
    metric
        .compare(a.score, b.score)
        .then_with(|| a.key.cmp(&b.key))
}

/// Of each key keeps the newest row; of equally new ones the first.
fn keep_newest<L>(hits: &mut Vec<Hit<L>>) {
    let mut newest: HashMap<&PrimaryKey, usize> = HashMap::with_capacity(hits.len());
    for (index, hit) in hits.iter().enumerate() {
        let best = newest.entry(&hit.key).or_insert(index);
        if hit.ts > hits[*best].ts {
            *best = index;
        }
    }
    if newest.len() == hits.len() {
        return;
    }
    let mut keep = vec![false; hits.len()];
    for index in newest.into_values() {
        keep[index] = true;
    }
    let mut index = 0;
    hits.retain(|_| {
        index += 1;
        keep[index - 1]
    });
}

/// Merges lists of rows, each in the order of the keys, into the first `limit` in that order. Of
/// one key only the newest row stays.
pub fn merge_keyed<L>(lists: Vec<Vec<Keyed<L>>>, limit: Option<usize>) -> Vec<Keyed<L>> {
    let mut rows: Vec<Keyed<L>> = lists.into_iter().flatten().collect();
    // The lists are sorted, and a stable sort makes use of that.
    rows.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| b.ts.cmp(&a.ts)));
    rows.dedup_by(|later, first| later.key == first.key);
    if let Some(limit) = limit {
        rows.truncate(limit);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(key: i64, score: f32, ts: u64) -> Hit<usize> {
        Hit {
            key: PrimaryKey::Int(key),
            score,
            ts: Timestamp(ts),
            at: 0,
        }
    }

    fn keys(hits: &[Hit<usize>]) -> Vec<i64> {
        hits.iter()
            .map(|hit| match hit.key {
                PrimaryKey::Int(key) => key,
                PrimaryKey::Str(_) => -1,
            })
            .collect()
    }

    #[test]
    fn the_best_come_first_in_the_metrics_own_order() {
        let lists = || vec![vec![hit(1, 0.5, 1), hit(2, 0.9, 1)], vec![hit(3, 0.7, 1)]];
        assert_eq!(keys(&merge_hits(MetricType::L2, lists(), 2)), [1, 3]);
        assert_eq!(keys(&merge_hits(MetricType::Ip, lists(), 2)), [2, 3]);
        assert_eq!(keys(&merge_hits(MetricType::Ip, lists(), 9)), [2, 3, 1]);
        assert!(merge_hits(MetricType::Ip, lists(), 0).is_empty());
    }

    #[test]
    fn ties_are_ordered_by_key() {
        let lists = vec![vec![hit(9, 1.0, 1), hit(4, 1.0, 1)], vec![hit(7, 1.0, 1)]];
        assert_eq!(keys(&merge_hits(MetricType::L2, lists, 2)), [4, 7]);
    }

    #[test]
    fn of_one_key_the_newest_row_stays_even_if_it_is_farther() {
        let lists = vec![
            vec![hit(1, 0.1, 5), hit(2, 0.2, 5)],
            vec![hit(1, 0.8, 9), hit(3, 0.9, 5)],
        ];
        let merged = merge_hits(MetricType::L2, lists, 3);
        assert_eq!(keys(&merged), [2, 1, 3]);
        assert_eq!(merged[1].ts, Timestamp(9));
    }

    #[test]
    fn every_query_is_merged_by_itself() {
        let part = |lists| TopK {
            metric: MetricType::L2,
            lists,
            rows_searched: 5,
        };
        let merged = merge_topk(
            MetricType::L2,
            vec![
                part(vec![vec![hit(1, 0.1, 1)], vec![hit(2, 0.2, 1)]]),
                part(vec![vec![], vec![hit(3, 0.1, 1)]]),
            ],
            1,
        );
        assert_eq!(merged.rows_searched, 10);
        assert_eq!(keys(&merged.lists[0]), [1]);
        assert_eq!(keys(&merged.lists[1]), [3]);
    }

    #[test]
    fn keyed_rows_merge_in_key_order_with_the_newest_of_each() {
        let row = |key: &str, ts, at| Keyed {
            key: PrimaryKey::Str(key.to_owned()),
            ts: Timestamp(ts),
            at,
        };
        let merged = merge_keyed(
            vec![
                vec![row("a", 1, 0), row("c", 1, 1)],
                vec![row("a", 4, 2), row("b", 1, 3), row("d", 1, 4)],
            ],
            Some(3),
        );
        let found: Vec<i32> = merged.iter().map(|row| row.at).collect();
        assert_eq!(found, [2, 3, 1]);
    }
}
