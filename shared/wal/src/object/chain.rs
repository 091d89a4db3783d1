//! Which objects of a log count, and which record is where.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::{
    format::{Header, Kind},
    objects::Objects,
    survey::Survey,
};
use crate::error::{Error, Result};

/// The objects with records of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Number of its seal.
    pub(super) seal: u64,
    pub(super) writer: u64,
    pub(super) first: u64,
    /// The number behind its last object.
    pub(super) end: u64,
}

impl Span {
    fn len(&self) -> u64 {
        self.end - self.first
    }

    /// Whether an object is the one that is expected at its place.
    pub(super) fn wrote(&self, header: &Header) -> bool {
        header.kind == Kind::Records && header.seal == self.seal && header.writer == self.writer
    }
}

/// The objects that count from the floor on, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    spans: Vec<Span>,
    /// Sizes of all objects that are there, those that do not count included.
    pub(super) sizes: BTreeMap<u64, u64>,
    /// First records, as far as they are known.
    first_lsns: BTreeMap<u64, u64>,
    /// The oldest record that is there, or the next one when there is none.
    pub(super) first_lsn: u64,
}

impl Chain {
    /// Walks back from a log's last seal.
    ///
    /// # Errors
    /// `Corrupt` · `Store`
    pub(super) async fn of(objects: &Objects, found: &Survey, seal: Header) -> Result<Self> {
        let mut spans = vec![Span {
            seal: seal.number,
            writer: seal.writer,
            first: seal.next.max(found.floor).min(found.end),
            end: found.end,
        }];
        let mut current = seal;
        while current.seal > 0 && current.next > found.floor {
            let before = objects.needed_header(current.seal).await?;
            let first = before.next.max(found.floor);
            if first < current.number {
                spans.push(Span {
                    seal: before.number,
                    writer: before.writer,
                    first,
                    end: current.number,
                });
            }
            current = before;
        }
        spans.reverse();
        let mut chain = Self {
            spans,
            sizes: found.sizes.clone(),
            first_lsns: BTreeMap::new(),
            first_lsn: 1,
        };
        if found.floor > 1 {
            let oldest = chain.numbers().next();
            chain.first_lsn = match oldest {
                Some(oldest) => objects.needed_header(oldest).await?.first_lsn,
                None => found.next_lsn,
            };
        }
        Ok(chain)
    }

    /// Numbers of the objects with records.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.spans.iter().flat_map(|span| span.first..span.end)
    }

    pub(super) fn last_number(&self) -> Option<u64> {
        let filled = self.spans.iter().rev().find(|span| span.len() > 0)?;
        Some(filled.end - 1)
    }

    /// The objects from a number on, each with who wrote it.
    pub(super) fn from(&self, number: u64) -> Vec<(u64, Span)> {
        let spans = self.spans.iter();
        spans
            .flat_map(|span| (span.first.max(number)..span.end).map(|number| (number, *span)))
            .collect()
    }

    /// Adds an object that the log's owner has written.
    pub(super) fn push(&mut self, number: u64, first_lsn: u64, size_bytes: u64) {
        if let Some(span) = self.spans.last_mut() {
            span.end = number + 1;
        }
        self.sizes.insert(number, size_bytes);
        self.first_lsns.insert(number, first_lsn);
    }

    /// Lets go of the objects before a number, whose first record is given.
    pub(super) fn truncate(&mut self, floor: u64, first_lsn: u64) {
        for span in &mut self.spans {
            span.first = span.first.max(floor).min(span.end);
        }
        let last = self.spans.len() - 1;
        let mut index = 0;
        self.spans.retain(|span| {
            index += 1;
            span.len() > 0 || index > last
        });
        self.first_lsns = self.first_lsns.split_off(&floor);
        self.first_lsn = self.first_lsn.max(first_lsn);
    }

    fn count(&self) -> u64 {
        self.spans.iter().map(Span::len).sum()
    }

    fn nth(&self, mut index: u64) -> Option<u64> {
        for span in &self.spans {
            if index < span.len() {
                return Some(span.first + index);
            }
            index -= span.len();
        }
        None
    }
}

/// Why an object was not found.
#[derive(Debug)]
pub(super) enum Located {
    /// One that counted is not there: damage, or another owner has truncated it.
    Missing(u64),
    Failed(Error),
}

/// The last object that begins at or before a record, with its first record; `None` when there is
/// none.
///
/// # Errors
/// `Missing` · `Corrupt` · `Store`
pub(super) async fn locate(
    chain: &Mutex<Chain>,
    objects: &Objects,
    lsn: u64,
) -> Result<Option<(u64, u64)>, Located> {
    let (mut low, mut high) = (0, chain.lock().count());
    let mut found = None;
    while low < high {
        let middle = low + (high - low) / 2;
        let (number, known) = {
            let chain = chain.lock();
            // Only a truncation makes it shorter, and whoever truncates looks up before.
            let Some(number) = chain.nth(middle) else {
                return Ok(None);
            };
            (number, chain.first_lsns.get(&number).copied())
        };
        let first_lsn = match known {
            Some(first_lsn) => first_lsn,
            None => {
                let header = objects.header(number).await.map_err(Located::Failed)?;
                let first_lsn = header.ok_or(Located::Missing(number))?.first_lsn;
                chain.lock().first_lsns.insert(number, first_lsn);
                first_lsn
            }
        };
        if first_lsn <= lsn {
            found = Some((number, first_lsn));
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(found)
}
