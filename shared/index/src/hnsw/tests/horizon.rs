//! Walks that end by distance.

use super::*;

/// Rows evenly spread over so many of the dimensions, turned so that all of them are used.
fn in_subspace(rows: usize, inner: usize, dim: usize, rng: &mut Rng) -> Vec<f32> {
    let axes: Vec<Vec<f32>> = (0..inner)
        .map(|_| (0..dim).map(|_| rng.gaussian()).collect())
        .collect();
    let mut values = vec![0f32; rows * dim];
    for row in values.chunks_mut(dim) {
        for axis in &axes {
            let along = rng.unit() as f32;
            row.iter_mut()
                .zip(axis)
                .for_each(|(value, part)| *value += along * part);
        }
    }
    values
}

#[test]
fn the_dimension_of_rows_is_that_of_the_space_they_fill() {
    let mut rng = Rng::from_env();
    // 8 of them are kept as f32, 48 as codes and 200 as codes in halves.
    for (inner, dim) in [(3, 8), (3, 48), (5, 48), (8, 48), (4, 200)] {
        let rows = in_subspace(6000, inner, dim, &mut rng);
        for metric in [MetricType::L2, MetricType::Cosine] {
            let params = IndexParams::hnsw(metric, 16, 100);
            let measured = build(&params, &rows, dim, 1).dimension.unwrap();
            // Without lengths it is one less, and rows at the edge have neighbours on one side.
            let least = match metric {
                MetricType::Cosine => inner - 1,
                _ => inner,
            };
            let range = least as f32 * 0.75..inner as f32 * 1.1;
            assert!(
                range.contains(&measured),
                "{metric} {inner} of {dim}: {measured}"
            );
        }
    }
}

#[test]
fn where_no_dimension_can_be_told_a_walk_goes_by_the_effort_alone() {
    let mut rng = Rng::from_env();
    let rows = in_subspace(600, 4, 24, &mut rng);
    let of = |metric, rows: &[f32]| {
        let index = build(&IndexParams::hnsw(metric, 8, 60), rows, 24, 1);
        index.dimension
    };
    assert!(of(MetricType::L2, &rows).is_some());
    assert!(of(MetricType::L2, &rows[..500 * 24]).is_none(), "few rows");
    assert!(of(MetricType::Ip, &rows).is_none(), "no distances");
    let same: Vec<f32> = rows[..24].repeat(600);
    assert!(of(MetricType::L2, &same).is_none(), "one row");
    let pq = IndexParams {
        index_type: IndexType::HnswPq,
        pq_m: 8,
        nbits: 4,
        ..IndexParams::hnsw(MetricType::L2, 8, 60)
    };
    assert!(build(&pq, &rows, 24, 1).dimension.is_none());
}

/// Makes all rows of a matrix as long as that.
fn make_long(length: f32, rows: &mut [f32], dim: usize) {
    for row in rows.chunks_mut(dim) {
        let share = length * crate::raw::inverse_norm(row);
        row.iter_mut().for_each(|value| *value *= share);
    }
}

/// Half of the rows and queries lie in few dimensions and half in many, far from each other; of inner products all
/// rows are equally long.
fn unlike(metric: MetricType, dim: usize) -> Case {
    let mut rng = Rng::from_env();
    let (mut rows, mut queries) = (Vec::new(), Vec::new());
    for (inner, away) in [(3, 0.0), (16, 40.0)] {
        let mut values = in_subspace(6000 + 100, inner, dim, &mut rng);
        if metric == MetricType::Ip {
            make_long(3.0, &mut values, dim);
        } else {
            values.iter_mut().for_each(|value| *value += away);
        }
        queries.extend(values.split_off(6000 * dim));
        rows.extend(values);
    }
    let index = build(&IndexParams::hnsw(metric, 8, 60), &rows, dim, 1);
    Case {
        dim,
        rows,
        queries,
        index,
    }
}

#[test]
fn where_queries_are_unlike_the_same_effort_finds_more() {
    for (metric, dim) in [(MetricType::L2, 24), (MetricType::Ip, 200)] {
        check_unlike(unlike(metric, dim));
    }
}

fn check_unlike(mut case: Case) {
    let mut rng = Rng::from_env();
    let half = BitSet::from_fn(case.len(), |_| rng.unit() < 0.5);
    for (name, allow) in [("all", None), ("half", Some(&half))] {
        let mut of_all = Vec::new();
        let dimension = case.index.dimension;
        for horizon in [dimension, None] {
            case.index.dimension = horizon;
            of_all.push([12, 16, 24, 40].map(|ef| case.recall(ef, allow, 10)));
        }
        case.index.dimension = dimension;
        for (by_distance, by_effort) in of_all[0].iter().zip(&of_all[1]) {
            assert!(by_distance + 0.01 >= *by_effort, "{name}: {of_all:?}");
        }
        let sums = [0, 1].map(|of| of_all[of].iter().sum::<f64>());
        println!("{} {name}: {sums:?}", case.dim);
        // Directions differ less: with a filter both may find the same.
        let is_more = sums[0] > sums[1] || case.index.metric == MetricType::Ip && allow.is_some();
        assert!(is_more, "{name}: {of_all:?}");
    }
}

