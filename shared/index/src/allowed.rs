//! What a filter and deletes leave to be found.

use redkite_types::BitSet;

use crate::kernel::kernels;

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
            Some(set) if set.len() <= rows => set.count_by(ones),
            Some(set) => {
                let whole = (rows / 64).min(set.words().len());
                let last = set.words().get(rows / 64).copied().unwrap_or(0);
                let tail = last & ((1u64 << (rows % 64)) - 1);
                ones(&set.words()[..whole]) + tail.count_ones() as usize
            }
        };
        Self { set, count }
    }

    #[inline]
    pub(crate) fn has(&self, row: u32) -> bool {
        self.set.is_none_or(|set| set.get(row as usize))
    }
}

/// Bits that are set, by the processor's own instruction.
fn ones(words: &[u64]) -> usize {
    // The bits that words have in common with themselves; in parts that their number fits in.
    let parts = words.chunks(1 << 20).map(bytemuck::cast_slice);
    parts
        .map(|part| (kernels().common_bits)(part, part).0 as usize)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_sets_of_any_length_are_counted() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let set = BitSet::from_fn(len, |row| row % 3 == 0);
            for rows in [0, 1, 2, 63, 64, 65, 128, 999, 1000, 2000] {
                let expected = (0..rows.min(len)).filter(|row| row % 3 == 0).count();
                assert_eq!(
                    Allowed::of(Some(&set), rows).count,
                    expected,
                    "{len} {rows}"
                );
            }
            assert_eq!(Allowed::of(None, len).count, len);
        }
    }
}
