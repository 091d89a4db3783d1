//! The graph in pages against exact search.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::flat::scan_topk;
use crate::params::RangeBounds;
use crate::raw::RawSlice;
use crate::testing::{Clusters, Rng};

const METRICS: [MetricType; 3] = [MetricType::L2, MetricType::Ip, MetricType::Cosine];

struct Case {
    dim: usize,
    rows: Vec<f32>,
    queries: Vec<f32>,
}

fn list(size: usize) -> SearchParams {
    SearchParams {
        search_list: Some(size),
        ..SearchParams::default()
    }
}

fn bytes_of(index: &dyn VectorIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    bytes
}

impl Case {
    fn new(rows: usize, dim: usize) -> Self {
        let mut clusters = Clusters::new(dim, 40, Rng::from_env());
        Self {
            dim,
            rows: clusters.rows(rows),
            queries: clusters.rows(40),
        }
    }

    fn build(&self, params: &IndexParams, threads: usize) -> DiskIndex {
        let options = BuildOptions {
            threads,
            seed: 7,
            progress: None,
            stop: &StopFlag::new(),
        };
        DiskIndex::build(params, &self.rows, self.dim, &options).unwrap()
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
        hits
    }

    fn exact(&self, metric: MetricType, allow: Option<&BitSet>, k: usize) -> Vec<Vec<Hit>> {
        let (stop, mut lists) = (StopFlag::new(), Vec::new());
        let (rows, queries, dim) = (&self.rows, &self.queries, self.dim);
        scan_topk(rows, dim, metric, queries, allow, k, &stop, &mut lists).unwrap();
        lists
    }

    /// Mean recall@k; every answer has `min(k, allowed)` allowed rows, in order, with exact scores.
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
            let rows: HashSet<u32> = hits.iter().map(|hit| hit.row).collect();
            assert_eq!(rows.len(), hits.len(), "a row twice");
            for pair in hits.windows(2) {
                let order = index.metric().compare(pair[0].score, pair[1].score);
                assert!(order.then(pair[0].row.cmp(&pair[1].row)).is_lt());
            }
            for hit in &hits {
                assert!(allow.is_none_or(|set| set.get(hit.row as usize)));
                if let Some(same) = truth.iter().find(|other| other.row == hit.row) {
                    assert_eq!(same.score.to_bits(), hit.score.to_bits());
                    found += 1;
                }
            }
            wanted += truth.len();
        }
        f64::from(found) / wanted.max(1) as f64
    }
}

#[test]
fn recall_grows_with_the_list_and_scores_are_exact() {
    for metric in METRICS {
        for dim in [8, 40, 128] {
            let case = Case::new(10_000, dim);
            let index = case.build(&IndexParams::disk_ann(metric, 24, 60), 1);
            let low = case.recall(&index, &list(10), None, 10);
            let high = case.recall(&index, &list(100), None, 10);
            println!("{metric} {dim}: {low} {high}");
            assert!(high >= 0.97 && high >= low, "{metric} {dim}: {low} {high}");
            let usual = case.recall(&index, &SearchParams::default(), None, 100);
            assert!(usual >= 0.95, "{metric} {dim}: {usual}");
        }
    }
}

#[test]
fn filters_of_any_selectivity_return_k_with_high_recall() {
    let case = Case::new(12_000, 24);
    let index = case.build(&IndexParams::disk_ann(MetricType::L2, 32, 64), 1);
    let mut rng = Rng::from_env();
    for percent in [99.0, 80.0, 50.0, 10.0, 1.0, 0.05] {
        let allow = BitSet::from_fn(12_000, |_| rng.unit() * 100.0 < percent);
        let recall = case.recall(&index, &list(40), Some(&allow), 10);
        assert!(recall >= 0.95, "{percent} %: {recall}");
    }
    for threshold in [0.0, 1.0] {
        let allow = BitSet::from_fn(12_000, |row| case.rows[row * 24] > threshold);
        let recall = case.recall(&index, &list(40), Some(&allow), 10);
        assert!(recall >= 0.95, "above {threshold}: {recall}");
    }
}

