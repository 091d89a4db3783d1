use redkite_types::{BitSet, StopFlag};
use serde_json::{Map, Value, json};

use super::*;
use crate::testing::Rng;

const DIMS: usize = 400;
const ALGORITHMS: [SparseAlgorithm; 3] = [
    SparseAlgorithm::TaatNaive,
    SparseAlgorithm::DaatWand,
    SparseAlgorithm::DaatMaxScore,
];

/// A vector with some values; few dimensions are in many vectors, as with words. Some are empty.
fn vector(rng: &mut Rng, most: usize) -> Vec<(u32, f32)> {
    let count = rng.below(most + 1);
    let mut dims: Vec<u32> = (0..count)
        .map(|_| {
            let (a, b) = (rng.below(DIMS), rng.below(DIMS));
            // Far apart, up to the largest there may be.
            (a * b / DIMS) as u32 * 10_737_418
        })
        .collect();
    dims.sort_unstable();
    dims.dedup();
    // Few different values, so that many scores are equal.
    let values = dims.into_iter().map(|dim| (dim, rng.below(9) as f32 / 4.0));
    values.collect()
}

fn vectors(rng: &mut Rng, count: usize) -> Vec<Bytes> {
    (0..count)
        .map(|_| sparse::encode(&vector(rng, 40)))
        .collect()
}

fn build(rows: &[Bytes], algorithm: SparseAlgorithm, drop_ratio_build: f32) -> SparseIndex {
    let params = SparseParams {
        index_type: IndexType::SparseInverted,
        algorithm,
        drop_ratio_build,
    };
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 0,
        progress: None,
        stop: &stop,
    };
    let built = SparseIndex::build(&params, &SparseRows::new(rows), &options).unwrap();
    let mut bytes = Vec::new();
    built.write(&mut bytes).unwrap();
    let opened = SparseIndex::from_stored(Stored::open(bytes.into()).unwrap()).unwrap();
    assert_eq!(opened.len(), rows.len());
    opened
}

fn search(
    index: &SparseIndex,
    query: &[(u32, f32)],
    params: &SearchParams,
    allow: &BitSet,
    k: usize,
) -> Vec<Hit> {
    let (stop, mut hits) = (StopFlag::new(), Vec::new());
    index
        .search(query, params, Some(allow), k, &stop, &mut hits)
        .unwrap();
    hits
}

fn scanned(
    rows: &[Bytes],
    query: &[(u32, f32)],
    range: Option<&RangeBounds>,
    allow: &BitSet,
    k: usize,
) -> Vec<Hit> {
    let (stop, mut lists) = (StopFlag::new(), Vec::new());
    let (rows, queries) = (SparseRows::new(rows), [query.to_vec()]);
    scan(&rows, &queries, range, Some(allow), k, &stop, &mut lists).unwrap();
    lists.pop().unwrap()
}

/// By the definition.
fn expected(rows: &[Bytes], query: &[(u32, f32)], allow: &BitSet, k: usize) -> Vec<Hit> {
    let value = |row: &Bytes, dim: u32| {
        let mut pairs = sparse::pairs(row);
        let found = pairs.find(|(index, _)| *index == dim);
        found.map_or(0.0, |(_, value)| f64::from(value))
    };
    let score = |row: &Bytes| {
        let terms = query
            .iter()
            .map(|(dim, q)| f64::from(*q) * value(row, *dim));
        terms.sum::<f64>() as f32
    };
    let mut hits: Vec<Hit> = (0..)
        .zip(rows)
        .map(|(row, vector)| Hit {
            row,
            score: score(vector),
        })
        .filter(|hit| hit.score > 0.0 && allow.get(hit.row as usize))
        .collect();
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
    hits.truncate(k);
    hits
}

#[test]
fn every_algorithm_and_the_scan_find_exactly_the_nearest() {
    let mut rng = Rng::from_env();
    for rows in [0, 1, 7, 2_000] {
        let rows = vectors(&mut rng, rows);
        let everything = BitSet::full(rows.len());
        let some = BitSet::from_fn(rows.len(), |_| rng.below(4) == 0);
        let indexes = ALGORITHMS.map(|algorithm| build(&rows, algorithm, 0.0));
        for _ in 0..25 {
            let query = vector(&mut rng, 12);
            for allow in [&everything, &some] {
                for k in [1, 10, 5_000] {
                    let want = expected(&rows, &query, allow, k);
                    assert_eq!(scanned(&rows, &query, None, allow, k), want);
                    for index in &indexes {
                        let found = search(index, &query, &SearchParams::default(), allow, k);
                        assert_eq!(found, want, "{:?} {query:?}", index.algorithm);
                    }
                }
            }
        }
    }
}

