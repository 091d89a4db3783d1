use redkite_types::{BitSet, MetricType, StopFlag};

use super::*;
use crate::testing::Rng;

const DIM: usize = 72;
const METRICS: [MetricType; 2] = [MetricType::Hamming, MetricType::Jaccard];

/// Rows near to a few patterns, each bit turned with a probability of one in eight.
fn rows(rng: &mut Rng, count: usize) -> Vec<u8> {
    let patterns: Vec<Vec<u8>> = (0..12)
        .map(|_| (0..DIM / 8).map(|_| rng.next() as u8).collect())
        .collect();
    let mut rows = Vec::new();
    for _ in 0..count {
        let pattern = &patterns[rng.below(patterns.len())];
        rows.extend(pattern.iter().map(|byte| {
            let (a, b, c) = (rng.next(), rng.next(), rng.next());
            byte ^ (a & b & c) as u8
        }));
    }
    rows
}

/// By the definitions, bit by bit.
fn expected(rows: &[u8], metric: MetricType, query: &[u8], allow: &BitSet, k: usize) -> Vec<Hit> {
    let bit = |vector: &[u8], at: usize| vector[at / 8] >> (at % 8) & 1 == 1;
    let score = |row: &[u8]| {
        let count = |test: fn(bool, bool) -> bool| {
            let bits = (0..DIM).filter(|at| test(bit(row, *at), bit(query, *at)));
            bits.count() as f32
        };
        match metric {
            MetricType::Jaccard => 1.0 - count(|a, b| a && b) / count(|a, b| a || b),
            _ => count(|a, b| a != b),
        }
    };
    let mut hits: Vec<Hit> = rows
        .chunks(DIM / 8)
        .zip(0..)
        .filter(|(_, row)| allow.get(*row as usize))
        .map(|(vector, row)| Hit {
            row,
            score: score(vector),
        })
        .collect();
    hits.sort_by(|a, b| a.score.total_cmp(&b.score).then(a.row.cmp(&b.row)));
    hits.truncate(k);
    hits
}

fn build(index_type: IndexType, metric: MetricType, rows: &[u8], nlist: usize) -> BinaryIndex {
    let params = BinaryParams {
        index_type,
        metric,
        nlist,
    };
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 7,
        progress: None,
        stop: &stop,
    };
    let built = BinaryIndex::build(&params, &BinaryRows::new(rows, DIM), &options).unwrap();
    let mut bytes = Vec::new();
    built.write(&mut bytes).unwrap();
    let stored = Stored::open(bytes.into()).unwrap();
    assert_eq!(stored.header.index_type, index_type);
    let opened = BinaryIndex::from_stored(stored).unwrap();
    assert_eq!((opened.len(), opened.dim()), (rows.len() * 8 / DIM, DIM));
    opened
}

fn search(
    index: &BinaryIndex,
    rows: &[u8],
    query: &[u8],
    params: &SearchParams,
    allow: &BitSet,
    k: usize,
) -> Vec<Hit> {
    let (raw, stop, mut hits) = (BinaryRows::new(rows, DIM), StopFlag::new(), Vec::new());
    index
        .search(query, &raw, params, Some(allow), k, &stop, &mut hits)
        .unwrap();
    hits
}

#[test]
fn scores_are_the_definitions_and_the_nearest_come_first() {
    let mut rng = Rng::from_env();
    let rows = rows(&mut rng, 700);
    let allow = BitSet::from_fn(700, |_| rng.below(3) > 0);
    for metric in METRICS {
        let index = build(IndexType::BinFlat, metric, &rows, 0);
        for query in rows.chunks(DIM / 8).step_by(97) {
            for k in [1, 10, 1_000] {
                let found = search(&index, &rows, query, &SearchParams::default(), &allow, k);
                assert_eq!(found, expected(&rows, metric, query, &allow, k), "{metric}");
            }
        }
    }
}

#[test]
fn nothing_in_common_is_as_far_as_can_be() {
    assert_eq!(distance(MetricType::Jaccard, &[0], &[0]), 1.0);
    assert_eq!(distance(MetricType::Jaccard, &[1], &[2]), 1.0);
    assert_eq!(distance(MetricType::Jaccard, &[3], &[3]), 0.0);
    assert_eq!(distance(MetricType::Hamming, &[0xff], &[0x0f]), 4.0);
}

