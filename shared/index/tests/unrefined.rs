//! Indexes built to do without the vectors: hits come in the order and with the scores of the codes, whichever
//! way a search takes, and no vector is read.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

use redkite_index::{
    BuildOptions, Element, Hit, IndexParams, IndexType, RangeBounds, RawRow, RawSlice, RawVectors,
    Result, RowRoom, SearchParams, VectorIndex, build, open,
};
use redkite_types::{BitSet, Coded as _, ErrorCode, MetricType, StopFlag};
use serde_json::{Value, json};

const ROWS: usize = 3_000;
const METRICS: [MetricType; 3] = [MetricType::L2, MetricType::Ip, MetricType::Cosine];

/// A type that leaves the choice: parameters that build it, those that search all of it, and how far its
/// scores may be from the exact ones on average, as a part of their spread.
struct Kind {
    index_type: IndexType,
    build: Value,
    everything: Value,
    slack: f32,
}

fn kinds() -> [Kind; 4] {
    let graph = |index_type, more: &str, slack| {
        let mut build = json!({"M": 12, "efConstruction": 80, "refine": false});
        if !more.is_empty() {
            build["m"] = json!(more);
        }
        Kind {
            index_type,
            build,
            everything: json!({"ef": ROWS}),
            slack,
        }
    };
    let lists = |index_type, build, slack| Kind {
        index_type,
        build,
        everything: json!({"nprobe": 65_536}),
        slack,
    };
    [
        graph(IndexType::HnswSq, "", 0.005),
        graph(IndexType::HnswPq, "12", 0.1),
        lists(
            IndexType::IvfRabitq,
            json!({"nlist": 16, "refine": "False"}),
            0.15,
        ),
        lists(
            IndexType::Scann,
            json!({"nlist": 16, "with_raw_data": "false"}),
            0.08,
        ),
    ]
}

/// Vectors that nobody may look at.
struct Untouchable {
    dim: usize,
}

impl RawVectors for Untouchable {
    fn rows(&self) -> usize {
        ROWS
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn element(&self) -> Element {
        Element::F32
    }

    fn row(&self, row: u32) -> RawRow<'_> {
        panic!("looks at row {row}")
    }

    fn fetch<'a>(&'a self, row: u32, _room: &'a mut RowRoom) -> Result<RawRow<'a>> {
        panic!("reads row {row}")
    }
}

/// An index, opened from its file, and what it was built of.
struct Case {
    kind: Kind,
    metric: MetricType,
    dim: usize,
    rows: Vec<f32>,
    index: Box<dyn VectorIndex>,
}

/// Seeded from `REDKITE_TEST_SEED`, else fixed; prints the seed.
fn seed() -> u64 {
    let given = std::env::var("REDKITE_TEST_SEED").ok();
    let seed = given.and_then(|text| text.parse().ok()).unwrap_or(4);
    println!("seed={seed}");
    seed
}

/// `[count, dim]` values in a few clusters.
fn vectors(count: usize, dim: usize, mut state: u64) -> Vec<f32> {
    let mut unit = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1 << 24) as f32
    };
    let centres: Vec<f32> = (0..8 * dim).map(|_| 3.0 * unit() - 1.0).collect();
    let value = |at: usize| centres[at / dim % 8 * dim + at % dim] + 2.0 * unit() - 1.0;
    (0..count * dim).map(value).collect()
}

fn params(index_type: IndexType, metric: MetricType, given: &Value) -> IndexParams {
    IndexParams::parse(index_type.name(), metric.name(), given.as_object().unwrap()).unwrap()
}

fn built(params: &IndexParams, rows: &[f32], dim: usize) -> Box<dyn VectorIndex> {
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    build(params, rows, dim, &options).unwrap()
}

fn bytes_of(index: &dyn VectorIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    bytes
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for metric in METRICS {
        // Few dimensions are kept as they are by graphs.
        for dim in [12, 48] {
            let rows = vectors(ROWS, dim, seed());
            for kind in kinds() {
                let params = params(kind.index_type, metric, &kind.build);
                let built = built(&params, &rows, dim);
                let bytes = bytes_of(built.as_ref());
                let index = open(bytes.clone().into()).unwrap();
                assert!(bytes_of(index.as_ref()) == bytes, "written back otherwise");
                let rows = rows.clone();
                cases.push(Case {
                    kind,
                    metric,
                    dim,
                    rows,
                    index,
                });
            }
        }
    }
    cases
}

