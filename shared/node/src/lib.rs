//! What every process of Redkite does around its service.
//!
//! Owns start and stop of a process, its announcement, and how it finds the others. Never knows
//! what a service does.
//!
//! - [`options`]: the configuration that every process has
//! - [`wal`]: its section about the channels' logs
//! - [`args`]: the flags of a binary with one service
//! - [`process`]: the life of a process, from its flags to its exit code
//! - [`stops`]: what is to be done at the end, in phases
//! - [`listen`]: listeners, and the address under which others reach them
//! - [`lock`]: keeps a second process off a data directory
//! - [`context`]: what the services of a process share: metadata, peers, storage, threads
//! - [`disk`], [`memory`]: what is left of both, so that work is refused in time
//! - [`announce`]: the process's node id and its sessions
//! - [`office`]: coordinators of which one process acts while others stand by
//! - [`peers`]: the other services, found through the metadata
//! - [`error`]: why a process cannot start

pub mod announce;
pub mod args;
pub mod context;
pub mod disk;
pub mod error;
mod gone;
pub mod listen;
pub mod lock;
pub mod memory;
pub mod office;
pub mod options;
pub mod peers;
pub mod process;
pub mod stops;
pub mod wal;

pub use announce::Identity;
pub use context::NodeContext;
pub use disk::{DiskSpace, DiskUse};
pub use error::{Error, Result};
pub use listen::Exposure;
pub use memory::{MemoryBudget, MemoryReservation, MemoryUse};
pub use office::admit_while;
pub use options::{CommonOptions, NodeOptions, StorageOptions};
pub use peers::Peers;
pub use process::{Launch, Process, Program, run, run_service};
pub use stops::{Phase, Stops};
pub use wal::{WalEngine, WalOptions};
