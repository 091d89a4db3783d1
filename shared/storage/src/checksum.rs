//! CRC32C of whole objects: written into manifests, checked whenever an object is read.

use crate::error::{Error, Result};

/// CRC32C (Castagnoli) of the bytes.
///
/// # Source
/// RFC 3720, appendix B.4.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC32C of bytes that follow others, whose CRC32C is `before`.
pub fn crc32c_append(before: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(before, bytes)
}

/// CRC32C of bytes and others behind them, of which there are `after_bytes`, from the CRC32C of each.
pub fn crc32c_combine(before: u32, after: u32, after_bytes: usize) -> u32 {
    crc32c::crc32c_combine(before, after, after_bytes)
}

/// Checks an object's length and checksum against what its manifest says.
///
/// # Errors
/// `Corrupt` naming the object, what was expected and what was found; never worth a retry.
pub fn verify(key: &str, bytes: &[u8], size_bytes: u64, expected_crc32c: u32) -> Result<()> {
    verify_size(key, bytes.len() as u64, size_bytes)?;
    verify_crc(key, crc32c(bytes), expected_crc32c)
}

/// Checks an object's length alone.
///
/// # Errors
/// As [`verify`].
pub fn verify_size(key: &str, found: u64, expected: u64) -> Result<()> {
    if found != expected {
        return Err(Error::Corrupt {
            key: key.to_owned(),
            reason: format!("it has {found} bytes instead of {expected}"),
        });
    }
    Ok(())
}

/// Checks an object's checksum, computed piece by piece.
///
/// # Errors
/// As [`verify`].
pub fn verify_crc(key: &str, found: u32, expected_crc32c: u32) -> Result<()> {
    if found != expected_crc32c {
        return Err(Error::Corrupt {
            key: key.to_owned(),
            reason: format!("its crc32c is {found:08x} instead of {expected_crc32c:08x}"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_and_any_cut_is_found() {
        // The check value of the algorithm.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let bytes = b"some bytes of an object".to_vec();
        let crc = crc32c(&bytes);
        verify("k", &bytes, bytes.len() as u64, crc).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            verify("k", &flipped, bytes.len() as u64, crc).unwrap_err();
        }
        let cut = verify("k", &bytes[1..], bytes.len() as u64, crc).unwrap_err();
        assert!(cut.to_string().contains("object k is corrupt"), "{cut}");
    }
}
