//! Sizes and times of the codecs that a data file may use, column by column.
//!
//! `cargo run --release -p redkite-segment --example codecs [text file, one value a line]`

#![allow(clippy::unwrap_used, reason = "a measurement may stop at any error")]

use std::{sync::Arc, time::Instant};

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use bytes::Bytes;
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
            RowSelector,
        },
    },
    basic::{Compression, ZstdLevel},
    file::{metadata::PageIndexPolicy, properties::WriterProperties},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const ROWS: usize = 100_000;
const WORDS: [&str; 24] = [
    "a", "the", "of", "river", "vector", "small", "bright", "window", "to", "in", "search",
    "green", "house", "and", "number", "seven", "with", "light", "is", "story", "index", "over",
    "quiet", "tree",
];

fn main() {
    let mut rng = StdRng::seed_from_u64(7);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(StringArray::from(texts(&mut rng)))),
        ("json", Arc::new(StringArray::from(documents(&mut rng)))),
        (
            "int64, random below 1,000",
            Arc::new(Int64Array::from_iter_values(
                (0..ROWS).map(|_| rng.random_range(0..1_000)),
            )),
        ),
        (
            "int64, random keys",
            Arc::new(Int64Array::from_iter_values(
                (0..ROWS).map(|_| rng.random::<i64>()),
            )),
        ),
        (
            "double, prices",
            Arc::new(Float64Array::from_iter_values(
                (0..ROWS).map(|_| f64::from(rng.random_range(0..100_000)) / 100.0),
            )),
        ),
    ];
    println!("| column | codec | rows a page | KB | encode ms | decode ms | ten rows ms |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (name, array) in columns {
        for page_rows in [1_024, 8_192] {
            for (codec, compression) in codecs() {
                let (bytes, encode) = timed(|| encode(array.clone(), compression, page_rows));
                let (_, decode) = timed(|| read(&bytes, None));
                let (_, ten) = timed(|| read(&bytes, Some(selection())));
                println!(
                    "| {name} | {codec} | {page_rows} | {} | {encode:.1} | {decode:.1} | {ten:.2} |",
                    bytes.len() / 1_000
                );
            }
        }
    }
}

fn codecs() -> [(&'static str, Compression); 4] {
    let zstd = |level| Compression::ZSTD(ZstdLevel::try_new(level).unwrap());
    [
        ("none", Compression::UNCOMPRESSED),
        ("lz4", Compression::LZ4_RAW),
        ("zstd 1", zstd(1)),
        ("zstd 3", zstd(3)),
    ]
}

fn texts(rng: &mut StdRng) -> Vec<String> {
    if let Some(path) = std::env::args().nth(1) {
        let text = std::fs::read_to_string(path).unwrap();
        return text.lines().take(ROWS).map(str::to_owned).collect();
    }
    (0..ROWS).map(|_| sentence(rng)).collect()
}

fn sentence(rng: &mut StdRng) -> String {
    let count = rng.random_range(4..30);
    let words: Vec<&str> = (0..count)
        .map(|_| WORDS[rng.random_range(0..WORDS.len())])
        .collect();
    words.join(" ")
}

fn documents(rng: &mut StdRng) -> Vec<String> {
    let document = |row: usize| {
        format!(
            r#"{{"id":{row},"colour":"{}","score":{:.4},"tags":["{}","{}"]}}"#,
            WORDS[rng.random_range(0..WORDS.len())],
            rng.random::<f64>(),
            WORDS[rng.random_range(0..WORDS.len())],
            WORDS[rng.random_range(0..WORDS.len())],
        )
    };
    (0..ROWS).map(document).collect()
}

/// The best of five.
fn timed<T>(mut work: impl FnMut() -> T) -> (T, f64) {
    let mut best = f64::MAX;
    let mut result = None;
    for _ in 0..5 {
        let started = Instant::now();
        result = Some(work());
        best = best.min(started.elapsed().as_secs_f64() * 1_000.0);
    }
    (result.unwrap(), best)
}

fn encode(array: ArrayRef, compression: Compression, page_rows: usize) -> Bytes {
    let field = Field::new("column", array.data_type().clone(), false);
    let schema = Arc::new(Schema::new(vec![field]));
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_data_page_row_count_limit(page_rows)
        .set_dictionary_page_size_limit(64 << 10)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).unwrap();
    writer
        .write(&RecordBatch::try_new(schema, vec![array]).unwrap())
        .unwrap();
    Bytes::from(writer.into_inner().unwrap())
}

fn read(bytes: &Bytes, selection: Option<RowSelection>) -> usize {
    let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
    let metadata = ArrowReaderMetadata::load(bytes, options).unwrap();
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata);
    if let Some(selection) = selection {
        builder = builder.with_row_selection(selection);
    }
    let reader = builder.with_batch_size(65_536).build().unwrap();
    reader.map(|batch| batch.unwrap().num_rows()).sum()
}

/// Ten rows, far from each other.
fn selection() -> RowSelection {
    let step = ROWS / 10;
    let selectors = (0..10).flat_map(|_| [RowSelector::skip(step - 1), RowSelector::select(1)]);
    selectors.collect::<Vec<_>>().into()
}
