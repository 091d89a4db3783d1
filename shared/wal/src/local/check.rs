//! Finds every damaged place of a channel's files; reads only.

use std::{io, path::Path};

use super::{
    files,
    frame::{self, find_damage},
    owner,
};
use crate::{
    error::{Error, Result},
    log::{Damage, Lsn},
};

/// [`crate::LogStore::check`] for the files in one directory. Blocks.
pub(super) fn check(channel: &str, dir: &Path, from: Lsn) -> Result<Vec<Damage>> {
    let at = |file: &Path, damage: frame::Damage| Damage {
        file: file.to_owned(),
        offset: damage.offset as u64,
        reason: damage.reason,
    };
    let whole = |file: &Path, reason: String| Damage {
        file: file.to_owned(),
        offset: 0,
        reason,
    };
    let missing = |first: &str| {
        whole(
            dir,
            format!("record {from} of channel {channel} should be there, but {first}"),
        )
    };
    let is_needed = from > Lsn(1);
    if !dir.is_dir() {
        return Ok(match is_needed {
            true => vec![missing("there is no log")],
            false => Vec::new(),
        });
    }
    let listed = files::scan(dir)?;
    let mut found = Vec::new();
    found.extend(owner::find_damage(dir)?);
    for path in listed.unknown {
        found.push(whole(&path, "no log makes such a file".to_owned()));
    }
    let nexts = listed.files.keys().skip(1).copied().map(Some).chain([None]);
    let mut first_there = None;
    for ((&first_lsn, path), next_file) in listed.files.iter().zip(nexts) {
        let (header, bytes) = match files::read(path, first_lsn) {
            Ok(read) => read,
            // Truncated since it was listed.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
            Err(Error::Corrupt { offset, reason, .. }) => {
                first_there.get_or_insert(first_lsn);
                found.push(Damage {
                    file: path.clone(),
                    offset,
                    reason: format!("{reason}; none of its records can be read"),
                });
                continue;
            }
            Err(error) => return Err(error),
        };
        first_there.get_or_insert(first_lsn);
        let damages = find_damage(&bytes, &header, next_file);
        found.extend(damages.into_iter().map(|damage| at(path, damage)));
    }
    match first_there {
        Some(first) if Lsn(first) > from && first > 1 => {
            found.push(missing(&format!("the log starts at {first}")));
        }
        None if is_needed => found.push(missing("the log has no files")),
        Some(_) | None => {}
    }
    Ok(found)
}
