//! The graph against exact search.

mod extended;
mod horizon;

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::flat::{FlatIndex, scan_topk};
use crate::params::RangeBounds;
use crate::raw::RawSlice;
use crate::testing::{Clusters, Rng};

const METRICS: [MetricType; 3] = [MetricType::L2, MetricType::Ip, MetricType::Cosine];

struct Case {
    dim: usize,
    rows: Vec<f32>,
    queries: Vec<f32>,
    index: HnswIndex,
}

fn build(params: &IndexParams, rows: &[f32], dim: usize, threads: usize) -> HnswIndex {
    let options = BuildOptions {
        threads,
        seed: 7,
        progress: None,
        stop: &StopFlag::new(),
    };
    HnswIndex::build(params, rows, dim, &options).unwrap()
}

fn case(metric: MetricType, rows: usize, dim: usize) -> Case {
    let mut clusters = Clusters::new(dim, 40, Rng::from_env());
    let rows = clusters.rows(rows);
    let queries = clusters.rows(40);
    let index = build(&IndexParams::hnsw(metric, 16, 100), &rows, dim, 1);
    Case {
        dim,
        rows,
        queries,
        index,
    }
}

/// One larger set for the tests that only look at it.
fn large() -> &'static Case {
    static CASE: OnceLock<Case> = OnceLock::new();
    CASE.get_or_init(|| case(MetricType::L2, 20_000, 24))
}

impl Case {
    fn len(&self) -> usize {
        self.rows.len() / self.dim
    }

    fn search(
        &self,
        query: &[f32],
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
    ) -> Vec<Hit> {
        let raw = RawSlice::new(&self.rows, self.dim).unwrap();
        let mut hits = Vec::new();
        self.index
            .search(query, &raw, params, allow, k, &StopFlag::new(), &mut hits)
            .unwrap();
        check_hits(&hits, self.index.metric(), allow);
        hits
    }

    fn exact(&self, allow: Option<&BitSet>, k: usize) -> Vec<Vec<Hit>> {
        let metric = self.index.metric();
        let (stop, mut lists) = (StopFlag::new(), Vec::new());
        scan_topk(
            &self.rows,
            self.dim,
            metric,
            &self.queries,
            allow,
            k,
            &stop,
            &mut lists,
        )
        .unwrap();
        lists
    }

    /// Mean recall@k over the queries; each must give exactly `min(k, allowed)` rows.
    fn recall(&self, ef: usize, allow: Option<&BitSet>, k: usize) -> f64 {
        let truth = self.exact(allow, k);
        let mut found = 0;
        let mut wanted = 0;
        for (query, truth) in self.queries.chunks(self.dim).zip(&truth) {
            let hits = self.search(query, &SearchParams::with_ef(ef), allow, k);
            assert_eq!(hits.len(), truth.len(), "short answer");
            let rows: HashSet<u32> = hits.iter().map(|hit| hit.row).collect();
            found += truth.iter().filter(|hit| rows.contains(&hit.row)).count();
            wanted += truth.len();
        }
        found as f64 / wanted.max(1) as f64
    }
}

/// What every answer must satisfy: best first, ties by row, no row twice, all allowed, no NaN.
fn check_hits(hits: &[Hit], metric: MetricType, allow: Option<&BitSet>) {
    let rows: HashSet<u32> = hits.iter().map(|hit| hit.row).collect();
    assert_eq!(rows.len(), hits.len(), "a row twice");
    assert!(hits.iter().all(|hit| hit.score.is_finite()));
    assert!(
        hits.iter()
            .all(|hit| allow.is_none_or(|set| set.get(hit.row as usize)))
    );
    for pair in hits.windows(2) {
        let order = metric.compare(pair[0].score, pair[1].score);
        assert!(
            order.then(pair[0].row.cmp(&pair[1].row)).is_lt(),
            "{pair:?}"
        );
    }
}

