//! Three root coordinators over loopback, whose leader dies at every point of a definition's way.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod harness;
mod leaders;
mod script;
