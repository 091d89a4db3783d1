//! The metadata key-value store in place of etcd.
//!
//! Owns metadata's storage, its replication by raft and the protocol of its clients. Never knows
//! what the keys mean: that is `redkite-catalog`'s.
//!
//! - [`kv`]: the trait [`MetaKv`] and its types
//! - [`error`]: what can go wrong
//! - [`command`]: what changes the store, and its limits
//! - [`state`]: the pure state that commands are applied to
//! - [`client`]: the store of another process
//! - [`grpc`]: any store as a service
//! - [`mem`]: the store in memory
//! - `raft`: one replica of the replicated store (feature `server`)
//! - [`versions`]: what keys held at earlier times
//! - [`testing`]: the conformance suite of every [`MetaKv`] (feature `testing`)

pub mod client;
mod codec;
pub mod command;
pub mod error;
pub mod grpc;
mod history;
pub mod kv;
mod lease;
pub mod mem;
#[cfg(feature = "server")]
pub mod raft;
pub mod state;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod versions;
mod wire;

pub use client::{MetaClient, MetaClientOptions};
pub use command::MetaCommand;
pub use error::{Error, Result};
pub use grpc::MetaService;
pub use kv::{
    Compare, KeyValue, MetaKv, Op, Page, SharedKv, Txn, TxnOutcome, WatchBatch, WatchEvent,
    WatchStream, read_all,
};
pub use mem::MemKv;
#[cfg(feature = "server")]
pub use raft::{
    Damage, Leadership, LogEngine, MetaNode, MetaNodeOptions, NodeStatus, Offline, read_offline,
};
pub use state::KvState;
