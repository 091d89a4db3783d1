//! A query node in this process, with an object store in memory, logs in a temporary directory and
//! coordinators that are played.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod compact;
mod flush;
mod load;
mod model;
mod pipeline;
mod recover;
mod schema;
mod serve;
mod slow;
mod world;
