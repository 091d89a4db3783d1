//! Numbers that nobody else draws.

use std::hash::{BuildHasher, Hasher};

/// A number that nobody can guess and nobody else has drawn.
pub(crate) fn new_salt() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