impl Case {
    fn name(&self) -> String {
        let Self {
            kind, metric, dim, ..
        } = self;
        format!("{} {metric} {dim}", kind.index_type.name())
    }

    fn queries(&self) -> Vec<f32> {
        vectors(20, self.dim, seed() + 1)
    }

    fn params(&self, given: &Value) -> SearchParams {
        SearchParams::parse(self.kind.index_type, given.as_object().unwrap()).unwrap()
    }

    fn everything(&self) -> SearchParams {
        self.params(&self.kind.everything)
    }

    fn search(
        &self,
        query: &[f32],
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
    ) -> Vec<Hit> {
        let raw = Untouchable { dim: self.dim };
        let (stop, mut hits) = (StopFlag::new(), Vec::new());
        let search = match params.range {
            Some(_) => VectorIndex::range_search,
            None => VectorIndex::search,
        };
        search(
            self.index.as_ref(),
            query,
            &raw,
            params,
            allow,
            k,
            &stop,
            &mut hits,
        )
        .unwrap();
        hits
    }

    /// The score of every row, by row.
    fn scores(&self, query: &[f32]) -> Vec<f32> {
        let mut hits = self.search(query, &self.everything(), None, ROWS);
        hits.sort_by_key(|hit| hit.row);
        let rows: Vec<u32> = hits.iter().map(|hit| hit.row).collect();
        assert_eq!(rows, (0..ROWS as u32).collect::<Vec<_>>());
        hits.iter().map(|hit| hit.score).collect()
    }

    /// Whether hits stand best first, equal scores by row, and have the scores that their rows have.
    fn check(&self, hits: &[Hit], scores: &[f32], what: &str) {
        for pair in hits.windows(2) {
            let order = self.metric.compare(pair[0].score, pair[1].score);
            let order = order.then(pair[0].row.cmp(&pair[1].row));
            assert!(order.is_lt(), "{} {what}: {pair:?}", self.name());
        }
        for hit in hits {
            let same = scores[hit.row as usize];
            assert_eq!(
                hit.score.to_bits(),
                same.to_bits(),
                "{} {what}",
                self.name()
            );
        }
    }
}

/// The exact score, by its definition.
fn exact(metric: MetricType, a: &[f32], b: &[f32]) -> f32 {
    let sum = |term: fn(f64, f64) -> f64| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| term(f64::from(*a), f64::from(*b))).sum()
    };
    let product = sum(|a, b| a * b);
    let score = match metric {
        MetricType::L2 => sum(|a, b| (a - b).powi(2)),
        MetricType::Ip => product,
        _ => product / (sum(|a, _| a * a) * sum(|_, b| b * b)).sqrt(),
    };
    score as f32
}

#[test]
fn scores_are_estimates_of_the_exact_ones_and_not_those() {
    for case in cases() {
        let mut others = 0;
        for query in case.queries().chunks(case.dim) {
            let rows = case.rows.chunks(case.dim);
            let exact: Vec<f32> = rows.map(|row| exact(case.metric, query, row)).collect();
            let low = exact.iter().copied().fold(f32::INFINITY, f32::min);
            let high = exact.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let (mut distance, mut total) = (0.0, 0.0);
            for (score, exact) in case.scores(query).iter().zip(&exact) {
                let error = (score - exact) / (high - low);
                distance += error.abs();
                total += error;
                others += usize::from(error.abs() > 1e-5);
            }
            let (distance, bias) = (distance / ROWS as f32, (total / ROWS as f32).abs());
            assert!(distance <= case.kind.slack, "{}: {distance}", case.name());
            // Too high about as often as too low.
            assert!(bias <= 0.7 * case.kind.slack, "{}: {bias}", case.name());
        }
        let is_exact = case.kind.index_type == IndexType::HnswSq && case.dim == 12;
        assert_eq!(others == 0, is_exact, "{}: {others}", case.name());
    }
}

