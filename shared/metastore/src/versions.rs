//! What keys held at earlier times.
//!
//! Each stamped change of a key that history is kept of leaves a version behind, in the same
//! transaction. Users see it as the key `snapshots/{key}_ts{timestamp}`; a deletion's version is a
//! tombstone. Here a version shares its key and its value with the pair that it is a copy of.
//!
//! # Source
//! Milvus's catalog in etcd: its snapshot copies and their tombstone bytes.

use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redkite_types::{Revision, Timestamp};

use crate::command::invalid;
use crate::error::{Error, Result};
use crate::kv::{KeyValue, Page};
use crate::state::{Item, KvState, PAGE_BYTES};

/// What the keys of versions start with. Nobody writes there but the store itself.
pub const VERSIONS: &str = "snapshots/";
/// What the version of a deletion shows as its value.
pub const TOMBSTONE: [u8; 3] = [0xE2, 0x9B, 0xBC];
const STAMP: &str = "_ts";

/// Below these, history is kept...
const KEPT: [&str; 2] = ["root-coord/", "field-index/"];
/// ...but not of these: counters, and records of what is under way.
const NOT_KEPT: [&str; 5] = [
    "root-coord/tso",
    "root-coord/id",
    "root-coord/saga/",
    "root-coord/saga-fence",
    "root-coord/replica/",
];

/// Whether history is kept of a key.
///
/// Every replica must answer the same, so another rule needs another version of the log's commands.
pub fn keeps_history(key: &str) -> bool {
    KEPT.iter().any(|prefix| key.starts_with(prefix))
        && !NOT_KEPT.iter().any(|prefix| key.starts_with(prefix))
}

/// The key under which a version is seen.
pub fn version_key(key: &str, ts: Timestamp) -> String {
    format!("{VERSIONS}{key}{STAMP}{ts}")
}

fn parse_version_key(key: &str) -> Option<(&str, u64)> {
    let (plain, ts) = key.strip_prefix(VERSIONS)?.rsplit_once(STAMP)?;
    Some((plain, ts.parse().ok()?))
}

/// What a key held from a time on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// `None`: it was deleted.
    pub(crate) value: Option<Bytes>,
    pub(crate) revision: Revision,
}

impl Version {
    /// Whether it is a copy of what the key holds now.
    pub(crate) fn is_of(&self, item: &Item) -> bool {
        self.revision == item.revision && self.value.as_ref() == Some(&item.value)
    }

    fn to_copy(&self, key: &str, ts: u64) -> KeyValue {
        let tombstone = || Bytes::from_static(&TOMBSTONE);
        KeyValue {
            key: version_key(key, Timestamp(ts)),
            value: self.value.clone().unwrap_or_else(tombstone),
            revision: self.revision,
            lease: 0,
        }
    }
}

/// A key and the time from which on its version holds.
pub(crate) type VersionKey = (Arc<str>, u64);

/// From when on the history is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Horizon {
    /// From this time on.
    From(Timestamp),
    /// From the next stamped change on: there was one without a time.
    NextStamp,
}

impl Default for Horizon {
    fn default() -> Self {
        Self::From(Timestamp::ZERO)
    }
}

impl KvState {
    /// Notes a change of a key, of which `old` is what it held before; the time of the version.
    pub(crate) fn keep_version(
        &mut self,
        key: &Arc<str>,
        old: Option<&Item>,
        version: Version,
        ts: Option<Timestamp>,
    ) -> Option<Timestamp> {
        if !keeps_history(key) {
            return None;
        }
        let Some(Timestamp(ts)) = ts else {
            self.forget_versions(key);
            self.horizon = Horizon::NextStamp;
            return None;
        };
        if self.horizon == Horizon::NextStamp {
            self.horizon = Horizon::From(Timestamp(ts));
        }
        let newest = self.versions_of(key).next_back();
        let newest = newest.map(|((_, at), version)| (*at, version.revision));
        let at = match newest {
            Some((at, revision)) if revision == version.revision => at,
            // Changes that were decided in another order than they were stamped keep the order in
            // which they were decided.
            Some((at, _)) => ts.max(at + 1),
            None => {
                if let Some(old) = old {
                    let first = Version {
                        value: Some(old.value.clone()),
                        revision: old.revision,
                    };
                    self.versions.insert((Arc::clone(key), 0), first);
                }
                ts
            }
        };
        self.versions.insert((Arc::clone(key), at), version);
        Some(Timestamp(at))
    }

