//! S3 when things go wrong: what may pass passes, what may not is said at once, and a conditional
//! write never loses or doubles anything.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rand::{RngExt as _, rngs::StdRng};
use redkite_runtime::testing::{eventually_true, test_rng};
use redkite_storage::{
    CacheOptions, ObjectStore, PutOutcome, StoreOptions, open_with,
    testing::{Fault, FaultyProxy, Moment, Weed},
};
use redkite_types::{Coded, Outcome, error::chain};

const FAULTS: [Fault; 7] = [
    Fault::Status(500),
    Fault::Status(503),
    Fault::Status(429),
    Fault::Close,
    Fault::Cut,
    Fault::Hang,
    Fault::Slow(Duration::from_millis(20)),
];
const MOMENTS: [Moment; 2] = [Moment::Before, Moment::After];

/// A store in a new bucket, reached through the proxy.
fn through(proxy: &FaultyProxy, weed: &Weed) -> StoreOptions {
    let mut options = weed.new_store();
    options.s3.endpoint = Some(proxy.endpoint());
    // Far more than any request needs, also on a busy machine: only a fault takes so long.
    options.request_timeout = Duration::from_secs(5);
    options.timeout = Duration::from_secs(60);
    options
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_used_is_refused_at_the_start() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    let good = weed.new_store();
    open_with(&good).await.unwrap();

    let mut wrong_key = good.clone();
    wrong_key.s3.secret_key = Some("another".to_owned());
    let error = open_with(&wrong_key).await.unwrap_err();
    assert!(!error.retriable(), "{error}");
    assert!(
        chain(&error).contains("SignatureDoesNotMatch"),
        "{}",
        chain(&error)
    );
    assert!(!chain(&error).contains("another"), "{}", chain(&error));

    let mut no_bucket = good.clone();
    no_bucket.uri = "s3://nobody-made-it/x".to_owned();
    let error = open_with(&no_bucket).await.unwrap_err();
    assert!(!error.retriable(), "{error}");
    assert!(chain(&error).contains("NoSuchBucket"), "{}", chain(&error));

    let mut half_a_key = good.clone();
    half_a_key.s3.secret_key = None;
    let error = open_with(&half_a_key).await.unwrap_err();
    assert!(error.to_string().contains("secret key"), "{error}");

    let proxy = FaultyProxy::start(weed.address()).await;
    proxy.refuse().await;
    let mut nobody_there = through(&proxy, &weed);
    nobody_there.timeout = Duration::from_millis(500);
    let error = open_with(&nobody_there).await.unwrap_err();
    assert!(error.retriable(), "{error}");
    assert!(error.to_string().contains(&nobody_there.uri), "{error}");

    // A fault that passes delays the start and no more.
    let hiccup = through(&proxy, &weed);
    proxy.heal();
    proxy.break_calls(Fault::Status(503), Moment::Before, None, 3);
    open_with(&hiccup).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_survived() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    let proxy = FaultyProxy::start(weed.address()).await;
    let store = open_with(&through(&proxy, &weed)).await.unwrap();
    each_operation_survives_each_fault(&proxy, store.as_ref()).await;
    an_outage_is_waited_for(&proxy, &store).await;
    a_longer_outage_is_said_to_be_transient(&proxy, &weed).await;
    what_is_refused_is_refused_once(&proxy, store.as_ref()).await;
}

async fn each_operation_survives_each_fault(proxy: &FaultyProxy, store: &dyn ObjectStore) {
    store.put("f/there", bytes("0123456789")).await.unwrap();
    for fault in FAULTS {
        for moment in MOMENTS {
            // Hanging costs a whole request's time, so once must do.
            let times = if fault == Fault::Hang { 1 } else { 2 };
            let break_next = || {
                proxy.break_calls(fault, moment, None, times);
                proxy.broken()
            };
            let survived = |before: u64, what: &str| {
                assert!(proxy.broken() > before, "{what} met no {fault:?}");
            };
            let before = break_next();
            store.put("f/new", bytes("new")).await.unwrap();
            survived(before, "put");
            let before = break_next();
            assert_eq!(store.get("f/new").await.unwrap(), bytes("new"));
            survived(before, "get");
            if fault == Fault::Hang {
                continue;
            }
            let before = break_next();
            let part = store.get_range("f/there", 3..5).await.unwrap();
            assert_eq!(part, bytes("34"));
            survived(before, "get_range");
            let before = break_next();
            assert_eq!(store.stat("f/there").await.unwrap().size_bytes, 10);
            survived(before, "stat");
            let before = break_next();
            assert_eq!(store.list("f/").await.unwrap().len(), 2);
            survived(before, "list");
            let before = break_next();
            store.delete("f/new").await.unwrap();
            survived(before, "delete");
            proxy.heal();
            assert!(store.get("f/new").await.unwrap_err().is_not_found());
        }
    }
    proxy.heal();
}