#[test]
fn every_way_to_search_gives_the_scores_of_the_codes_and_reads_no_vector() {
    for case in cases() {
        let usual = case.params(&json!({}));
        let queries = case.queries();
        let mut together = Vec::new();
        let (raw, stop) = (Untouchable { dim: case.dim }, StopFlag::new());
        case.index
            .search_many(&queries, &raw, &usual, None, 10, &stop, &mut together)
            .unwrap();
        for (query, many) in queries.chunks(case.dim).zip(&together) {
            let scores = case.scores(query);
            let found = case.search(query, &usual, None, 10);
            assert_eq!(&found, many, "{}", case.name());
            assert_eq!(found, case.search(query, &usual, None, 10));
            case.check(&found, &scores, "usual");
            // The best of all, whatever the limit is.
            let all = case.search(query, &case.everything(), None, 200);
            case.check(&all, &scores, "everything");
            assert_eq!(all[..10], case.search(query, &case.everything(), None, 10));
            // Filters that a search walks through, scans instead, and that leave fewer than the limit.
            for every in [2, 7, 100, 700] {
                let allow = BitSet::from_fn(ROWS, |row| row % every == 1);
                let left = (0..ROWS).filter(|row| row % every == 1).count();
                for params in [&usual, &case.everything()] {
                    let found = case.search(query, params, Some(&allow), 10);
                    let what = format!("one of {every}");
                    case.check(&found, &scores, &what);
                    assert_eq!(found.len(), left.min(10), "{} {what}", case.name());
                    assert!(found.iter().all(|hit| allow.get(hit.row as usize)));
                }
            }
        }
    }
}

#[test]
fn a_range_is_one_of_the_scores_of_the_codes() {
    for case in cases() {
        for query in case.queries().chunks(case.dim) {
            let all = case.search(query, &case.everything(), None, ROWS);
            let half = BitSet::from_fn(ROWS, |row| row % 2 == 0);
            // Near, and so far that every row is scored.
            for (near, far) in [(5, 40), (1_000, 2_000)] {
                let range = RangeBounds {
                    radius: all[far].score,
                    range_filter: Some(all[near].score),
                };
                if range.validate(case.metric).is_err() {
                    continue;
                }
                let params = SearchParams {
                    range: Some(range),
                    ..case.everything()
                };
                for allow in [None, Some(&half)] {
                    let within = |hit: &&Hit| {
                        range.contains(case.metric, hit.score)
                            && allow.is_none_or(|set| set.get(hit.row as usize))
                    };
                    let expected: Vec<Hit> = all.iter().filter(within).copied().collect();
                    for limit in [ROWS, 20] {
                        let found = case.search(query, &params, allow, limit);
                        let expected = &expected[..limit.min(expected.len())];
                        assert_eq!(found, expected, "{} {near} {far}", case.name());
                    }
                }
            }
        }
    }
}

/// As pages of an iterator and rounds of groups are found: what was found before is excluded.
#[test]
fn searching_on_among_the_rest_continues_the_order() {
    for case in cases() {
        let queries = case.queries();
        let query = &queries[..case.dim];
        let all = case.search(query, &case.everything(), None, 60);
        let mut left = BitSet::full(ROWS);
        let mut found = Vec::new();
        for _ in 0..6 {
            let page = case.search(query, &case.everything(), Some(&left), 10);
            page.iter().for_each(|hit| left.clear(hit.row as usize));
            found.extend(page);
        }
        assert_eq!(found, all, "{}", case.name());
    }
}

