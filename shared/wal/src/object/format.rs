//! Bytes of an object.
//!
//! ```text
//! header (96):  magic[8] version:u32 kind:u32 number:u64 epoch:u64 writer:u64 seal:u64
//!               first_lsn:u64 floor:u64 next:u64 body_length:u64 count:u32 window:u32 zero:u32
//!               crc32c:u32
//! frame:        length:u32 crc32c:u32 payload[length]        `count` of them, `body_length` in all
//! ```
//! All numbers are little-endian. The checksum of a frame also covers the writer's random number
//! and the record's number, so that neither bytes that a user stores nor a frame of another object
//! can pass for it.

use bytes::Bytes;

/// Bytes of an object before its first frame.
pub(super) const HEADER_BYTES: usize = 96;
/// Bytes of a frame before its payload.
pub(super) const FRAME_HEADER_BYTES: usize = 8;
/// Numbers that lie between a seal and the first records of its owner. Larger than any number of
/// objects that former owners and those who want to become one may still be writing.
pub(super) const SKIP: u64 = 4_096;
const MAGIC: [u8; 8] = *b"REDKOBJ\0";
const VERSION: u32 = 1;

/// What an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records of one owner, or none: then it only says where the log begins.
    Records,
    /// The end of all former owners and the beginning of a new one.
    Seal,
}

/// What an object says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// The number in its key.
    pub(super) number: u64,
    /// Epoch of the owner that wrote it.
    pub(super) epoch: u64,
    /// A number that nobody else has drawn.
    pub(super) writer: u64,
    /// Of records, the seal of their owner; of a seal, the one before it. 0: there was none.
    pub(super) seal: u64,
    /// Number of the first record in it, or of the next one when it has none. In a seal 0 when it
    /// was not known yet: then the object before it tells.
    pub(super) first_lsn: u64,
    /// Records in objects with lower numbers are truncated.
    pub(super) floor: u64,
    /// Number of the object that follows.
    pub(super) next: u64,
    /// Bytes of all frames.
    pub(super) body_length: u64,
    /// Records.
    pub(super) count: u32,
    /// How many objects its owner writes at a time at most.
    pub(super) window: u32,
}

impl Header {
    /// The number that follows its last record; 0 when a seal does not know.
    pub(super) fn end_lsn(&self) -> u64 {
        self.first_lsn + u64::from(self.count)
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let kind: u32 = match self.kind {
            Kind::Records => 1,
            Kind::Seal => 2,
        };
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&kind.to_le_bytes());
        let words = [
            self.number,
            self.epoch,
            self.writer,
            self.seal,
            self.first_lsn,
            self.floor,
            self.next,
            self.body_length,
        ];
        for (word, place) in words.iter().zip(bytes[16..80].chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes[80..84].copy_from_slice(&self.count.to_le_bytes());
        bytes[84..88].copy_from_slice(&self.window.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..92]);
        bytes[92..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header, or why these bytes are none.
    pub(super) fn decode(bytes: &[u8], number: u64) -> Result<Self, Damaged> {
        let damaged = |offset: usize, reason: String| Err(Damaged { offset, reason });
        let Some(header) = bytes.get(..HEADER_BYTES) else {
            let reason = format!("the header is cut after {} bytes", bytes.len());
            return damaged(bytes.len(), reason);
        };
        if header[..8] != MAGIC {
            return damaged(0, "it does not start as an object of a log does".to_owned());
        }
        if crc32c::crc32c(&header[..92]) != read_u32(header, 92) {
            return damaged(0, "the header's checksum does not match".to_owned());
        }
        let version = read_u32(header, 8);
        if version != VERSION {
            return damaged(8, format!("version {version} is unknown, known: {VERSION}"));
        }
        let kind = match read_u32(header, 12) {
            1 => Kind::Records,
            2 => Kind::Seal,
            kind => return damaged(12, format!("kind {kind} is unknown")),
        };
        let found = read_u64(header, 16);
        if found != number {
            return damaged(16, format!("the header says that it is number {found}"));
        }
        Ok(Self {
            kind,
            number,
            epoch: read_u64(header, 24),
            writer: read_u64(header, 32),
            seal: read_u64(header, 40),
            first_lsn: read_u64(header, 48),
            floor: read_u64(header, 56),
            next: read_u64(header, 64),
            body_length: read_u64(header, 72),
            count: read_u32(header, 80),
            window: read_u32(header, 84),
        })
    }
}

/// Bytes that are not those that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damaged {
    /// Where in the object.
    pub(super) offset: usize,
    /// What was expected.
    pub(super) reason: String,
}

