//! Delete files: the deletes of a channel that no log holds any more, as Parquet with the columns
//! `pk`, `ts` and `partition` (-1 for all).

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int64Array, StringArray};
use bytes::Bytes;
use redkite_storage::{ObjectStore, layout};
use redkite_types::{DataType, PartitionId, PrimaryKeys, SegmentId, Timestamp};

use crate::{
    delete::DeleteBatch,
    error::{Error, Result},
    file::{
        CheckedFiles, ColumnSpec, FileEntry, FileKind, InOrder, blocking, deletes_in_order,
        key_column, parquet_bytes, read_batches, reading,
    },
};

const VERSION_KEY: &str = "redkite.format_version";
/// Version of the delete files written by this build.
const FORMAT_VERSION: u32 = 1;

/// Writes the deletes of a channel as one file.
///
/// # Errors
/// `Encode` · `Storage`
pub async fn write_delta(
    store: &dyn ObjectStore,
    channel: &str,
    id: i64,
    batch: DeleteBatch,
) -> Result<FileEntry> {
    let path = layout::delta(channel, id);
    let bytes = blocking(SegmentId(id), move || encode(id, &batch)).await?;
    let entry = FileEntry::of(FileKind::Delta, path, &bytes);
    store.put(&entry.path, bytes).await?;
    Ok(entry)
}

/// Reads a delete file, after checking its checksum.
///
/// # Errors
/// `Storage` · `Corrupt` · `UnsupportedVersion`
pub async fn read_delta(store: &dyn ObjectStore, entry: &FileEntry) -> Result<DeleteBatch> {
    let bytes = entry.read(store).await?;
    let path = entry.path.clone();
    reading(&entry.path, move || decode(&path, bytes)).await
}

/// Opens a delete file to be read some deletes at a time, after checking its checksum; `key` is the type of the keys.
///
/// # Errors
/// `Storage` · `Corrupt` · `UnsupportedVersion`
pub async fn stream_delta(
    store: &dyn ObjectStore,
    entry: &FileEntry,
    key: DataType,
    checked: &CheckedFiles,
) -> Result<InOrder> {
    deletes_in_order(store, entry, key, checked, FORMAT_VERSION).await
}

fn encode(id: i64, batch: &DeleteBatch) -> Result<Bytes> {
    let (keys_spec, keys) = key_column("pk", &batch.keys);
    let times = batch.timestamps.iter().map(|ts| ts.0 as i64);
    let partitions = batch.partitions.iter().map(|partition| partition.0);
    let arrays: Vec<ArrayRef> = vec![
        keys,
        Arc::new(Int64Array::from_iter_values(times)),
        Arc::new(Int64Array::from_iter_values(partitions)),
    ];
    let specs = vec![
        keys_spec,
        ColumnSpec::sequence("ts"),
        ColumnSpec::sequence("partition"),
    ];
    let metadata = vec![(VERSION_KEY.to_owned(), FORMAT_VERSION.to_string())];
    parquet_bytes(specs, metadata, std::iter::once(Ok(arrays))).map_err(|source| Error::Encode {
        segment: SegmentId(id),
        source,
    })
}

fn decode(path: &str, bytes: Bytes) -> Result<DeleteBatch> {
    let corrupt = |reason: &dyn std::fmt::Display| Error::corrupt(path, reason);
    let (metadata, batches) = read_batches(bytes).map_err(|error| corrupt(&error))?;
    let version = metadata.get(VERSION_KEY).and_then(|text| text.parse().ok());
    match version {
        Some(found) if found > FORMAT_VERSION => {
            return Err(Error::UnsupportedVersion {
                path: path.to_owned(),
                found,
                supported: FORMAT_VERSION,
            });
        }
        Some(_) => {}
        None => return Err(corrupt(&"it names no format version")),
    }
    let mut keys: Option<PrimaryKeys> = None;
    let (mut timestamps, mut partitions) = (Vec::new(), Vec::new());
    for batch in batches {
        let batch = batch.map_err(|error| corrupt(&error))?;
        let column = |name: &str| {
            let found = batch.column_by_name(name);
            found.ok_or_else(|| corrupt(&format!("column {name} is missing")))
        };
        append_keys(&mut keys, column("pk")?).map_err(|reason| corrupt(&reason))?;
        let times = integers(column("ts")?).map_err(|reason| corrupt(&reason))?;
        timestamps.extend(times.iter().map(|ts| Timestamp(*ts as u64)));
        let ids = integers(column("partition")?).map_err(|reason| corrupt(&reason))?;
        partitions.extend(ids.iter().map(|id| PartitionId(*id)));
    }
    Ok(DeleteBatch {
        keys: keys.unwrap_or(PrimaryKeys::Int(Vec::new())),
        timestamps,
        partitions,
    })
}

fn integers(array: &ArrayRef) -> Result<&[i64], String> {
    let numbers = array.as_any().downcast_ref::<Int64Array>();
    let numbers = numbers.filter(|numbers| numbers.null_count() == 0);
    match numbers {
        Some(numbers) => Ok(numbers.values()),
        None => Err(format!("a column is {} or has nulls", array.data_type())),
    }
}

fn append_keys(keys: &mut Option<PrimaryKeys>, array: &ArrayRef) -> Result<(), String> {
    if let Some(texts) = array.as_any().downcast_ref::<StringArray>() {
        let all = keys.get_or_insert(PrimaryKeys::Str(Vec::new()));
        if let PrimaryKeys::Str(all) = all {
            all.extend(texts.iter().flatten().map(str::to_owned));
        }
        return Ok(());
    }
    let numbers = integers(array)?;
    let all = keys.get_or_insert(PrimaryKeys::Int(Vec::new()));
    if let PrimaryKeys::Int(all) = all {
        all.extend_from_slice(numbers);
    }
    Ok(())
}
