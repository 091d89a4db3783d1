//! The metadata, now, as of an earlier time, or as it changes.
//!
//! - `GET /admin/meta?prefix=P&after=K&limit=N`: one page of records
//! - `GET /admin/meta?key=K`: one record
//! - `GET /admin/meta/watch?prefix=P&after=REVISION`: the changes from then on, one JSON object a line
//!
//! `as_of=TIME` reads what was there at a time: a hybrid timestamp, or a time in UTC as in RFC 3339.
//! Values are in readable form; with `raw=true` they are the bytes with escapes. Passwords are hidden.

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{StreamExt as _, stream};
use redkite_catalog::readable::{describe, is_secret};
use redkite_metastore::{
    Error, KeyValue, MetaKv, Result, SharedKv, WatchBatch, WatchEvent, WatchStream,
};
use redkite_runtime::CancellationToken;
use redkite_types::{Revision, Timestamp, error::chain};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::failed;

/// Records on one page unless the request says otherwise, and at most.
const PAGE: usize = 1_000;
/// The last timestamp of a millisecond.
const LAST_OF_MS: u64 = (1 << Timestamp::LOGICAL_BITS) - 1;

#[derive(Clone)]
struct Seen {
    kv: SharedKv,
    stop: CancellationToken,
}

pub(super) fn routes(kv: SharedKv, stop: CancellationToken) -> Router {
    Router::new()
        .route("/admin/meta", get(read))
        .route("/admin/meta/watch", get(watch))
        .with_state(Seen { kv, stop })
}

/// What of the metadata is asked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// One key; then nothing else but the time counts.
    pub key: Option<String>,
    /// Keys that start with it.
    pub prefix: String,
    /// Behind this key.
    pub after: Option<String>,
    /// Records on the page, 1,000 at most.
    pub limit: usize,
    /// As of when.
    pub as_of: Option<String>,
    /// Bytes with escapes in place of readable values.
    pub raw: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            key: None,
            prefix: String::new(),
            after: None,
            limit: PAGE,
            as_of: None,
            raw: false,
        }
    }
}

#[derive(Serialize)]
struct Shown {
    key: String,
    revision: u64,
    lease: u64,
    bytes: usize,
    /// In readable form, UTF-8 text as it is, absent for other bytes; or the bytes with escapes.
    value: Option<String>,
}

impl Shown {
    fn new(pair: KeyValue, raw: bool) -> Self {
        let value = if is_secret(&pair) {
            describe(&pair)
        } else if raw {
            Some(pair.value.escape_ascii().to_string())
        } else {
            describe(&pair).or_else(|| String::from_utf8(pair.value.to_vec()).ok())
        };
        Self {
            revision: pair.revision.0,
            lease: pair.lease,
            bytes: pair.value.len(),
            key: pair.key,
            value,
        }
    }
}

/// Reads a time: a hybrid timestamp, or a time in UTC of which the whole millisecond counts.
///
/// # Errors
/// [`Error::Invalid`] says what a time looks like.
pub fn parse_time(text: &str) -> Result<Timestamp> {
    if let Ok(ts) = text.parse() {
        return Ok(Timestamp(ts));
    }
    let since_epoch = humantime::parse_rfc3339_weak(text)
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let ms = since_epoch.and_then(|span| u64::try_from(span.as_millis()).ok());
    let ms = ms.ok_or_else(|| Error::Invalid {
        what: format!(
            "`{text}` is no time: give a hybrid timestamp, or a time in UTC such as \
             2026-01-31T12:00:00Z"
        ),
    })?;
    Ok(Timestamp::new(ms, LAST_OF_MS))
}

/// Answers what is asked: `records` with the `next` page's `after`, or one `record`.
///
/// # Errors
/// As [`MetaKv::range`] and [`MetaKv::range_as_of`]; [`Error::Invalid`] for what is no time.
pub async fn answer(kv: &dyn MetaKv, asked: &Asked) -> Result<Value> {
    let as_of = asked.as_of.as_deref().map(parse_time).transpose()?;
    if let Some(key) = &asked.key {
        let pair = match as_of {
            Some(ts) => kv.get_as_of(key, ts).await?,
            None => kv.get(key).await?,
        };
        let record = pair.map(|pair| Shown::new(pair, asked.raw));
        return Ok(json!({ "record": record }));
    }
    let limit = asked.limit.clamp(1, PAGE);
    let after = asked.after.as_deref();
    let page = match as_of {
        Some(ts) => kv.range_as_of(&asked.prefix, after, limit, ts).await?,
        None => kv.range(&asked.prefix, after, limit).await?,
    };
    let records = page.pairs.into_iter();
    Ok(json!({
        "revision": page.revision.0,
        "next": page.next,
        "records": records.map(|pair| Shown::new(pair, asked.raw)).collect::<Vec<_>>(),
    }))
}

