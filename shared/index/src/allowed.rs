//! What a filter and deletes leave to be found.

use redkite_types::BitSet;

/// One search's view of what may be returned.
#[derive(Clone, Copy)]
pub(crate) struct Allowed<'a> {
    pub(crate) set: Option<&'a BitSet>,
    /// Rows that may be returned.
    pub(crate) count: usize,
}

impl<'a> Allowed<'a> {
    /// What a set leaves of `rows` rows; it may be shorter or longer than that.
    pub(crate) fn of(set: Option<&'a BitSet>, rows: usize) -> Self {
        let count = match set {
            None => rows,
            Some(set) if set.len() <= rows => set.count_ones(),
            Some(set) => {
                let whole = set.words().iter().take(rows / 64);
                let last = set.words().get(rows / 64).copied().unwrap_or(0);
                let tail = last & ((1u64 << (rows % 64)) - 1);
                whole.map(|word| word.count_ones() as usize).sum::<usize>()
                    + tail.count_ones() as usize
            }
        };
        Self { set, count }
    }

    #[inline]
    pub(crate) fn has(&self, row: u32) -> bool {
        self.set.is_none_or(|set| set.get(row as usize))
    }
}