#[test]
fn recall_is_high_for_every_metric_and_scores_are_exact() {
    for metric in METRICS {
        for dim in [8, 40, 128] {
            let case = case(metric, 10_000, dim);
            let recall = case.recall(100, None, 10);
            assert!(recall >= 0.97, "{metric} {dim}: {recall}");
            let truth = case.exact(None, 3);
            for (query, truth) in case.queries.chunks(dim).zip(&truth) {
                for hit in case.search(query, &SearchParams::with_ef(100), None, 3) {
                    if let Some(same) = truth.iter().find(|other| other.row == hit.row) {
                        assert_eq!(hit.score.to_bits(), same.score.to_bits());
                    }
                }
            }
        }
    }
}

#[test]
fn recall_grows_with_the_pool_and_k_may_be_large() {
    let case = large();
    let (low, high) = (case.recall(12, None, 10), case.recall(200, None, 10));
    assert!(low >= 0.7 && high >= 0.98 && high >= low, "{low} {high}");
    assert!(case.recall(500, None, 100) >= 0.97);
}

#[test]
fn filters_of_any_selectivity_return_k_with_high_recall() {
    let case = large();
    let mut rng = Rng::from_env();
    for percent in [99.0, 95.0, 80.0, 50.0, 30.0, 10.0, 1.0, 0.1] {
        let allow = BitSet::from_fn(case.len(), |_| rng.unit() * 100.0 < percent);
        let recall = case.recall(32, Some(&allow), 10);
        assert!(recall >= 0.95, "{percent} %: {recall}");
    }
}

#[test]
fn filters_correlated_with_the_vectors_keep_their_recall() {
    let case = large();
    let first = |row: usize| case.rows[row * case.dim];
    for threshold in [-1.0, 0.0, 0.5, 1.5] {
        for above in [false, true] {
            let allow = BitSet::from_fn(case.len(), |row| (first(row) > threshold) == above);
            let recall = case.recall(32, Some(&allow), 10);
            assert!(recall >= 0.95, "{threshold} {above}: {recall}");
        }
    }
}

impl Case {
    /// The rows that a filtered walk leaves in its pool, or `None` if it gives up. `fraction` is what
    /// it is told about the filter.
    fn walk_filtered(&self, query: &[f32], allow: &BitSet, fraction: f64) -> Option<HashSet<u32>> {
        let mut scratch = scratch::Scratch::default();
        let Rows::Scalar(codes) = &self.index.codes else {
            panic!("not 8-bit codes")
        };
        codes.prepare(query, &mut scratch.prepared);
        let filtered = filtered::FilteredWalk {
            graph: &self.index.graph(codes),
            filter: filtered::Filter {
                set: allow,
                fraction,
                budget: usize::MAX,
            },
            stop: &StopFlag::new(),
        };
        let (prepared, walk) = (&mut scratch.prepared, &mut scratch.walk);
        let size = scratch::PoolSize::of(64);
        let ending = filtered.run(prepared, walk, 0, size).unwrap();
        (ending == filtered::Ending::Found).then(|| walk.pool.iter().map(|(_, row)| row).collect())
    }
}

#[test]
fn the_filtered_walk_alone_finds_most_of_what_a_scan_finds() {
    let case = large();
    let mut rng = Rng::from_env();
    for percent in [50.0, 20.0, 10.0] {
        let allow = BitSet::from_fn(case.len(), |_| rng.unit() * 100.0 < percent);
        let truth = case.exact(Some(&allow), 10);
        let mut found = 0;
        for (query, truth) in case.queries.chunks(case.dim).zip(&truth) {
            // Scouts decide nothing here: the walk itself is tested.
            let rows = case.walk_filtered(query, &allow, 0.0).unwrap();
            assert!(rows.iter().all(|row| allow.get(*row as usize)));
            found += truth.iter().filter(|hit| rows.contains(&hit.row)).count();
        }
        let recall = found as f64 / 400.0;
        assert!(recall >= 0.9, "{percent} %: {recall}");
    }
}

#[test]
fn a_filtered_walk_gives_up_where_the_filter_excludes_what_is_near() {
    let case = large();
    let nearest = case.exact(None, 4000);
    let mut rng = Rng::from_env();
    let percent = 50.0;
    let (mut holes, mut others) = (0, 0);
    for (number, query) in case.queries.chunks(case.dim).enumerate() {
        let mut allow = BitSet::from_fn(case.len(), |_| rng.unit() * 100.0 < percent);
        others += usize::from(case.walk_filtered(query, &allow, percent / 100.0).is_some());
        for hit in &nearest[number] {
            allow.clear(hit.row as usize);
        }
        let fraction = allow.count_ones() as f64 / case.len() as f64;
        holes += usize::from(case.walk_filtered(query, &allow, fraction).is_none());
    }
    assert!(holes >= 36 && others >= 36, "{holes} {others} of 40");
}

