//! Queries that visit the same inverted lists, answered together.
//!
//! One by one, every query reads the rows of its lists again. Which lists a query visits depends on the
//! centroids and the filter only, not on what it finds, so it is known beforehand; the lists are then
//! read one after the other, a part at a time, and all queries that visit one are compared with the part
//! while it is in the cache. Each query gets to see the same rows as alone, and so the same answer.

use std::ops::Range;

use crate::allowed::Allowed;
use crate::effort::{Effort, Met};

/// Memory of the queries that are answered together.
pub(crate) const BATCH_BYTES: usize = 4 << 20;

/// Rows of a list that stay in the cache while queries pass.
const PART_ROWS: usize = 256;

/// Parts begin on such a place, where blocks of codes do.
const PART_ALIGN: usize = 32;

/// How many rows of each list are allowed; counted when somebody asks.
pub(crate) struct AllowedOfLists<'a> {
    allowed: Allowed<'a>,
    offsets: &'a [u32],
    rows: &'a [u32],
    counts: Vec<u32>,
}

const NOT_COUNTED: u32 = u32::MAX;

impl<'a> AllowedOfLists<'a> {
    /// `offsets` says where in `rows` each list begins, and where the last ends.
    pub(crate) fn new(allowed: Allowed<'a>, offsets: &'a [u32], rows: &'a [u32]) -> Self {
        let lists = offsets.len().saturating_sub(1);
        let counts = match allowed.set {
            Some(_) => vec![NOT_COUNTED; lists],
            None => Vec::new(),
        };
        Self {
            allowed,
            offsets,
            rows,
            counts,
        }
    }

    /// The places of a list's rows.
    pub(crate) fn places(&self, list: u32) -> Range<usize> {
        let list = list as usize;
        self.offsets[list] as usize..self.offsets[list + 1] as usize
    }

    fn count(&mut self, list: u32) -> usize {
        let places = self.places(list);
        let Some(count) = self.counts.get_mut(list as usize) else {
            return places.len();
        };
        if *count == NOT_COUNTED {
            let allowed = |row: &&u32| self.allowed.has(**row);
            *count = self.rows[places].iter().filter(allowed).count() as u32;
        }
        *count as usize
    }
}

/// One visit of a query to a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Visit {
    list: u32,
    /// Number of the query in its batch.
    query: u32,
}

/// Which queries of a batch visit which lists.
#[derive(Default)]
pub(crate) struct ListVisits(Vec<Visit>);

impl ListVisits {
    /// Bytes of the visits so far.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * size_of::<Visit>()
    }

    /// Adds the lists that a query visits: the `nprobe` nearest, and further ones until it has looked at
    /// enough rows.
    pub(crate) fn add(
        &mut self,
        query: usize,
        effort: Effort,
        lists: &mut AllowedOfLists<'_>,
        mut nearest: impl FnMut(usize) -> Option<u32>,
    ) -> Met {
        let mut visits = effort.begin(lists.allowed, lists.rows.len());
        let mut rank = 0;
        while rank < effort.nprobe || !visits.are_enough() {
            let Some(list) = nearest(rank) else {
                break;
            };
            rank += 1;
            visits.add(lists.places(list).len(), lists.count(list));
            self.0.push(Visit {
                list,
                query: query as u32,
            });
        }
        visits.met()
    }

    /// The visits, list by list: each list with the numbers of its queries.
    pub(crate) fn by_list(
        &mut self,
    ) -> impl Iterator<Item = (u32, impl Iterator<Item = usize> + Clone + '_)> {
        self.0.sort_unstable();
        let lists = self.0.chunk_by(|a, b| a.list == b.list);
        lists.map(|visits| {
            let queries = visits.iter().map(|visit| visit.query as usize);
            (visits[0].list, queries)
        })
    }
}

/// Cuts the places of a list into parts that stay in the cache.
pub(crate) fn parts(places: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let mut start = places.start;
    std::iter::from_fn(move || {
        if start >= places.end {
            return None;
        }
        let end = (start + PART_ROWS).next_multiple_of(PART_ALIGN);
        let part = start..end.min(places.end);
        start = part.end;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_and_begin_where_blocks_do() {
        for places in [0..0, 5..6, 31..33, 0..256, 7..263, 100..1_000, 64..4_096] {
            let all: Vec<Range<usize>> = parts(places.clone()).collect();
            let rows: Vec<usize> = all.iter().cloned().flatten().collect();
            assert_eq!(rows, places.clone().collect::<Vec<_>>());
            for part in all.iter().skip(1) {
                assert_eq!(part.start % PART_ALIGN, 0, "{places:?}");
            }
            assert!(all.iter().all(|part| part.len() <= PART_ROWS + PART_ALIGN));
        }
    }

    #[test]
    fn each_list_comes_once_with_all_its_queries() {
        let offsets = [0, 10, 20, 30];
        let rows: Vec<u32> = (0..30).collect();
        let allowed = Allowed::of(None, 30);
        let mut lists = AllowedOfLists::new(allowed, &offsets, &rows);
        let mut visits = ListVisits::default();
        let effort = Effort::new(2, 30, 3, allowed, 5);
        for (query, order) in [[2, 0, 1], [0, 1, 2], [1, 2, 0]].into_iter().enumerate() {
            let met = visits.add(query, effort, &mut lists, |rank| order.get(rank).copied());
            let expected = Met {
                lists: 2,
                is_skewed: false,
            };
            assert_eq!(met, expected);
        }
        let lists = visits.by_list();
        let lists: Vec<(u32, Vec<usize>)> = lists
            .map(|(list, queries)| (list, queries.collect()))
            .collect();
        assert_eq!(lists, [(0, vec![0, 1]), (1, vec![1, 2]), (2, vec![0, 2])]);
    }
}