    fn versions_of(
        &self,
        key: &Arc<str>,
    ) -> impl DoubleEndedIterator<Item = (&VersionKey, &Version)> {
        let range = (Arc::clone(key), 0)..=(Arc::clone(key), u64::MAX);
        self.versions.range(range)
    }

    fn forget_versions(&mut self, key: &Arc<str>) {
        let gone: Vec<_> = self.versions_of(key).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.versions.remove(key);
        }
    }

    /// Takes back what history is kept for times before `before`.
    pub(crate) fn prune(&mut self, before: Timestamp, versions: &[(String, u64)]) {
        self.horizon = match self.horizon {
            Horizon::From(horizon) => Horizon::From(horizon.max(before)),
            Horizon::NextStamp => Horizon::NextStamp,
        };
        for (key, ts) in versions {
            self.versions.remove(&(Arc::from(key.as_str()), *ts));
        }
    }

    /// The versions that no read as of `before` or later needs, at most `limit`.
    ///
    /// Of each key the newest version up to `before` stays, unless it says that the key was deleted.
    pub fn prunable(&self, before: Timestamp, limit: usize) -> Vec<(String, u64)> {
        let mut gone = Vec::new();
        let mut versions = self.versions.iter().peekable();
        while let Some(((key, ts), version)) = versions.next() {
            if *ts > before.0 {
                continue;
            }
            let next = versions.peek();
            let is_replaced =
                next.is_some_and(|((next, next_ts), _)| next == key && *next_ts <= before.0);
            if is_replaced || version.value.is_none() {
                gone.push((key.to_string(), *ts));
                if gone.len() == limit {
                    break;
                }
            }
        }
        gone
    }

    /// Number of versions.
    pub fn versions(&self) -> usize {
        self.versions.len()
    }

    fn check_time(&self, ts: Timestamp) -> Result<()> {
        match self.horizon {
            Horizon::From(oldest) if ts >= oldest => Ok(()),
            Horizon::From(oldest) => Err(Error::HistoryPruned {
                oldest: Some(oldest),
            }),
            Horizon::NextStamp => Err(Error::HistoryPruned { oldest: None }),
        }
    }

    /// What a key held at a time. Its revision is that of the write.
    ///
    /// # Errors
    /// [`Error::HistoryPruned`]; [`Error::Invalid`] for a key without history.
    pub fn get_as_of(&self, key: &str, ts: Timestamp) -> Result<Option<KeyValue>> {
        if !keeps_history(key) {
            return Err(invalid(format!("no history is kept of {key}")));
        }
        self.check_time(ts)?;
        let mut keys = self.keys_as_of(Bound::Included(key), ts);
        Ok(keys
            .next()
            .filter(|held| **held.key == *key)
            .and_then(Held::into_pair))
    }

    /// What the keys with history under a prefix held at a time, as [`KvState::range`] pages.
    ///
    /// # Errors
    /// [`Error::HistoryPruned`].
    pub fn range_as_of(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        ts: Timestamp,
    ) -> Result<Page> {
        self.check_time(ts)?;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let held = self
            .keys_as_of(start, ts)
            .take_while(|held| held.key.starts_with(prefix))
            .filter_map(Held::into_pair);
        Ok(page(held, limit, self.revision))
    }

    fn keys_as_of<'a>(
        &'a self,
        start: Bound<&str>,
        ts: Timestamp,
    ) -> AsOf<
        'a,
        impl Iterator<Item = (&'a Arc<str>, &'a Item)>,
        impl Iterator<Item = (&'a VersionKey, &'a Version)>,
    > {
        let first = match start {
            Bound::Included(key) => Bound::Included((Arc::from(key), 0)),
            Bound::Excluded(key) => Bound::Excluded((Arc::from(key), u64::MAX)),
            Bound::Unbounded => Bound::Unbounded,
        };
        AsOf {
            pairs: self
                .pairs
                .range::<_, str>((start, Bound::Unbounded))
                .peekable(),
            versions: self.versions.range((first, Bound::Unbounded)).peekable(),
            ts: ts.0,
        }
    }

    /// One version by the key under which it is seen.
    pub(crate) fn get_version(&self, key: &str) -> Option<KeyValue> {
        let (plain, ts) = parse_version_key(key)?;
        let version = self.versions.get(&(Arc::from(plain), ts))?;
        // Not every way to write a number is the one that is shown.
        Some(version.to_copy(plain, ts)).filter(|copy| copy.key == key)
    }

    /// Versions by the keys under which they are seen, in order of the plain key and then the time.
    pub(crate) fn range_versions(&self, prefix: &str, after: Option<&str>, limit: usize) -> Page {
        let plain = prefix.strip_prefix(VERSIONS).unwrap_or_default();
        let start = match after.and_then(parse_version_key) {
            Some((key, ts)) => Bound::Excluded((Arc::from(key), ts)),
            None => Bound::Unbounded,
        };
        // The prefix may end within the stamp: then it means one key's versions, which come first.
        let cut = plain.rfind('_').filter(|at| {
            let rest = &plain[*at..];
            STAMP.starts_with(rest) || rest.starts_with(STAMP)
        });
        let own = cut.map(|at| Arc::<str>::from(&plain[..at]));
        let own = own.into_iter().flat_map(|key| {
            let range = (Arc::clone(&key), 0)..=(key, u64::MAX);
            self.versions.range(range)
        });
        let below = self
            .versions
            .range((Bound::Included((Arc::from(plain), 0)), Bound::Unbounded))
            .take_while(|((key, _), _)| key.starts_with(plain));
        let is_behind = |key: &VersionKey| match &start {
            Bound::Excluded(start) => key > start,
            _ => true,
        };
        let copies = own
            .chain(below)
            .filter(|(key, _)| is_behind(key))
            .map(|((key, ts), version)| version.to_copy(key, *ts))
            .filter(|copy| copy.key.starts_with(prefix));
        page(copies, limit, self.revision)
    }
}