/// Filters with a hole where the query is: its 300 nearest rows, of a cluster of about 500, are
/// excluded; of the others `percent` are allowed.
#[test]
fn deleted_rows_never_come_back_even_when_they_are_the_nearest() {
    let case = large();
    let nearest = case.exact(None, 300);
    let mut rng = Rng::from_env();
    for percent in [100.0, 95.0, 70.0, 50.0] {
        let mut found = 0;
        for (number, query) in case.queries.chunks(case.dim).enumerate() {
            let mut allow = BitSet::from_fn(case.len(), |_| rng.unit() * 100.0 < percent);
            for hit in &nearest[number] {
                allow.clear(hit.row as usize);
            }
            let hits = case.search(query, &SearchParams::with_ef(32), Some(&allow), 10);
            assert_eq!(hits.len(), 10);
            let (stop, mut truth) = (StopFlag::new(), Vec::new());
            let metric = case.index.metric();
            scan_topk(
                &case.rows,
                case.dim,
                metric,
                query,
                Some(&allow),
                10,
                &stop,
                &mut truth,
            )
            .unwrap();
            let rows: HashSet<u32> = hits.iter().map(|hit| hit.row).collect();
            found += truth[0]
                .iter()
                .filter(|hit| rows.contains(&hit.row))
                .count();
        }
        let recall = found as f64 / 400.0;
        assert!(recall >= 0.95, "{percent} %: {recall}");
    }
}

#[test]
fn k_beyond_the_rows_returns_all_of_them_and_filters_may_be_short_or_long() {
    let case = case(MetricType::Cosine, 200, 33);
    let query = &case.queries[..33];
    assert_eq!(
        case.search(query, &SearchParams::default(), None, 1000)
            .len(),
        200
    );
    let mut short = BitSet::new(50);
    (0..50).step_by(2).for_each(|row| short.set(row));
    assert_eq!(
        case.search(query, &SearchParams::default(), Some(&short), 1000)
            .len(),
        25
    );
    let long = BitSet::full(1000);
    assert_eq!(
        case.search(query, &SearchParams::default(), Some(&long), 1000)
            .len(),
        200
    );
    assert!(
        case.search(query, &SearchParams::default(), Some(&BitSet::new(200)), 5)
            .is_empty()
    );
    assert!(
        case.search(query, &SearchParams::default(), None, 0)
            .is_empty()
    );
}

#[test]
fn an_empty_index_and_one_of_a_single_row_work() {
    for metric in METRICS {
        for rows in [0, 1] {
            let case = case(metric, rows, 20);
            let query = &case.queries[..20];
            assert_eq!(
                case.search(query, &SearchParams::default(), None, 3).len(),
                rows
            );
            let mut file = Vec::new();
            case.index.write(&mut file).unwrap();
            assert_eq!(crate::open(file.into()).unwrap().len(), rows);
        }
    }
}

#[test]
fn copies_of_a_vector_are_all_found_and_hide_nothing() {
    let mut clusters = Clusters::new(20, 10, Rng::from_env());
    let mut rows = clusters.rows(5000);
    let copied = rows[..20].to_vec();
    for row in rows.chunks_mut(20).step_by(2) {
        row.copy_from_slice(&copied);
    }
    let queries = clusters.rows(40);
    let index = build(&IndexParams::hnsw(MetricType::L2, 8, 64), &rows, 20, 1);
    let case = Case {
        dim: 20,
        rows,
        queries,
        index,
    };
    let hits = case.search(&copied, &SearchParams::with_ef(10), None, 10);
    assert!(hits.iter().all(|hit| hit.score == 0.0) && hits.len() == 10);
    let truth = case.exact(None, 10);
    let mut found = 0;
    for (query, truth) in case.queries.chunks(20).zip(&truth) {
        let hits = case.search(query, &SearchParams::with_ef(40), None, 10);
        let worst = truth[9].score * 1.000_01;
        found += hits.iter().filter(|hit| hit.score <= worst).count();
    }
    assert!(found >= 380, "{found} of 400");
}

