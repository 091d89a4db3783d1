//! What a check has found.

use serde::{Deserialize, Serialize};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file, object or record.
    pub place: String,
    /// Where in it, in bytes, when that is known.
    pub offset: Option<u64>,
    /// What was found.
    pub what: String,
    /// What is lost by it.
    pub lost: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place)?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}; lost: {}", self.what, self.lost)
    }
}

/// What a check has looked at and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is good to know.
    pub notes: Vec<String>,
    /// Records of the metastore.
    pub records: usize,
    /// Objects that were read.
    pub objects: usize,
    /// Bytes of them.
    pub object_bytes: u64,
    /// Logs that were read.
    pub logs: usize,
    /// Records in them.
    pub log_records: u64,
}

impl Report {
    /// Adds a problem.
    pub fn problem(
        &mut self,
        place: impl Into<String>,
        offset: Option<u64>,
        what: impl Into<String>,
        lost: impl Into<String>,
    ) {
        self.problems.push(Problem {
            place: place.into(),
            offset,
            what: what.into(),
            lost: lost.into(),
        });
    }
}
