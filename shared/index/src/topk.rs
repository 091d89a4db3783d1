//! The best k of a stream of hits.

use redkite_types::MetricType;

use crate::index::Hit;
use crate::raw::flip;

/// Keeps the `k` hits with the smallest keys; equal keys are ordered by row, so results are stable.
///
/// A hit is one `u64`: the key's bits, mapped so that they order like the float, above the row. The
/// kept ones form a binary max-heap.
#[derive(Default)]
pub(crate) struct TopK {
    heap: Vec<u64>,
    k: usize,
}

impl TopK {
    pub(crate) fn with_k(k: usize) -> Self {
        Self {
            heap: Vec::new(),
            k,
        }
    }

    /// Forgets everything and keeps `k` from now on; the allocation is reused.
    pub(crate) fn reset(&mut self, k: usize) {
        self.heap.clear();
        self.k = k;
    }

    /// Offers a hit.
    #[inline]
    pub(crate) fn push(&mut self, key: f32, row: u32) {
        let packed = pack(key, row);
        if self.heap.len() < self.k {
            self.heap.push(packed);
            self.sift_up(self.heap.len() - 1);
        } else if self.heap.first().is_some_and(|worst| packed < *worst) {
            self.heap[0] = packed;
            self.sift_down();
        }
    }

    /// The largest key that is kept, once there are `k`: another hit must have a smaller one.
    pub(crate) fn worst(&self) -> Option<f32> {
        let worst = self.heap.first().filter(|_| self.heap.len() >= self.k);
        worst.map(|packed| unpack(*packed).0)
    }

    /// A key above this one would not be kept.
    #[inline]
    pub(crate) fn limit(&self) -> f32 {
        if self.heap.len() < self.k {
            return f32::INFINITY;
        }
        let worst = self.heap.first();
        worst.map_or(f32::NEG_INFINITY, |packed| unpack(*packed).0)
    }

    /// Appends the kept hits to `out`, best first, and forgets them.
    pub(crate) fn drain_into(&mut self, metric: MetricType, out: &mut Vec<Hit>) {
        self.heap.sort_unstable();
        out.extend(self.heap.drain(..).map(|packed| {
            let (key, row) = unpack(packed);
            Hit {
                row,
                score: flip(metric, key),
            }
        }));
    }

    /// Takes the keys and rows of the kept hits out, best first.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (f32, u32)> {
        self.heap.sort_unstable();
        self.heap.drain(..).map(unpack)
    }

    /// Takes the kept hits out, each as by [`pack`], in no order.
    pub(crate) fn take(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.heap)
    }

    fn sift_up(&mut self, mut child: usize) {
        while child > 0 {
            let parent = (child - 1) / 2;
            if self.heap[child] <= self.heap[parent] {
                break;
            }
            self.heap.swap(child, parent);
            child = parent;
        }
    }

    fn sift_down(&mut self) {
        let mut parent = 0;
        loop {
            let left = 2 * parent + 1;
            if left >= self.heap.len() {
                break;
            }
            let right = left + 1;
            let larger = if right < self.heap.len() && self.heap[right] > self.heap[left] {
                right
            } else {
                left
            };
            if self.heap[larger] <= self.heap[parent] {
                break;
            }
            self.heap.swap(larger, parent);
            parent = larger;
        }
    }
}

const SIGN: u32 = 1 << 31;

/// A key above a row, in one number that orders as the key does and then as the row does.
///
/// Negative floats order backwards by their bits: flip them all; positive ones go above.
pub(crate) fn pack(key: f32, row: u32) -> u64 {
    let bits = key.to_bits();
    let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    u64::from(ordered) << 32 | u64::from(row)
}

/// The key and the row that [`pack`] put together.
pub(crate) fn unpack(packed: u64) -> (f32, u32) {
    let ordered = (packed >> 32) as u32;
    let bits = if ordered & SIGN == 0 {
        !ordered
    } else {
        ordered & !SIGN
    };
    (f32::from_bits(bits), packed as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    #[test]
    fn packing_keeps_the_order_of_floats() {
        let mut keys = [f32::MIN, -3.5, -1e-30, 0.0, 1e-30, 2.0, f32::MAX];
        for key in keys {
            assert_eq!(unpack(pack(key, 7)), (key, 7));
        }
        keys.sort_by_key(|key| pack(*key, 0));
        assert!(keys.is_sorted());
    }

    #[test]
    fn the_best_k_come_out_best_first_and_ties_by_row() {
        let mut rng = Rng::from_env();
        let mut topk = TopK::default();
        for k in [0, 1, 2, 7, 100, 1000] {
            topk.reset(k);
            let mut all: Vec<(f32, u32)> = (0..500u32)
                .map(|row| (rng.below(50) as f32 - 25.0, row))
                .collect();
            for (key, row) in &all {
                topk.push(*key, *row);
            }
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            all.truncate(k);
            let mut hits = Vec::new();
            topk.drain_into(MetricType::L2, &mut hits);
            let found: Vec<(f32, u32)> = hits.iter().map(|hit| (hit.score, hit.row)).collect();
            assert_eq!(found, all);
        }
    }
}