#[test]
fn how_many_are_refined_is_taken_and_widens_the_walk_only() {
    for case in cases() {
        let key = match case.kind.index_type {
            IndexType::Scann => "reorder_k",
            _ => "refine_k",
        };
        let queries = case.queries();
        let query = &queries[..case.dim];
        let scores = case.scores(query);
        let found = case.search(query, &case.params(&json!({ key: 30 })), None, 10);
        case.check(&found, &scores, key);
        if key == "reorder_k" {
            let (stop, raw, mut hits) =
                (StopFlag::new(), Untouchable { dim: case.dim }, Vec::new());
            let params = case.params(&json!({"reorder_k": 9}));
            let error = case
                .index
                .search(query, &raw, &params, None, 10, &stop, &mut hits)
                .unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidParameter);
        }
    }
    // A pool of ten candidates misses some of the ten best; one of thirty times as many misses none.
    let rows = vectors(ROWS, 48, seed());
    let given = json!({"M": 4, "efConstruction": 20, "refine": false});
    let case = Case {
        index: built(
            &params(IndexType::HnswSq, MetricType::L2, &given),
            &rows,
            48,
        ),
        kind: kinds().into_iter().next().unwrap(),
        metric: MetricType::L2,
        dim: 48,
        rows,
    };
    let missed = |given: Value| -> usize {
        let missed = |query: &[f32]| {
            let best = case.search(query, &case.everything(), None, 10);
            let found = case.search(query, &case.params(&given), None, 10);
            best.iter().filter(|hit| !found.contains(hit)).count()
        };
        case.queries().chunks(48).map(missed).sum()
    };
    let (narrow, wide) = (
        missed(json!({"ef": 10})),
        missed(json!({"ef": 10, "refine_k": 30})),
    );
    assert!(narrow > wide + 5, "{narrow} {wide}");
}

#[test]
fn a_vector_without_direction_has_the_cosine_zero() {
    for kind in kinds() {
        let mut rows = vectors(ROWS, 24, seed());
        rows[7 * 24..8 * 24].fill(0.0);
        let params = params(kind.index_type, MetricType::Cosine, &kind.build);
        let case = Case {
            index: built(&params, &rows, 24),
            kind,
            metric: MetricType::Cosine,
            dim: 24,
            rows,
        };
        let queries = case.queries();
        assert_eq!(case.scores(&queries[..24])[7], 0.0, "{}", case.name());
        let zeros = case.search(&[0.0; 24], &case.everything(), None, 5);
        assert!(zeros.iter().all(|hit| hit.score == 0.0), "{zeros:?}");
        assert_eq!(zeros.len(), 5);
    }
}

#[test]
fn what_is_not_said_is_refined_and_written_as_before() {
    let rows = vectors(ROWS, 24, seed());
    let raw = RawSlice::new(&rows, 24).unwrap();
    for kind in kinds() {
        let mut given = kind.build.clone();
        for key in ["refine", "with_raw_data"] {
            given.as_object_mut().unwrap().remove(key);
        }
        let silent = params(kind.index_type, MetricType::L2, &given);
        let spoken = match kind.index_type {
            IndexType::Scann => json!({"with_raw_data": true}),
            _ => json!({"refine": "true", "refine_type": "FP16"}),
        };
        for (key, value) in spoken.as_object().unwrap() {
            given[key] = value.clone();
        }
        assert_eq!(params(kind.index_type, MetricType::L2, &given), silent);
        let index = built(&silent, &rows, 24);
        let bytes = bytes_of(index.as_ref());
        let name = kind.index_type.name();
        let version = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        // Flags are of version 4; graphs have later ones for other reasons.
        let is_graph = kind.index_type == IndexType::HnswSq;
        assert!(version < 4 || is_graph, "{name} is version {version}");
        assert_eq!(bytes[23], 0, "{name} has flags");
        let query = &rows[..24];
        let (stop, mut hits) = (StopFlag::new(), Vec::new());
        index
            .search(
                query,
                &raw,
                &SearchParams::default(),
                None,
                1,
                &stop,
                &mut hits,
            )
            .unwrap();
        assert_eq!(hits, [Hit { row: 0, score: 0.0 }]);
    }
}

#[test]
fn other_types_refuse_to_go_without_vectors() {
    let (rows, stop) = (vectors(200, 24, seed()), StopFlag::new());
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    for name in [
        "HNSW",
        "AUTOINDEX",
        "IVF_FLAT",
        "IVF_SQ8",
        "IVF_PQ",
        "DISKANN",
    ] {
        let mut params = params(IndexType::parse(name).unwrap(), MetricType::L2, &json!({}));
        (params.pq_m, params.is_refined) = (params.pq_m.min(8), false);
        let error = build(&params, &rows, 24, &options).err().unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidParameter, "{name}");
    }
}
