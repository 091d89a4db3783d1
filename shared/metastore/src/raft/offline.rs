//! What is on the disk of a replica that is not running, read without changing it.
//!
//! Opening a log writes, so a copy of it is opened. Every log entry, the small values beside them, both
//! records of the mark and the snapshot have a checksum of their own, and all are read.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use openraft::EntryPayload;
use redkite_types::Revision;
use redkite_types::error::chain;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::kv::KeyValue;
use crate::raft::disk::LogDisk;
use crate::raft::engine::LogEngine;
use crate::raft::log_store::{COMMITTED, NODE, PURGED, VOTE, decode};
use crate::raft::mark;
use crate::raft::snapshot;
use crate::raft::types::{Entry, LogId, Vote, storage, unframe};
use crate::state::KvState;

/// Something on the disk that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// What was found in it.
    pub what: String,
    /// Whether the metadata cannot be told without it.
    pub is_fatal: bool,
}

/// A replica's metadata and what is wrong with its files.
#[derive(Debug)]
pub struct Offline {
    /// All pairs, as the replica would have them as a leader; `None` when that cannot be told.
    pub pairs: Option<Vec<KeyValue>>,
    /// The state with them and its history; `None` as for the pairs.
    pub state: Option<KvState>,
    /// The revision of the pairs.
    pub revision: Revision,
    /// Log entries that were read.
    pub entries: usize,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

/// Reads the directory of a replica that is not running; blocks.
///
/// # Errors
/// [`Error::Storage`] when files cannot be read or copied. Damage is no error.
pub fn read_offline(dir: &Path) -> Result<Offline> {
    let mut damage = Vec::new();
    let state = read_snapshot(&dir.join("snapshot"), &mut damage)?;
    let log_dir = dir.join("log");
    for what in mark::damage(&log_dir.join("mark")) {
        damage.push(Damage {
            file: log_dir.join("mark"),
            what,
            is_fatal: false,
        });
    }
    let log = read_log(&log_dir, &mut damage)?;
    let entries = log.len();
    let is_fatal = damage.iter().any(|damage| damage.is_fatal);
    let state = match state {
        Some(state) if !is_fatal => apply(state, log, &log_dir, &mut damage),
        Some(_) | None => None,
    };
    let revision = state.as_ref().map_or(Revision(0), KvState::revision);
    let pairs = state.as_ref().map(|state| {
        let pairs = state.pairs.iter();
        pairs.map(|(key, item)| item.to_pair(key)).collect()
    });
    Ok(Offline {
        pairs,
        state,
        revision,
        entries,
        damage,
    })
}

/// The state that a snapshot holds, and the entry that it ends at.
type Snapshotted = (KvState, Option<LogId>);

fn read_snapshot(dir: &Path, damage: &mut Vec<Damage>) -> Result<Option<Snapshotted>> {
    let read = snapshot::read(dir).and_then(|found| match found {
        None => Ok((KvState::new(), None)),
        Some((meta, bytes)) => Ok((KvState::decode(&bytes)?, meta.last_log_id)),
    });
    match read {
        Ok(state) => Ok(Some(state)),
        Err(Error::Corrupt { what }) => {
            damage.push(Damage {
                file: dir.join(snapshot::NAME),
                what,
                is_fatal: true,
            });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// All entries of the log that can be read.
fn read_log(dir: &Path, damage: &mut Vec<Damage>) -> Result<Vec<Entry>> {
    let engine = LogEngine::of(dir)?.unwrap_or_default();
    let file = dir.join(engine.file());
    let copy = tempfile::tempdir().map_err(|source| storage("make a temporary copy", source))?;
    copy_files(dir, copy.path())
        .map_err(|source| storage(format!("copy {}", dir.display()), source))?;
    let mut found = |what: String| {
        let original = dir.display().to_string();
        let what = what.replace(&copy.path().display().to_string(), &original);
        damage.push(Damage {
            file: file.clone(),
            what,
            is_fatal: true,
        });
    };
    // On some damage sled panics instead of returning an error, also later than at its opening.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let disk = engine.open(copy.path())?;
        read_entries(disk.as_ref())
    }));
    match read {
        Ok(Ok((entries, problems))) => {
            problems.into_iter().for_each(&mut found);
            Ok(entries)
        }
        Ok(Err(Error::Corrupt { what })) => {
            found(what);
            Ok(Vec::new())
        }
        Ok(Err(error)) => {
            found(chain(&error));
            Ok(Vec::new())
        }
        Err(_) => {
            found("the database cannot be read".to_owned());
            Ok(Vec::new())
        }
    }
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_files(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Reads everything that has a checksum; what is wrong comes along as text.
fn read_entries(disk: &dyn LogDisk) -> Result<(Vec<Entry>, Vec<String>)> {
    let mut problems = Vec::new();
    let purged = read_meta::<LogId>(disk, PURGED, &mut problems);
    let committed = read_meta::<Option<LogId>>(disk, COMMITTED, &mut problems).flatten();
    let vote = read_meta::<Vote>(disk, VOTE, &mut problems);
    read_meta::<u64>(disk, NODE, &mut problems);
    let mut entries: Vec<Entry> = Vec::new();
    for index in disk.runs()?.into_iter().flatten() {
        let read = disk
            .read(index..index + 1, usize::MAX)
            .and_then(|mut found| match found.pop() {
                Some((index, bytes)) => decode(index, &bytes),
                None => Err(crate::codec::corrupt(format!("log entry {index} is gone"))),
            });
        match read {
            Ok(entry) => entries.push(entry),
            Err(error) => problems.push(chain(&error)),
        }
    }
    let first = purged.map_or(0, |purged| purged.index + 1);
    let kept = entries.iter().filter(|entry| entry.log_id.index >= first);
    let mut next = first;
    for entry in kept {
        if entry.log_id.index != next {
            problems.push(format!(
                "log entries {next} to {} are missing",
                entry.log_id.index
            ));
        }
        next = entry.log_id.index + 1;
    }
    if let Some(committed) = committed
        && committed.index >= next
    {
        problems.push(format!(
            "the log ends at entry {next}, {} was committed",
            committed.index
        ));
    }
    if vote.is_none() && next > first.max(1) {
        problems.push("the log has entries but no vote".to_owned());
    }
    Ok((entries, problems))
}

fn read_meta<T: DeserializeOwned>(
    disk: &dyn LogDisk,
    key: &str,
    problems: &mut Vec<String>,
) -> Option<T> {
    let read = disk.get_meta(key).and_then(|value| match value {
        Some(value) => unframe(&format!("the log's {key}"), &value).map(Some),
        None => Ok(None),
    });
    match read {
        Ok(value) => value,
        Err(error) => {
            problems.push(chain(&error));
            None
        }
    }
}

/// The snapshot's state after the entries behind it.
fn apply(
    (mut state, last): Snapshotted,
    log: Vec<Entry>,
    log_dir: &Path,
    damage: &mut Vec<Damage>,
) -> Option<KvState> {
    let mut next = last.map_or(0, |last| last.index + 1);
    for entry in log {
        if entry.log_id.index < next {
            continue;
        }
        if entry.log_id.index > next {
            damage.push(Damage {
                file: log_dir.join(
                    LogEngine::of(log_dir)
                        .ok()
                        .flatten()
                        .unwrap_or_default()
                        .file(),
                ),
                what: format!("the snapshot ends before entry {next}, which the log lacks"),
                is_fatal: true,
            });
            return None;
        }
        next += 1;
        if let EntryPayload::Normal(command) = entry.payload {
            state.apply(&command);
        }
    }
    Some(state)
}
