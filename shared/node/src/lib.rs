//! What every process of Redkite does around its service.
//!
//! Owns start and stop of a process, its announcement, and how it finds the others. Never knows
//! what a service does.
//!
//! - [`peers`]: the other services, found through the metadata

pub mod peers;

pub use peers::Peers;
