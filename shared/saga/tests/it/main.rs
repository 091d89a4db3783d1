//! The executor against toy sagas over the metastore in memory.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod recovering;
mod running;
mod stuck;
mod suites;
mod toy;
mod writes;
