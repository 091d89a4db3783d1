//! Configuration: defaults, then a TOML file, then `REDKITE__A__B` in the environment, then the
//! command line; the later wins.
//!
//! It owns the order, the error that names a wrong key, and the two newtypes for sizes and
//! durations. It never knows what can be configured: every service brings its own options.
//!
//! - [`loader`]: merging the layers into one typed value
//! - [`args`]: the flags that every binary has
//! - [`size`], [`duration`], [`secret`]: types for values
//! - [`dump`]: the merged result as TOML, secrets masked

pub mod args;
pub mod dump;
pub mod duration;
pub mod error;
pub mod loader;
pub mod secret;
pub mod size;

pub use args::ConfigArgs;
pub use dump::dump;
pub use duration::HumanDuration;
pub use error::{Error, Result};
pub use loader::{LoadOptions, SECTIONS, Validate, load, load_valid};
pub use secret::Secret;
pub use size::ByteSize;
