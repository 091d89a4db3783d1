//! From the log to the state: when a channel is opened, and after the log has failed.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt as _, stream::Fuse};
use redkite_runtime::{CpuPool, Priority};
use redkite_types::{CollectionSchema, Error, ErrorCode, PartitionId, Result, Timestamp};
use redkite_wal::{ChannelLog, Lsn, Record, RecordStream};
use tokio::time::Instant;
use tracing::info;

use super::{
    Channel, SyncTarget,
    owner::Owner,
    prepare::{self, PreparedWrite},
    state::State,
};
use crate::{
    deps::{Coordinators, Shared},
    metrics,
};

/// Records that are decoded and applied together.
const RECORDS: usize = 64;
/// Bytes of records after which no more are added.
const RECORD_BYTES: usize = 8 << 20;

impl Channel {
    /// Opens a channel's log, replays it from the checkpoint and starts the owner. Nothing is
    /// served yet.
    ///
    /// # Errors
    /// The log's own; code 1009 when it does not reach the checkpoint.
    pub(crate) async fn open(shared: &Arc<Shared>, target: &SyncTarget) -> Result<Arc<Self>> {
        let started = Instant::now();
        let log = shared.deps.log.open(&target.channel, target.epoch).await;
        let log = log.map_err(|error| cannot_open(&target.channel, &error))?;
        let mut state = State::new(target);
        let replayed = state.replay(
            &*log,
            &*shared.deps.coordinators,
            &shared.deps.cpu,
            &target.partitions,
        );
        let records = match Box::pin(replayed).await {
            Ok(records) => records,
            Err(error) => {
                log.close().await;
                return Err(error.context(format!("cannot recover channel {}", target.channel)));
            }
        };
        metrics::recovered(records, started.elapsed());
        info!(
            channel = %target.channel,
            epoch = target.epoch,
            checkpoint = state.checkpoint.lsn.0,
            records,
            ms = started.elapsed().as_millis() as u64,
            "channel opened"
        );
        let (channel, inbox) = Self::new(shared.clone(), &target.channel, target.epoch, &state);
        Owner::start(channel.clone(), state, log, inbox);
        Ok(channel)
    }
}

impl State {
    /// Brings memory up to the log's end. Rows of partitions that are not among `existing` are left
    /// out. Answers how many records there were.
    async fn replay(
        &mut self,
        log: &dyn ChannelLog,
        coordinators: &dyn Coordinators,
        cpu: &CpuPool,
        existing: &BTreeSet<PartitionId>,
    ) -> Result<usize> {
        let from = self.applied_lsn.next();
        if from > log.last_lsn().next() {
            return Err(Error::new(
                ErrorCode::DataIntegrity,
                format!("the log ends at record {}, before {from}", log.last_lsn()),
            ));
        }
        let stream = log
            .read_from(from)
            .map_err(|error| Error::from_coded(&error))?;
        let mut stream = stream.fuse();
        let mut count = 0;
        loop {
            let records = next_records(&mut stream).await?;
            if records.is_empty() {
                return Ok(count);
            }
            count += records.len();
            let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
            self.log_bytes += bytes as u64;
            let schema = self.schema.clone();
            let decode = move || decode_all(records, &schema);
            let mut writes = cpu.run(Priority::Search, decode).await??;
            for (_, _, write) in &mut writes {
                write
                    .inserts
                    .retain(|rows| existing.contains(&rows.partition));
            }
            let rows = writes.iter().flat_map(|(_, _, write)| &write.inserts);
            let partitions: BTreeSet<PartitionId> = rows.map(|rows| rows.partition).collect();
            self.make_room(partitions, coordinators).await?;
            let mut steps = self.steps();
            for (lsn, ts, write) in writes {
                self.plan(&mut steps, lsn, ts, write);
            }
            steps.run(cpu).await?;
        }
    }
}

fn cannot_open(channel: &str, error: &redkite_wal::Error) -> Error {
    Error::from_coded(error).context(format!("cannot open the log of channel {channel}"))
}

/// The next few records; none at the end.
async fn next_records(stream: &mut Fuse<RecordStream>) -> Result<Vec<Record>> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    while records.len() < RECORDS && bytes < RECORD_BYTES {
        let Some(record) = stream.next().await else {
            break;
        };
        let record = record.map_err(|error| Error::from_coded(&error))?;
        bytes += record.payload.len();
        records.push(record);
    }
    Ok(records)
}

fn decode_all(
    records: Vec<Record>,
    schema: &Arc<CollectionSchema>,
) -> Result<Vec<(Lsn, Timestamp, PreparedWrite)>> {
    let decode = |record: Record| {
        let (ts, write) = prepare::decode(record.payload, schema)
            .map_err(|error| error.context(format!("record {}", record.lsn)))?;
        Ok((record.lsn, ts, write))
    };
    records.into_iter().map(decode).collect()
}

impl Owner {
    /// Opens the log again after a failure, under the same epoch. Writes whose fate was unknown and
    /// which turn out to be in it are applied.
    ///
    /// # Errors
    /// The log's own; it is tried again with the next write.
    pub(super) async fn reopen_log(&mut self) -> Result<()> {
        let shared = self.channel.shared.clone();
        let log = shared
            .deps
            .log
            .open(&self.channel.name, self.channel.epoch)
            .await;
        let log = log.map_err(|error| Error::from_coded(&error))?;
        // Every partition whose rows were taken and is not gone.
        let partitions: BTreeSet<PartitionId> = self
            .state
            .known
            .iter()
            .chain(self.state.growing.keys())
            .chain(self.state.sealing.iter().map(|growing| &growing.partition))
            .filter(|partition| !self.state.forgotten.contains(partition))
            .copied()
            .collect();
        let replayed = self.state.replay(
            &*log,
            &*shared.deps.coordinators,
            &shared.deps.cpu,
            &partitions,
        );
        if let Err(error) = Box::pin(replayed).await {
            log.close().await;
            return Err(error);
        }
        self.log = Some(log);
        self.publish();
        Ok(())
    }
}
