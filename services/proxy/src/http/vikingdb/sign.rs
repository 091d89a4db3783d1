//! Whether a request is signed as it should be.
//!
//! # Source
//! The scheme of Volcengine's SDK, `SignerV4`: like Amazon's version 4, but the secret key has no
//! prefix, header values are not trimmed, and ports 80 and 443 are not part of a signed host.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::{
    answer::Failure,
    options::{AccessKey, VikingDbOptions},
    percent,
};
use crate::http::message::HttpRequest;

const ALGORITHM: &str = "HMAC-SHA256";
/// The service that VikingDB's requests are signed for.
const SERVICE: &str = "air";
const TERMINATOR: &str = "request";

/// An `Authorization` header, taken apart.
struct Authorization<'a> {
    access_key: &'a str,
    date: &'a str,
    region: &'a str,
    signed_headers: &'a str,
    signature: Vec<u8>,
}

/// Checks a request's signature and date; the key that it is signed with.
///
/// # Errors
/// 401/1000001, with what is wrong and never with what would be right.
pub fn verify(
    options: &VikingDbOptions,
    request: &HttpRequest,
    now_ms: u64,
) -> Result<AccessKey, Failure> {
    let refuse = |reason: &str| Failure::unauthorized(reason);
    let header = single(request, "authorization")?;
    let authorization = Authorization::parse(header).ok_or_else(|| {
        refuse("the Authorization header is not that of a request signed with HMAC-SHA256")
    })?;
    if request.header("x-security-token").is_some() {
        return Err(refuse("session tokens are not served"));
    }
    let date = single(request, "x-date")?;
    let sent_ms = parse_date(date).ok_or_else(|| refuse("X-Date is no date"))?;
    if date.get(..8) != Some(authorization.date) {
        return Err(refuse("X-Date is not the date of the credential"));
    }
    let window = u64::try_from(options.clock_window.get().as_millis()).unwrap_or(u64::MAX);
    if now_ms.abs_diff(sent_ms) > window {
        return Err(refuse("X-Date is too far from the server's clock"));
    }
    let body_hash = hex::encode(Sha256::digest(&request.body));
    if single(request, "x-content-sha256")? != body_hash {
        return Err(refuse("X-Content-Sha256 is not the hash of the body"));
    }
    let canonical = canonical_request(request, authorization.signed_headers, &body_hash)?;
    // With an unknown key the same work is done, so that it takes as long.
    let known = options.key(authorization.access_key);
    let secret = known.as_ref().map_or("", |key| key.secret_key.expose());
    let expected = signature(secret, &authorization, date, &canonical);
    let is_right = expected.verify_slice(&authorization.signature).is_ok();
    match known {
        Some(key) if is_right => Ok(key),
        Some(_) | None => Err(refuse("the signature does not match")),
    }
}

/// A header that must be there once.
fn single<'a>(request: &'a HttpRequest, name: &str) -> Result<&'a str, Failure> {
    let mut found = request.headers.iter().filter(|(key, _)| key == name);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Ok(value),
        (None, _) => Err(Failure::unauthorized(format!("header {name} is missing"))),
        (Some(_), Some(_)) => Err(Failure::unauthorized(format!("header {name} comes twice"))),
    }
}

impl<'a> Authorization<'a> {
    fn parse(header: &'a str) -> Option<Self> {
        let rest = header.strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let mut parts = rest.split(", ");
        let credential = parts.next()?.strip_prefix("Credential=")?;
        let signed_headers = parts.next()?.strip_prefix("SignedHeaders=")?;
        let signature = parts.next()?.strip_prefix("Signature=")?;
        if parts.next().is_some() || signature.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let mut scope = credential.split('/');
        let (access_key, date, region) = (scope.next()?, scope.next()?, scope.next()?);
        if scope.next()? != SERVICE || scope.next()? != TERMINATOR || scope.next().is_some() {
            return None;
        }
        Some(Self {
            access_key,
            date,
            region,
            signed_headers,
            signature: hex::decode(signature).ok()?,
        })
    }
}

/// `YYYYMMDD'T'HHMMSS'Z'` in Unix milliseconds.
fn parse_date(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let shaped = bytes.len() == 16 && bytes[8] == b'T' && bytes[15] == b'Z';
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let part = text.get(range)?;
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    };
    if !shaped {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    valid.then(|| u64::try_from(seconds * 1_000).ok()).flatten()
}

/// Days from 1970-01-01 to a date of the Gregorian calendar: years begin in March, so that the leap
/// day is the last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719468 days from 0000-03-01 to 1970-01-01.
    year * 365 + leap_days + day_of_year - 719_468
}

fn canonical_request(
    request: &HttpRequest,
    signed_headers: &str,
    body_hash: &str,
) -> Result<String, Failure> {
    let mut headers = String::new();
    let mut names: Vec<&str> = signed_headers.split(';').collect();
    if !names.is_sorted() || names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Failure::unauthorized("SignedHeaders are not in order"));
    }
    for needed in ["x-content-sha256", "x-date"] {
        if !names.contains(&needed) {
            let reason = format!("header {needed} is not signed");
            return Err(Failure::unauthorized(&reason));
        }
    }
    for name in names.drain(..) {
        let value = single(request, name)?;
        let value = if name == "host" { host(value) } else { value };
        headers.push_str(&format!("{name}:{value}\n"));
    }
    let path = percent::decode(&request.path, false);
    let uri = percent::encode(&path, b"/");
    let query = canonical_query(&request.query);
    let method = &request.method;
    Ok(format!(
        "{method}\n{uri}\n{query}\n{headers}\n{signed_headers}\n{body_hash}"
    ))
}

/// The default ports are not signed.
fn host(value: &str) -> &str {
    match value.split_once(':') {
        Some((host, "80" | "443")) => host,
        Some(_) | None => value,
    }
}

fn canonical_query(query: &str) -> String {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<_> = pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent::decode(key, true), percent::decode(value, true))
        })
        .collect();
    // By key only: values of one key stay in their order.
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    let encoded = pairs.iter().map(|(key, value)| {
        let (key, value) = (percent::encode(key, b""), percent::encode(value, b""));
        format!("{key}={value}")
    });
    encoded.collect::<Vec<_>>().join("&")
}

fn signature(
    secret: &str,
    authorization: &Authorization<'_>,
    date: &str,
    canonical: &str,
) -> Hmac<Sha256> {
    let Authorization {
        date: day, region, ..
    } = authorization;
    let mut key = secret.as_bytes().to_vec();
    for part in [*day, *region, SERVICE, TERMINATOR] {
        key = mac(&key, part).finalize().into_bytes().to_vec();
    }
    let hash = hex::encode(Sha256::digest(canonical));
    let scope = format!("{day}/{region}/{SERVICE}/{TERMINATOR}");
    mac(&key, &format!("{ALGORITHM}\n{date}\n{scope}\n{hash}"))
}

fn mac(key: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac
}

#[cfg(test)]
mod tests;
