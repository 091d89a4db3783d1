//! What is wrong with a configuration, in words for the operator.

use std::path::PathBuf;

use redkite_types::{Coded, ErrorCode};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the configuration cannot be used. All of them are the operator's to fix.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file that was asked for is not there or may not be read.
    #[error("configuration file {path} cannot be read")]
    File {
        /// The path as given.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A top-level name that is no section of any service.
    #[error("unknown section `{section}` in {origin}, known are: {known}")]
    UnknownSection {
        /// The name as written.
        section: String,
        /// The layer it came from.
        origin: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// Keys that do not exist or values of a wrong type: one line for each.
    #[error("invalid configuration: {}", problems.join("; "))]
    Invalid {
        /// What is wrong and where it came from.
        problems: Vec<String>,
    },
    /// A value that has the right type and makes no sense.
    #[error("invalid configuration: `{key}` {problem}")]
    Value {
        /// The key, as `section.name`.
        key: String,
        /// Why the value cannot be used.
        problem: String,
    },
    /// An argument of the form `key=value` without the equals sign or the key.
    #[error("`{argument}` is not of the form section.key=value")]
    Override {
        /// The argument as given.
        argument: String,
    },
    /// The merged configuration could not be written as TOML.
    #[error("the configuration cannot be written as TOML")]
    Dump {
        /// What the writer says.
        #[source]
        source: toml::ser::Error,
    },
}

impl Error {
    /// A value that has the right type and makes no sense; for [`crate::Validate`].
    pub fn value(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value {
            key: key.into(),
            problem: problem.into(),
        }
    }
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::File { .. }
            | Self::UnknownSection { .. }
            | Self::Invalid { .. }
            | Self::Value { .. }
            | Self::Override { .. } => ErrorCode::InvalidParameter,
            Self::Dump { .. } => ErrorCode::Internal,
        }
    }
}
