//! Rows on their way to the channels.
//!
//! - [`rows`]: a batch of columns, split by channel and partition
//! - [`send`]: writes to the owners of the channels

pub mod rows;
pub mod send;