/// 8 dimensions are kept as f32, 48 as codes and 200 as codes in halves.
#[test]
fn inner_products_of_rows_of_one_length_have_the_dimension_of_their_directions() {
    let mut rng = Rng::from_env();
    for (inner, dim) in [(3, 8), (5, 48), (4, 200)] {
        let mut rows = in_subspace(6000, inner, dim, &mut rng);
        make_long(7.0, &mut rows, dim);
        let of = |metric, rows: &[f32]| {
            build(&IndexParams::hnsw(metric, 16, 100), rows, dim, 1).dimension
        };
        let [directions, products] =
            [MetricType::Cosine, MetricType::Ip].map(|metric| of(metric, &rows));
        let ratio = products.unwrap() / directions.unwrap();
        assert!(
            (ratio - 1.0).abs() < 0.15,
            "{inner} of {dim}: {products:?}, {directions:?}"
        );
        make_long(7.01, &mut rows[..dim], dim);
        assert!(of(MetricType::Ip, &rows).is_none(), "one is longer");
        rows[..dim].fill(0.0);
        assert!(of(MetricType::Ip, &rows).is_none(), "one is zero");
    }
}

/// Rows of one direction nearly, whose lengths differ by more than their directions do, as far as they may.
#[test]
fn lengths_that_are_a_little_unequal_end_no_walk_early() {
    let (dim, mut rng) = (12, Rng::from_env());
    let (mut rows, mut queries) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let middle: Vec<f32> = (0..dim).map(|_| rng.gaussian()).collect();
        for number in 0..305 {
            let mut row: Vec<f32> = middle
                .iter()
                .map(|value| value + 0.02 * rng.gaussian())
                .collect();
            make_long(1.0 + 0.0008 * (rng.unit() as f32 - 0.5), &mut row, dim);
            match number < 300 {
                true => rows.extend(row),
                false => queries.extend(row),
            }
        }
    }
    let index = build(&IndexParams::hnsw(MetricType::Ip, 16, 100), &rows, dim, 1);
    let mut case = Case {
        dim,
        rows,
        queries,
        index,
    };
    assert!(case.index.dimension.is_some());
    let by_distance = [16, 32, 64].map(|ef| case.recall(ef, None, 10));
    case.index.dimension = None;
    let by_effort = [16, 32, 64].map(|ef| case.recall(ef, None, 10));
    println!("{by_distance:?} {by_effort:?}");
    for (by_distance, by_effort) in by_distance.iter().zip(&by_effort) {
        assert!(
            by_distance + 0.01 >= *by_effort,
            "{by_distance} {by_effort}"
        );
    }
}

#[test]
fn the_length_of_a_query_of_inner_products_does_not_count() {
    for dim in [8, 48, 200] {
        let mut case = unlike(MetricType::Ip, dim);
        let mut file = Vec::new();
        case.index.write(&mut file).unwrap();
        let read = crate::load(std::io::Cursor::new(file)).unwrap();
        let raw = RawSlice::new(&case.rows, dim).unwrap();
        let params = SearchParams::with_ef(24);
        for query in case.queries.chunks(dim) {
            let rows_of = |index: &dyn VectorIndex, times: f32| {
                let query: Vec<f32> = query.iter().map(|value| value * times).collect();
                let mut hits = Vec::new();
                let stop = StopFlag::new();
                index
                    .search(&query, &raw, &params, None, 10, &stop, &mut hits)
                    .unwrap();
                hits.iter().map(|hit| hit.row).collect::<Vec<_>>()
            };
            let expected = rows_of(&case.index, 1.0);
            // Powers of two, which round nothing.
            assert_eq!(rows_of(&case.index, 64.0), expected, "{dim}");
            assert_eq!(rows_of(&case.index, 1.0 / 64.0), expected, "{dim}");
            assert_eq!(
                rows_of(read.as_ref(), 1.0),
                expected,
                "as read from its file"
            );
        }
        // Whose squares are no numbers, or none but zero.
        let queries = case.queries[..20 * dim].to_vec();
        let usual = {
            case.queries = queries.clone();
            case.recall(48, None, 10)
        };
        for times in [0.0, 1e-25, 1e25] {
            case.queries = queries.iter().map(|value| value * times).collect();
            let recall = case.recall(48, None, 10);
            // Those go by the effort alone, which may find a little less.
            let is_found = recall + 0.1 >= usual || times == 0.0;
            assert!(is_found, "{dim}, {times}: {recall}, not {usual}");
        }
    }
}

#[test]
fn rows_that_are_there_many_times_are_found_and_what_lies_beyond_them() {
    let mut rng = Rng::from_env();
    let dim = 24;
    let mut rows = in_subspace(4000, 6, dim, &mut rng);
    let same = rows[..dim].to_vec();
    for row in rows.chunks_mut(dim).take(400).step_by(10) {
        row.copy_from_slice(&same);
    }
    let index = build(&IndexParams::hnsw(MetricType::L2, 16, 100), &rows, dim, 1);
    assert!(index.dimension.is_some());
    let far = vec![50.0; dim];
    let case = Case {
        dim,
        rows,
        queries: [same, far].concat(),
        index,
    };
    let hits = case.search(&case.queries[..dim], &SearchParams::with_ef(16), None, 10);
    assert!(hits.iter().all(|hit| hit.score == 0.0), "{hits:?}");
    // Forty are the same, and of all others the query is as far away as of anything.
    for (k, ef) in [(60, 64), (100, 200), (1, 1), (2000, 2000)] {
        let recall = case.recall(ef, None, k);
        assert!(recall >= 0.9 || k == 1, "{k} of {ef}: {recall}");
    }
}