/// A whole object; `count` and `body_length` are filled in.
pub(super) fn encode(mut header: Header, payloads: &[Bytes]) -> Bytes {
    let body: usize = payloads
        .iter()
        .map(|payload| FRAME_HEADER_BYTES + payload.len())
        .sum();
    header.count = payloads.len() as u32;
    header.body_length = body as u64;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body);
    bytes.extend_from_slice(&header.encode());
    for (lsn, payload) in (header.first_lsn..).zip(payloads) {
        // Records are limited to far less than 4 GiB before they get here.
        let length = payload.len() as u32;
        let crc = checksum(header.writer, lsn, length, payload);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(payload);
    }
    Bytes::from(bytes)
}

/// The records of a whole object, as parts of its bytes.
pub(super) fn decode(bytes: &Bytes, number: u64) -> Result<(Header, Vec<Bytes>), Damaged> {
    let header = Header::decode(bytes, number)?;
    let damaged = |offset: usize, reason: String| Err(Damaged { offset, reason });
    let length = (bytes.len() - HEADER_BYTES) as u64;
    if length != header.body_length {
        let reason = format!("it has {length} bytes of {}", header.body_length);
        let whole = HEADER_BYTES as u64 + header.body_length;
        return damaged(whole.min(bytes.len() as u64) as usize, reason);
    }
    let mut payloads = Vec::with_capacity(header.count.min(1 << 16) as usize);
    let mut at = HEADER_BYTES;
    for lsn in header.first_lsn..header.end_lsn() {
        let Some(head) = bytes.get(at..at + FRAME_HEADER_BYTES) else {
            return damaged(at, format!("it ends where record {lsn} should be"));
        };
        let (length, crc) = (read_u32(head, 0), read_u32(head, 4));
        let start = at + FRAME_HEADER_BYTES;
        let end = start + length as usize;
        if end > bytes.len() || checksum(header.writer, lsn, length, &bytes[start..end]) != crc {
            return damaged(at, format!("the checksum of record {lsn} does not match"));
        }
        payloads.push(bytes.slice(start..end));
        at = end;
    }
    match at == bytes.len() {
        true => Ok((header, payloads)),
        false => damaged(at, "there are bytes behind its last record".to_owned()),
    }
}

fn checksum(writer: u64, lsn: u64, length: u32, payload: &[u8]) -> u32 {
    let mut head = [0; 20];
    head[..8].copy_from_slice(&writer.to_le_bytes());
    head[8..16].copy_from_slice(&lsn.to_le_bytes());
    head[16..].copy_from_slice(&length.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Records,
            number: 1_026,
            epoch: 3,
            writer: 0x0123_4567_89ab_cdef,
            seal: 1,
            first_lsn: 7,
            floor: 1,
            next: 1_027,
            body_length: 0,
            count: 0,
            window: 8,
        }
    }

    #[test]
    fn an_object_comes_back_and_any_flipped_bit_and_any_cut_is_found() {
        let payloads = [
            Bytes::from_static(b"one"),
            Bytes::new(),
            Bytes::from_static(b"three"),
        ];
        let bytes = encode(header(), &payloads);
        let (found, records) = decode(&bytes, 1_026).unwrap();
        assert_eq!(records, payloads);
        assert_eq!((found.count, found.end_lsn()), (3, 10));
        assert!(decode(&bytes, 1_027).is_err(), "under another key");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let damaged = decode(&flipped.into(), 1_026).unwrap_err();
            assert!(damaged.offset <= bit / 8, "bit {bit}: {damaged:?}");
        }
        for cut in 0..bytes.len() {
            assert!(decode(&bytes.slice(..cut), 1_026).is_err(), "{cut}");
        }
    }

    #[test]
    fn the_first_version_is_read_for_ever() {
        let bytes = encode(header(), &[Bytes::from_static(b"x")]);
        let golden = "5245444b4f424a000100000001000000020400000000000003000000000000\
            00efcdab89674523010100000000000000070000000000000001000000000000000304000000000000\
            0900000000000000010000000800000000000000";
        let hex: String = bytes[..92]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, golden);
        assert_eq!(bytes.len(), HEADER_BYTES + FRAME_HEADER_BYTES + 1);
    }
}
