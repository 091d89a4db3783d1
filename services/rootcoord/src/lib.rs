//! What exists: databases, collections, partitions, aliases, indexes, and what of them is loaded.
//!
//! Hosts the metastore, gives out timestamps and ids, and runs every DDL as a saga. Never touches
//! rows.
//!
//! - [`admin`]: what operators see
//! - [`alloc`]: timestamps and ids that are never given out twice
//! - [`ddl`]: the gate and the sagas
//! - [`announce`]: how a DDL tells the other services
//! - [`bootstrap`]: what a new deployment starts with
//! - [`service`]: the gRPC side
//! - [`replica`]: this process as one of the metastore's replicas
//! - [`standby`]: what its address answers until it leads
//! - [`stamped`]: the metastore with a time on each change
//! - [`run`]: puts it together and starts it

pub mod admin;
pub mod alloc;
pub mod announce;
pub mod bootstrap;
pub mod ddl;
pub mod options;
pub mod replica;
pub mod run;
pub mod service;
pub mod stamped;
pub mod standby;

pub use options::{MetastoreOptions, RootCoordOptions};
/// What is on the disk of a stopped root coordinator, which hosts the metastore.
pub use redkite_metastore::{Damage, MemKv, Offline, read_offline};
pub use replica::Replica;
pub use service::RootCoordService;
