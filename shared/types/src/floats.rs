//! Many f32: owned, or a view of bytes that somebody else keeps, such as a mapped file.

use std::ops::Deref;

use bytes::Bytes;

/// Values of vectors. Reads like a slice; writing to shared values copies them first.
#[derive(Clone, Default)]
pub struct FloatBuffer {
    owned: Vec<f32>,
    /// The values, if they are somebody else's: a whole number of native f32 at an address that
    /// f32 allows.
    shared: Option<Bytes>,
}

impl FloatBuffer {
    /// Looks at little-endian f32 in place. Copies them only if they do not start at a multiple of
    /// four, or if the processor is big-endian. `None` when they are no whole number.
    pub fn from_le_bytes(bytes: Bytes) -> Option<Self> {
        if !bytes.len().is_multiple_of(size_of::<f32>()) {
            return None;
        }
        let in_place = bytemuck::try_cast_slice::<u8, f32>(&bytes).is_ok();
        if cfg!(target_endian = "little") && in_place {
            return Some(Self {
                owned: Vec::new(),
                shared: Some(bytes),
            });
        }
        let values = bytes.chunks_exact(size_of::<f32>());
        Some(
            values
                .map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]]))
                .collect(),
        )
    }

    /// The values as a vector of our own, copied if they are shared.
    pub fn into_vec(mut self) -> Vec<f32> {
        std::mem::take(self.make_mut())
    }

    /// The values for writing, copied first if they are shared.
    pub fn make_mut(&mut self) -> &mut Vec<f32> {
        if self.shared.is_some() {
            self.owned = self.to_vec();
            self.shared = None;
        }
        &mut self.owned
    }

    /// Appends values.
    pub fn extend_from_slice(&mut self, values: &[f32]) {
        self.make_mut().extend_from_slice(values);
    }

    /// The values as bytes of this processor's order, at an address that f32 allows, if they are
    /// somebody else's.
    pub fn shared_bytes(&self) -> Option<&Bytes> {
        self.shared.as_ref()
    }

    /// Whether the bytes belong to somebody else.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }
}

impl Deref for FloatBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.shared {
            None => &self.owned,
            // Empty bytes have no particular address.
            Some(bytes) if bytes.is_empty() => &[],
            Some(bytes) => bytemuck::cast_slice(bytes),
        }
    }
}

impl std::fmt::Debug for FloatBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl PartialEq for FloatBuffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl PartialEq<Vec<f32>> for FloatBuffer {
    fn eq(&self, other: &Vec<f32>) -> bool {
        **self == **other
    }
}

impl From<Vec<f32>> for FloatBuffer {
    fn from(owned: Vec<f32>) -> Self {
        Self {
            owned,
            shared: None,
        }
    }
}

impl FromIterator<f32> for FloatBuffer {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Self {
        Vec::from_iter(values).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn bytes_at_any_address_read_as_the_same_values() {
        let values = [1.0, -2.5, f32::MAX, 0.0];
        for shift in 0..4 {
            let mut all = vec![0u8; shift];
            all.extend(bytes(&values));
            let buffer = FloatBuffer::from_le_bytes(Bytes::from(all).slice(shift..)).unwrap();
            assert_eq!(&*buffer, &values);
        }
        assert!(FloatBuffer::from_le_bytes(Bytes::from_static(&[0; 7])).is_none());
        assert!(FloatBuffer::from_le_bytes(Bytes::new()).unwrap().is_empty());
    }

    #[test]
    fn writing_leaves_the_shared_bytes_alone() {
        let shared = Bytes::from(bytes(&[1.0, 2.0]));
        let mut buffer = FloatBuffer::from_le_bytes(shared.clone()).unwrap();
        let other = buffer.clone();
        buffer.extend_from_slice(&[3.0]);
        buffer.make_mut()[0] = 9.0;
        assert!(!buffer.is_shared());
        assert_eq!(buffer, vec![9.0, 2.0, 3.0]);
        assert_eq!(other, vec![1.0, 2.0]);
        assert_eq!(shared, bytes(&[1.0, 2.0]));
    }
}
