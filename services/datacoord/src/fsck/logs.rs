//! Every channel's log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures::StreamExt as _;
use prost::Message as _;
use redkite_catalog::CatalogView;
use redkite_node::NodeOptions;
use redkite_proto::redkite::querynode::WalEntry;
use redkite_runtime::TaskGroup;
use redkite_storage::ObjectStore;
use redkite_types::error::chain;
use redkite_wal::{
    Damage, LocalLogStore, LocalOptions, LogStore, Lsn, ObjectLogStore, ObjectOptions,
};

use super::report::{Problem, Report};

/// How often a log that looks damaged is copied again: its owner may have written meanwhile.
const COPIES: usize = 3;

/// What a log is like.
#[derive(Clone, Debug, Default)]
pub struct LogState {
    /// Its last record, zero of none; absent when it is not known.
    pub last_lsn: Option<u64>,
    /// Records that were read.
    pub records: u64,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// Whether it could not be read to its end.
    pub is_damaged: bool,
}

/// Reads logs without changing them.
#[async_trait]
pub trait LogCheck: Send + Sync {
    /// The channels that have a log.
    ///
    /// # Errors
    /// Text that says why they cannot be listed.
    async fn channels(&self) -> Result<Vec<String>, String>;

    /// Reads one log to its end, and checks that every record from `from` on is there.
    async fn check(&self, channel: &str, from: Lsn) -> LogState;
}

/// The logs of a deployment, as its configuration has them. Local ones are those of this machine.
pub fn logs_of(
    options: &NodeOptions,
    store: Arc<dyn ObjectStore>,
    tasks: TaskGroup,
) -> Arc<dyn LogCheck> {
    match options.wal_in_objects() {
        true => {
            let logs = ObjectLogStore::new(store, ObjectOptions::default(), tasks);
            Arc::new(StoredLogs { logs })
        }
        false => Arc::new(CopiedLogs::new(options.wal_dir())),
    }
}

/// Reads every log; answers what each is like.
pub(super) async fn check(
    logs: &dyn LogCheck,
    view: &CatalogView,
    report: &mut Report,
) -> BTreeMap<String, LogState> {
    let mut states = BTreeMap::new();
    let present: BTreeSet<String> = match logs.channels().await {
        Ok(channels) => channels.into_iter().collect(),
        Err(what) => {
            report.problem("logs", None, what, "nothing is known of it");
            return states;
        }
    };
    for entry in view.all_collections() {
        for (channel, checkpoint) in &entry.checkpoints {
            if !present.contains(channel) {
                report.problem(
                    format!("log of channel {channel}"),
                    None,
                    "it is not there",
                    format!("every write from record {} on", checkpoint.lsn),
                );
            }
        }
    }
    for channel in present {
        let collection = redkite_catalog::keys::collection_of_channel(&channel);
        let entry = collection.and_then(|id| view.collection_by_id(id));
        let checkpoint = entry.and_then(|entry| entry.checkpoints.get(&channel));
        // What is before the checkpoint may have been let go.
        let from = Lsn(checkpoint.map_or(1, |checkpoint| checkpoint.lsn.max(1)));
        let state = logs.check(&channel, from).await;
        report.logs += 1;
        report.log_records += state.records;
        report.problems.extend(state.problems.iter().cloned());
        if entry.is_none() {
            report.notes.push(format!(
                "the log of channel {channel} belongs to no collection"
            ));
        }
        states.insert(channel, state);
    }
    states
}

/// Logs in local files. Opening one cuts its tail and takes its lock, so a copy of it is opened.
#[derive(Debug)]
pub struct CopiedLogs {
    dir: PathBuf,
}

impl CopiedLogs {
    /// Logs below a directory, as [`LocalLogStore`] has them.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    async fn read_copy(&self, channel: &str) -> io::Result<LogState> {
        let copy = tempfile::tempdir()?;
        let (from, to) = (self.dir.join(channel), copy.path().join(channel));
        let copied = tokio::task::spawn_blocking(move || copy_files(&from, &to)).await;
        copied.map_err(io::Error::other)??;
        let mut state = LogState::default();
        if let Err(error) = read(copy.path(), channel, &mut state).await {
            let original = self.dir.display().to_string();
            state.is_damaged = true;
            state.problems.push(problem(
                &error,
                channel,
                &copy.path().display().to_string(),
                &original,
                state.last_lsn.unwrap_or(0),
            ));
        }
        Ok(state)
    }
}

