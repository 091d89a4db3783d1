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

/// Half of the rows and queries lie in few dimensions and half in many, far from each other.
fn unlike(dim: usize) -> Case {
    let mut rng = Rng::from_env();
    let (mut rows, mut queries) = (Vec::new(), Vec::new());
    for (inner, away) in [(3, 0.0), (16, 40.0)] {
        let mut values = in_subspace(6000 + 100, inner, dim, &mut rng);
        values.iter_mut().for_each(|value| *value += away);
        queries.extend(values.split_off(6000 * dim));
        rows.extend(values);
    }
    let index = build(&IndexParams::hnsw(MetricType::L2, 8, 60), &rows, dim, 1);
    Case {
        dim,
        rows,
        queries,
        index,
    }
}

#[test]
fn where_queries_are_unlike_the_same_effort_finds_more() {
    let mut case = unlike(24);
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
        assert!(sums[0] > sums[1], "{name}: {of_all:?}");
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
