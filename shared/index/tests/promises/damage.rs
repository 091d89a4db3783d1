//! A damaged file is refused by name, and never brings a process down.

use redkite_index::{ColumnIndex, Error, Queries, SearchParams};
use redkite_types::ColumnData;

use crate::{KINDS, Kind, Rng, bytes_of, column, queries, search};

const ROWS: usize = 300;
const DIM: usize = 24;
const HEADER: usize = 64;
const ENTRY: usize = 32;

struct Case<'a> {
    kind: &'a Kind,
    column: ColumnData,
    queries: Queries,
    file: Vec<u8>,
}

impl Case<'_> {
    /// Header and table of the file.
    fn head(&self) -> usize {
        let sections = u32::from_le_bytes(self.file[16..20].try_into().unwrap());
        HEADER + sections as usize * ENTRY
    }

    /// Whether a byte lies in a section, and not between two.
    fn is_in_section(&self, at: usize) -> bool {
        let number = |at: usize| u64::from_le_bytes(self.file[at..at + 8].try_into().unwrap());
        (HEADER..self.head()).step_by(ENTRY).any(|entry| {
            let (start, len) = (number(entry + 16) as usize, number(entry + 24) as usize);
            (start..start + len).contains(&at)
        })
    }

    fn open(&self, bytes: Vec<u8>) -> redkite_index::Result<ColumnIndex> {
        ColumnIndex::open(bytes.into())
    }

    /// Opens what may be damaged behind checksums that are right, and searches it: whatever it says,
    /// it must end and not panic.
    fn try_out(&self, bytes: Vec<u8>) {
        if let Ok(index) = self.open(bytes) {
            let params = SearchParams::default();
            // The header may say other things of the rows than they are.
            let _ = search(&index, &self.column, &self.queries, &params, None, 5);
        }
    }
}

fn cases(rng: &mut Rng) -> Vec<Case<'static>> {
    let mut cases = Vec::new();
    for kind in &KINDS {
        let column = column(kind.data, ROWS, DIM, rng);
        let queries = queries(&column, [1, 150].into_iter());
        let without_vectors: &[(&str, &str)] = match kind.name {
            "HNSW_SQ" | "HNSW_PQ" | "IVF_RABITQ" => &[("refine", "false")],
            "SCANN" => &[("with_raw_data", "false")],
            _ => &[],
        };
        let mut variants = vec![&[][..], without_vectors];
        variants.dedup();
        for more in variants {
            cases.push(Case {
                kind,
                column: column.clone(),
                queries: queries.clone(),
                file: bytes_of(&kind.build(more, &column)),
            });
        }
    }
    cases
}

fn is_named(error: &Error) -> bool {
    matches!(
        error,
        Error::Corrupt { .. } | Error::UnsupportedVersion { .. }
    )
}

#[test]
fn a_flipped_bit_and_a_missing_end_are_named() {
    let mut rng = Rng::from_env();
    for case in cases(&mut rng) {
        let head = case.head();
        let behind = case.file.len() - head;
        let some = (0..400.min(behind)).map(|_| head + rng.below(behind));
        let places: Vec<usize> = (0..head).chain(some).collect();
        for at in places {
            let mut bytes = case.file.clone();
            bytes[at] ^= 1 << rng.below(8);
            match case.open(bytes) {
                Err(error) => assert!(is_named(&error), "{} byte {at}: {error}", case.kind.name),
                // Nothing reads what lies between two sections.
                Ok(_) => assert!(
                    at >= head && !case.is_in_section(at),
                    "{} byte {at} was not missed",
                    case.kind.name
                ),
            }
        }
        for _ in 0..60 {
            let len = rng.below(case.file.len());
            if let Err(error) = case.open(case.file[..len].to_vec()) {
                assert!(is_named(&error), "{} {len} bytes: {error}", case.kind.name);
            } else {
                let rest = len..case.file.len();
                assert!(rest.into_iter().all(|at| !case.is_in_section(at)), "{len}");
            }
        }
    }
}

/// Puts the right checksum over header and table.
fn seal(bytes: &mut [u8], head: usize) {
    bytes[12..16].fill(0);
    let crc = crc32c::crc32c(&bytes[..head]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_header_that_lies_brings_nothing_down() {
    let mut rng = Rng::from_env();
    for case in cases(&mut rng) {
        let head = case.head();
        // Each number of the header as something else, and entries of the table at random.
        for at in (16..HEADER).step_by(4) {
            for value in [
                0u32,
                1,
                2,
                3,
                63,
                64,
                65,
                4096,
                65_537,
                1 << 20,
                1 << 31,
                u32::MAX,
            ] {
                let mut bytes = case.file.clone();
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                seal(&mut bytes, head);
                case.try_out(bytes);
            }
        }
        for _ in 0..400 {
            let mut bytes = case.file.clone();
            for _ in 0..1 + rng.below(3) {
                let at = 16 + rng.below(head - 16);
                bytes[at] = rng.next() as u8;
            }
            seal(&mut bytes, head);
            case.try_out(bytes);
        }
    }
}

#[test]
fn contents_that_make_no_sense_bring_nothing_down() {
    let mut rng = Rng::from_env();
    for case in cases(&mut rng) {
        let head = case.head();
        // Some files are a header only.
        for _ in 0..150.min(case.file.len() - head) {
            let mut bytes = case.file.clone();
            for _ in 0..1 + rng.below(20) {
                let at = head + rng.below(bytes.len() - head);
                bytes[at] = rng.next() as u8;
            }
            // Checksums that are right, as if it had been written like that.
            for entry in (HEADER..head).step_by(ENTRY) {
                let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
                let (start, len) = (number(entry + 16) as usize, number(entry + 24) as usize);
                let crc = crc32c::crc32c(&bytes[start..start + len]).to_le_bytes();
                bytes[entry + 8..entry + 12].copy_from_slice(&crc);
            }
            seal(&mut bytes, head);
            case.try_out(bytes);
        }
    }
}
