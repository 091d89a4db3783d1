//! The engine's side of `tests/bench/bench_engine.py`: builds, searches and loads one index on one
//! thread, as told line by line on the standard input.
//!
//! `bench_engine BASE QUERIES DIM METRIC`: both files are row-major little-endian f32. Each line is a
//! JSON object with `do`, and is answered by one:
//!
//! | `do` | takes | answers |
//! | --- | --- | --- |
//! | `build` | `index_type`, `params` | `seconds`, `bytes` |
//! | `open` | `file` (an index written before) | |
//! | `search` | `params`, `k`, `count` (queries, all by default), `out` (file for the rows found, u32), `filter` (file with a byte a row, or null) | `seconds` (of the thread's CPU) |
//! | `load` | `file` (to write to) | `load_ms` (read into memory), `map_ms` |

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use bytes::Bytes;
use redkite_index::{
    BuildOptions, IndexParams, RawSlice, SearchParams, VectorIndex, build, load, map_file,
    open_file,
};
use redkite_types::{BitSet, StopFlag};
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Data {
    dim: usize,
    metric: String,
    base: Bytes,
    queries: Vec<f32>,
}

impl Data {
    fn rows(&self) -> &[f32] {
        bytemuck::cast_slice(&self.base)
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [base, queries, dim, metric] = &args[..] else {
        return Err("BASE QUERIES DIM METRIC".into());
    };
    let data = Data {
        dim: dim.parse()?,
        metric: metric.clone(),
        // Mapped, so that many of these processes have it in memory once.
        base: map_file(&std::fs::File::open(base)?)?,
        queries: floats(queries)?,
    };
    let mut index: Option<Box<dyn VectorIndex>> = None;
    println!("{}", json!({ "kernels": redkite_index::kernel_name() }));
    for line in std::io::stdin().lock().lines() {
        let command: Map<String, Value> = serde_json::from_str(&line?)?;
        let answer = match (text(&command, "do"), &index) {
            ("build", _) => {
                // The old one first, so that memory holds one at a time.
                drop(index.take());
                let (built, answer) = build_index(&data, &command)?;
                index = Some(built);
                answer
            }
            ("open", _) => {
                let file = std::fs::File::open(text(&command, "file"))?;
                index = Some(load(file)?);
                json!({})
            }
            ("search", Some(index)) => search(&data, index.as_ref(), &command)?,
            ("load", Some(index)) => load_index(index.as_ref(), &command)?,
            (other, _) => return Err(format!("cannot {other}").into()),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn build_index(data: &Data, command: &Map<String, Value>) -> Result<(Box<dyn VectorIndex>, Value)> {
    let none = Map::new();
    let given = command.get("params").and_then(Value::as_object);
    let index_type = text(command, "index_type");
    let params = IndexParams::parse(index_type, &data.metric, given.unwrap_or(&none))?;
    let stop = StopFlag::new();
    let options = BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop: &stop,
    };
    let start = Instant::now();
    let index = build(&params, data.rows(), data.dim, &options)?;
    let answer = json!({
        "seconds": start.elapsed().as_secs_f64(),
        "bytes": index.memory_bytes(),
    });
    Ok((index, answer))
}

fn search(data: &Data, index: &dyn VectorIndex, command: &Map<String, Value>) -> Result<Value> {
    let none = Map::new();
    let given = command.get("params").and_then(Value::as_object);
    let params = SearchParams::parse(index.index_type(), given.unwrap_or(&none))?;
    let k = command.get("k").and_then(Value::as_u64).unwrap_or(10) as usize;
    let all = data.queries.len() / data.dim;
    let count = command.get("count").and_then(Value::as_u64);
    let count = count.map_or(all, |count| count as usize);
    let allow = match text(command, "filter") {
        "" => None,
        path => {
            let bytes = std::fs::read(path)?;
            Some(BitSet::from_fn(bytes.len(), |row| bytes[row] != 0))
        }
    };
    let raw = RawSlice::new(data.rows(), data.dim)?;
    let (stop, mut hits, mut rows) = (StopFlag::new(), Vec::new(), Vec::new());
    let start = cpu_ns()?;
    for query in data.queries.chunks_exact(data.dim).take(count) {
        hits.clear();
        index.search(query, &raw, &params, allow.as_ref(), k, &stop, &mut hits)?;
        rows.extend(hits.iter().map(|hit| hit.row));
        rows.resize(rows.len() + k - hits.len(), u32::MAX);
    }
    let seconds = (cpu_ns()? - start) as f64 / 1e9;
    std::fs::write(text(command, "out"), bytemuck::cast_slice(&rows))?;
    Ok(json!({ "seconds": seconds }))
}

/// Nanoseconds that this thread has run: time in which the machine ran others does not count.
fn cpu_ns() -> Result<u64> {
    // The system brings the figure up to date only at its ticks, milliseconds apart, and whenever the
    // thread gives way.
    std::thread::yield_now();
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(stat.split(' ').next().unwrap_or_default().parse()?)
}

fn load_index(index: &dyn VectorIndex, command: &Map<String, Value>) -> Result<Value> {
    let path = text(command, "file");
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    index.write(&mut file)?;
    file.flush()?;
    let start = Instant::now();
    let loaded = load(std::fs::File::open(path)?)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    let mapped = open_file(path.as_ref())?;
    let map_ms = start.elapsed().as_secs_f64() * 1e3;
    assert_eq!(loaded.len(), mapped.len());
    Ok(json!({ "load_ms": load_ms, "map_ms": map_ms }))
}

fn text<'a>(command: &'a Map<String, Value>, key: &str) -> &'a str {
    command.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn floats(path: &str) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    let (values, _) = bytes.as_chunks::<4>();
    Ok(values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect())
}
