//! Milvus's hash functions, so that rows fall into the shards and partitions that its users expect.
//!
//! # Source
//! Milvus hashes an int64 by murmur3 (32 bit, seed 0) over its little-endian bytes with the sign
//! bit cleared, and a string by CRC-32 (IEEE) over at most its first 100 bytes.

use crate::value::PrimaryKey;

const STRING_PREFIX_BYTES: usize = 100;

/// Hash of an int64 key.
pub fn hash_int64(key: i64) -> u32 {
    let mut bytes: &[u8] = &key.to_le_bytes();
    let hash = murmur3::murmur3_32(&mut bytes, 0);
    hash.expect("reading from a slice cannot fail") & 0x7fff_ffff
}

/// Hash of a string key.
pub fn hash_str(key: &str) -> u32 {
    let bytes = key.as_bytes();
    crc32fast::hash(&bytes[..bytes.len().min(STRING_PREFIX_BYTES)])
}

/// Hash of a primary key.
pub fn hash_primary_key(key: &PrimaryKey) -> u32 {
    match key {
        PrimaryKey::Int(key) => hash_int64(*key),
        PrimaryKey::Str(key) => hash_str(key),
    }
}

/// The slot of `0..slots` that a hash falls into.
///
/// # Panics
/// When `slots` is zero.
pub fn slot(hash: u32, slots: usize) -> usize {
    hash as usize % slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // murmur3_32 of eight zero bytes with seed 0 is 0x63852afc.
        assert_eq!(hash_int64(0), 0x6385_2afc);
        // CRC-32 (IEEE) of "123456789" is the standard check value.
        assert_eq!(hash_str("123456789"), 0xcbf4_3926);
        let long = "x".repeat(300);
        assert_eq!(hash_str(&long), hash_str(&long[..100]));
    }
}
