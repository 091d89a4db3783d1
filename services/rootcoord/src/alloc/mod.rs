//! Numbers that are never given out twice: timestamps and ids.
//!
//! Both are served from memory out of a window whose end is durable: a successor starts behind the
//! end, whatever of the window was really used.

mod ids;
mod tso;
mod window;

pub use ids::IdAllocator;
pub use tso::TimestampOracle;
