//! Fixed-length bit sets: one bit a row, the common form of a filter's answer.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// A set of row numbers below a fixed length.
///
/// Bits past the length are always zero, so whole words can be counted and compared.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BitSet {
    words: Vec<u64>,
    len: usize,
    /// Number of members, once it was asked for: a request with many queries asks for each.
    #[serde(skip)]
    count: OnceLock<usize>,
}

impl PartialEq for BitSet {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.words == other.words
    }
}

impl Eq for BitSet {}

impl BitSet {
    /// A set over `len` rows with no member.
    pub fn new(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(64)],
            len,
            count: OnceLock::new(),
        }
    }

    /// A set over `len` rows with every row a member.
    pub fn full(len: usize) -> Self {
        let mut set = Self {
            words: vec![u64::MAX; len.div_ceil(64)],
            len,
            count: OnceLock::new(),
        };
        set.clear_tail();
        set
    }

    /// Builds a set by asking for each row.
    pub fn from_fn(len: usize, mut member: impl FnMut(usize) -> bool) -> Self {
        let mut set = Self::new(len);
        for (word_index, word) in set.words.iter_mut().enumerate() {
            let base = word_index * 64;
            let mut bits = 0u64;
            for bit in 0..64.min(len - base) {
                bits |= u64::from(member(base + bit)) << bit;
            }
            *word = bits;
        }
        set
    }

    /// Number of rows, members or not.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it spans no row at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the row is a member; false past the end.
    #[inline]
    pub fn get(&self, row: usize) -> bool {
        self.words
            .get(row / 64)
            .is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// Makes the row a member.
    ///
    /// # Panics
    /// When the row is past the end: that is a bug of the caller.
    #[inline]
    pub fn set(&mut self, row: usize) {
        assert!(row < self.len, "row {row} is past the end {}", self.len);
        self.count.take();
        self.words[row / 64] |= 1 << (row % 64);
    }

    /// Takes the row out.
    #[inline]
    pub fn clear(&mut self, row: usize) {
        self.count.take();
        if let Some(word) = self.words.get_mut(row / 64) {
            *word &= !(1 << (row % 64));
        }
    }

    /// Makes it span more rows (the new ones are no members), or fewer.
    pub fn resize(&mut self, len: usize) {
        self.count.take();
        self.words.resize(len.div_ceil(64), 0);
        self.len = len;
        self.clear_tail();
    }

    /// Number of members.
    pub fn count_ones(&self) -> usize {
        self.count_by(|words| words.iter().map(|word| word.count_ones() as usize).sum())
    }

    /// Number of members, counted by `ones` if it is not known.
    pub fn count_by(&self, ones: impl FnOnce(&[u64]) -> usize) -> usize {
        *self.count.get_or_init(|| ones(&self.words))
    }

    /// Whether there is any member.
    pub fn any(&self) -> bool {
        self.words.iter().any(|word| *word != 0)
    }

    /// Keeps only the members of both. Lengths must be equal.
    pub fn and(&mut self, other: &Self) {
        debug_assert_eq!(
            self.len, other.len,
            "bit sets of one segment have one length"
        );
        self.count.take();
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a &= b;
        }
    }

    /// Keeps the members of either. Lengths must be equal.
    pub fn or(&mut self, other: &Self) {
        debug_assert_eq!(
            self.len, other.len,
            "bit sets of one segment have one length"
        );
        self.count.take();
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a |= b;
        }
    }

    /// Takes out the members of `other`, which may be shorter.
    pub fn and_not(&mut self, other: &Self) {
        self.count.take();
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a &= !b;
        }
    }

    /// Turns members into non-members and back.
    pub fn negate(&mut self) {
        self.count.take();
        for word in &mut self.words {
            *word = !*word;
        }
        self.clear_tail();
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            std::iter::successors((word != 0).then_some(word), |rest| {
                let next = rest & (rest - 1);
                (next != 0).then_some(next)
            })
            .map(move |rest| index * 64 + rest.trailing_zeros() as usize)
        })
    }

    /// The words, row 0 in the lowest bit of the first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    fn clear_tail(&mut self) {
        if !self.len.is_multiple_of(64)
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << (self.len % 64)) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_vector_of_bools(a in prop::collection::vec(any::<bool>(), 0..300), seed in any::<u64>()) {
            let b: Vec<bool> = (0..a.len()).map(|i| (seed >> (i % 64)) & 1 == 1).collect();
            let set_a = BitSet::from_fn(a.len(), |i| a[i]);
            let set_b = BitSet::from_fn(b.len(), |i| b[i]);
            let members = |f: &dyn Fn(bool, bool) -> bool| -> Vec<usize> {
                (0..a.len()).filter(|&i| f(a[i], b[i])).collect()
            };
            let check = |set: BitSet, want: Vec<usize>| {
                assert_eq!(set.iter().collect::<Vec<_>>(), want);
                assert_eq!(set.count_ones(), want.len());
                assert_eq!(set.any(), !want.is_empty());
            };
            check(set_a.clone(), members(&|x, _| x));
            // What was counted before a change must not be believed after it.
            assert_eq!(set_a.count_ones(), a.iter().filter(|x| **x).count());
            let mut set = set_a.clone();
            set.and(&set_b);
            check(set, members(&|x, y| x && y));
            let mut set = set_a.clone();
            set.or(&set_b);
            check(set, members(&|x, y| x || y));
            let mut set = set_a.clone();
            set.and_not(&set_b);
            check(set, members(&|x, y| x && !y));
            let mut set = set_a.clone();
            set.negate();
            check(set, members(&|x, _| !x));
            check(BitSet::full(a.len()), (0..a.len()).collect());
            let mut set = BitSet::full(a.len());
            set.resize(a.len() / 2);
            check(set.clone(), (0..a.len() / 2).collect());
            set.resize(a.len());
            check(set, (0..a.len() / 2).collect());
            if let Some(row) = a.len().checked_sub(1) {
                let mut set = set_a.clone();
                set.set(row);
                check(set.clone(), members(&|x, _| x).into_iter().filter(|i| *i != row).chain([row]).collect());
                set.clear(row);
                check(set, members(&|x, _| x).into_iter().filter(|i| *i != row).collect());
            }
        }
    }
}
