//! Writes the deletes of several delete files that still count as one.

use redkite_node::{DiskUse, MemoryUse};
use redkite_proto::redkite::{
    datanode::{CompactRequest, CompactResponse},
    meta::DeltaInfo,
};
use redkite_runtime::Priority;
use redkite_segment::{DeleteBatch, delta::write_delta, manifest};
use redkite_types::{Error, ErrorCode, PrimaryKeys, Result, Timestamp};
use tracing::info;

use crate::compact::{Compactor, read_deletes};

/// Memory that a delete takes while files are merged: as read, and as written.
const DELETE_BYTES: u64 = 128;

impl Compactor {
    /// Reads the delete files of a request, leaves out deletes that are not needed, and writes the
    /// rest in the order of their times. The same request writes the same bytes to the same key.
    ///
    /// # Errors
    /// Code 1009 when a file is damaged, 7 while the disk is full, 3 while memory is. Others as the
    /// store says.
    pub(crate) async fn merge_deletes(&self, request: CompactRequest) -> Result<CompactResponse> {
        let rows: i64 = request.deltas.iter().map(|delta| delta.rows).sum();
        let what = format!("compaction plan {}", request.plan_id);
        let claimed = rows.unsigned_abs().saturating_mul(DELETE_BYTES);
        self.memory.claim(MemoryUse::Background, &what, claimed)?;
        let files = request
            .deltas
            .iter()
            .filter_map(|delta| delta.file.as_ref());
        let bytes = files.map(|file| file.size).sum();
        self.disk.claim(DiskUse::Background, bytes)?;
        let mut batches = Vec::with_capacity(request.deltas.len());
        for delta in &request.deltas {
            batches.push(read_deletes(&*self.store, delta).await?);
        }
        let after = Timestamp(request.deletes_needed_after);
        let work = move || merged(&batches, after);
        let batch = self.cpu.run(Priority::Build, work).await??;
        let rows_written = batch.len() as i64;
        let delta = match batch.is_empty() {
            true => None,
            false => Some(self.write(&request, batch).await?),
        };
        info!(
            plan = request.plan_id,
            delete_files = request.deltas.len(),
            deletes_read = rows,
            deletes_written = rows_written,
            "delete files merged"
        );
        Ok(CompactResponse {
            segments: Vec::new(),
            rows_read: rows,
            rows_written,
            delta,
        })
    }

    async fn write(&self, request: &CompactRequest, batch: DeleteBatch) -> Result<DeltaInfo> {
        let (id, channel) = (request.delta_target, &request.channel);
        let collection = request.deltas.first().map(|delta| delta.collection_id);
        let delta = DeltaInfo {
            id,
            collection_id: collection.unwrap_or_default(),
            channel: channel.clone(),
            rows: batch.len() as i64,
            min_ts: batch.timestamps.first().map_or(0, |ts| ts.0),
            max_ts: batch.timestamps.last().map_or(0, |ts| ts.0),
            file: None,
        };
        let file = write_delta(&*self.store, channel, id, batch).await;
        let file = file.map_err(|error| Error::from_coded(&error))?;
        let verified = file.verify(&*self.store).await;
        verified.map_err(|error| Error::from_coded(&error))?;
        Ok(DeltaInfo {
            file: Some(manifest::to_file(&file)),
            ..delta
        })
    }
}

/// The deletes later than `after`, in the order of their times; of one time as they came.
///
/// # Errors
/// Code 1009 when the keys are of several types.
fn merged(batches: &[DeleteBatch], after: Timestamp) -> Result<DeleteBatch> {
    let mut places: Vec<(Timestamp, usize, usize)> = Vec::new();
    for (number, batch) in batches.iter().enumerate() {
        let times = batch.timestamps.iter().enumerate();
        let needed = times.filter(|(_, ts)| **ts > after);
        places.extend(needed.map(|(index, ts)| (*ts, number, index)));
    }
    places.sort_unstable();
    let typed = batches.iter().find(|batch| !batch.is_empty());
    let mut whole = DeleteBatch {
        keys: typed.map_or(PrimaryKeys::Int(Vec::new()), |batch| {
            batch.keys.empty_like()
        }),
        timestamps: Vec::with_capacity(places.len()),
        partitions: Vec::with_capacity(places.len()),
    };
    for (ts, number, index) in places {
        let batch = &batches[number];
        match (&mut whole.keys, &batch.keys) {
            (PrimaryKeys::Int(all), PrimaryKeys::Int(keys)) => all.push(keys[index]),
            (PrimaryKeys::Str(all), PrimaryKeys::Str(keys)) => all.push(keys[index].clone()),
            (PrimaryKeys::Int(_), PrimaryKeys::Str(_))
            | (PrimaryKeys::Str(_), PrimaryKeys::Int(_)) => {
                return Err(Error::new(
                    ErrorCode::DataIntegrity,
                    "the delete files of one channel have keys of several types",
                ));
            }
        }
        whole.timestamps.push(ts);
        whole.partitions.push(batch.partitions[index]);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use redkite_segment::ALL_PARTITIONS;
    use redkite_types::PartitionId;

    use super::*;

    fn batch(deletes: &[(i64, u64, i64)]) -> DeleteBatch {
        DeleteBatch {
            keys: PrimaryKeys::Int(deletes.iter().map(|one| one.0).collect()),
            timestamps: deletes.iter().map(|one| Timestamp(one.1)).collect(),
            partitions: deletes.iter().map(|one| PartitionId(one.2)).collect(),
        }
    }

    #[test]
    fn deletes_are_merged_in_the_order_of_their_times_and_needless_ones_left_out() {
        let all = ALL_PARTITIONS.0;
        let files = [
            batch(&[(1, 10, all), (2, 30, 5), (3, 30, 5)]),
            batch(&[]),
            batch(&[(1, 20, all), (4, 30, all), (2, 40, 6)]),
        ];
        let want = batch(&[
            (1, 20, all),
            (2, 30, 5),
            (3, 30, 5),
            (4, 30, all),
            (2, 40, 6),
        ]);
        assert_eq!(merged(&files, Timestamp(10)).unwrap(), want);
        assert_eq!(merged(&files, Timestamp(9)).unwrap().len(), 6);
        assert!(merged(&files, Timestamp(40)).unwrap().is_empty());
        let texts = DeleteBatch::at(
            PrimaryKeys::Str(vec!["a".into()]),
            Timestamp(50),
            ALL_PARTITIONS,
        );
        assert_eq!(
            merged(std::slice::from_ref(&texts), Timestamp(0)).unwrap(),
            texts
        );
        assert!(merged(&[files[0].clone(), texts], Timestamp(0)).is_err());
    }
}
