//! Inverted lists against exact search.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::flat::scan_topk;
use crate::params::RangeBounds;
use crate::raw::RawSlice;
use crate::testing::{Clusters, Rng};

const METRICS: [MetricType; 3] = [MetricType::L2, MetricType::Ip, MetricType::Cosine];
const TYPES: [IndexType; 5] = [
    IndexType::IvfFlat,
    IndexType::IvfSq8,
    IndexType::IvfPq,
    IndexType::Scann,
    IndexType::IvfRabitq,
];

struct Case {
    dim: usize,
    rows: Vec<f32>,
    queries: Vec<f32>,
}

impl Case {
    fn new(rows: usize, dim: usize) -> Self {
        let mut clusters = Clusters::new(dim, 40, Rng::from_env());
        Self {
            dim,
            rows: clusters.rows(rows),
            queries: clusters.rows(30),
        }
    }

    fn params(&self, index_type: IndexType, metric: MetricType, nlist: usize) -> IndexParams {
        let mut params = IndexParams::ivf(index_type, metric, nlist);
        if index_type == IndexType::IvfPq {
            params.pq_m = self.dim / 4;
        }
        params
    }

    fn build(&self, params: &IndexParams, threads: usize) -> IvfIndex {
        let options = BuildOptions {
            threads,
            seed: 7,
            progress: None,
            stop: &StopFlag::new(),
        };
        IvfIndex::build(params, &self.rows, self.dim, &options).unwrap()
    }

    fn search(
        &self,
        index: &dyn VectorIndex,
        query: &[f32],
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
    ) -> Vec<Hit> {
        let raw = RawSlice::new(&self.rows, self.dim).unwrap();
        let (stop, mut hits) = (StopFlag::new(), Vec::new());
        index
            .search(query, &raw, params, allow, k, &stop, &mut hits)
            .unwrap();
        let rows: HashSet<u32> = hits.iter().map(|hit| hit.row).collect();
        assert_eq!(rows.len(), hits.len(), "a row twice");
        for hit in &hits {
            assert!(allow.is_none_or(|set| set.get(hit.row as usize)));
        }
        hits
    }

    fn exact(&self, metric: MetricType, allow: Option<&BitSet>, k: usize) -> Vec<Vec<Hit>> {
        let (stop, mut lists) = (StopFlag::new(), Vec::new());
        let (rows, queries, dim) = (&self.rows, &self.queries, self.dim);
        scan_topk(rows, dim, metric, queries, allow, k, &stop, &mut lists).unwrap();
        lists
    }

    /// Mean recall@k; every answer has `min(k, allowed)` hits, in order, with exact scores.
    fn recall(
        &self,
        index: &dyn VectorIndex,
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
    ) -> f64 {
        let truth = self.exact(index.metric(), allow, k);
        let (mut found, mut wanted) = (0, 0);
        for (query, truth) in self.queries.chunks(self.dim).zip(&truth) {
            let hits = self.search(index, query, params, allow, k);
            assert_eq!(hits.len(), truth.len(), "short answer");
            for pair in hits.windows(2) {
                let order = index.metric().compare(pair[0].score, pair[1].score);
                assert!(order.then(pair[0].row.cmp(&pair[1].row)).is_lt());
            }
            for hit in truth {
                if let Some(same) = hits.iter().find(|other| other.row == hit.row) {
                    assert_eq!(same.score.to_bits(), hit.score.to_bits());
                    found += 1;
                }
            }
            wanted += truth.len();
        }
        f64::from(found) / wanted.max(1) as f64
    }
}

fn probes(nprobe: usize) -> SearchParams {
    SearchParams {
        nprobe: Some(nprobe),
        ..SearchParams::default()
    }
}

fn bytes_of(index: &dyn VectorIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    bytes
}

#[test]
fn all_lists_give_what_exact_search_gives_and_fewer_lists_most_of_it() {
    for dim in [8, 40] {
        let case = Case::new(4000, dim);
        for metric in METRICS {
            for index_type in TYPES {
                let what = format!("{} {metric} {dim}", index_type.name());
                let index = case.build(&case.params(index_type, metric, 64), 1);
                let all = case.recall(&index, &probes(64), None, 10);
                let some = case.recall(&index, &probes(12), None, 10);
                let one = case.recall(&index, &probes(1), None, 10);
                println!("{what}: {one} {some} {all}");
                let whole = match index_type {
                    IndexType::IvfFlat => 1.0,
                    IndexType::IvfSq8 => 0.99,
                    _ => 0.90,
                };
                assert!(all >= whole, "{what}: {all} with all lists");
                assert!(some >= whole - 0.1, "{what}: {some} with 12 of 64 lists");
                assert!(one <= some && some <= all + 0.03, "{what}");
            }
        }
    }
}

