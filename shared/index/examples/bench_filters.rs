//! Measures recall and queries per second of one type of index under filters that know the query.
//!
//! Generated clustered data, one thread, `k` 10. Environment: `TYPE` (index type), `PARAMS` and `SEARCH` (JSON
//! objects of build and search parameters), `ROWS`, `DIM`, `QUERIES`, `ROUNDS`, `NEAREST` (rows that `without` excludes).
//!
//! | filter | allows |
//! | --- | --- |
//! | `none` | everything |
//! | `random` | a share of the rows |
//! | `beyond` | the furthest rows, so many |
//! | `without` | a share of the rows, none of the nearest |

use std::error::Error;
use std::str::FromStr;
use std::time::{Duration, Instant};

use redkite_index::{
    BuildOptions, Hit, IndexParams, RawSlice, SearchParams, VectorIndex, build, scan_topk,
};
use redkite_types::{BitSet, MetricType, StopFlag};
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const K: usize = 10;

/// Rows that `without` excludes.
fn nearest() -> usize {
    env("NEAREST", 1_000)
}

struct Data {
    dim: usize,
    rows: Vec<f32>,
    queries: Vec<f32>,
}

fn main() -> Result<()> {
    let data = generate(env("ROWS", 100_000), env("DIM", 128), env("QUERIES", 50));
    let kind = env("TYPE", "HNSW".to_owned());
    let (stop, count) = (StopFlag::new(), data.rows.len() / data.dim);
    let params = IndexParams::parse(&kind, "L2", &object("PARAMS")?)?;
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let index = build(&params, &data.rows, data.dim, &options)?;
    let params = SearchParams::parse(params.index_type, &object("SEARCH")?)?;
    println!("{kind} {count} x {} {params:?}", data.dim);
    let ranked: Vec<Vec<u32>> = data
        .queries
        .chunks(data.dim)
        .map(|query| Ok(rows(&data.exact(query, None, count)?)))
        .collect::<Result<_>>()?;
    let none = vec![None; ranked.len()];
    data.measure(index.as_ref(), &params, "none", &none)?;
    for share in [0.5, 0.1, 0.01] {
        let any = random(count, share);
        let beyond = |ranked: &Vec<u32>| {
            let mut set = BitSet::new(count);
            let selected = (count as f64 * share) as usize;
            ranked[count - selected..]
                .iter()
                .for_each(|row| set.set(*row as usize));
            Some(set)
        };
        let without = |ranked: &Vec<u32>| {
            let mut set = any.clone();
            ranked[..nearest()]
                .iter()
                .for_each(|row| set.clear(*row as usize));
            Some(set)
        };
        let sets = vec![Some(any.clone()); ranked.len()];
        data.measure(index.as_ref(), &params, &format!("random {share}"), &sets)?;
        let sets: Vec<_> = ranked.iter().map(beyond).collect();
        data.measure(index.as_ref(), &params, &format!("beyond {share}"), &sets)?;
        let sets: Vec<_> = ranked.iter().map(without).collect();
        data.measure(index.as_ref(), &params, &format!("without {share}"), &sets)?;
    }
    Ok(())
}

impl Data {
    fn exact(&self, query: &[f32], allow: Option<&BitSet>, k: usize) -> Result<Vec<Hit>> {
        let (stop, mut lists) = (StopFlag::new(), Vec::new());
        let metric = MetricType::L2;
        scan_topk(
            &self.rows, self.dim, metric, query, allow, k, &stop, &mut lists,
        )?;
        Ok(lists.remove(0))
    }

    /// Prints what is found with a filter for each query.
    fn measure(
        &self,
        index: &dyn VectorIndex,
        params: &SearchParams,
        name: &str,
        sets: &[Option<BitSet>],
    ) -> Result<()> {
        let raw = RawSlice::new(&self.rows, self.dim)?;
        let (stop, mut hits) = (StopFlag::new(), Vec::new());
        let (mut found, mut wanted, mut fastest) = (0, 0, Duration::MAX);
        for round in 0..env("ROUNDS", 5) {
            let mut spent = Duration::ZERO;
            for (query, allow) in self.queries.chunks(self.dim).zip(sets) {
                hits.clear();
                let start = Instant::now();
                index.search(query, &raw, params, allow.as_ref(), K, &stop, &mut hits)?;
                spent += start.elapsed();
                if round == 0 {
                    let truth = rows(&self.exact(query, allow.as_ref(), K)?);
                    found += hits.iter().filter(|hit| truth.contains(&hit.row)).count();
                    wanted += truth.len();
                }
            }
            fastest = fastest.min(spent);
        }
        println!(
            "{name}: recall@10 {:.3}, {:.0} queries/s",
            found as f64 / wanted as f64,
            sets.len() as f64 / fastest.as_secs_f64()
        );
        Ok(())
    }
}

fn rows(hits: &[Hit]) -> Vec<u32> {
    hits.iter().map(|hit| hit.row).collect()
}

fn random(rows: usize, share: f64) -> BitSet {
    let mut state = 42u64;
    BitSet::from_fn(rows, |_| uniform(&mut state) < share)
}

fn generate(rows: usize, dim: usize, queries: usize) -> Data {
    let mut state = 1u64;
    let mut gaussian = move || {
        let sum: f64 = (0..6).map(|_| uniform(&mut state)).sum();
        (sum - 3.0) as f32
    };
    let centres: Vec<f32> = (0..200 * dim).map(|_| gaussian()).collect();
    let mut draw = |count: usize| -> Vec<f32> {
        (0..count)
            .flat_map(|row| centres[row * 7919 % 200 * dim..][..dim].to_vec())
            .map(|centre| centre + 0.8 * gaussian())
            .collect()
    };
    Data {
        dim,
        rows: draw(rows),
        queries: draw(queries),
    }
}

fn uniform(state: &mut u64) -> f64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1u64 << 53) as f64
}

fn object(name: &str) -> Result<Map<String, Value>> {
    Ok(serde_json::from_str(&env(name, "{}".to_owned()))?)
}

fn env<T: FromStr>(name: &str, default: T) -> T {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}
