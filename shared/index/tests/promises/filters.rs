//! A filter costs no recall and no results, whatever it selects.

use redkite_index::{ColumnRows, Hit, Queries, SearchParams};
use redkite_types::{BitSet, ColumnData, DataType, StopFlag};
use serde_json::{Value, json};

use crate::{CLUSTERS, KINDS, Kind, Rng, column, queries, search};

const ROWS: usize = 12_000;
const DIM: usize = 24;
const K: usize = 10;
const QUERIES: usize = 12;

/// Parameters of growing effort.
fn effort(name: &str, step: u32) -> Value {
    let candidates = 16usize << step;
    match name {
        "HNSW" | "HNSW_SQ" => json!({"ef": candidates}),
        "HNSW_PQ" => json!({"ef": candidates * 2}),
        "AUTOINDEX" => json!({"level": (2 * step + 1).min(10)}),
        "DISKANN" => json!({"search_list": candidates}),
        "SCANN" => json!({"nprobe": 2 << step, "reorder_k": 50 << step}),
        "IVF_RABITQ" => json!({"nprobe": 2 << step, "refine_k": 10 << step}),
        _ if name.contains("IVF") => json!({"nprobe": 2 << step}),
        _ => json!({}),
    }
}

fn truth(
    kind: &Kind,
    column: &ColumnData,
    queries: &Queries,
    allow: Option<&BitSet>,
    k: usize,
) -> Vec<Vec<Hit>> {
    let (stop, mut lists) = (StopFlag::new(), Vec::new());
    let rows = ColumnRows::of(column).unwrap();
    let params = SearchParams::default();
    rows.scan(queries, kind.metric, &params, allow, k, &stop, &mut lists)
        .unwrap();
    lists
}

/// The part of what should be found that is; counted by score, since rows may be equally near.
fn found(hits: &[Hit], want: &[Hit], larger_is_nearer: bool) -> usize {
    let Some(last) = want.last() else { return 0 };
    let slack = last.score.abs() * 1e-5 + 1e-6;
    let is_near = |hit: &&Hit| match larger_is_nearer {
        true => hit.score >= last.score - slack,
        false => hit.score <= last.score + slack,
    };
    hits.iter().filter(is_near).count().min(want.len())
}

/// All rows, the nearest to a query first.
fn ranked(kind: &Kind, column: &ColumnData, query: &Queries) -> Vec<u32> {
    let all = truth(kind, column, query, None, ROWS);
    let mut rows: Vec<u32> = all[0].iter().map(|hit| hit.row).collect();
    // Rows that share nothing with a sparse query have no score.
    let mut seen = BitSet::new(ROWS);
    rows.iter().for_each(|row| seen.set(*row as usize));
    rows.extend((0..ROWS as u32).filter(|row| !seen.get(*row as usize)));
    rows
}

#[test]
fn a_filter_costs_neither_recall_nor_results() {
    let mut rng = Rng::from_env();
    let mut low = Vec::new();
    for kind in &KINDS {
        // Sparse rows that share nothing with a query are no results, and so not all that match are.
        if kind.data == DataType::SparseFloatVector {
            continue;
        }
        let column = column(kind.data, ROWS, DIM, &mut rng);
        let index = kind.build(&[], &column);
        let queries = queries(&column, (0..QUERIES).map(|at| at * (ROWS / QUERIES)));
        let nearer = kind.metric.larger_is_nearer();
        let want = truth(kind, &column, &queries, None, K);
        let recall = |params: &SearchParams| {
            let lists = search(&index, &column, &queries, params, None, K).unwrap();
            let pairs = lists.iter().zip(&want);
            pairs
                .map(|(hits, want)| found(hits, want, nearer))
                .sum::<usize>() as f64
                / (K * QUERIES) as f64
        };
        // The least effort that is enough without a filter.
        let step = (0..6).find(|step| {
            let params = kind.search_params(&effort(kind.name, *step)).unwrap();
            recall(&params) >= 0.95
        });
        let step = step.unwrap_or_else(|| panic!("{} never reaches 0.95", kind.name));
        let params = kind.search_params(&effort(kind.name, step)).unwrap();
        let ranks: Vec<_> = (0..QUERIES)
            .map(|query| ranked(kind, &column, &queries.only(query)))
            .collect();
        for share in [0.5, 0.1, 0.01, 0.001] {
            let selected = (ROWS as f64 * share) as usize;
            for how in ["random", "near", "far", "random without the nearest"] {
                let (mut hit, mut wanted) = (0, 0);
                for (query, ranked) in ranks.iter().enumerate() {
                    let allow = match how {
                        "random" => BitSet::from_fn(ROWS, |_| f64::from(rng.unit()) < share),
                        "near" => of_rows(&by_cluster(ranked)[..selected]),
                        "far" => of_rows(&by_cluster(ranked)[ROWS - selected..]),
                        // Deletes are a filter too: here they hit what a walk leads to.
                        _ => {
                            let mut allow =
                                BitSet::from_fn(ROWS, |_| f64::from(rng.unit()) < share);
                            for row in &ranked[..200] {
                                allow.clear(*row as usize);
                            }
                            allow
                        }
                    };
                    let one = queries.only(query);
                    let want = truth(kind, &column, &one, Some(&allow), K).remove(0);
                    let hits = search(&index, &column, &one, &params, Some(&allow), K).unwrap();
                    let what = format!("{} {how} {share}", kind.name);
                    assert_eq!(hits[0].len(), K.min(allow.count_ones()), "{what}");
                    assert!(
                        hits[0].iter().all(|hit| allow.get(hit.row as usize)),
                        "{what}"
                    );
                    hit += found(&hits[0], &want, nearer);
                    wanted += want.len();
                }
                let recall = hit as f64 / wanted.max(1) as f64;
                println!("{} step {step} {how} {share}: {recall:.3}", kind.name);
                if recall < least(kind.name, how) {
                    low.push(format!("{} {how} {share}: {recall:.3}", kind.name));
                }
            }
        }
    }
    assert!(low.is_empty(), "{low:#?}");
}

/// The recall that there must be: 0.95, but for what is known to miss it (`docs/benchmarks.md`). There it is a
/// floor below what was measured.
fn least(name: &str, how: &str) -> f64 {
    match how {
        "random without the nearest" if ["HNSW_PQ", "SCANN", "IVF_RABITQ"].contains(&name) => 0.65,
        _ => 0.95,
    }
}

/// All rows, cluster by cluster, the one that comes first in the ranking first.
fn by_cluster(ranked: &[u32]) -> Vec<u32> {
    let mut first = [usize::MAX; CLUSTERS];
    for (rank, row) in ranked.iter().enumerate() {
        let cluster = *row as usize % CLUSTERS;
        first[cluster] = first[cluster].min(rank);
    }
    let mut rows = ranked.to_vec();
    rows.sort_by_key(|row| (first[*row as usize % CLUSTERS], *row));
    rows
}

fn of_rows(rows: &[u32]) -> BitSet {
    let mut set = BitSet::new(ROWS);
    rows.iter().for_each(|row| set.set(*row as usize));
    set
}
