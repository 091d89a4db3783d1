//! All services in one process, which call each other without a network.
//!
//! It owns the command line of `redkite` and the order in which services start. Everything else is
//! the services' own code, the same as in processes of their own.
//!
//! - [`admin`]: commands that ask a running process
//! - [`meta`]: shows the metadata
//! - [`gc`], [`fsck`]: commands that collect garbage and check what is stored
//! - [`export`]: has rows written as files
//! - [`snapshot`]: shows snapshots and what has changed between two
//! - [`cli`]: flags and subcommands
//! - [`run`]: starts the services
//! - [`greeting`]: tells a new user how to connect

pub mod admin;
pub mod cli;
pub mod export;
pub mod fsck;
pub mod gc;
pub mod greeting;
pub mod meta;
pub mod run;
pub mod snapshot;
