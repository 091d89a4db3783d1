//! A filter costs no recall and no results, whatever it selects.

use redkite_index::{ColumnIndex, ColumnRows, Hit, Queries, SearchParams};
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

/// Which rows a filter allows, beside how many.
#[derive(Clone, Copy, Debug)]
enum How {
    /// Any.
    Random,
    /// Those of the clusters that are nearest to the query.
    Near,
    /// Those of the clusters that are furthest from it.
    Far,
    /// All that lie beyond a distance from the query.
    Beyond,
    /// Any but so many of the nearest. Deletes are a filter too: here they hit what a search leads to.
    Without(usize),
}

/// Every filter: the share of the rows that it allows, and which.
fn filters() -> impl Iterator<Item = (f64, How)> {
    let shares = [0.5, 0.1, 0.01, 0.001];
    let kinds = [
        How::Random,
        How::Near,
        How::Far,
        How::Beyond,
        How::Without(200),
        How::Without(1_000),
    ];
    shares
        .into_iter()
        .flat_map(move |share| kinds.map(|how| (share, how)))
}

impl How {
    /// The allowed rows, for a query of which all rows are `ranked`.
    fn allowed(self, share: f64, ranked: &[u32], rng: &mut Rng) -> BitSet {
        let selected = (ROWS as f64 * share) as usize;
        let mut any = || BitSet::from_fn(ROWS, |_| f64::from(rng.unit()) < share);
        match self {
            Self::Random => any(),
            Self::Near => of_rows(&by_cluster(ranked)[..selected]),
            Self::Far => of_rows(&by_cluster(ranked)[ROWS - selected..]),
            Self::Beyond => of_rows(&ranked[ROWS - selected..]),
            Self::Without(nearest) => {
                let mut allow = any();
                for row in &ranked[..nearest] {
                    allow.clear(*row as usize);
                }
                allow
            }
        }
    }
}

/// The least parameters that are enough without a filter.
fn least_effort(
    kind: &Kind,
    index: &ColumnIndex,
    column: &ColumnData,
    queries: &Queries,
) -> SearchParams {
    let want = truth(kind, column, queries, None, K);
    let nearer = kind.metric.larger_is_nearer();
    let enough = (0..6).find_map(|step| {
        let params = kind.search_params(&effort(kind.name, step)).unwrap();
        let lists = search(index, column, queries, &params, None, K).unwrap();
        let pairs = lists.iter().zip(&want);
        let hit: usize = pairs.map(|(hits, want)| found(hits, want, nearer)).sum();
        (hit as f64 >= 0.95 * (K * QUERIES) as f64).then(|| {
            println!("{}: step {step}", kind.name);
            params
        })
    });
    enough.unwrap_or_else(|| panic!("{} never reaches 0.95", kind.name))
}

#[test]
fn a_filter_costs_neither_recall_nor_results() {
    let mut rng = Rng::from_env();
    let mut low = Vec::new();
    for kind in &KINDS {
        let column = column(kind.data, ROWS, DIM, &mut rng);
        let index = kind.build(&[], &column);
        let queries = queries(&column, (0..QUERIES).map(|at| at * (ROWS / QUERIES)));
        let params = least_effort(kind, &index, &column, &queries);
        let ranks: Vec<_> = (0..QUERIES)
            .map(|query| ranked(kind, &column, &queries.only(query)))
            .collect();
        for (share, how) in filters() {
            let what = format!("{} {how:?} {share}", kind.name);
            let (mut hit, mut wanted) = (0, 0);
            for (query, ranked) in ranks.iter().enumerate() {
                let allow = how.allowed(share, ranked, &mut rng);
                let one = queries.only(query);
                let want = truth(kind, &column, &one, Some(&allow), K).remove(0);
                // Sparse rows that share nothing with a query have no score and are no results.
                if kind.data != DataType::SparseFloatVector {
                    assert_eq!(want.len(), K.min(allow.count_ones()), "{what}");
                }
                let hits = search(&index, &column, &one, &params, Some(&allow), K).unwrap();
                assert_eq!(hits[0].len(), want.len(), "{what}");
                let is_allowed = |hit: &Hit| allow.get(hit.row as usize);
                assert!(hits[0].iter().all(is_allowed), "{what}");
                hit += found(&hits[0], &want, kind.metric.larger_is_nearer());
                wanted += want.len();
            }
            let recall = hit as f64 / wanted.max(1) as f64;
            println!("{what}: {recall:.3} of {wanted}");
            if wanted > 0 && recall < 0.95 {
                low.push(format!("{what}: {recall:.3}"));
            }
        }
    }
    assert!(low.is_empty(), "{low:#?}");
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