#[test]
fn a_mapped_file_gives_the_same_answers_and_pins_its_codes_only() {
    let dir = tempfile::tempdir().unwrap();
    for metric in METRICS {
        let case = Case::new(2000, 100);
        let index = case.build(&IndexParams::disk_ann(metric, 16, 40), 1);
        let bytes = bytes_of(&index);
        let path = dir.path().join(metric.name());
        std::fs::write(&path, &bytes).unwrap();
        let mapped = crate::open_file(&path).unwrap();
        let in_memory = crate::open(bytes.clone().into()).unwrap();
        assert_eq!(mapped.index_type(), IndexType::DiskAnn);
        // A row of codes is two cache lines, and its squared length a number; then the entries.
        let codes = 2000 * (128 + 4) + 100 * 4 + 256 * 4;
        assert!(mapped.pinned_bytes() <= codes, "{}", mapped.pinned_bytes());
        assert!(mapped.memory_bytes() >= 2000 * (100 + 1 + 16) * 4);
        for opened in [&mapped, &in_memory] {
            assert!(bytes_of(opened.as_ref()) == bytes, "written back otherwise");
            for query in case.queries.chunks(100) {
                let before = case.search(&index, query, &list(30), None, 10);
                assert_eq!(
                    case.search(opened.as_ref(), query, &list(30), None, 10),
                    before
                );
            }
        }
    }
}

#[test]
fn damage_is_named_and_a_link_that_points_nowhere_leads_nowhere() {
    let case = Case::new(700, 20);
    let index = case.build(&IndexParams::disk_ann(MetricType::L2, 8, 20), 1);
    let bytes = bytes_of(&index);
    let mut refused = 0;
    for at in (0..bytes.len()).step_by(bytes.len() / 60) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        match crate::open(damaged.into()) {
            Err(_) => refused += 1,
            Ok(opened) => assert!(bytes_of(opened.as_ref()) == bytes, "unseen at {at}"),
        }
    }
    // What lies between sections and pages means nothing.
    assert!(refused >= 45, "{refused}");
    for cut in [0, 63, 200, bytes.len() / 2, bytes.len() - 4096] {
        let result = crate::open(bytes[..cut].to_vec().into());
        assert!(matches!(result, Err(Error::Corrupt { .. })), "cut at {cut}");
    }
    // Without looking at checksums, every search must still end and stay inside.
    let mut rng = Rng::from_env();
    let mut damaged = bytes.clone();
    let pages = bytes.len() - index.pages.bytes.len();
    for _ in 0..20_000 {
        let at = pages + rng.below(bytes.len() - pages);
        damaged[at] = rng.below(256) as u8;
    }
    let opened = crate::index::opened(Stored::open_verified(damaged.into()).unwrap()).unwrap();
    for query in case.queries.chunks(20) {
        let hits = case.search(opened.as_ref(), query, &list(30), None, 10);
        assert!(hits.len() <= 10 && hits.iter().all(|hit| hit.row < 700));
    }
}

#[test]
fn range_search_finds_what_lies_in_the_range() {
    let case = Case::new(4000, 20);
    let raw = RawSlice::new(&case.rows, 20).unwrap();
    for metric in METRICS {
        let index = case.build(&IndexParams::disk_ann(metric, 24, 60), 1);
        let truth = case.exact(metric, None, 1500);
        let (mut found, mut wanted) = (0, 0);
        for (query, truth) in case.queries.chunks(20).zip(&truth) {
            for (near, far) in [(0, 20), (30, 90), (10, 1200)] {
                let range = RangeBounds {
                    radius: truth[far].score,
                    range_filter: Some(truth[near].score),
                };
                let params = SearchParams {
                    range: Some(range),
                    ..SearchParams::default()
                };
                let (stop, mut hits) = (StopFlag::new(), Vec::new());
                index
                    .range_search(query, &raw, &params, None, 2000, &stop, &mut hits)
                    .unwrap();
                assert!(hits.iter().all(|hit| range.contains(metric, hit.score)));
                let inside = truth.iter().filter(|hit| range.contains(metric, hit.score));
                for hit in inside {
                    wanted += 1;
                    found += usize::from(hits.contains(hit));
                }
            }
        }
        let recall = found as f64 / f64::from(wanted);
        assert!(recall >= 0.95, "{metric}: {recall}");
    }
}

