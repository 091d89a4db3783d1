//! The SDK's own signatures, and what must not pass for one.

use redkite_config::HumanDuration;

use super::*;

/// 2026-01-02T03:04:05Z.
const NOW_MS: u64 = 1_767_323_045_000;
const DATE: &str = "20260102T030405Z";
const EMPTY_OBJECT: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

fn options() -> VikingDbOptions {
    VikingDbOptions {
        access_key: Some("AKTEST".to_owned()),
        secret_key: "SKTEST".into(),
        ..VikingDbOptions::default()
    }
}

/// A request as the SDK made it.
fn sdk(headers: &[(&str, &str)], query: &str, body: &'static str, signature: &str) -> HttpRequest {
    let mut all: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let mut names: Vec<&str> = headers
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| *name != "accept")
        .collect();
    names.sort_unstable();
    let authorization = format!(
        "HMAC-SHA256 Credential=AKTEST/20260102/cn-north-1/air/request, SignedHeaders={}, \
         Signature={signature}",
        names.join(";")
    );
    all.push(("authorization".to_owned(), authorization));
    HttpRequest {
        method: "POST".to_owned(),
        path: "/api/task/create".to_owned(),
        query: query.to_owned(),
        headers: all,
        body: body.into(),
        request_id: "r1".to_owned(),
    }
}

/// The one that is signed by hand, without a host.
fn by_hand() -> HttpRequest {
    sdk(
        &[
            ("accept", "application/json"),
            ("content-type", "application/json"),
            (
                "x-content-sha256",
                "412e87682d70d7fd6d947b05c4ee9ac8b98f6f344535cce57bea9d1493814d63",
            ),
            ("x-date", DATE),
        ],
        "",
        r#"{"task_type": "data_export", "task_params": {"collection_name": "example"}}"#,
        "e9e99dbbf8f3d640df334038763b483c67a5cba122e3e21df70aa3136025dd7d",
    )
}

fn with_host(host: &str, query: &str, signature: &str) -> HttpRequest {
    let headers = [
        ("content-type", "application/json"),
        ("host", host),
        ("x-content-sha256", EMPTY_OBJECT),
        ("x-date", DATE),
    ];
    sdk(&headers, query, "{}", signature)
}

fn all() -> [HttpRequest; 3] {
    [
        by_hand(),
        with_host(
            "api-vikingdb.volces.com:80",
            "",
            "79c391722056f526ff5a740c5acd458441623924dc38b8c34765e2fd81b9deba",
        ),
        with_host(
            "127.0.0.1:8123",
            "a+b=c%2Fd&A=~x",
            "53c1e81b1af51936946cdf2fedae0646680cf491d75529959caa7f22a3cc1c20",
        ),
    ]
}

#[test]
fn what_the_sdk_signs_is_accepted() {
    for request in all() {
        let key = verify(&options(), &request, NOW_MS).unwrap_or_else(|failure| {
            panic!("{failure:?} for {request:?}");
        });
        assert_eq!(key.user, "root");
    }
    // Quoting of the query on the wire makes no difference.
    let mut spelled = all()[2].clone();
    spelled.query = "A=%7Ex&a%20b=c/d".to_owned();
    verify(&options(), &spelled, NOW_MS).unwrap();
}

#[test]
fn the_date_is_read_and_must_be_close() {
    assert_eq!(parse_date(DATE), Some(NOW_MS));
    assert_eq!(parse_date("19700101T000000Z"), Some(0));
    assert_eq!(parse_date("20240229T000000Z"), Some(1_709_164_800_000));
    for wrong in [
        "",
        "20260102T030405",
        "2026-102T030405Z",
        "20261302T030405Z",
    ] {
        assert_eq!(parse_date(wrong), None, "{wrong}");
    }
    let request = by_hand();
    let window = 15 * 60 * 1_000;
    for late in [NOW_MS + window, NOW_MS - window] {
        verify(&options(), &request, late).unwrap();
    }
    for late in [NOW_MS + window + 1, NOW_MS - window - 1] {
        let failure = verify(&options(), &request, late).unwrap_err();
        assert_eq!((failure.status, failure.code), (401, 1_000_001));
    }
    let narrow = VikingDbOptions {
        clock_window: HumanDuration::secs(1),
        ..options()
    };
    verify(&narrow, &request, NOW_MS + 1_001).unwrap_err();
}

/// A change of a request.
type Tamper = Box<dyn Fn(&mut HttpRequest)>;

fn set(name: &'static str, value: &'static str) -> Tamper {
    Box::new(move |request| {
        request.headers.retain(|(key, _)| key != name);
        request.headers.push((name.to_owned(), value.to_owned()));
    })
}

