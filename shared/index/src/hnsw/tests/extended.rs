//! Graphs that more rows are added to.

use super::*;

const M: usize = 12;

fn seeded(seed: u64, stop: &StopFlag) -> BuildOptions<'_> {
    BuildOptions {
        threads: 1,
        seed,
        progress: None,
        stop,
    }
}

fn built(metric: MetricType, rows: &[f32], dim: usize, seed: u64) -> HnswIndex {
    let params = IndexParams::hnsw(metric, M, 80);
    HnswIndex::build(&params, rows, dim, &seeded(seed, &StopFlag::new())).unwrap()
}

fn extended(
    index: &dyn VectorIndex,
    rows: &[f32],
    seed: u64,
) -> Result<Option<Box<dyn VectorIndex>>> {
    let raw = RawSlice::new(rows, index.dim()).unwrap();
    index.extended(&raw, &seeded(seed, &StopFlag::new()))
}

/// Share of the exact ten nearest that an index finds, over all queries.
fn recall(index: &dyn VectorIndex, rows: &[f32], queries: &[f32]) -> f64 {
    let (dim, stop, mut exact) = (index.dim(), StopFlag::new(), Vec::new());
    let raw = RawSlice::new(rows, dim).unwrap();
    let metric = index.metric();
    scan_topk(rows, dim, metric, queries, None, 10, &stop, &mut exact).unwrap();
    let params = SearchParams {
        ef: Some(40),
        ..SearchParams::default()
    };
    let (mut found, mut wanted) = (0, 0);
    for (query, exact) in queries.chunks(dim).zip(&exact) {
        let mut hits = Vec::new();
        index
            .search(query, &raw, &params, None, 10, &stop, &mut hits)
            .unwrap();
        check_hits(&hits, metric, None);
        let exact: HashSet<u32> = exact.iter().map(|hit| hit.row).collect();
        found += hits.iter().filter(|hit| exact.contains(&hit.row)).count();
        wanted += exact.len();
    }
    found as f64 / wanted as f64
}

#[test]
fn a_graph_that_grew_step_by_step_finds_what_one_built_at_once_does() {
    // Values as they are, whole codes, and halves of codes.
    for dim in [12, 48, 200] {
        for metric in METRICS {
            let mut rng = Rng::from_env();
            let seed = rng.below(1 << 30) as u64;
            let mut clusters = Clusters::new(dim, 20, rng);
            let (rows, queries) = (clusters.rows(4_000), clusters.rows(100));
            let mut grown: Box<dyn VectorIndex> =
                Box::new(built(metric, &rows[..700 * dim], dim, seed));
            for count in [701, 1_500, 2_600, 4_000] {
                grown = extended(&*grown, &rows[..count * dim], seed)
                    .unwrap()
                    .unwrap();
                assert_eq!(grown.len(), count);
            }
            let whole = recall(&built(metric, &rows, dim, seed), &rows, &queries);
            let grown = recall(&*grown, &rows, &queries);
            assert!(grown >= whole - 0.03, "{metric} {dim}: {grown} of {whole}");
        }
    }
}

/// One row is the way in for all: until it is met again it leads nowhere.
#[test]
fn a_graph_whose_first_node_is_a_new_row_keeps_its_old_ones() {
    let (dim, mut rng) = (12, Rng::from_env());
    let mut raised = 0;
    for _ in 0..20 {
        let seed = rng.below(1 << 30) as u64;
        let mut clusters = Clusters::new(dim, 4, Rng::new(rng.next()));
        let rows = clusters.rows(1_200);
        let base = built(MetricType::L2, &rows[..40 * dim], dim, seed);
        let grown = extended(&base, &rows, seed).unwrap().unwrap();
        raised +=
            usize::from(built(MetricType::L2, &rows, dim, seed).levels.len() > base.levels.len());
        let found = recall(&*grown, &rows, &rows[..100 * dim]);
        assert!(found >= 0.97, "{found} with seed {seed}");
    }
    assert!(raised > 0);
}

#[test]
fn rows_added_below_the_same_first_node_make_the_graph_of_all_at_once() {
    let (dim, mut rng) = (12, Rng::from_env());
    let mut compared = 0;
    for _ in 0..20 {
        let seed = rng.below(1 << 30) as u64;
        let rows = Clusters::new(dim, 4, Rng::new(rng.next())).rows(1_500);
        let base = built(MetricType::L2, &rows[..1_200 * dim], dim, seed);
        let whole = built(MetricType::L2, &rows, dim, seed);
        if base.levels.len() == whole.levels.len() {
            let grown = extended(&base, &rows, seed).unwrap().unwrap();
            assert!(grown.parts() == whole.parts(), "seed {seed}");
            compared += 1;
        }
    }
    assert!(compared > 0);
}

#[test]
fn rows_unlike_the_first_ones_are_not_added() {
    for dim in [48, 200] {
        let mut clusters = Clusters::new(dim, 4, Rng::from_env());
        let (mut rows, others) = (clusters.rows(1_000), clusters.rows(500));
        let base = built(MetricType::L2, &rows, dim, 3);
        rows.extend(others.iter().map(|value| value * 20.0));
        assert!(extended(&base, &rows, 3).unwrap().is_none());
    }
}

#[test]
fn an_index_is_extended_only_by_what_it_is_the_beginning_of() {
    let dim = 24;
    let rows = Clusters::new(dim, 4, Rng::from_env()).rows(900);
    let base = built(MetricType::L2, &rows[..600 * dim], dim, 3);
    assert!(extended(&base, &rows, 4).is_err(), "another seed");
    assert!(
        extended(&base, &rows[..500 * dim], 3).is_err(),
        "fewer rows"
    );
    let stop = StopFlag::new();
    stop.stop();
    let raw = RawSlice::new(&rows, dim).unwrap();
    let stopped = base.extended(&raw, &seeded(3, &stop));
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let params = IndexParams::ivf(IndexType::IvfFlat, MetricType::L2, 4);
    let lists = crate::build(&params, &rows, dim, &seeded(3, &StopFlag::new())).unwrap();
    assert!(extended(&*lists, &rows, 3).unwrap().is_none(), "no graph");
}
