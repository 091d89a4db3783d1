//! Bytes that start on a cache line, so that they can be read as rows, floats or links in place.
//!
//! Large ones lie in huge pages where the system has them: a walk jumps through tens of megabytes,
//! and with pages of 4 KB nearly every jump would also miss the processor's table of pages.

use bytemuck::{Pod, Zeroable};
use bytes::Bytes;
use memmap2::MmapMut;

use crate::kernel::LINE_BYTES;

/// From this size on, huge pages are asked for; below, rounding up to pages would waste memory.
const HUGE_PAGES_FROM: usize = 2 << 20;

/// One cache line.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

enum Memory {
    Heap(Vec<Line>),
    Pages(MmapMut),
}

/// A buffer of a fixed length that starts on a cache line, in huge pages if it is large and the
/// system has them.
pub struct AlignedBuffer {
    memory: Memory,
    len: usize,
}

impl AlignedBuffer {
    /// So many zeros.
    pub fn zeroed(len: usize) -> Self {
        let pages = (len >= HUGE_PAGES_FROM).then(|| MmapMut::map_anon(len));
        let memory = match pages {
            Some(Ok(pages)) => {
                // Advice only: without huge pages it is slower, not wrong.
                #[cfg(target_os = "linux")]
                let _ = pages.advise(memmap2::Advice::HugePage);
                Memory::Pages(pages)
            }
            _ => Memory::Heap(vec![Line([0; LINE_BYTES]); len.div_ceil(LINE_BYTES)]),
        };
        Self { memory, len }
    }

    /// Copies plain values.
    pub(crate) fn copy_of<T: Pod>(items: &[T]) -> Self {
        let bytes: &[u8] = bytemuck::cast_slice(items);
        let mut buffer = Self::zeroed(bytes.len());
        buffer.as_mut().copy_from_slice(bytes);
        buffer
    }

    /// Its bytes as values; there must be a whole number of them.
    pub(crate) fn values_mut<T: Pod>(&mut self) -> &mut [T] {
        // Empty bytes have no particular address.
        match self.len {
            0 => &mut [],
            _ => bytemuck::cast_slice_mut(self.as_mut()),
        }
    }

    /// Gives the buffer away without copying.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(lines) => &bytemuck::cast_slice(lines)[..self.len],
            Memory::Pages(pages) => &pages[..self.len],
        }
    }
}

impl AsMut<[u8]> for AlignedBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(lines) => &mut bytemuck::cast_slice_mut(lines)[..self.len],
            Memory::Pages(pages) => &mut pages[..self.len],
        }
    }
}

/// A section of an index: changed while it is built, shared from then on.
pub(crate) enum Contents {
    Changing(AlignedBuffer),
    Shared(Bytes),
}

impl Contents {
    /// The bytes while they may be changed.
    pub(crate) fn as_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Self::Changing(buffer) => Some(buffer.as_mut()),
            Self::Shared(_) => None,
        }
    }

    /// Ends the changes.
    pub(crate) fn share(&mut self) {
        if let Self::Changing(buffer) = self {
            let buffer = std::mem::replace(buffer, AlignedBuffer::zeroed(0));
            *self = Self::Shared(buffer.into_bytes());
        }
    }

    /// The bytes to be kept elsewhere; copied only while they are changed.
    pub(crate) fn bytes(&self) -> Bytes {
        match self {
            Self::Changing(buffer) => aligned_copy(buffer.as_ref()),
            Self::Shared(bytes) => bytes.clone(),
        }
    }
}

impl std::ops::Deref for Contents {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Changing(buffer) => buffer.as_ref(),
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Copies plain values into aligned bytes.
pub(crate) fn aligned_copy<T: Pod>(items: &[T]) -> Bytes {
    AlignedBuffer::copy_of(items).into_bytes()
}

/// The same bytes, copied only if they do not start on a cache line.
pub(crate) fn aligned(bytes: Bytes) -> Bytes {
    if bytes.as_ptr().addr().is_multiple_of(LINE_BYTES) {
        bytes
    } else {
        aligned_copy(&bytes)
    }
}

/// Reads a section as values.
///
/// # Panics
/// When the section is not a whole number of values: `file` checks lengths before an index is made.
#[inline]
pub(crate) fn view<T: Pod>(section: &Bytes) -> &[T] {
    // Empty bytes have no particular address.
    if section.is_empty() {
        &[]
    } else {
        bytemuck::cast_slice(section)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_every_size_start_on_a_line_and_keep_their_bytes() {
        for len in [0, 1, 63, 64, 65, HUGE_PAGES_FROM - 1, HUGE_PAGES_FROM + 1] {
            let mut buffer = AlignedBuffer::zeroed(len);
            assert!(buffer.as_ref().iter().all(|byte| *byte == 0));
            if let Some(last) = buffer.as_mut().last_mut() {
                *last = 7;
            }
            let bytes = buffer.into_bytes();
            assert_eq!(bytes.len(), len);
            assert_eq!(bytes.last().copied().unwrap_or(7), 7);
            assert!(len == 0 || bytes.as_ptr().addr().is_multiple_of(LINE_BYTES));
        }
    }

    #[test]
    fn bytes_at_odd_addresses_are_moved() {
        let bytes = Bytes::from((0u8..200).collect::<Vec<u8>>());
        for shift in 0..3 {
            let moved = aligned(bytes.slice(shift..));
            assert_eq!(moved, bytes.slice(shift..));
            assert!(moved.as_ptr().addr().is_multiple_of(LINE_BYTES));
        }
    }
}
