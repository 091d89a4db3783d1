//! Which engine keeps the raft log.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::raft::disk::LogDisk;
use crate::raft::disk_redb::{self, RedbDisk};
use crate::raft::disk_sled::{self, SledDisk};
use crate::raft::types::storage;

/// What the raft log is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogEngine {
    /// sled 0.34, made durable.
    #[default]
    Sled,
    /// redb.
    Redb,
}

impl LogEngine {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        }
    }

    /// The name of the file that holds the log.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Sled => disk_sled::FILE,
            Self::Redb => disk_redb::FILE,
        }
    }

    /// The engine that made the log in `dir`, if there is one.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub(super) fn of(dir: &Path) -> Result<Option<Self>> {
        for engine in [Self::Sled, Self::Redb] {
            let path = dir.join(engine.file());
            let found = path
                .try_exists()
                .map_err(|source| storage(format!("look for {}", path.display()), source))?;
            if found {
                return Ok(Some(engine));
            }
        }
        Ok(None)
    }

    /// Opens the log in `dir`, making it if need be; blocks.
    ///
    /// # Errors
    /// [`Error::Invalid`]: another engine made it; [`Error::Corrupt`]: the process must not start on
    /// it; [`Error::Storage`].
    pub(super) fn open(self, dir: &Path) -> Result<Arc<dyn LogDisk>> {
        if let Some(made_with) = Self::of(dir)?
            && made_with != self
        {
            let (made_with, asked) = (made_with.name(), self.name());
            return Err(Error::Invalid {
                what: format!(
                    "the raft log in {} was made with {made_with}, but metastore.engine is \
                     {asked}: set it to {made_with}; another engine needs a new replica, which \
                     joins the group under a new node id",
                    dir.display()
                ),
            });
        }
        fs::create_dir_all(dir)
            .map_err(|source| storage(format!("make {}", dir.display()), source))?;
        Ok(match self {
            Self::Sled => Arc::new(SledDisk::open(dir)?),
            Self::Redb => Arc::new(RedbDisk::open(dir)?),
        })
    }
}
