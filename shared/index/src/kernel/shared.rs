//! Numbers that threads write while others read them, in memory that becomes plain bytes afterwards.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use crate::buffer::AlignedBuffer;

/// An array of atomic numbers that turns into bytes where it lies: a graph's links are as large as its
/// codes, and there is no room for them twice.
pub(crate) struct SharedNumbers {
    /// Owns the memory. Nothing looks at it until the numbers are given up.
    buffer: AlignedBuffer,
    start: NonNull<AtomicU32>,
    len: usize,
}

// SAFETY: the numbers are atomic, and the buffer that owns them can be sent and is not looked at.
unsafe impl Send for SharedNumbers {}
// SAFETY: as above.
unsafe impl Sync for SharedNumbers {}

impl SharedNumbers {
    /// So many times the largest number.
    pub(crate) fn filled(len: usize) -> Self {
        let mut buffer = AlignedBuffer::zeroed(len * size_of::<u32>());
        buffer.as_mut().fill(u8::MAX);
        let start = NonNull::from(buffer.as_mut()).cast();
        Self { buffer, start, len }
    }

    /// The numbers.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[AtomicU32] {
        // SAFETY: the buffer holds `len` numbers, begins on a cache line, does not move its memory and
        // lives as long as `self`; until `into_buffer` takes `self`, this is the only way to its bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The memory as bytes.
    pub(crate) fn into_buffer(self) -> AlignedBuffer {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_threads_wrote_is_in_the_bytes() {
        for len in [0, 1, 100, 3 << 20] {
            let numbers = SharedNumbers::filled(len);
            std::thread::scope(|scope| {
                for part in 0..2 {
                    let numbers = &numbers;
                    scope.spawn(move || {
                        for (at, slot) in numbers.as_slice().iter().enumerate() {
                            if at % 3 == part {
                                slot.store(at as u32, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
            let buffer = numbers.into_buffer();
            let numbers: &[u32] = bytemuck::cast_slice(buffer.as_ref());
            assert_eq!(numbers.len(), len);
            for (at, number) in numbers.iter().enumerate() {
                let written = if at % 3 < 2 { at as u32 } else { u32::MAX };
                assert_eq!(*number, written);
            }
        }
    }
}
