//! Puts the answers of several channels together.

pub mod query;
pub mod rank;
pub mod search;