#[test]
fn one_thread_and_a_seed_give_the_same_file() {
    let mut clusters = Clusters::new(30, 10, Rng::from_env());
    let rows = clusters.rows(3000);
    let params = IndexParams::hnsw(MetricType::Cosine, 8, 40);
    let file = |index: &HnswIndex| {
        let mut bytes = Vec::new();
        index.write(&mut bytes).unwrap();
        bytes
    };
    let first = file(&build(&params, &rows, 30, 1));
    assert!(first == file(&build(&params, &rows, 30, 1)));
}

#[test]
fn a_parallel_build_is_as_good() {
    let mut clusters = Clusters::new(32, 40, Rng::from_env());
    let (rows, queries) = (clusters.rows(8000), clusters.rows(40));
    let index = build(&IndexParams::hnsw(MetricType::L2, 16, 100), &rows, 32, 4);
    let case = Case {
        dim: 32,
        rows,
        queries,
        index,
    };
    let recall = case.recall(64, None, 10);
    assert!(recall >= 0.95, "{recall}");
}

#[test]
fn progress_counts_every_row_and_a_raised_flag_stops() {
    let rows = Clusters::new(18, 3, Rng::from_env()).rows(2000);
    let params = IndexParams::auto(MetricType::L2);
    for threads in [1, 3] {
        let (progress, stop) = (AtomicUsize::new(0), StopFlag::new());
        let options = BuildOptions {
            threads,
            seed: 1,
            progress: Some(&progress),
            stop: &stop,
        };
        let index = HnswIndex::build(&params, &rows, 18, &options).unwrap();
        assert_eq!(progress.load(Ordering::Relaxed), 2000);
        stop.stop();
        let stopped = HnswIndex::build(&params, &rows, 18, &options);
        assert!(matches!(stopped, Err(Error::Cancelled)));
        let raw = RawSlice::new(&rows, 18).unwrap();
        let search = index.search(
            &rows[..18],
            &raw,
            &SearchParams::default(),
            None,
            3,
            &stop,
            &mut Vec::new(),
        );
        assert!(matches!(search, Err(Error::Cancelled)));
    }
}

#[test]
fn range_search_returns_the_best_within_the_range() {
    for metric in METRICS {
        let case = case(metric, 6000, 20);
        let raw = RawSlice::new(&case.rows, case.dim).unwrap();
        let flat = FlatIndex::build(metric, &case.rows, case.dim).unwrap();
        let mut rng = Rng::from_env();
        let half = BitSet::from_fn(case.len(), |_| rng.unit() < 0.5);
        let (mut found, mut wanted) = (0, 0);
        for query in case.queries.chunks(case.dim).take(15) {
            let mut all = Vec::new();
            let stop = StopFlag::new();
            flat.search(
                query,
                &raw,
                &SearchParams::default(),
                None,
                2000,
                &stop,
                &mut all,
            )
            .unwrap();
            for (near, far, limit) in [
                (None, 20, 100),
                (Some(30), 90, 1000),
                (None, 1500, 50),
                (Some(100), 1800, 30),
            ] {
                for allow in [None, Some(&half)] {
                    let params = SearchParams {
                        range: Some(RangeBounds {
                            radius: all[far].score,
                            range_filter: near.map(|rank: usize| all[rank].score),
                        }),
                        ..SearchParams::default()
                    };
                    let (mut truth, mut hits) = (Vec::new(), Vec::new());
                    flat.range_search(query, &raw, &params, allow, limit, &stop, &mut truth)
                        .unwrap();
                    case.index
                        .range_search(query, &raw, &params, allow, limit, &stop, &mut hits)
                        .unwrap();
                    check_hits(&hits, metric, allow);
                    let range = params.range.unwrap();
                    assert!(hits.iter().all(|hit| range.contains(metric, hit.score)));
                    let rows: HashSet<u32> = hits.iter().map(|hit| hit.row).collect();
                    found += truth.iter().filter(|hit| rows.contains(&hit.row)).count();
                    wanted += truth.len();
                }
            }
        }
        assert!(
            found as f64 >= 0.97 * wanted as f64,
            "{metric}: {found} of {wanted}"
        );
    }
}