async fn read(State(seen): State<Seen>, Query(asked): Query<Asked>) -> Response {
    match answer(seen.kv.as_ref(), &asked).await {
        Ok(body) => Json(body).into_response(),
        Err(error) => failed(&error),
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Followed {
    prefix: String,
    /// Absent: from now on.
    after: Option<u64>,
    raw: bool,
}

async fn watch(State(seen): State<Seen>, Query(asked): Query<Followed>) -> Response {
    let changes = match follow(seen.kv.as_ref(), &asked).await {
        Ok(changes) => changes,
        Err(error) => return failed(&error),
    };
    let lines = changes
        .take_until(seen.stop.cancelled_owned())
        .flat_map(move |item| stream::iter(lines(item, asked.raw)))
        .map(Ok::<_, std::convert::Infallible>);
    Body::from_stream(lines).into_response()
}

async fn follow(kv: &dyn MetaKv, asked: &Followed) -> Result<WatchStream> {
    let after = match asked.after {
        Some(after) => Revision(after),
        None => kv.range(&asked.prefix, None, 1).await?.revision,
    };
    kv.watch(&asked.prefix, after).await
}

/// Of a batch without changes, too: whoever reads sees up to which revision it knows all.
fn lines(item: Result<WatchBatch>, raw: bool) -> Vec<Bytes> {
    let batch = match item {
        Ok(batch) => batch,
        Err(error) => return vec![line(&json!({ "error": chain(&error) }))],
    };
    let revision = batch.revision.0;
    if batch.events.is_empty() {
        return vec![line(&json!({ "revision": revision }))];
    }
    let events = batch.events.into_iter();
    events
        .map(|event| match event {
            WatchEvent::Put(pair) => {
                line(&json!({ "revision": revision, "put": Shown::new(pair, raw) }))
            }
            WatchEvent::Delete { key } => line(&json!({ "revision": revision, "delete": key })),
        })
        .collect()
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;
    use redkite_metastore::{MemKv, Op, Txn};

    use super::*;

    const KEY: &str = "root-coord/x";

    async fn put(kv: &dyn MetaKv, value: &str, ms: u64) {
        let txn = Txn::new().then(Op::put(KEY, value.to_owned()));
        kv.txn(txn.at(Timestamp::new(ms, 0))).await.unwrap();
    }

    #[test]
    fn a_time_is_a_timestamp_or_a_time_of_day() {
        assert_eq!(parse_time("77").unwrap(), Timestamp(77));
        let whole = Timestamp::new(1_700_000_000_000, LAST_OF_MS);
        assert_eq!(parse_time("2023-11-14T22:13:20Z").unwrap(), whole);
        let error = parse_time("yesterday").unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_record_is_read_as_of_a_time() {
        let kv = MemKv::new();
        put(&kv, "old\x01", 1_700_000_000_000).await;
        put(&kv, "new", 1_700_000_009_000).await;
        for (as_of, value) in [
            (None, Some("new")),
            (Some("2023-11-14T22:13:20Z"), Some("old\\x01")),
            (Some("2023-11-14T22:13:19Z"), None),
        ] {
            let asked = Asked {
                key: Some(KEY.to_owned()),
                as_of: as_of.map(str::to_owned),
                raw: true,
                ..Asked::default()
            };
            let record = &answer(&kv, &asked).await.unwrap()["record"];
            assert_eq!(record["value"].as_str(), value, "{as_of:?}");
            let asked = Asked { key: None, ..asked };
            let page = answer(&kv, &asked).await.unwrap();
            let count = page["records"].as_array().unwrap().len();
            assert_eq!(count, usize::from(value.is_some()));
        }
    }

    #[tokio::test]
    async fn changes_are_followed_line_by_line() {
        let kv: SharedKv = Arc::new(MemKv::new());
        put(kv.as_ref(), "a", 1).await;
        let seen = Seen {
            kv: kv.clone(),
            stop: CancellationToken::new(),
        };
        let asked = Followed {
            after: Some(0),
            ..Followed::default()
        };
        let mut body = watch(State(seen.clone()), Query(asked)).await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let first: Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(first["revision"], 1);
        assert_eq!(first["put"]["value"], "a");
        kv.txn(Txn::new().then(Op::delete(KEY))).await.unwrap();
        let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(second, format!("{{\"revision\":2,\"delete\":\"{KEY}\"}}\n"));
        // It ends when the server stops.
        seen.stop.cancel();
        assert!(body.frame().await.is_none());
    }
}