fn remove(name: &'static str) -> Tamper {
    Box::new(move |request| request.headers.retain(|(key, _)| key != name))
}

fn twice(name: &'static str) -> Tamper {
    Box::new(move |request| {
        let value = request.header(name).unwrap_or_default().to_owned();
        request.headers.push((name.to_owned(), value));
    })
}

/// Replaces a part of the `Authorization` header.
fn replace(from: &'static str, to: &'static str) -> Tamper {
    Box::new(move |request| {
        let header = request.headers.iter_mut();
        let found = header.filter(|(key, _)| key == "authorization");
        for (_, value) in found {
            let changed = value.replacen(from, to, 1);
            assert_ne!(*value, changed, "{from} is not in it");
            *value = changed;
        }
    })
}

fn edit(change: fn(&mut HttpRequest)) -> Tamper {
    Box::new(change)
}

fn tampers() -> Vec<Tamper> {
    vec![
        // What is asked for.
        edit(|request| request.method = "GET".to_owned()),
        edit(|request| request.method = "post".to_owned()),
        edit(|request| request.path = "/api/task/drop".to_owned()),
        edit(|request| request.path.push('/')),
        edit(|request| request.path.push_str("%2F")),
        edit(|request| request.query.push_str("&x=1")),
        edit(|request| request.query.push_str("&a+b=c%2Fd")),
        edit(|request| request.query = "A=~x".to_owned()),
        edit(|request| request.query = "a+b=c%252Fd&A=~x".to_owned()),
        edit(|request| request.query = "a+b=~x&A=c%2Fd".to_owned()),
        // The body and its hash.
        edit(|request| request.body = "{ }".into()),
        edit(|request| request.body = "".into()),
        Box::new(|request| {
            request.body = "{ }".into();
            let hash = hex::encode(Sha256::digest(&request.body));
            request.headers.retain(|(key, _)| key != "x-content-sha256");
            request.headers.push(("x-content-sha256".to_owned(), hash));
        }),
        set("x-content-sha256", "UNSIGNED-PAYLOAD"),
        set(
            "x-content-sha256",
            "44136FA355B3678A1146AD16F7E8649E94FB4FC21FE77E8310C060F61CAAFF8A",
        ),
        remove("x-content-sha256"),
        twice("x-content-sha256"),
        // The date.
        set("x-date", "20260102T030406Z"),
        set("x-date", "20260102T030405"),
        set("x-date", ""),
        remove("x-date"),
        twice("x-date"),
        // Other signed headers.
        set("host", "127.0.0.1:8124"),
        set("host", "127.0.0.1"),
        set("host", "other:8123"),
        remove("host"),
        twice("host"),
        set("content-type", "application/json "),
        set("content-type", "text/plain"),
        remove("content-type"),
        set("x-security-token", "t"),
        // The header itself.
        remove("authorization"),
        twice("authorization"),
        set("authorization", "Bearer AKTEST"),
        replace("HMAC-SHA256", "HMAC-SHA1"),
        replace("AKTEST", "AKOTHER"),
        replace("AKTEST", ""),
        replace("20260102/", "20260103/"),
        replace("cn-north-1", "cn-south-1"),
        replace("/air/", "/tos/"),
        replace("/request", "/aws4_request"),
        replace("content-type;", ""),
        replace(";host", ""),
        replace(";x-date", ""),
        replace("content-type;host", "host;content-type"),
        replace("host;", "host;host;"),
        replace("Signature=5", "Signature=6"),
        replace("Signature=53c1", "Signature="),
        replace("Signature=53c1e8", "Signature=53C1E8"),
        replace("1c20", "1c2"),
        replace("1c20", "1c2000"),
        replace("Signature=", "Signature=\u{fc}"),
        replace(", Signature", ",Signature"),
    ]
}

#[test]
fn nothing_that_was_changed_passes() {
    let tampers = tampers();
    assert!(tampers.len() >= 40);
    for (number, tamper) in tampers.iter().enumerate() {
        let mut request = all()[2].clone();
        tamper(&mut request);
        let failure = verify(&options(), &request, NOW_MS);
        let failure = failure.expect_err(&format!("variant {number} passed: {request:?}"));
        assert_eq!((failure.status, failure.code), (401, 1_000_001));
        assert!(!failure.message.contains("SKTEST") && !failure.message.contains("53c1"));
    }
}

#[test]
fn another_secret_does_not_fit() {
    let other = VikingDbOptions {
        secret_key: "SKTEST2".into(),
        ..options()
    };
    for request in all() {
        verify(&other, &request, NOW_MS).unwrap_err();
    }
}
