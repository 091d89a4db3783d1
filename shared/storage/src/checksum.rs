//! CRC32C of whole objects: written into manifests, checked whenever an object is read.

use crate::error::{Error, Result};

/// CRC32C (Castagnoli) of the bytes.
///
/// # Source
/// RFC 3720, appendix B.4.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Checks an object's length and checksum against what its manifest says.
///
/// # Errors
/// `Corrupt` naming the object, what was expected and what was found; never worth a retry.
pub fn verify(key: &str, bytes: &[u8], size_bytes: u64, expected_crc32c: u32) -> Result<()> {
    if bytes.len() as u64 != size_bytes {
        return Err(Error::Corrupt {
            key: key.to_owned(),
            reason: format!("it has {} bytes instead of {size_bytes}", bytes.len()),
        });
    }
    let found = crc32c(bytes);
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
