//! Bytes of vectors that are no f32: owned, or a view of bytes that somebody else keeps.

use std::ops::Deref;

use bytes::Bytes;

/// Address that the bytes of a vector start at a multiple of: that of the widest value, two bytes.
const ALIGNMENT: usize = 2;

/// Bytes of packed vectors. Reads like a slice; writing to shared bytes copies them first.
///
/// Shared bytes start at an even address, so that 16-bit values are read where they are.
#[derive(Clone, Default)]
pub struct PackedBuffer {
    owned: Vec<u8>,
    shared: Option<Bytes>,
}

impl PackedBuffer {
    /// Looks at the bytes in place; copies them only if they start at an odd address.
    pub fn from_bytes(bytes: Bytes) -> Self {
        if bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Self {
                owned: Vec::new(),
                shared: Some(bytes),
            };
        }
        bytes.to_vec().into()
    }

    /// The bytes for writing, copied first if they are shared.
    pub fn make_mut(&mut self) -> &mut Vec<u8> {
        if let Some(shared) = self.shared.take() {
            self.owned = shared.to_vec();
        }
        &mut self.owned
    }

    /// The bytes, copied only if they are owned and somebody else goes on using them.
    pub fn into_bytes(self) -> Bytes {
        self.shared.unwrap_or_else(|| self.owned.into())
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.make_mut().extend_from_slice(bytes);
    }

    /// Whether the bytes belong to somebody else.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }
}

impl Deref for PackedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.shared {
            None => &self.owned,
            Some(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for PackedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl PartialEq for PackedBuffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl From<Vec<u8>> for PackedBuffer {
    fn from(owned: Vec<u8>) -> Self {
        Self {
            owned,
            shared: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_at_any_address_read_alike_and_writing_leaves_them_alone() {
        let all = Bytes::from((0u8..40).collect::<Vec<u8>>());
        for shift in 0..4 {
            let shared = all.slice(shift..);
            let mut buffer = PackedBuffer::from_bytes(shared.clone());
            assert_eq!(&*buffer, &shared);
            assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
            buffer.extend_from_slice(&[7]);
            assert!(!buffer.is_shared());
            assert_eq!(buffer.len(), shared.len() + 1);
            assert_eq!(shared, all.slice(shift..));
        }
    }
}
