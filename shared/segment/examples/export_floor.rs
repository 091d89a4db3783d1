//! How fast the same rows become a Parquet file straight from memory: the floor of `bench-export`.
//!
//! `cargo run --release -p redkite-segment --example export_floor -- ROWS DIM [FILE]`
//!
//! Without a file to write, which is synced then, the bytes are thrown away.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::Arc,
    time::Instant,
};

use arrow_array::{ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Schema};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
    schema::types::ColumnPath,
};

const BATCH: usize = 4_096;
const ROW_GROUP_BYTES: usize = 16 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (numbers, files): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|text| text.parse::<usize>().is_ok());
    let mut numbers = numbers.iter().map(|text| text.parse::<usize>());
    let rows = numbers.next().transpose()?.unwrap_or(100_000);
    let dim = numbers.next().transpose()?.unwrap_or(128);
    let element = Arc::new(Field::new("element", DataType::Float32, false));
    let scalars = ["id", "a", "b", "c"].map(|name| Field::new(name, DataType::Int64, false));
    let mut fields = scalars.to_vec();
    fields.push(Field::new("price", DataType::Float32, false));
    fields.push(Field::new("city", DataType::Utf8, false));
    fields.push(Field::new("vector", DataType::List(element.clone()), false));
    let schema = Arc::new(Schema::new(fields));
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut batches = Vec::new();
    for first in (0..rows).step_by(BATCH) {
        let count = BATCH.min(rows - first);
        let ids = Int64Array::from_iter_values((first..first + count).map(|id| id as i64));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(ids)];
        for limit in [10, 1_000, 1_000_000] {
            let values = (0..count).map(|_| (random() % limit) as i64);
            columns.push(Arc::new(Int64Array::from_iter_values(values)));
        }
        let prices = (0..count).map(|_| (random() >> 40) as f32);
        columns.push(Arc::new(Float32Array::from_iter_values(prices)));
        let cities = (0..count).map(|_| format!("city{}", random() % 100));
        columns.push(Arc::new(StringArray::from_iter_values(cities)));
        let flat = (0..count * dim).map(|_| (random() >> 40) as f32 / 16_777_216.0);
        let flat = Arc::new(Float32Array::from_iter_values(flat));
        let offsets = OffsetBuffer::from_repeated_length(dim, count);
        columns.push(Arc::new(ListArray::try_new(
            element.clone(),
            offsets,
            flat,
            None,
        )?));
        batches.push(RecordBatch::try_new(schema.clone(), columns)?);
    }
    let path = ColumnPath::from(vec!["vector".into(), "list".into(), "element".into()]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_column_dictionary_enabled(path, false)
        .build();
    let started = Instant::now();
    let mut target = Target(files.first().map(File::create).transpose()?);
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
    let mut bytes = 0;
    for batch in &batches {
        writer.write(batch)?;
        if writer.in_progress_size() >= ROW_GROUP_BYTES {
            writer.flush()?;
        }
        bytes += target.take(&std::mem::take(writer.inner_mut()))?;
    }
    bytes += target.take(&writer.into_inner()?)?;
    target.finish()?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{rows} {bytes} {seconds:.3}");
    Ok(())
}

/// Where the bytes go.
struct Target(Option<File>);

impl Target {
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = &mut self.0 {
            file.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn finish(self) -> io::Result<()> {
        self.0.map_or(Ok(()), |file| file.sync_all())
    }
}
