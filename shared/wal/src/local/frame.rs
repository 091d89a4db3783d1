//! Bytes of a log file.
//!
//! ```text
//! header (64):  magic[8] version:u32 length:u32 epoch:u64 first_lsn:u64 salt:u64 zero[20] crc32c:u32
//! frame:        length:u32 crc32c:u32 lsn:u64 durable_lsn:u64 payload[length]
//! marker (24):  a frame without payload and with lsn 0: "all up to durable_lsn was synced"
//! then zeros:   space that was written ahead, so that a later sync need not grow the file
//! ```
//! All numbers are little-endian. Checksums start from the file's random salt, so that bytes which
//! a user stores can never pass for a frame.
//!
//! # Torn or corrupt
//! A group of frames is written at once and synced once; a power cut in between may leave any part
//! of it on disk. `durable_lsn` in a frame says which records were synced *before* its group was
//! written. So a frame that cannot be read is corruption if anything after it proves that it had
//! been synced, and otherwise the beginning of a torn tail, of which nothing was acknowledged.

use bytes::Bytes;

/// Bytes of a file before its first frame.
pub(super) const FILE_HEADER_BYTES: usize = 64;
/// Bytes of a frame before its payload.
pub(super) const FRAME_HEADER_BYTES: usize = 24;
const MAGIC: [u8; 8] = *b"REDKWAL\0";
const VERSION: u32 = 1;

/// What a file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    /// Epoch of the owner that wrote the file.
    pub(super) epoch: u64,
    /// Number of its first record.
    pub(super) first_lsn: u64,
    /// Where its checksums start.
    pub(super) salt: u64,
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(FILE_HEADER_BYTES as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_lsn.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header, or why these bytes are none.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some(header) = bytes.get(..FILE_HEADER_BYTES) else {
            return Err(format!("the header is cut after {} bytes", bytes.len()));
        };
        if header[..8] != MAGIC {
            return Err("it does not start as a log file does".to_owned());
        }
        if crc32c::crc32c(&header[..60]) != read_u32(header, 60) {
            return Err("the header's checksum does not match".to_owned());
        }
        let version = read_u32(header, 8);
        if version != VERSION {
            return Err(format!("version {version} is unknown, known: {VERSION}"));
        }
        Ok(Self {
            epoch: read_u64(header, 16),
            first_lsn: read_u64(header, 24),
            salt: read_u64(header, 32),
        })
    }
}

/// Appends a frame; a marker is one with `lsn` 0 and no payload.
pub(super) fn encode_frame(
    salt: u64,
    lsn: u64,
    durable_lsn: u64,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    // Records are limited to far less than 4 GiB before they get here.
    let length = payload.len() as u32;
    let crc = checksum(salt, length, lsn, durable_lsn, payload);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&lsn.to_le_bytes());
    out.extend_from_slice(&durable_lsn.to_le_bytes());
    out.extend_from_slice(payload);
}

fn checksum(salt: u64, length: u32, lsn: u64, durable_lsn: u64, payload: &[u8]) -> u32 {
    let mut head = [0; 28];
    head[..8].copy_from_slice(&salt.to_le_bytes());
    head[8..12].copy_from_slice(&length.to_le_bytes());
    head[12..20].copy_from_slice(&lsn.to_le_bytes());
    head[20..].copy_from_slice(&durable_lsn.to_le_bytes());
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

/// A frame's header, checked for nothing yet.
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    crc: u32,
    lsn: u64,
    durable_lsn: u64,
}

impl Head {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let head = bytes.get(at..at + FRAME_HEADER_BYTES)?;
        Some(Self {
            length: read_u32(head, 0) as usize,
            crc: read_u32(head, 4),
            lsn: read_u64(head, 8),
            durable_lsn: read_u64(head, 16),
        })
    }

    /// The payload's end, if the frame is whole and unharmed.
    fn check(&self, bytes: &[u8], at: usize, salt: u64) -> Result<usize, &'static str> {
        let start = at + FRAME_HEADER_BYTES;
        let Some(payload) = bytes.get(start..start + self.length) else {
            return Err("a frame is longer than the file");
        };
        let length = self.length as u32;
        if checksum(salt, length, self.lsn, self.durable_lsn, payload) != self.crc {
            return Err("a frame's checksum does not match");
        }
        Ok(start + self.length)
    }
}

/// How reading a file ended without error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Where the next frame would be.
    pub(super) offset: usize,
    /// The number that it would have.
    pub(super) next_lsn: u64,
    /// From here to `offset` nothing proves that the frames were ever synced: they are one group.
    pub(super) unproven: usize,
}

/// Bytes before the tail that are not those that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// Where.
    pub(super) offset: usize,
    /// What was expected.
    pub(super) reason: String,
}

/// Reads the frames of a whole file up to record `limit` and hands each to `visit`.
///
/// With `next_file`, the number of the first record of the file that follows, every record before
/// it must be there; without, the file is the last one and may end in a torn tail.
pub(super) fn read_frames(
    bytes: &Bytes,
    header: &FileHeader,
    next_file: Option<u64>,
    limit: u64,
    visit: impl FnMut(u64, Bytes),
) -> Result<End, Damage> {
    let start = End {
        offset: FILE_HEADER_BYTES,
        next_lsn: header.first_lsn,
        unproven: FILE_HEADER_BYTES,
    };
    read_frames_from(start, bytes, header, next_file, limit, visit)
}

