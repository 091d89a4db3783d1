//! Finds every damaged place of a channel's objects; reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use futures::{StreamExt as _, stream};

use super::{
    chain::Chain,
    format::{Header, Kind},
    objects::Objects,
    survey::survey,
};
use crate::{
    error::{Error, Result},
    log::{Damage, Lsn},
};

/// [`crate::LogStore::check`] for the objects of one channel.
pub(super) async fn check(objects: &Objects, from: Lsn, read_ahead: usize) -> Result<Vec<Damage>> {
    let (sizes, unknown) = objects.list_all().await?;
    let unknown = unknown.into_iter().map(|key| Damage {
        file: PathBuf::from(key),
        offset: 0,
        reason: "no log makes such an object".to_owned(),
    });
    let mut found: Vec<Damage> = unknown.collect();
    let mut sound = BTreeMap::new();
    let numbers: Vec<u64> = sizes.keys().copied().collect();
    let mut read = stream::iter(numbers)
        .map(|number| objects.records(number))
        .buffered(read_ahead);
    while let Some(object) = read.next().await {
        match object {
            Ok(Some((header, _))) => {
                sound.insert(header.number, header);
            }
            // Truncated since it was listed.
            Ok(None) => {}
            Err(error) => found.push(damage_of(error)?),
        }
    }
    let listed: BTreeSet<u64> = sizes.into_keys().collect();
    for number in missing(&listed, &sound) {
        // It may have been on its way while the others were listed.
        if objects
            .header(number)
            .await
            .is_ok_and(|header| header.is_none())
        {
            found.push(damage_of(objects.missing(number))?);
        }
    }
    // Where a log is damaged, where it ends is not for sure.
    if found.is_empty()
        && let Some(damage) = check_reach(objects, from).await?
    {
        found.push(damage);
    }
    Ok(found)
}

fn damage_of(error: Error) -> Result<Damage> {
    match error {
        Error::Corrupt {
            file,
            offset,
            reason,
        } => Ok(Damage {
            file,
            offset,
            reason,
        }),
        error => Err(error),
    }
}

/// Numbers that the other objects prove to have been there.
fn missing(listed: &BTreeSet<u64>, sound: &BTreeMap<u64, Header>) -> BTreeSet<u64> {
    let floor = sound.values().map(|header| header.floor).max().unwrap_or(1);
    let mut missing = BTreeSet::new();
    // The highest object of each owner, by its seal.
    let mut tops: BTreeMap<u64, &Header> = BTreeMap::new();
    for header in sound.values() {
        if header.seal > 0 && !listed.contains(&header.seal) {
            missing.insert(header.seal);
        }
        if header.kind == Kind::Records {
            tops.insert(header.seal, header);
        }
    }
    for (seal, top) in tops {
        let Some(seal) = sound.get(&seal) else {
            continue;
        };
        // Behind its window everything was durable before it wrote the highest one.
        let durable = (top.number + 1).saturating_sub(u64::from(top.window));
        let needed = seal.next.max(floor)..durable.max(floor.min(top.number));
        missing.extend(needed.filter(|number| !listed.contains(number)));
    }
    missing
}

/// Whether the log begins and ends where it must, and goes through.
async fn check_reach(objects: &Objects, from: Lsn) -> Result<Option<Damage>> {
    let reach = async {
        let found = survey(objects).await?;
        let Some(seal) = found.seal else {
            return Ok((1, 1));
        };
        let chain = Chain::of(objects, &found, seal).await?;
        let mut next = None;
        for number in chain.numbers() {
            let header = objects.needed_header(number).await?;
            if next.is_some_and(|next| next != header.first_lsn) {
                let reason = format!("it begins at record {}", header.first_lsn);
                let damaged = super::format::Damaged { offset: 48, reason };
                return Err(objects.corrupt(number, damaged));
            }
            next = Some(header.end_lsn());
        }
        Ok((chain.first_lsn, found.next_lsn))
    };
    let (first, next) = match Box::pin(reach).await {
        Ok(reach) => reach,
        Err(error) => return damage_of(error).map(Some),
    };
    let is_there = from <= Lsn(1) && first == 1 || (first..=next).contains(&from.0);
    Ok((!is_there).then(|| Damage {
        file: PathBuf::from(objects.key(0)),
        offset: 0,
        reason: format!(
            "record {from} of channel {} should be there, but the log has {first} to {next}",
            objects.channel
        ),
    }))
}
