//! Becoming a log's owner.

use std::time::Duration;

use futures::future::join_all;
use redkite_runtime::Backoff;
use redkite_storage::PutOutcome;

use super::{
    MAX_IN_FLIGHT, ObjectOptions,
    chain::Chain,
    format::{self, Header, Kind, SKIP},
    objects::Objects,
    survey::{Survey, survey},
};
use crate::{
    error::{Error, Result},
    salt::new_salt,
};

/// Races for the next number that are lost before many numbers are sealed at once.
const POLITE_TRIES: usize = 2;
/// Rounds after which opening is left to the caller to try again.
const TRIES: usize = 12;
/// Looks in a row that find the same damage before it is believed: a living owner that truncates
/// takes objects away between the list and the look at them, but never the same one again.
const SAME_DAMAGE: usize = 3;
/// How many times as many numbers are sealed then as the owner may have on the way, at first and at
/// most: it goes on while its end is looked for.
const FIRST_AHEAD: u64 = 4;
const MOST_AHEAD: u64 = 16;
/// What is sealed at once, and what a former owner may have on the way behind it, stay below where
/// a new owner begins.
const MAX_AHEAD: u64 = MOST_AHEAD * MAX_IN_FLIGHT as u64;
const _: () = assert!(MAX_AHEAD + (MAX_IN_FLIGHT as u64) < SKIP);

/// A log and the right to append to it.
#[derive(Debug)]
pub(super) struct Taken {
    /// The own seal.
    pub(super) seal: Header,
    pub(super) chain: Chain,
    pub(super) next_lsn: u64,
    pub(super) floor: u64,
}

/// Seals the log and looks again whether the seal counts.
///
/// # Errors
/// `Fenced` · `Locked` when another owner writes too fast · `Corrupt` · `Store`
pub(super) async fn take_over(
    objects: &Objects,
    epoch: u64,
    options: &ObjectOptions,
) -> Result<Taken> {
    let writer = new_salt();
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
    let mut refusal = None;
    let mut damage = Damage::default();
    for round in 0..TRIES {
        let looked = match survey(objects).await {
            Ok(found) if found.seal.is_some_and(|seal| seal.writer == writer) => {
                match taken(objects, found).await {
                    Ok(taken) => return Ok(taken),
                    // Perhaps of an owner that has come since, and truncates: look who that is.
                    Err(error) => Err(error),
                }
            }
            looked => looked,
        };
        let found = match looked {
            Ok(found) => found,
            Err(error @ Error::Corrupt { .. }) if !damage.is_certain(&error) => {
                backoff.wait().await;
                continue;
            }
            Err(error) => return Err(error),
        };
        damage = Damage::default();
        if epoch < found.epoch {
            return Err(Error::Fenced {
                channel: objects.channel.to_string(),
                epoch,
                current: found.epoch,
            });
        }
        let seals = seals(&found, writer, epoch, options, round);
        let puts = seals.into_iter().map(|seal| async move {
            let bytes = format::encode(seal, &[]);
            objects.try_put(seal.number, bytes).await
        });
        let mut created = false;
        for put in join_all(puts).await {
            match put {
                Ok(PutOutcome::Created) => created = true,
                Ok(PutOutcome::AlreadyExists) => {}
                Err(source) => {
                    let channel = objects.channel.to_string();
                    let operation = "seal";
                    refusal = Some(Error::Store {
                        operation,
                        channel,
                        source,
                    });
                }
            }
        }
        if !created {
            backoff.wait().await;
        }
    }
    Err(refusal.unwrap_or(Error::Locked {
        channel: objects.channel.to_string(),
    }))
}

/// A survey that has looked again where something was missing.
///
/// # Errors
/// As [`survey`].
pub(super) async fn steady_survey(objects: &Objects) -> Result<Survey> {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
    let mut damage = Damage::default();
    loop {
        match survey(objects).await {
            Err(error @ Error::Corrupt { .. }) if !damage.is_certain(&error) => {}
            found => return found,
        }
        backoff.wait().await;
    }
}

/// Damage that was found again and again.
#[derive(Debug, Default)]
struct Damage {
    named: String,
    times: usize,
}

impl Damage {
    /// Notes what a look has found; whether it was the same often enough.
    fn is_certain(&mut self, error: &Error) -> bool {
        let named = error.to_string();
        self.times = match named == self.named {
            true => self.times + 1,
            false => 1,
        };
        self.named = named;
        self.times >= SAME_DAMAGE
    }
}

/// The seals to put in one round.
fn seals(
    found: &Survey,
    writer: u64,
    epoch: u64,
    options: &ObjectOptions,
    round: usize,
) -> Vec<Header> {
    let ahead = match round < POLITE_TRIES {
        true => 1,
        false => {
            let windows = (FIRST_AHEAD << (round - POLITE_TRIES)).min(MOST_AHEAD);
            (found.window() * windows).min(MAX_AHEAD)
        }
    };
    let seal = |number| Header {
        kind: Kind::Seal,
        number,
        epoch,
        writer,
        seal: found.seal.map_or(0, |seal| seal.number),
        first_lsn: if number == found.end {
            found.next_lsn
        } else {
            0
        },
        floor: found.floor,
        next: number + SKIP,
        body_length: 0,
        count: 0,
        window: options.max_in_flight as u32,
    };
    (found.end..found.end + ahead).map(seal).collect()
}

async fn taken(objects: &Objects, found: Survey) -> Result<Taken> {
    let Some(seal) = found.seal else {
        return Err(objects.missing(found.end));
    };
    let chain = Chain::of(objects, &found, seal).await?;
    // What was acknowledged last is looked at now rather than when it is needed.
    if let Some(last) = chain.last_number()
        && objects.records(last).await?.is_none()
    {
        return Err(objects.missing(last));
    }
    tracing::debug!(channel = %objects.channel, seal = seal.number, epoch = seal.epoch, "log sealed");
    Ok(Taken {
        seal,
        chain,
        next_lsn: found.next_lsn,
        floor: found.floor,
    })
}
