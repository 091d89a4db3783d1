//! Measures recall, queries per second, build time and memory of the engine on one thread.
//!
//! `bench_index [base.npy query.npy truth.npy [L2|IP|COSINE]]`: base and queries are f16 or f32
//! `[n, dim]` arrays, the truth an i32 `[nq, ≥ 10]` array of row numbers. Without files it generates
//! clustered data and scans for the truth. Environment: `M`, `EFC`, `THREADS`, `ROUNDS`,
//! `EF` (measure only this one), `NQ` (queries of a request; several numbers take turns), `INDEX` (keep
//! the index in this file), `ROWS`, `DIM` and `QUERIES` (generated).

use std::error::Error;
use std::str::FromStr;
use std::time::{Duration, Instant};

use redkite_index::{
    BuildOptions, Hit, IndexParams, RawSlice, SearchParams, VectorIndex, build, load, scan_topk,
};
use redkite_types::StopFlag;
use redkite_types::{BitSet, MetricType};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Data {
    dim: usize,
    metric: MetricType,
    base: Vec<f32>,
    queries: Vec<f32>,
    truth: Vec<Vec<u32>>,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let data = read(&args)?;
    let rows = data.base.len() / data.dim;
    println!(
        "{rows} x {} {} kernels={}",
        data.dim,
        data.metric,
        redkite_index::kernel_name()
    );
    let stop = StopFlag::new();
    let params = IndexParams::hnsw(data.metric, env("M", 16), env("EFC", 128));
    let options = BuildOptions {
        threads: env("THREADS", 1),
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let index = index(&params, &data, &options)?;
    let only: usize = env("EF", 0);
    if only > 0 {
        return measure(
            &data,
            index.as_ref(),
            &format!("ef {only}"),
            only,
            None,
            &data.truth,
        );
    }
    for ef in [10, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256] {
        measure(
            &data,
            index.as_ref(),
            &format!("ef {ef}"),
            ef,
            None,
            &data.truth,
        )?;
    }
    for percent in [50.0, 10.0, 5.0, 1.0, 0.1] {
        let mut state = 42u64;
        let allow = BitSet::from_fn(rows, |_| uniform(&mut state) * 100.0 < percent);
        let truth = exact(&data, Some(&allow))?;
        for ef in [24, 48, 96] {
            let name = format!("filter {percent} % ef {ef}");
            measure(&data, index.as_ref(), &name, ef, Some(&allow), &truth)?;
        }
    }
    Ok(())
}

/// Builds the index, or opens the file named by `INDEX` if there is one; else writes it there.
fn index(
    params: &IndexParams,
    data: &Data,
    options: &BuildOptions<'_>,
) -> Result<Box<dyn VectorIndex>> {
    let path: String = env("INDEX", String::new());
    let start = Instant::now();
    if let Ok(file) = std::fs::File::open(&path) {
        let index = load(file)?;
        println!("open {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
        return Ok(index);
    }
    let index = build(params, &data.base, data.dim, options)?;
    println!(
        "build {:.1} s on {} threads, {:.1} MB",
        start.elapsed().as_secs_f64(),
        options.threads,
        index.memory_bytes() as f64 / 1e6,
    );
    if !path.is_empty() {
        index.write(&mut std::io::BufWriter::new(std::fs::File::create(&path)?))?;
    }
    Ok(index)
}

fn measure(
    data: &Data,
    index: &dyn VectorIndex,
    name: &str,
    ef: usize,
    allow: Option<&BitSet>,
    truth: &[Vec<u32>],
) -> Result<()> {
    let raw = RawSlice::new(&data.base, data.dim)?;
    let (params, stop) = (SearchParams::with_ef(ef), StopFlag::new());
    let requests: String = env("NQ", "1".to_owned());
    let requests: Vec<usize> = requests
        .split(',')
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    let mut lists: Vec<Vec<Hit>> = Vec::new();
    let mut fastest = vec![Duration::MAX; requests.len()];
    for _ in 0..env("ROUNDS", 5) {
        for (request, fastest) in requests.iter().zip(&mut fastest) {
            lists.clear();
            let start = Instant::now();
            for queries in data.queries.chunks((*request).max(1) * data.dim) {
                index.search_many(queries, &raw, &params, allow, 10, &stop, &mut lists)?;
            }
            *fastest = start.elapsed().min(*fastest);
        }
    }
    let found = |(hits, truth): (&Vec<Hit>, &Vec<u32>)| {
        hits.iter().filter(|hit| truth.contains(&hit.row)).count()
    };
    let found: usize = lists.iter().zip(truth).map(found).sum();
    let wanted: usize = truth.iter().map(Vec::len).sum();
    let recall = found as f64 / wanted as f64;
    for (request, fastest) in requests.iter().zip(fastest) {
        let speed = truth.len() as f64 / fastest.as_secs_f64();
        println!("{name}, nq {request}: recall@10 {recall:.4}, {speed:.0} queries/s");
    }
    Ok(())
}

fn exact(data: &Data, allow: Option<&BitSet>) -> Result<Vec<Vec<u32>>> {
    let (stop, mut lists) = (StopFlag::new(), Vec::new());
    scan_topk(
        &data.base,
        data.dim,
        data.metric,
        &data.queries,
        allow,
        10,
        &stop,
        &mut lists,
    )?;
    let rows = |hits: Vec<Hit>| hits.iter().map(|hit| hit.row).collect();
    Ok(lists.into_iter().map(rows).collect())
}

fn read(args: &[String]) -> Result<Data> {
    let [base, query, truth, rest @ ..] = args else {
        return generate();
    };
    let (base, dim) = floats(base)?;
    let (queries, _) = floats(query)?;
    let (header, body) = npy(truth)?;
    let width = header.1;
    let numbers: Vec<u32> = body
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let metric = MetricType::parse(rest.first().map_or("COSINE", String::as_str))?;
    Ok(Data {
        dim,
        metric,
        base,
        queries,
        truth: numbers
            .chunks(width)
            .map(|row| row[..10].to_vec())
            .collect(),
    })
}

fn generate() -> Result<Data> {
    let (rows, dim) = (env("ROWS", 100_000), env("DIM", 128));
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
    let mut data = Data {
        dim,
        metric: MetricType::L2,
        base: draw(rows),
        queries: draw(env("QUERIES", 500)),
        truth: Vec::new(),
    };
    data.truth = exact(&data, None)?;
    Ok(data)
}

fn floats(path: &str) -> Result<(Vec<f32>, usize)> {
    let ((kind, dim), body) = npy(path)?;
    let values = match kind.as_str() {
        "<f2" => body
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        "<f4" => body
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        other => return Err(format!("{path} holds {other}").into()),
    };
    Ok((values, dim))
}

/// Type and width of a two-dimensional array, and its bytes.
fn npy(path: &str) -> Result<((String, usize), Vec<u8>)> {
    let file = std::fs::read(path)?;
    let header_end = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    let header = String::from_utf8_lossy(&file[10..header_end]).into_owned();
    let between = |from: &str, to: char| -> Option<&str> {
        let rest = &header[header.find(from)? + from.len()..];
        Some(&rest[..rest.find(to)?])
    };
    let kind = between("'descr': '", '\'').ok_or("no type")?.to_owned();
    let shape = between("'shape': (", ')').ok_or("no shape")?;
    let width = shape
        .split(',')
        .nth(1)
        .ok_or("not a matrix")?
        .trim()
        .parse()?;
    Ok(((kind, width), file[header_end..].to_vec()))
}

fn uniform(state: &mut u64) -> f64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1u64 << 53) as f64
}

fn env<T: FromStr>(name: &str, default: T) -> T {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}
