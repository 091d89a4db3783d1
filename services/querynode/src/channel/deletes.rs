//! The deletes of a channel that are in no delete file yet, or that a load may still have to apply.

use std::{collections::VecDeque, sync::Arc};

use redkite_segment::DeleteBatch;
use redkite_types::{PartitionId, PrimaryKeys, Timestamp};

/// Deletes in the order of their time, numbered from zero.
#[derive(Debug, Default)]
pub(crate) struct DeleteLog {
    batches: VecDeque<Arc<DeleteBatch>>,
    /// The number of the first one in `batches`.
    first: u64,
    /// Those with lower numbers are in delete files.
    flushed: u64,
    /// Memory that `batches` take up, roughly.
    bytes: usize,
}

impl DeleteLog {
    pub(crate) fn push(&mut self, batch: Arc<DeleteBatch>) {
        self.bytes += memory_bytes(&batch);
        self.batches.push_back(batch);
    }

    /// Memory that the deletes take up, in bytes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number that the next delete gets.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// Deletes from a number on that are still here.
    pub(crate) fn since(&self, number: u64) -> impl Iterator<Item = &Arc<DeleteBatch>> {
        self.batches
            .iter()
            .skip(number.saturating_sub(self.first) as usize)
    }

    /// Deletes that are in no delete file.
    pub(crate) fn unflushed(&self) -> impl Iterator<Item = &Arc<DeleteBatch>> {
        self.since(self.flushed)
    }

    /// Notes that all below a number are in delete files.
    pub(crate) fn mark_flushed(&mut self, below: u64) {
        self.flushed = self.flushed.max(below);
    }

    /// Forgets what is in delete files and below `needed_from`.
    pub(crate) fn trim(&mut self, needed_from: u64) {
        while self.first < self.flushed.min(needed_from)
            && let Some(batch) = self.batches.pop_front()
        {
            self.bytes -= memory_bytes(&batch);
            self.first += 1;
        }
    }
}

fn memory_bytes(batch: &DeleteBatch) -> usize {
    let keys = match &batch.keys {
        PrimaryKeys::Int(keys) => keys.len() * size_of::<i64>(),
        PrimaryKeys::Str(keys) => keys.iter().map(|key| key.len() + size_of::<String>()).sum(),
    };
    let beside = size_of::<Timestamp>() + size_of::<PartitionId>();
    size_of::<DeleteBatch>() + keys + batch.len() * beside
}

/// All deletes as one batch; `None` when there are none.
pub(crate) fn concat(batches: &[Arc<DeleteBatch>]) -> Option<DeleteBatch> {
    let first = batches.first()?;
    let mut whole = DeleteBatch {
        keys: first.keys.empty_like(),
        timestamps: Vec::new(),
        partitions: Vec::new(),
    };
    for batch in batches {
        match (&mut whole.keys, &batch.keys) {
            (PrimaryKeys::Int(all), PrimaryKeys::Int(keys)) => all.extend_from_slice(keys),
            (PrimaryKeys::Str(all), PrimaryKeys::Str(keys)) => all.extend_from_slice(keys),
            // The keys of one collection have one type.
            (PrimaryKeys::Int(_), PrimaryKeys::Str(_))
            | (PrimaryKeys::Str(_), PrimaryKeys::Int(_)) => continue,
        }
        whole.timestamps.extend_from_slice(&batch.timestamps);
        whole.partitions.extend_from_slice(&batch.partitions);
    }
    (!whole.is_empty()).then_some(whole)
}

#[cfg(test)]
mod tests {
    use redkite_segment::ALL_PARTITIONS;

    use super::*;

    fn batch(key: i64) -> Arc<DeleteBatch> {
        let ts = Timestamp(key as u64);
        Arc::new(DeleteBatch::at(
            PrimaryKeys::Int(vec![key]),
            ts,
            ALL_PARTITIONS,
        ))
    }

    #[test]
    fn deletes_stay_until_they_are_flushed_and_no_load_needs_them() {
        let mut log = DeleteLog::default();
        for key in 0..4 {
            log.push(batch(key));
        }
        log.mark_flushed(3);
        log.trim(1);
        assert_eq!(
            (log.since(0).count(), log.since(2).count(), log.end()),
            (3, 2, 4)
        );
        assert_eq!(log.unflushed().count(), 1);
        log.trim(u64::MAX);
        assert_eq!((log.since(0).count(), log.end()), (1, 4));
        assert_eq!(log.bytes(), memory_bytes(&batch(3)));
        let all: Vec<_> = [batch(1), batch(2)].into();
        assert_eq!(concat(&all).unwrap().keys, PrimaryKeys::Int(vec![1, 2]));
        assert_eq!(concat(&[]), None);
    }
}
