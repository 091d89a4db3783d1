//! Where a log stands, found out without owning it.

use std::{collections::BTreeMap, time::Duration};

use redkite_runtime::Backoff;

use super::{
    format::{Damaged, Header, Kind},
    objects::Objects,
};
use crate::error::{Error, Result};

/// How often a log that is being truncated is looked at again.
const LOOKS: usize = 32;

/// A log as it was found.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    /// Numbers and sizes of all objects.
    pub(super) sizes: BTreeMap<u64, u64>,
    /// The number that follows the log's last object: whoever seals the log takes it. A living
    /// owner may have taken it by now.
    pub(super) end: u64,
    /// The number that the next record gets.
    pub(super) next_lsn: u64,
    /// Records in objects with lower numbers are truncated.
    pub(super) floor: u64,
    /// The last seal that counts; `None` in a log that nobody has owned.
    pub(super) seal: Option<Header>,
    /// The highest epoch of any seal near the end.
    pub(super) epoch: u64,
}

impl Survey {
    /// How many objects the last owner writes at a time.
    pub(super) fn window(&self) -> u64 {
        self.seal.map_or(1, |seal| u64::from(seal.window.max(1)))
    }
}

/// One owner: its seal, and where its objects begin.
#[derive(Clone, Copy, Debug)]
struct Owner {
    seal: Option<Header>,
    first: u64,
    window: u64,
}

impl Owner {
    async fn of(objects: &Objects, seal: u64) -> Result<Self> {
        if seal == 0 {
            return Ok(Self {
                seal: None,
                first: 1,
                window: 1,
            });
        }
        let header = objects.needed_header(seal).await?;
        Ok(Self {
            seal: Some(header),
            first: header.next,
            window: u64::from(header.window.max(1)),
        })
    }

    fn number(&self) -> u64 {
        self.seal.map_or(0, |seal| seal.number)
    }

    fn wrote(&self, header: &Header) -> bool {
        header.kind == Kind::Records
            && header.seal == self.number()
            && self.seal.is_some_and(|seal| seal.writer == header.writer)
    }

    /// The number of its first record.
    async fn first_lsn(&self, objects: &Objects) -> Result<u64> {
        match self.seal {
            None => Ok(1),
            Some(seal) if seal.first_lsn > 0 => Ok(seal.first_lsn),
            // It was set ahead of an owner that had filled everything before it by then.
            Some(seal) => {
                let before = objects.needed_header(seal.number - 1).await?;
                Ok(before.end_lsn())
            }
        }
    }
}

/// What is at the end of a log.
struct Top {
    /// The last owner that a listed object knows to have owned the log.
    owner: Owner,
    /// The highest object of records of that owner.
    records: Option<Header>,
    /// The highest epoch of the seals above it.
    epoch: u64,
}

/// Finds a log's end; see the module's documentation for why this is it.
///
/// # Errors
/// `Corrupt` when an object that must be there is not, or is damaged · `Store`
pub(super) async fn survey(objects: &Objects) -> Result<Survey> {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
    for _ in 0..LOOKS {
        if let Some(found) = look(objects).await? {
            return Ok(found);
        }
        backoff.wait().await;
    }
    Err(Error::Locked {
        channel: objects.channel.to_string(),
    })
}

/// One look at a log; `None` when an object went away between the list and the look at it.
///
/// Then somebody truncates, and what else was listed may be long out of date: an end that is found
/// from it may lie before records that were acknowledged meanwhile.
async fn look(objects: &Objects) -> Result<Option<Survey>> {
    let sizes = objects.list().await?;
    let Some(top) = find_top(objects, &sizes).await? else {
        return Ok(None);
    };
    let owner = top.owner;
    let (mut floor, mut epoch) = (1, top.epoch);
    if let Some(seal) = owner.seal {
        floor = floor.max(seal.floor);
        epoch = epoch.max(seal.epoch);
    }
    // Whatever is behind its window was durable before it wrote its highest object. That one may not
    // count: then there is an object where it says that the log begins, but it truncates nothing.
    let begin = match top.records {
        None => owner.first,
        Some(records) => (records.number + 1)
            .saturating_sub(owner.window)
            .max(owner.first)
            .max(floor)
            .max(records.floor),
    };
    let mut number = begin;
    let after_top = top.records.map_or(begin, |records| records.number + 1);
    let near_end = (begin..=after_top).map(|number| objects.header(number));
    let mut last = None;
    let mut found = None;
    // Not followed any further: an owner that writes faster than this reads is never caught up with.
    for header in futures::future::try_join_all(near_end).await? {
        match header {
            None if sizes.contains_key(&number) => return Ok(None),
            None => break,
            Some(header) if owner.wrote(&header) => last = Some(header),
            Some(header) if header.kind == Kind::Seal => {
                found = Some(header);
                break;
            }
            Some(_) => return Err(objects.corrupt(number, foreign())),
        }
        number += 1;
    }
    if last.is_none() && number == begin && begin > owner.first {
        last = Some(objects.needed_header(begin - 1).await?);
    }
    let next_lsn = match last {
        Some(last) => last.end_lsn(),
        None => owner.first_lsn(objects).await?,
    };
    let (mut end, mut seal) = (number, owner.seal);
    if let Some(sealed) = found {
        floor = floor.max(sealed.floor);
        epoch = epoch.max(sealed.epoch);
        if sealed.first_lsn > 0 && sealed.first_lsn != next_lsn {
            let reason = format!("it begins at record {} of {next_lsn}", sealed.first_lsn);
            return Err(objects.corrupt(number, Damaged { offset: 48, reason }));
        }
        (end, seal) = (sealed.next, Some(sealed));
    }
    if let Some(last) = last {
        floor = floor.max(last.floor);
    }
    Ok(Some(Survey {
        sizes,
        end,
        next_lsn,
        floor,
        seal,
        epoch,
    }))
}

/// Goes down from the highest number to the first object that says who owned the log, and on to
/// the first one with records of that owner; `None` when one has gone away since it was listed.
async fn find_top(objects: &Objects, sizes: &BTreeMap<u64, u64>) -> Result<Option<Top>> {
    let mut owner: Option<Owner> = None;
    let mut epoch = 0;
    for &number in sizes.keys().rev() {
        if owner.is_some_and(|owner| number < owner.first) {
            break;
        }
        let Some(header) = objects.header(number).await? else {
            return Ok(None);
        };
        if header.kind == Kind::Seal {
            epoch = epoch.max(header.epoch);
        }
        let current = match owner {
            Some(owner) => owner,
            None => *owner.insert(Owner::of(objects, header.seal).await?),
        };
        if current.wrote(&header) {
            return Ok(Some(Top {
                owner: current,
                records: Some(header),
                epoch,
            }));
        }
    }
    let owner = match owner {
        Some(owner) => owner,
        None => Owner::of(objects, 0).await?,
    };
    Ok(Some(Top {
        owner,
        records: None,
        epoch,
    }))
}

fn foreign() -> Damaged {
    Damaged {
        offset: 0,
        reason: "it is of another owner than its number says".to_owned(),
    }
}