#[test]
fn a_file_opens_to_the_same_answers_and_damage_is_named() {
    for (metric, dim) in [
        (MetricType::L2, 40),
        (MetricType::Ip, 40),
        (MetricType::Cosine, 40),
        (MetricType::Cosine, 7),
    ] {
        let case = case(metric, 3000, dim);
        let mut file = Vec::new();
        case.index.write(&mut file).unwrap();
        let opened = crate::open(file.clone().into()).unwrap();
        assert_eq!(
            (opened.len(), opened.dim(), opened.metric()),
            (3000, dim, metric)
        );
        assert!(opened.memory_bytes() <= file.len());
        let raw = RawSlice::new(&case.rows, dim).unwrap();
        for query in case.queries.chunks(dim) {
            let params = SearchParams::with_ef(20);
            let mut hits = Vec::new();
            opened
                .search(query, &raw, &params, None, 10, &StopFlag::new(), &mut hits)
                .unwrap();
            assert_eq!(hits, case.search(query, &params, None, 10));
        }
        let mut rng = Rng::from_env();
        let mut refused = 0;
        for _ in 0..40 {
            let mut damaged = file.clone();
            let at = rng.below(damaged.len());
            damaged[at] ^= 1 << rng.below(8);
            match crate::open(damaged.into()) {
                Err(Error::Corrupt { .. } | Error::UnsupportedVersion { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
                // Padding between sections means nothing and is not covered.
                Ok(index) => assert_eq!(index.len(), 3000),
            }
        }
        assert!(refused >= 35, "{refused}");
        for cut in [0, 7, 63, 64, 200, file.len() / 2, file.len() - 200] {
            let result = crate::open(file[..cut].to_vec().into());
            assert!(matches!(result, Err(Error::Corrupt { .. })), "cut at {cut}");
        }
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let params = IndexParams::auto(MetricType::L2);
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 0,
        progress: None,
        stop: &stop,
    };
    let refused = |rows: &[f32], dim| {
        HnswIndex::build(&params, rows, dim, &options)
            .err()
            .unwrap()
    };
    assert!(matches!(refused(&[1.0; 7], 2), Error::DimMismatch { .. }));
    let nan = refused(&[1.0, 2.0, f32::NAN, 4.0], 2);
    assert!(nan.to_string().contains("row 1"), "{nan}");
    let index = HnswIndex::build(&params, &[1.0; 8], 2, &options).unwrap();
    let raw_values = [1.0; 8];
    let raw = RawSlice::new(&raw_values, 2).unwrap();
    let search = |query: &[f32], raw: &RawSlice<'_>, ef, k| {
        index.search(
            query,
            raw,
            &SearchParams::with_ef(ef),
            None,
            k,
            &stop,
            &mut Vec::new(),
        )
    };
    assert!(matches!(
        search(&[1.0], &raw, 9, 1),
        Err(Error::DimMismatch { .. })
    ));
    assert!(matches!(
        search(&[1.0, f32::INFINITY], &raw, 9, 1),
        Err(Error::NotFinite { .. })
    ));
    assert!(matches!(
        search(&[1.0, 1.0], &raw, 9, 10),
        Err(Error::InvalidParameter { .. })
    ));
    let fewer = RawSlice::new(&raw_values[..6], 2).unwrap();
    assert!(matches!(
        search(&[1.0, 1.0], &fewer, 9, 1),
        Err(Error::RawMismatch { .. })
    ));
}

#[test]
fn vectors_without_direction_score_zero_under_cosine() {
    let mut case = case(MetricType::Cosine, 100, 20);
    case.rows[..20].fill(0.0);
    case.index = build(&IndexParams::auto(MetricType::Cosine), &case.rows, 20, 1);
    let hits = case.search(&[0.0; 20], &SearchParams::default(), None, 5);
    assert!(hits.len() == 5 && hits.iter().all(|hit| hit.score == 0.0));
    let hits = case.search(&case.queries[..20], &SearchParams::default(), None, 100);
    let zero = hits.iter().find(|hit| hit.row == 0).unwrap();
    assert_eq!(zero.score, 0.0);
}

fn product(metric: MetricType, m: usize, nbits: usize) -> IndexParams {
    IndexParams {
        index_type: IndexType::HnswPq,
        pq_m: m,
        nbits,
        ..IndexParams::hnsw(metric, 16, 100)
    }
}

#[test]
fn a_walk_on_product_codes_finds_the_nearest_and_scores_them_exactly() {
    for metric in METRICS {
        for (dim, m, nbits, at_least) in [(24, 12, 8, 0.97), (40, 20, 4, 0.9), (12, 6, 10, 0.95)] {
            let what = format!("{metric} dim {dim} m {m} nbits {nbits}");
            let mut case = case(metric, 10_000, dim);
            let scalar = case.index.memory_bytes();
            case.index = build(&product(metric, m, nbits), &case.rows, dim, 1);
            assert!(case.index.memory_bytes() < scalar, "{what}");
            let recall = case.recall(100, None, 10);
            println!("{what}: {recall}");
            assert!(recall >= at_least, "{what}: {recall}");
            let mut rng = Rng::from_env();
            for fraction in [0.95, 0.3, 0.01] {
                let allow = BitSet::from_fn(10_000, |_| rng.unit() < fraction);
                let filtered = case.recall(100, Some(&allow), 10);
                assert!(filtered >= at_least, "{what} filter {fraction}: {filtered}");
            }
            let truth = case.exact(None, 3);
            for (query, truth) in case.queries.chunks(dim).zip(&truth) {
                for hit in case.search(query, &SearchParams::with_ef(100), None, 3) {
                    if let Some(same) = truth.iter().find(|other| other.row == hit.row) {
                        assert_eq!(hit.score.to_bits(), same.score.to_bits());
                    }
                }
            }
        }
    }
}

#[test]
fn more_candidates_of_coarse_codes_are_scored_for_a_larger_refine_k() {
    let mut case = case(MetricType::L2, 5000, 24);
    case.index = build(&product(MetricType::L2, 4, 4), &case.rows, 24, 1);
    let truth = case.exact(None, 10);
    let recall = |refine_k: f32| {
        let params = SearchParams {
            refine_k: Some(refine_k),
            ..SearchParams::with_ef(400)
        };
        let mut found = 0;
        for (query, truth) in case.queries.chunks(24).zip(&truth) {
            let hits = case.search(query, &params, None, 10);
            let rows: HashSet<u32> = hits.iter().map(|hit| hit.row).collect();
            found += truth.iter().filter(|hit| rows.contains(&hit.row)).count();
        }
        found
    };
    let (few, many) = (recall(1.0), recall(40.0));
    assert!(many > few + 20, "{few} {many}");
}

#[test]
fn a_file_of_product_codes_opens_to_the_same_answers() {
    for metric in METRICS {
        for rows in [0, 1, 900] {
            let mut case = case(metric, rows, 20);
            case.index = build(&product(metric, 5, 6), &case.rows, 20, 1);
            let mut file = Vec::new();
            case.index.write(&mut file).unwrap();
            let opened = crate::open(file.clone().into()).unwrap();
            assert_eq!(opened.index_type(), IndexType::HnswPq);
            let mut again = Vec::new();
            opened.write(&mut again).unwrap();
            assert!(again == file, "written back otherwise");
            let raw = RawSlice::new(&case.rows, 20).unwrap();
            for query in case.queries.chunks(20) {
                let (params, mut hits) = (SearchParams::with_ef(50), Vec::new());
                opened
                    .search(query, &raw, &params, None, 10, &StopFlag::new(), &mut hits)
                    .unwrap();
                assert_eq!(hits, case.search(query, &params, None, 10));
            }
        }
    }
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 7,
        progress: None,
        stop: &stop,
    };
    let refused = HnswIndex::build(&product(MetricType::L2, 7, 8), &[0.0; 40], 20, &options);
    let text = refused.err().unwrap().to_string();
    assert!(
        text.contains("of the vector (dim) should be a multiple") && text.contains("m:7"),
        "{text}"
    );
}