#[test]
fn filters_of_any_selectivity_return_k_and_keep_the_recall() {
    let case = Case::new(12_000, 24);
    let count = case.rows.len() / case.dim;
    let mut rng = Rng::from_env();
    // Rows on one side of a plane: as far from some queries as can be.
    let mut heights: Vec<f32> = case
        .rows
        .chunks(case.dim)
        .map(|row| row[0] + row[1])
        .collect();
    let of_row = heights.clone();
    heights.sort_by(f32::total_cmp);
    for index_type in TYPES {
        let index = case.build(&case.params(index_type, MetricType::L2, 96), 1);
        let nprobe = probes(16);
        let unfiltered = case.recall(&index, &nprobe, None, 10);
        assert!(unfiltered >= 0.9, "{}: {unfiltered}", index_type.name());
        for fraction in [0.5, 0.1, 0.01, 0.001, 0.0003] {
            let edge = heights[(count as f64 * (1.0 - fraction)) as usize];
            // At least one: of nothing there is no recall.
            let random = BitSet::from_fn(count, |row| rng.unit() < fraction || row == 0);
            let correlated = BitSet::from_fn(count, |row| of_row[row] >= edge);
            for (name, allow) in [("random", random), ("correlated", correlated)] {
                let recall = case.recall(&index, &nprobe, Some(&allow), 10);
                let what = format!("{} {name} {fraction}", index_type.name());
                println!("{what}: {recall}");
                assert!(recall >= unfiltered.min(0.95) - 0.01, "{what}: {recall}");
            }
        }
    }
}

#[test]
fn a_file_opens_to_the_same_answers_and_damage_is_named() {
    let case = Case::new(1500, 20);
    for metric in METRICS {
        for index_type in TYPES {
            let index = case.build(&case.params(index_type, metric, 16), 1);
            let bytes = bytes_of(&index);
            let opened = crate::open(bytes.clone().into()).unwrap();
            assert_eq!((opened.index_type(), opened.metric()), (index_type, metric));
            assert_eq!((opened.len(), opened.dim()), (1500, 20));
            assert!(opened.memory_bytes() > 0 && opened.memory_bytes() <= bytes.len());
            assert!(bytes_of(opened.as_ref()) == bytes, "written back otherwise");
            for query in case.queries.chunks(20) {
                let before = case.search(&index, query, &probes(4), None, 10);
                assert_eq!(
                    case.search(opened.as_ref(), query, &probes(4), None, 10),
                    before
                );
            }
            for at in (0..bytes.len()).step_by(bytes.len() / 50) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x40;
                // Padding between the sections may change, nothing else.
                if let Ok(opened) = crate::open(damaged.into()) {
                    assert!(
                        bytes_of(opened.as_ref()) == bytes,
                        "damage at {at} went unseen"
                    );
                }
            }
        }
    }
}

#[test]
fn a_seed_gives_the_same_file_with_any_number_of_threads() {
    let case = Case::new(2000, 24);
    for index_type in TYPES {
        let params = case.params(index_type, MetricType::Cosine, 32);
        let once = bytes_of(&case.build(&params, 1));
        assert!(once == bytes_of(&case.build(&params, 1)));
        assert!(once == bytes_of(&case.build(&params, 3)));
    }
}

#[test]
fn every_width_of_codes_is_packed_and_looked_up_alike() {
    let case = Case::new(1500, 24);
    for (m, nbits, at_least) in [
        (12, 3, 0.5),
        (5 - 2, 4, 0.2),
        (12, 6, 0.8),
        (24, 8, 0.95),
        (12, 9, 0.9),
    ] {
        let mut params = case.params(IndexType::IvfPq, MetricType::L2, 16);
        (params.pq_m, params.nbits) = (m, nbits);
        let index = case.build(&params, 1);
        let opened = crate::open(bytes_of(&index).into()).unwrap();
        let recall = case.recall(opened.as_ref(), &probes(16), None, 10);
        println!("m {m} nbits {nbits}: {recall}");
        assert!(recall >= at_least, "m {m} nbits {nbits}: {recall}");
    }
}

#[test]
fn range_search_finds_what_lies_in_the_range() {
    let case = Case::new(3000, 16);
    let raw = RawSlice::new(&case.rows, 16).unwrap();
    for metric in METRICS {
        let truth = case.exact(metric, None, 200);
        for index_type in TYPES {
            let index = case.build(&case.params(index_type, metric, 32), 1);
            let (mut found, mut wanted) = (0, 0);
            for (query, truth) in case.queries.chunks(16).zip(&truth) {
                let range = RangeBounds {
                    radius: truth[60].score,
                    range_filter: Some(truth[10].score),
                };
                let params = SearchParams {
                    range: Some(range),
                    ..probes(16)
                };
                let (stop, mut hits) = (StopFlag::new(), Vec::new());
                index
                    .range_search(query, &raw, &params, None, 1000, &stop, &mut hits)
                    .unwrap();
                assert!(hits.iter().all(|hit| range.contains(metric, hit.score)));
                let inside = truth.iter().filter(|hit| range.contains(metric, hit.score));
                for hit in inside {
                    wanted += 1;
                    found += usize::from(hits.contains(hit));
                }
            }
            let recall = found as f64 / wanted as f64;
            assert!(recall >= 0.95, "{} {metric}: {recall}", index_type.name());
        }
    }
}

