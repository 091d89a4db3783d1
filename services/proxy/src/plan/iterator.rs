//! Pages of a search iterator.
//!
//! The state of an iterator is with its client: each page asks for what lies beyond the last
//! score of the page before, at the time of the first page. A page ends where a score ends: rows of
//! one score stand on one page, however many they are, so that none of them is left out.

use std::hash::{BuildHasher, RandomState};

use redkite_types::{Error, Result, limits};

use super::{GroupPlan, params::Params};

/// One page.
#[derive(Clone, Debug, PartialEq)]
pub struct PagePlan {
    /// Names the iterator; it stays the same for all pages.
    pub token: String,
    /// Hits of a page, more only with hits of equal scores at its end.
    pub size: usize,
    /// The last score of the page before.
    pub last_bound: Option<f32>,
}

impl PagePlan {
    /// Reads the keys of a search iterator, if the search is one of its pages.
    ///
    /// # Errors
    /// Code 1100 with Milvus's text for what does not go together, and for a token, a size or a
    /// bound that makes no sense.
    pub(super) fn take(
        params: &mut Params,
        iterator: bool,
        group: Option<GroupPlan>,
        offset: usize,
    ) -> Result<Option<Self>> {
        let token = params.take("search_iter_id");
        let size = params.take_number::<i64>("search_iter_batch_size");
        let last_bound = params.take("search_iter_last_bound");
        let is_page = params.take_flag("search_iter_v2")?;
        if iterator && group.is_some() {
            return Err(Error::invalid_parameter(
                "Not allowed to do groupBy when doing iteration",
            ));
        }
        if !is_page {
            return Ok(None);
        }
        if !iterator {
            return Err(invalid(
                "both iterator and search_iter_v2 must be set in the SDK",
            ));
        }
        if offset > 0 {
            return Err(invalid(
                "Setting an offset is not permitted when using a search iterator v2",
            ));
        }
        let max = limits::MAX_RESULT_WINDOW;
        let size = size?.ok_or_else(|| invalid("batch size is required"))?;
        if !(1..=max).contains(&size) {
            return Err(invalid(&format!(
                "batch size is invalid, it should be in range [1, {max}], but got {size}"
            )));
        }
        let last_bound = last_bound.map(|text| {
            let bound = text.parse::<f32>().ok().filter(|bound| !bound.is_nan());
            bound.ok_or_else(|| invalid(&format!("failed to parse input last bound, {text}")))
        });
        let token = match token {
            None => new_token(),
            Some(token) if is_uuid(&token) => token,
            Some(_) => return Err(invalid("invalid token format")),
        };
        Ok(Some(Self {
            token,
            size: size.unsigned_abs() as usize,
            last_bound: last_bound.transpose()?,
        }))
    }
}

fn invalid(what: &str) -> Error {
    Error::invalid_parameter(format!("parse iterator v2 info failed: {what}"))
}

/// A random UUID (version 4).
fn new_token() -> String {
    let random = RandomState::new();
    let (high, low) = (random.hash_one(0), random.hash_one(1));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use redkite_proto::convert::kv;

    use super::*;

    fn take(pairs: &[(&str, &str)], iterator: bool) -> Result<Option<PagePlan>> {
        let mut params = Params::new(kv::from_iter(pairs.iter().copied()));
        let page = PagePlan::take(&mut params, iterator, None, 0)?;
        params.finish()?;
        Ok(page)
    }

    #[test]
    fn pages_are_read_whole_or_refused() {
        let first = [("search_iter_v2", "True"), ("search_iter_batch_size", "7")];
        let page = take(&first, true).unwrap().unwrap();
        assert!(is_uuid(&page.token), "{}", page.token);
        assert_ne!(page.token, take(&first, true).unwrap().unwrap().token);
        let next = [
            ("search_iter_v2", "True"),
            ("search_iter_batch_size", "7"),
            ("search_iter_id", page.token.as_str()),
            ("search_iter_last_bound", "0.10000000149011612"),
        ];
        let next = take(&next, true).unwrap().unwrap();
        assert_eq!((next.token, next.last_bound), (page.token, Some(0.1)));
        assert!(take(&first, false).is_err());
        assert!(take(&first[..1], true).is_err());
        let bad = [first[0], first[1], ("search_iter_id", "me")];
        assert!(take(&bad, true).unwrap_err().message.contains("token"));
        assert_eq!(take(&[], true).unwrap(), None);
    }
}
