//! What the tests of this and other crates need to try S3 for real.
//!
//! - [`weed`]: a SeaweedFS server on loopback, which dies with the test
//! - [`proxy`]: a proxy in front of it that breaks calls on demand

pub mod proxy;
pub mod weed;

pub use proxy::{Fault, FaultyProxy, Moment};
pub use weed::Weed;