async fn an_outage_is_waited_for(proxy: &FaultyProxy, store: &Arc<dyn ObjectStore>) {
    for refuses in [false, true] {
        if refuses {
            proxy.refuse().await;
        } else {
            proxy.break_calls(Fault::Status(503), Moment::Before, None, u64::MAX);
        }
        let before = proxy.broken();
        let body = bytes("written through an outage");
        let mut put = store.put("o/new", body.clone());
        let mut get = store.get("f/there");
        let mut list = store.list("f/");
        let all = async { tokio::join!(&mut put, &mut get, &mut list) };
        tokio::pin!(all);
        if refuses {
            let early = tokio::time::timeout(Duration::from_millis(500), &mut all).await;
            assert!(early.is_err(), "an operation ended during the outage");
        } else {
            tokio::select! {
                _ = &mut all => panic!("an operation ended during the outage"),
                () = eventually_true("several tries", || proxy.broken() > before + 10) => {}
            }
        }
        proxy.heal();
        let (put, get, list) = all.await;
        put.unwrap();
        assert_eq!(get.unwrap(), bytes("0123456789"));
        assert_eq!(list.unwrap().len(), 1);
        assert_eq!(store.get("o/new").await.unwrap(), body);
    }
}

async fn a_longer_outage_is_said_to_be_transient(proxy: &FaultyProxy, weed: &Weed) {
    let mut options = through(proxy, weed);
    let store = open_with(&options).await.unwrap();
    options.timeout = Duration::from_millis(300);
    options.uri.push_str("/impatient");
    let impatient = open_with(&options).await;
    // On a very busy machine the start itself may take longer than this.
    let Ok(impatient) = impatient else { return };
    for fault in [Fault::Status(503), Fault::Close] {
        proxy.break_calls(fault, Moment::Before, None, u64::MAX);
        let error = impatient.put("k", bytes("x")).await.unwrap_err();
        assert!(error.retriable(), "{error}");
        let error = impatient.list("x/").await.unwrap_err();
        assert!(error.retriable(), "{error}");
        let error = impatient.get("k").await.unwrap_err();
        assert!(error.retriable() && !error.is_not_found(), "{error}");
    }
    proxy.heal();
    store.put("k", bytes("x")).await.unwrap();
}

async fn what_is_refused_is_refused_once(proxy: &FaultyProxy, store: &dyn ObjectStore) {
    proxy.break_calls(Fault::Status(403), Moment::Before, None, u64::MAX);
    let before = proxy.calls();
    let error = store.put("k", bytes("x")).await.unwrap_err();
    assert!(!error.retriable(), "{error}");
    let error = store.get("k").await.unwrap_err();
    assert!(!error.retriable() && !error.is_not_found(), "{error}");
    assert_eq!(proxy.calls() - before, 2);
    proxy.heal();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conditional_write_never_takes_its_own_object_for_anothers() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    let proxy = FaultyProxy::start(weed.address()).await;
    let store = open_with(&through(&proxy, &weed)).await.unwrap();

    // Its answer is lost: nobody knows, and nobody pretends to.
    for (i, fault) in [Fault::Close, Fault::Status(500), Fault::Status(503)]
        .into_iter()
        .enumerate()
    {
        let key = format!("lost/{i}");
        proxy.break_calls(fault, Moment::After, Some("PUT"), 1);
        let before = proxy.calls();
        let error = store.put_if_absent(&key, bytes("mine")).await.unwrap_err();
        assert!(error.retriable(), "{error}");
        assert_eq!(error.outcome(), Outcome::Unknown);
        assert_eq!(proxy.calls() - before, 1, "it was sent again");
        assert_eq!(store.get(&key).await.unwrap(), bytes("mine"));
        let again = store.put_if_absent(&key, bytes("theirs")).await.unwrap();
        assert_eq!(again, PutOutcome::AlreadyExists);
        assert_eq!(store.get(&key).await.unwrap(), bytes("mine"));
    }

    // The server says that it has not tried, or was not there: sent again.
    proxy.break_calls(Fault::Status(429), Moment::Before, Some("PUT"), 2);
    let outcome = store.put_if_absent("declined", bytes("mine")).await;
    assert_eq!(outcome.unwrap(), PutOutcome::Created);
    proxy.refuse().await;
    let mut write = store.put_if_absent("refused", bytes("mine"));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut write).await;
    assert!(early.is_err(), "it ended while nobody was there: {early:?}");
    proxy.heal();
    assert_eq!(write.await.unwrap(), PutOutcome::Created);

    let mut rng = test_rng();
    for round in 0..20 {
        writers_race_through_faults(&proxy, &store, &mut rng, round).await;
    }
}