/// [`read_frames`] from a place in the middle.
fn read_frames_from(
    start: End,
    bytes: &Bytes,
    header: &FileHeader,
    next_file: Option<u64>,
    limit: u64,
    mut visit: impl FnMut(u64, Bytes),
) -> Result<End, Damage> {
    let mut end = start;
    let stop_at = next_file.unwrap_or(u64::MAX);
    while end.next_lsn < stop_at && end.next_lsn <= limit {
        let at = end.offset;
        let problem = match Head::read(bytes, at) {
            None => "the file ends",
            Some(head) => match head.check(bytes, at, header.salt) {
                Ok(_) if head.lsn == 0 => {
                    if head.durable_lsn + 1 == end.next_lsn {
                        end.unproven = at;
                    }
                    "a marker ends the file"
                }
                Ok(frame_end) if head.lsn == end.next_lsn => {
                    if head.durable_lsn + 1 == head.lsn {
                        // The first frame of a group: all groups before it had been synced.
                        end.unproven = at;
                    }
                    visit(head.lsn, bytes.slice(at + FRAME_HEADER_BYTES..frame_end));
                    end.offset = frame_end;
                    end.next_lsn += 1;
                    continue;
                }
                Ok(_) => "a frame is out of order",
                Err(problem) => problem,
            },
        };
        if next_file.is_some() || was_durable(bytes, at, header.salt, end.next_lsn) {
            return Err(Damage {
                offset: at,
                reason: format!("{problem} where record {} should be", end.next_lsn),
            });
        }
        break;
    }
    Ok(end)
}

/// Whether anything at or after `from` proves that record `lsn` had been synced.
fn was_durable(bytes: &[u8], from: usize, salt: u64, lsn: u64) -> bool {
    let mut at = from;
    while let Some(head) = Head::read(bytes, at) {
        let marker = head.lsn == 0 && head.length == 0;
        let records_that_fit = (bytes.len() - from) as u64;
        let plausible = marker || (head.lsn > lsn && head.lsn - lsn <= records_that_fit);
        if plausible && head.durable_lsn >= lsn && head.check(bytes, at, salt).is_ok() {
            return true;
        }
        at += 1;
    }
    false
}

/// Names every damaged place of a file that can be found, and where its records end.
pub(super) fn find_damage(
    bytes: &Bytes,
    header: &FileHeader,
    next_file: Option<u64>,
) -> Vec<Damage> {
    let mut found = Vec::new();
    let mut start = End {
        offset: FILE_HEADER_BYTES,
        next_lsn: header.first_lsn,
        unproven: FILE_HEADER_BYTES,
    };
    loop {
        let mut wanted = start.next_lsn;
        let visit = |lsn, _| wanted = lsn + 1;
        let damage = match read_frames_from(start, bytes, header, next_file, u64::MAX, visit) {
            Ok(end) => {
                found.extend(check_tail(bytes, header, end, next_file.is_some()));
                return found;
            }
            Err(damage) => damage,
        };
        let resumed = next_frame(bytes, damage.offset + 1, header.salt, wanted);
        found.push(damage);
        match resumed {
            Some(resumed) => start = resumed,
            None => return found,
        }
    }
}

/// The next whole frame of a record after `wanted`.
fn next_frame(bytes: &[u8], from: usize, salt: u64, wanted: u64) -> Option<End> {
    let mut at = from;
    while let Some(head) = Head::read(bytes, at) {
        let records_that_fit = (bytes.len() - from) as u64;
        let plausible = head.lsn > wanted && head.lsn - wanted <= records_that_fit;
        if plausible && head.check(bytes, at, salt).is_ok() {
            return Some(End {
                offset: at,
                next_lsn: head.lsn,
                unproven: at,
            });
        }
        at += 1;
    }
    None
}

/// Changed bits in a marker, and bytes in zeros, that cannot be told from a torn group beyond these.
const FEW_BITS: u32 = 3;
const FEW_BYTES: usize = 4;

/// Behind the last record there is its marker or nothing, and then zeros; in the last file, there
/// may also be a group that did not arrive as a whole. A few changed bits are no such group: the
/// head of a frame alone has more bytes that are not zero.
fn check_tail(bytes: &[u8], header: &FileHeader, end: End, is_followed: bool) -> Option<Damage> {
    let tail = &bytes[end.offset..];
    let mut marker = Vec::with_capacity(FRAME_HEADER_BYTES);
    encode_frame(header.salt, 0, end.next_lsn - 1, &[], &mut marker);
    let damage = |at: usize, reason: &str| {
        Some(Damage {
            offset: end.offset + at,
            reason: reason.to_owned(),
        })
    };
    let mut zeros_from = 0;
    if let Some(found) = tail.get(..FRAME_HEADER_BYTES) {
        let bits = |(a, b): (&u8, &u8)| (a ^ b).count_ones();
        let wrong_bits: u32 = found.iter().zip(&marker).map(bits).sum();
        if (1..=FEW_BITS).contains(&wrong_bits) {
            return damage(0, "the marker behind the last record is damaged");
        }
        if wrong_bits == 0 {
            zeros_from = FRAME_HEADER_BYTES;
        }
    }
    let behind = &tail[zeros_from..];
    let wrong = behind.iter().filter(|byte| **byte != 0).count();
    let first = behind.iter().position(|byte| *byte != 0)?;
    if is_followed {
        return damage(zeros_from + first, "unknown bytes behind the last record");
    }
    match wrong <= FEW_BYTES {
        true => damage(
            zeros_from + first,
            "changed bytes in the zeros behind the last record",
        ),
        false => None,
    }
}
