//! A bloom filter of primary keys: "certainly not in this segment" without reading it.
//!
//! # Source
//! Bloom 1970; k positions from two hashes as in Kirsch & Mitzenmacher 2006.

use redkite_types::PrimaryKey;

use crate::error::{Error, Result};

/// About one key in a hundred that is not there passes.
const BITS_PER_KEY: usize = 10;
const HASHES: u32 = 7;
const MAGIC: [u8; 8] = *b"REDKBLM\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;

/// The keys of one segment, with false positives and without false negatives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFilter {
    words: Vec<u64>,
}

impl KeyFilter {
    /// A filter for about so many keys.
    pub fn with_capacity(keys: usize) -> Self {
        let words = (keys * BITS_PER_KEY).div_ceil(64).max(1);
        Self {
            words: vec![0; words],
        }
    }

    /// Adds a key.
    pub fn insert(&mut self, key: &PrimaryKey) {
        for bit in positions(key, self.words.len()) {
            self.words[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// False when the key was certainly not added.
    pub fn may_contain(&self, key: &PrimaryKey) -> bool {
        positions(key, self.words.len()).all(|bit| self.words[bit / 64] >> (bit % 64) & 1 == 1)
    }

    /// As bytes; the hashes are part of the format.
    pub(crate) fn encode(&self) -> bytes::Bytes {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.words.len() * 8);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&HASHES.to_le_bytes());
        bytes.extend_from_slice(&(self.words.len() as u64).to_le_bytes());
        for word in &self.words {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.into()
    }

    /// From the bytes of a file whose checksum was verified.
    pub(crate) fn decode(path: &str, bytes: &[u8]) -> Result<Self> {
        let expected_head = {
            let mut head = MAGIC.to_vec();
            head.extend_from_slice(&VERSION.to_le_bytes());
            head.extend_from_slice(&HASHES.to_le_bytes());
            head
        };
        let Some((head, body)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(Error::corrupt(path, "it is too short for a key filter"));
        };
        let (words, rest) = body.as_chunks::<8>();
        let count = (words.len() as u64).to_le_bytes();
        let sound = head[..16] == *expected_head && head[16..] == count && rest.is_empty();
        if !sound || words.is_empty() {
            return Err(Error::corrupt(
                path,
                "it is no key filter of a known version",
            ));
        }
        Ok(Self {
            words: words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
        })
    }
}

fn positions(key: &PrimaryKey, words: usize) -> impl Iterator<Item = usize> {
    let bits = words as u64 * 64;
    let hash = match key {
        PrimaryKey::Int(key) => mix(*key as u64),
        PrimaryKey::Str(key) => hash_text(key.as_bytes()),
    };
    // An odd step visits different positions.
    let step = mix(hash) | 1;
    (0..u64::from(HASHES))
        .map(move |index| (hash.wrapping_add(index.wrapping_mul(step)) % bits) as usize)
}

/// The finaliser of MurmurHash3 (Appleby), 64 bit.
fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// FNV-1a, 64 bit, mixed.
fn hash_text(text: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    mix(text.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_few_others() {
        for text in [false, true] {
            let key = |number: i64| match text {
                false => PrimaryKey::Int(number),
                true => PrimaryKey::Str(format!("key-{number}")),
            };
            let mut filter = KeyFilter::with_capacity(10_000);
            for number in 0..10_000 {
                filter.insert(&key(number));
            }
            let filter = KeyFilter::decode("f", &filter.encode()).unwrap();
            assert!((0..10_000).all(|number| filter.may_contain(&key(number))));
            let wrong = (10_000..30_000)
                .filter(|&number| filter.may_contain(&key(number)))
                .count();
            assert!(wrong < 600, "{wrong} of 20000 absent keys pass");
        }
    }

    #[test]
    fn bytes_of_anything_else_are_refused() {
        let bytes = KeyFilter::with_capacity(100).encode();
        for cut in [0, 10, HEADER_BYTES, bytes.len() - 1] {
            assert!(KeyFilter::decode("f", &bytes[..cut]).is_err());
        }
        let mut other = bytes.to_vec();
        other[8] = 9;
        assert!(KeyFilter::decode("f", &other).is_err());
    }
}
