//! Ids of everything: collections, partitions, segments, rows.

use parking_lot::Mutex;
use redkite_catalog::keys;
use redkite_metastore::SharedKv;
use redkite_types::Result;

use super::window::Window;

/// Ids made durable at once; at most as many are lost by a restart.
const WINDOW: u64 = 1_000_000;
/// The first id; smaller ones are left to what has a fixed id.
const FIRST: u64 = 1_000;

#[derive(Clone, Copy)]
struct Range {
    next: u64,
    end: u64,
}

/// Gives out ids that were never given out before.
pub struct IdAllocator {
    window: Window,
    range: Mutex<Range>,
    /// One extension at a time.
    extending: tokio::sync::Mutex<()>,
}

impl IdAllocator {
    /// Starts behind everything that any earlier allocator may have given out.
    ///
    /// # Errors
    /// Code 2 when the metastore does not answer; retry.
    pub async fn open(kv: SharedKv) -> Result<Self> {
        let (window, end) = Window::open(kv, keys::ID_WINDOW).await?;
        let next = end.max(FIRST);
        Ok(Self {
            window,
            range: Mutex::new(Range { next, end: next }),
            extending: tokio::sync::Mutex::new(()),
        })
    }

    /// Gives out `count` consecutive ids; returns the first.
    ///
    /// # Errors
    /// Code 2 when a new window cannot be made durable; retry.
    pub async fn alloc(&self, count: u32) -> Result<i64> {
        let count = u64::from(count.max(1));
        loop {
            if let Some(first) = self.try_alloc(count) {
                return Ok(first as i64);
            }
            let _one = self.extending.lock().await;
            let end = {
                let range = self.range.lock();
                if range.next + count <= range.end {
                    continue;
                }
                range.next + count + WINDOW
            };
            self.window.extend(end).await?;
            self.range.lock().end = end;
        }
    }

    fn try_alloc(&self, count: u64) -> Option<u64> {
        let mut range = self.range.lock();
        let first = range.next;
        (first + count <= range.end).then(|| {
            range.next += count;
            first
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redkite_metastore::MemKv;

    use super::*;

    #[tokio::test]
    async fn ids_are_never_given_out_twice_also_over_restarts() {
        let kv: SharedKv = Arc::new(MemKv::new());
        let mut next = 0;
        for _ in 0..3 {
            let ids = IdAllocator::open(kv.clone()).await.unwrap();
            for count in [1, 5, 2_000_000, 7] {
                let first = ids.alloc(count).await.unwrap();
                assert!(first >= next);
                next = first + i64::from(count);
            }
        }
    }

    #[tokio::test]
    async fn a_deposed_allocator_cannot_take_a_new_window() {
        let kv: SharedKv = Arc::new(MemKv::new());
        let old = IdAllocator::open(kv.clone()).await.unwrap();
        old.alloc(1).await.unwrap();
        let new = IdAllocator::open(kv).await.unwrap();
        new.alloc(1).await.unwrap();
        assert!(old.alloc(3_000_000).await.is_err());
    }
}