/// Whatever is lost on the way, one key has one object, and at most one writer is told that it is
/// his.
async fn writers_race_through_faults(
    proxy: &FaultyProxy,
    store: &Arc<dyn ObjectStore>,
    rng: &mut StdRng,
    round: u32,
) {
    let key = format!("race/{round}");
    let fault = [Fault::Close, Fault::Status(500), Fault::Status(429)][rng.random_range(0..3)];
    let moment = MOMENTS[rng.random_range(0..2)];
    proxy.break_calls(fault, moment, Some("PUT"), rng.random_range(0..4));
    let writers = (0..3).map(|writer| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            let body = bytes(&format!("writer {writer}"));
            (body.clone(), store.put_if_absent(&key, body).await)
        }
    });
    let outcomes = futures::future::join_all(writers).await;
    proxy.heal();
    let found = match store.get(&key).await {
        Ok(found) => Some(found),
        Err(error) => {
            assert!(error.is_not_found(), "{error}");
            None
        }
    };
    let mut created = 0;
    for (body, outcome) in &outcomes {
        match outcome {
            Ok(PutOutcome::Created) => {
                created += 1;
                assert_eq!(found.as_ref(), Some(body), "{fault:?} {moment:?}");
            }
            Ok(PutOutcome::AlreadyExists) => {
                assert!(found.is_some(), "{fault:?} {moment:?}");
                if moment == Moment::After && fault == Fault::Status(429) {
                    // A server that does what it says it has not done: nothing is promised of it.
                    continue;
                }
                assert_ne!(found.as_ref(), Some(body), "{fault:?} {moment:?}");
            }
            Err(error) => assert_eq!(error.outcome(), Outcome::Unknown),
        }
    }
    assert!(created <= 1, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_on_disk_spare_the_server() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    let proxy = FaultyProxy::start(weed.address()).await;
    let dir = tempfile::tempdir().unwrap();
    let mut options = through(&proxy, &weed);
    let cache = CacheOptions {
        dir: dir.path().join("cache"),
        size_bytes: 100,
    };
    let plain = open_with(&options).await.unwrap();
    options.cache = Some(cache);
    let store = open_with(&options).await.unwrap();
    store.put("s/a", bytes("the object")).await.unwrap();
    store.put("s/big", Bytes::from(vec![7; 101])).await.unwrap();
    assert!(plain.local_file("s/a").await.unwrap().is_none());
    assert!(store.local_file("s/big").await.unwrap().is_none());

    // The first fetch meets faults; the others need no server at all.
    proxy.break_calls(Fault::Status(500), Moment::Before, None, 3);
    let file = store.local_file("s/a").await.unwrap().unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), b"the object");
    let calls = proxy.calls();
    store.local_file("s/a").await.unwrap().unwrap();
    assert_eq!(proxy.calls(), calls);
    drop((file, store));
    let store = open_with(&options).await.unwrap();
    let calls = proxy.calls();
    let file = store.local_file("s/a").await.unwrap().unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), b"the object");
    assert_eq!(proxy.calls(), calls, "the copy did not survive the restart");
    store.forget_local("s/a").await;
    store.local_file("s/a").await.unwrap().unwrap();
    assert!(proxy.calls() > calls);
}