#[test]
fn a_seed_means_the_same_file_and_threads_are_as_good() {
    let case = Case::new(4000, 32);
    let params = IndexParams::disk_ann(MetricType::Cosine, 24, 60);
    let once = bytes_of(&case.build(&params, 1));
    assert!(once == bytes_of(&case.build(&params, 1)));
    let parallel = case.build(&params, 4);
    let recall = case.recall(&parallel, &list(64), None, 10);
    assert!(recall >= 0.95, "{recall}");
}

#[test]
fn few_rows_copies_and_degrees_at_the_edge() {
    for rows in [0, 1, 2, 50] {
        let case = Case::new(rows, 9);
        for degree in [1, 2, 2048] {
            let index = case.build(&IndexParams::disk_ann(MetricType::Ip, degree, 5), 1);
            let opened = crate::open(bytes_of(&index).into()).unwrap();
            for k in [0, 1, 16, 1000] {
                let params = SearchParams::default();
                let hits = case.search(opened.as_ref(), &case.queries[..9], &params, None, k);
                assert_eq!(hits.len(), k.min(rows), "{rows} {degree} {k}");
            }
        }
    }
    let mut case = Case::new(3000, 20);
    let copied = case.rows[..20].to_vec();
    for row in case.rows.chunks_mut(20).step_by(2) {
        row.copy_from_slice(&copied);
    }
    let index = case.build(&IndexParams::disk_ann(MetricType::L2, 16, 64), 1);
    let hits = case.search(&index, &copied, &list(16), None, 10);
    assert!(hits.len() == 10 && hits.iter().all(|hit| hit.score == 0.0));
    let truth = case.exact(MetricType::L2, None, 10);
    let mut found = 0;
    for (query, truth) in case.queries.chunks(20).zip(&truth) {
        let worst = truth[9].score * 1.000_01;
        let hits = case.search(&index, query, &list(40), None, 10);
        found += hits.iter().filter(|hit| hit.score <= worst).count();
    }
    assert!(found >= 380, "{found} of 400");
}

#[test]
fn progress_counts_every_row_and_a_flag_raised_in_between_stops() {
    let case = Case::new(4000, 18);
    let params = IndexParams::disk_ann(MetricType::L2, 16, 40);
    for threads in [1, 3] {
        let (progress, stop) = (AtomicUsize::new(0), StopFlag::new());
        let options = BuildOptions {
            threads,
            seed: 1,
            progress: Some(&progress),
            stop: &stop,
        };
        let index = DiskIndex::build(&params, &case.rows, 18, &options).unwrap();
        assert_eq!(progress.load(Ordering::Relaxed), 4000);
        let stopped = std::thread::scope(|scope| {
            progress.store(0, Ordering::Relaxed);
            scope.spawn(|| {
                while progress.load(Ordering::Relaxed) == 0 {
                    std::thread::yield_now();
                }
                stop.stop();
            });
            DiskIndex::build(&params, &case.rows, 18, &options)
        });
        assert!(matches!(stopped.err(), Some(Error::Cancelled)));
        assert!(progress.load(Ordering::Relaxed) < 4000);
        let raw = RawSlice::new(&case.rows, 18).unwrap();
        let (query, mut hits) = (&case.rows[..18], Vec::new());
        let search = index.search(query, &raw, &list(9), None, 3, &stop, &mut hits);
        assert!(matches!(search, Err(Error::Cancelled)));
    }
}

#[test]
fn bad_input_is_refused_with_milvus_texts() {
    let case = Case::new(30, 4);
    let index = case.build(&IndexParams::disk_ann(MetricType::L2, 4, 8), 1);
    let raw = RawSlice::new(&case.rows, 4).unwrap();
    let stop = StopFlag::new();
    let refused = |query: &[f32], params: &SearchParams| {
        let mut hits = Vec::new();
        index
            .search(query, &raw, params, None, 10, &stop, &mut hits)
            .unwrap_err()
            .to_string()
    };
    let text = refused(&[0.0; 4], &list(9));
    assert!(
        text.contains("search_list_size(9) should be larger than k(10)"),
        "{text}"
    );
    assert!(refused(&[0.0; 5], &list(10)).contains("expected vector size 4, actual 5"));
    assert!(refused(&[f32::NAN; 4], &list(10)).contains("not a number"));
}