#[test]
fn ranges_hold_what_lies_in_them_and_nothing_else() {
    let mut rng = Rng::from_env();
    let rows = vectors(&mut rng, 1_000);
    let allow = BitSet::full(rows.len());
    let indexes = ALGORITHMS.map(|algorithm| build(&rows, algorithm, 0.0));
    for radius in [-1.0, 0.5, 2.0] {
        let query = vector(&mut rng, 20);
        let range = RangeBounds {
            radius,
            range_filter: Some(4.0),
        };
        let mut want = expected(&rows, &query, &allow, rows.len());
        want.retain(|hit| hit.score > radius && hit.score <= 4.0);
        want.truncate(50);
        assert_eq!(scanned(&rows, &query, Some(&range), &allow, 50), want);
        let params = SearchParams {
            range: Some(range),
            ..SearchParams::default()
        };
        for index in &indexes {
            assert_eq!(search(index, &query, &params, &allow, 50), want);
        }
    }
}

#[test]
fn what_was_dropped_still_counts_in_scores() {
    let mut rng = Rng::from_env();
    let rows = vectors(&mut rng, 1_500);
    let allow = BitSet::full(rows.len());
    let (mut found, mut wanted) = (0, 0);
    for (built, searched) in [(0.3, None), (0.0, Some(0.4)), (0.4, Some(0.2))] {
        for algorithm in ALGORITHMS {
            let index = build(&rows, algorithm, built);
            assert_eq!(index.dropped.is_empty(), built == 0.0);
            let params = SearchParams {
                drop_ratio: searched,
                ..SearchParams::default()
            };
            for _ in 0..10 {
                let query = vector(&mut rng, 12);
                let all = expected(&rows, &query, &allow, rows.len());
                let hits = search(&index, &query, &params, &allow, 10);
                assert!(hits.iter().all(|hit| all.contains(hit)), "scores are whole");
                let best = &all[..all.len().min(10)];
                found += hits.iter().filter(|hit| best.contains(hit)).count();
                wanted += best.len();
            }
        }
    }
    assert!(found * 10 >= wanted * 9, "{found} of {wanted}");
}

#[test]
fn parameters_are_honoured_or_refused() {
    let parse = |index_type, params: Value| -> Result<SparseParams> {
        let map: Map<String, Value> = params.as_object().unwrap().clone();
        SparseParams::parse(index_type, &map)
    };
    let inverted = IndexType::SparseInverted;
    let given = json!({"inverted_index_algo": "DAAT_WAND", "drop_ratio_build": "0.25"});
    let parsed = parse(inverted, given).unwrap();
    assert_eq!(parsed.algorithm, SparseAlgorithm::DaatWand);
    assert_eq!(parsed.drop_ratio_build, 0.25);
    let plain = parse(inverted, json!({})).unwrap();
    assert_eq!(plain.algorithm, SparseAlgorithm::DaatMaxScore);
    for (kind, params, want) in [
        (
            inverted,
            json!({"inverted_index_algo": "BEST"}),
            "supported: [TAAT_NAIVE",
        ),
        (
            inverted,
            json!({"drop_ratio_build": 1.3}),
            "[0.000000, 1.000000)",
        ),
        (
            inverted,
            json!({"drop_ratio_build": -0.1}),
            "[0.000000, 1.000000)",
        ),
        (
            inverted,
            json!({"drop_ratio_build": "a"}),
            "should be a number",
        ),
        (inverted, json!({"M": 16}), "unknown parameter 'M'"),
        (
            IndexType::SparseWand,
            json!({"inverted_index_algo": "TAAT_NAIVE"}),
            "unknown parameter",
        ),
        (
            IndexType::AutoIndex,
            json!({"drop_ratio_build": 0.1}),
            "only metric type",
        ),
    ] {
        let why = parse(kind, params).unwrap_err().to_string();
        assert!(why.contains(want), "{why} does not contain {want}");
    }
}

#[test]
fn damage_is_found() {
    let mut rng = Rng::from_env();
    let index = build(&vectors(&mut rng, 300), SparseAlgorithm::DaatWand, 0.2);
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    for at in [9, 21, 37, 70, 390, bytes.len() / 2] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x11;
        let opened = Stored::open(damaged.into()).and_then(SparseIndex::from_stored);
        assert!(opened.is_err(), "byte {at}");
    }
}