/// Fills a page, which ends behind the pair with which it becomes too large.
pub(crate) fn page(
    pairs: impl Iterator<Item = KeyValue>,
    limit: usize,
    revision: Revision,
) -> Page {
    let mut page = Page {
        pairs: Vec::new(),
        revision,
        next: None,
    };
    let mut bytes = 0;
    for pair in pairs {
        if page.pairs.len() == limit || bytes > PAGE_BYTES {
            page.next = page.pairs.last().map(|pair| pair.key.clone());
            break;
        }
        bytes += pair.key.len() + pair.value.len();
        page.pairs.push(pair);
    }
    page
}

/// A key that is or was there, and what it held.
struct Held<'a> {
    key: &'a Arc<str>,
    value: Option<(Bytes, Revision)>,
}

impl Held<'_> {
    fn into_pair(self) -> Option<KeyValue> {
        let (value, revision) = self.value?;
        Some(KeyValue {
            key: self.key.to_string(),
            value,
            revision,
            lease: 0,
        })
    }
}

/// Goes through the pairs and the versions side by side.
struct AsOf<'a, P, V>
where
    P: Iterator<Item = (&'a Arc<str>, &'a Item)>,
    V: Iterator<Item = (&'a VersionKey, &'a Version)>,
{
    pairs: Peekable<P>,
    versions: Peekable<V>,
    ts: u64,
}

impl<'a, P, V> Iterator for AsOf<'a, P, V>
where
    P: Iterator<Item = (&'a Arc<str>, &'a Item)>,
    V: Iterator<Item = (&'a VersionKey, &'a Version)>,
{
    type Item = Held<'a>;

    fn next(&mut self) -> Option<Held<'a>> {
        while self.pairs.next_if(|(key, _)| !keeps_history(key)).is_some() {}
        let pair = self.pairs.peek().map(|(key, _)| *key);
        let versioned = self.versions.peek().map(|((key, _), _)| key);
        let key = match (pair, versioned) {
            (Some(pair), Some(versioned)) => pair.min(versioned),
            (pair, versioned) => pair.or(versioned)?,
        };
        let item = self.pairs.next_if(|(pair, _)| *pair == key);
        // A key without versions has not changed since the history began.
        let mut value = item.map(|(_, item)| (item.value.clone(), item.revision));
        let mut is_first = true;
        while let Some(((_, at), version)) = self.versions.next_if(|((of, _), _)| of == key) {
            if std::mem::take(&mut is_first) {
                value = None;
            }
            if *at <= self.ts {
                let held = version.value.clone();
                value = held.map(|held| (held, version.revision));
            }
        }
        Some(Held { key, value })
    }
}

#[cfg(test)]
mod tests;