#[async_trait]
impl LogCheck for CopiedLogs {
    async fn channels(&self) -> Result<Vec<String>, String> {
        let store = LocalLogStore::new(&self.dir, LocalOptions::default());
        store.channels().await.map_err(|error| chain(&error))
    }

    async fn check(&self, channel: &str, from: Lsn) -> LogState {
        let mut last = LogState::default();
        for _ in 0..COPIES {
            match self.read_copy(channel).await {
                Ok(state) if state.problems.is_empty() => {
                    last = state;
                    break;
                }
                Ok(state) => last = state,
                Err(error) => {
                    last = LogState {
                        is_damaged: true,
                        problems: vec![Problem {
                            place: self.dir.join(channel).display().to_string(),
                            offset: None,
                            what: format!("it cannot be copied: {error}"),
                            lost: "nothing is known of it".to_owned(),
                        }],
                        ..LogState::default()
                    };
                }
            }
        }
        // Also where no record is harmed: what lies behind the last one, and headers.
        let store = LocalLogStore::new(&self.dir, LocalOptions::default());
        add_damage(store.check(channel, from).await, channel, &mut last);
        last
    }
}

/// Logs in the object store.
#[derive(Debug)]
struct StoredLogs {
    logs: ObjectLogStore,
}

#[async_trait]
impl LogCheck for StoredLogs {
    async fn channels(&self) -> Result<Vec<String>, String> {
        self.logs.channels().await.map_err(|error| chain(&error))
    }

    async fn check(&self, channel: &str, from: Lsn) -> LogState {
        let mut state = LogState::default();
        add_damage(self.logs.check(channel, from).await, channel, &mut state);
        state
    }
}

/// Adds what a log's own check has found and what is not known yet.
fn add_damage(found: redkite_wal::Result<Vec<Damage>>, channel: &str, state: &mut LogState) {
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            state.is_damaged = true;
            state.problems.push(problem(&error, channel, "", "", 0));
            return;
        }
    };
    for damage in found {
        let place = damage.file.display().to_string();
        let known =
            |problem: &Problem| problem.place == place && problem.offset == Some(damage.offset);
        if state.problems.iter().any(known) {
            continue;
        }
        state.is_damaged = true;
        state.problems.push(Problem {
            place,
            offset: Some(damage.offset),
            what: damage.reason,
            lost: format!(
                "the writes of channel {channel} there and behind it that are not flushed, if any"
            ),
        });
    }
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Reads all records of a log that may be changed.
async fn read(dir: &Path, channel: &str, state: &mut LogState) -> redkite_wal::Result<()> {
    let store = LocalLogStore::new(dir, LocalOptions::default());
    let log = store.open(channel, u64::MAX).await?;
    let end = log.last_lsn();
    let records = match log.read_from(Lsn(1)) {
        Err(redkite_wal::Error::Truncated { first, .. }) => log.read_from(first),
        records => records,
    };
    let mut records = records?;
    while let Some(record) = records.next().await {
        let record = record?;
        state.records += 1;
        state.last_lsn = Some(record.lsn.0);
        if let Err(error) = WalEntry::decode(record.payload) {
            state.problems.push(Problem {
                place: format!("log of channel {channel}"),
                offset: None,
                what: format!("record {} cannot be decoded: {error}", record.lsn),
                lost: "the writes of the record; the channel cannot be opened".to_owned(),
            });
        }
    }
    log.close().await;
    state.last_lsn = Some(end.0);
    Ok(())
}

fn problem(
    error: &redkite_wal::Error,
    channel: &str,
    copy: &str,
    original: &str,
    last_lsn: u64,
) -> Problem {
    let lost =
        format!("the writes of channel {channel} behind record {last_lsn} that are not flushed");
    let original_of = |text: String| match copy.is_empty() {
        true => text,
        false => text.replace(copy, original),
    };
    match error {
        redkite_wal::Error::Corrupt {
            file,
            offset,
            reason,
        } => Problem {
            place: original_of(file.display().to_string()),
            offset: Some(*offset),
            what: reason.clone(),
            lost,
        },
        error => Problem {
            place: format!("log of channel {channel}"),
            offset: None,
            what: original_of(chain(error)),
            lost,
        },
    }
}
