//! Writes into memory, in the log's order; the same for new writes and for those replayed.

use std::sync::Arc;

use redkite_runtime::{CpuPool, Priority};
use redkite_segment::{DeleteBatch, GrowingSegment, SealedSegment, SegmentMeta};
use redkite_types::{Error, PartitionId, Result, RowBatch, RowId, SegmentId, Timestamp};
use redkite_wal::Lsn;

use super::{
    prepare::PreparedWrite,
    state::{Growing, State},
};
use crate::deps::Coordinators;

/// Fewer rows than this are applied without leaving the owner's task.
const INLINE_ROWS: usize = 64;
/// What a row takes up beyond its columns: hidden columns and the key map's entry.
const ROW_OVERHEAD_BYTES: usize = 64;

/// One change of segments.
enum Step {
    Delete(Arc<DeleteBatch>),
    Append {
        segment: Arc<GrowingSegment>,
        batch: RowBatch,
        row_ids: Vec<RowId>,
        ts: Timestamp,
    },
}

/// Changes that are made in order.
pub(crate) struct Steps {
    steps: Vec<Step>,
    growing: Vec<Arc<GrowingSegment>>,
    sealed: Vec<Arc<SealedSegment>>,
    rows: usize,
    deletes: usize,
    /// Rows for partitions that have no growing segment.
    homeless: usize,
}

impl State {
    /// Makes sure that each partition of the writes has a growing segment.
    ///
    /// # Errors
    /// When there are no ids for new ones; nothing has changed but that some were made.
    pub(crate) async fn make_room(
        &mut self,
        partitions: impl IntoIterator<Item = PartitionId>,
        coordinators: &dyn Coordinators,
    ) -> Result<()> {
        for partition in partitions {
            if self.growing.contains_key(&partition) {
                continue;
            }
            let id = SegmentId(self.take_id(coordinators).await?);
            let meta = SegmentMeta {
                collection: self.collection,
                partition,
                segment: id,
                schema: self.schema.clone(),
            };
            let rows = Arc::new(GrowingSegment::new(meta));
            self.growing.insert(
                partition,
                Growing {
                    rows,
                    id,
                    partition,
                    bytes: 0,
                },
            );
        }
        Ok(())
    }

    /// Begins a list of changes.
    pub(crate) fn steps(&self) -> Steps {
        let growing = self.growing.values().chain(&self.sealing);
        let sealed = self.in_memory().cloned();
        Steps {
            steps: Vec::new(),
            growing: growing.map(|growing| growing.rows.clone()).collect(),
            sealed: sealed.collect(),
            rows: 0,
            deletes: 0,
            homeless: 0,
        }
    }

    /// Adds a durable write to the list and takes note of it. Its partitions must have room.
    pub(crate) fn plan(
        &mut self,
        steps: &mut Steps,
        lsn: Lsn,
        ts: Timestamp,
        mut write: PreparedWrite,
    ) {
        if let Some(deletes) = write.take_deletes(ts) {
            let deletes = Arc::new(deletes);
            steps.deletes += deletes.len();
            self.deletes.push(deletes.clone());
            steps.steps.push(Step::Delete(deletes));
        }
        for rows in write.inserts {
            let Some(growing) = self.growing.get_mut(&rows.partition) else {
                steps.homeless += rows.batch.len();
                continue;
            };
            growing.bytes += rows.batch.memory_bytes() + rows.batch.len() * ROW_OVERHEAD_BYTES;
            steps.rows += rows.batch.len();
            steps.steps.push(Step::Append {
                segment: growing.rows.clone(),
                batch: rows.batch,
                row_ids: rows.row_ids,
                ts,
            });
        }
        self.applied_lsn = self.applied_lsn.max(lsn);
        self.applied_ts = self.applied_ts.max(ts);
    }
}

impl Steps {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn deletes(&self) -> usize {
        self.deletes
    }

    /// Makes the changes.
    ///
    /// # Errors
    /// A bug, since every write was checked before: memory is not what the log says any more.
    pub(crate) async fn run(self, cpu: &CpuPool) -> Result<()> {
        if self.homeless > 0 {
            let rows = self.homeless;
            return Err(Error::internal(format!("no segment takes {rows} rows")));
        }
        let weight = self.rows + self.deletes * (1 + self.sealed.len());
        let done = if weight <= INLINE_ROWS {
            self.run_here()
        } else {
            cpu.run(Priority::Search, move || self.run_here()).await?
        };
        done.map_err(|error| Error::from_coded(&error))
    }

    fn run_here(self) -> redkite_segment::Result<()> {
        for step in self.steps {
            match step {
                Step::Delete(batch) => {
                    for segment in &self.growing {
                        segment.delete(&batch);
                    }
                    for segment in &self.sealed {
                        segment.delete(&batch);
                    }
                }
                Step::Append {
                    segment,
                    batch,
                    row_ids,
                    ts,
                } => {
                    let times = vec![ts; batch.len()];
                    segment.append(batch, row_ids, times)?;
                }
            }
        }
        Ok(())
    }
}