#[test]
fn lists_find_what_is_near_and_all_of_it_when_all_are_visited() {
    let mut rng = Rng::from_env();
    let rows = rows(&mut rng, 3_000);
    let everything = BitSet::full(3_000);
    let few = BitSet::from_fn(3_000, |_| rng.below(100) == 0);
    for metric in METRICS {
        let index = build(IndexType::BinIvfFlat, metric, &rows, 64);
        let (mut found, mut wanted) = (0, 0);
        for query in rows.chunks(DIM / 8).step_by(301) {
            let mut params = SearchParams {
                nprobe: Some(64),
                ..SearchParams::default()
            };
            let exact = expected(&rows, metric, query, &everything, 20);
            assert_eq!(
                search(&index, &rows, query, &params, &everything, 20),
                exact
            );
            params.nprobe = Some(8);
            let some = search(&index, &rows, query, &params, &everything, 20);
            assert_eq!(some.len(), 20);
            found += some.iter().filter(|hit| exact.contains(hit)).count();
            wanted += exact.len();
            let filtered = search(&index, &rows, query, &params, &few, 20);
            assert_eq!(filtered.len(), few.count_ones().min(20));
        }
        assert!(found * 10 >= wanted * 8, "{metric}: {found} of {wanted}");
    }
}

#[test]
fn ranges_hold_what_lies_in_them_and_nothing_else() {
    let mut rng = Rng::from_env();
    let rows = rows(&mut rng, 1_000);
    let allow = BitSet::full(1_000);
    let query = &rows[..DIM / 8];
    for (metric, near, radius) in [
        (MetricType::Hamming, 2.0, 14.0),
        (MetricType::Jaccard, 0.05, 0.4),
    ] {
        let range = RangeBounds {
            radius,
            range_filter: Some(near),
        };
        let mut params = SearchParams {
            range: Some(range),
            nprobe: Some(64),
            ..SearchParams::default()
        };
        let mut want = expected(&rows, metric, query, &allow, 1_000);
        want.retain(|hit| hit.score >= near && hit.score < radius);
        assert!(!want.is_empty());
        for index_type in [IndexType::BinFlat, IndexType::BinIvfFlat] {
            let index = build(index_type, metric, &rows, 64);
            assert_eq!(search(&index, &rows, query, &params, &allow, 1_000), want);
            want.truncate(5);
            assert_eq!(search(&index, &rows, query, &params, &allow, 5), want);
            want = expected(&rows, metric, query, &allow, 1_000);
            want.retain(|hit| hit.score >= near && hit.score < radius);
        }
        params.range = Some(RangeBounds {
            radius: near,
            range_filter: Some(radius),
        });
        let index = build(IndexType::BinFlat, metric, &rows, 0);
        let (raw, stop) = (BinaryRows::new(&rows, DIM), StopFlag::new());
        let mut hits = Vec::new();
        let refused = index.search(query, &raw, &params, None, 5, &stop, &mut hits);
        assert!(matches!(refused, Err(Error::InvalidParameter { .. })));
    }
}

#[test]
fn damage_is_found() {
    let mut rng = Rng::from_env();
    let rows = rows(&mut rng, 200);
    let index = build(IndexType::BinIvfFlat, MetricType::Hamming, &rows, 4);
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    // Every byte but those of padding is covered by a checksum.
    for at in [9, 21, 70, 200, bytes.len() - 70] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let opened = Stored::open(damaged.into()).and_then(BinaryIndex::from_stored);
        assert!(opened.is_err(), "byte {at}");
    }
}

#[test]
fn many_queries_together_find_what_each_finds_alone() {
    let mut rng = Rng::from_env();
    let rows = rows(&mut rng, 2_000);
    // Some are far from all rows, as a row with its bits turned is.
    let turned: Vec<u8> = rows[..60 * DIM / 8].iter().map(|byte| !byte).collect();
    let queries = [&rows[..60 * DIM / 8], &turned].concat();
    let sets = [
        BitSet::full(2_000),
        BitSet::from_fn(2_000, |_| rng.below(30) == 0),
    ];
    let (raw, stop) = (BinaryRows::new(&rows, DIM), StopFlag::new());
    for metric in METRICS {
        for index_type in [IndexType::BinFlat, IndexType::BinIvfFlat] {
            let index = build(index_type, metric, &rows, 32);
            for (allow, nprobe, k) in [(0, 1, 5), (0, 7, 300), (1, 2, 10), (1, 32, 100)] {
                let (allow, mut together) = (&sets[allow], Vec::new());
                let params = SearchParams {
                    nprobe: Some(nprobe),
                    ..SearchParams::default()
                };
                let set = Some(allow);
                index
                    .search_many(&queries, &raw, &params, set, k, &stop, &mut together)
                    .unwrap();
                let alone = queries.chunks(DIM / 8);
                let alone = alone.map(|query| search(&index, &rows, query, &params, allow, k));
                assert_eq!(together, alone.collect::<Vec<_>>(), "{metric} {nprobe} {k}");
            }
        }
    }
}