#[test]
fn few_rows_large_k_and_a_raised_flag() {
    for rows in [0, 1, 5, 100] {
        let case = Case::new(rows, 8);
        for index_type in TYPES {
            let index = case.build(&case.params(index_type, MetricType::Ip, 50), 1);
            for k in [0, 1, 1000] {
                let hits = case.search(&index, &case.queries[..8], &probes(1), None, k);
                assert_eq!(hits.len(), k.min(rows), "{} {rows} {k}", index_type.name());
            }
            let opened = crate::open(bytes_of(&index).into()).unwrap();
            assert_eq!(opened.len(), rows);
        }
    }
    let case = Case::new(2000, 8);
    let (stop, counter) = (StopFlag::new(), AtomicUsize::new(0));
    let options = BuildOptions {
        threads: 2,
        seed: 1,
        progress: Some(&counter),
        stop: &stop,
    };
    let params = case.params(IndexType::IvfPq, MetricType::L2, 16);
    let index = IvfIndex::build(&params, &case.rows, 8, &options).unwrap();
    assert_eq!(counter.load(Ordering::Relaxed), 2000);
    stop.stop();
    let stopped = IvfIndex::build(&params, &case.rows, 8, &options);
    assert!(matches!(stopped.err(), Some(Error::Cancelled)));
    let raw = RawSlice::new(&case.rows, 8).unwrap();
    let searched = index.search(
        &case.queries[..8],
        &raw,
        &probes(1),
        None,
        5,
        &stop,
        &mut vec![],
    );
    assert!(matches!(searched, Err(Error::Cancelled)));
}

#[test]
fn any_number_of_threads_builds_the_same_lists() {
    let case = Case::new(2_357, 16);
    for index_type in TYPES {
        for metric in [MetricType::L2, MetricType::Ip, MetricType::Cosine] {
            let params = case.params(index_type, metric, 20);
            let alone = bytes_of(&case.build(&params, 1));
            for threads in [2, 7] {
                let together = bytes_of(&case.build(&params, threads));
                assert!(
                    together == alone,
                    "{} {metric} {threads}",
                    index_type.name()
                );
            }
        }
    }
}

#[test]
fn many_queries_together_find_what_each_finds_alone() {
    let mut rng = Rng::from_env();
    for dim in [16, 40] {
        let rows = 3_000;
        let case = Case::new(rows, dim);
        // More than fit a batch where a query takes much memory, and some twice.
        let mut queries: Vec<f32> = (0..20).flat_map(|_| case.queries.clone()).collect();
        let length = queries.len();
        queries[length / 2..].iter_mut().for_each(|x| *x *= 1.5);
        let few = BitSet::from_fn(rows, |_| rng.below(50) == 0);
        let some = BitSet::from_fn(rows, |_| rng.below(4) == 0);
        // What lies in the first cluster's half is excluded: the pool grows and lists are further out.
        let exact = case.exact(MetricType::L2, None, rows / 2);
        let mut far = BitSet::full(rows);
        exact[0].iter().for_each(|hit| far.clear(hit.row as usize));
        let raw = RawSlice::new(&case.rows, dim).unwrap();
        let stop = StopFlag::new();
        for metric in [MetricType::L2, MetricType::Ip, MetricType::Cosine] {
            for index_type in TYPES {
                // Few lists are long, and are read in several parts.
                let nlist = if metric == MetricType::L2 { 5 } else { 40 };
                let index = case.build(&case.params(index_type, metric, nlist), 1);
                for allow in [None, Some(&few), Some(&some), Some(&far)] {
                    for (nprobe, k) in [(1, 1), (5, 10), (40, 3), (3, 400)] {
                        let (params, mut together) = (probes(nprobe), Vec::new());
                        index
                            .search_many(&queries, &raw, &params, allow, k, &stop, &mut together)
                            .unwrap();
                        assert_eq!(together.len(), queries.len() / dim);
                        for (query, found) in queries.chunks(dim).zip(&together).step_by(7) {
                            let alone = case.search(&index, query, &params, allow, k);
                            let what = (index_type.name(), metric, nprobe, k);
                            assert_eq!(*found, alone, "{what:?} {:?}", allow.is_some());
                        }
                    }
                }
            }
        }
        stop.stop();
        let index = case.build(&case.params(IndexType::IvfSq8, MetricType::L2, 40), 1);
        let mut none = Vec::new();
        let stopped = index.search_many(&queries, &raw, &probes(2), None, 5, &stop, &mut none);
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
