//! Leaders that come and go.

use std::sync::Arc;
use std::time::Duration;

use redkite_metastore::{Op, Txn};
use redkite_runtime::ManualClock;
use redkite_runtime::TaskGroup;
use redkite_saga::{
    Error, Fault, FaultPoint, RECORD_PREFIX, Registry, SagaConfig, SagaExecutor, State,
};
use redkite_types::{Coded as _, SagaId};

use crate::toy::{Calls, Create, Remote, config, eventually, kv, named, start, thing, value};

#[tokio::test]
async fn a_deposed_leader_cannot_advance_a_saga() {
    let (kv, remote) = (kv(), Remote::pausing());
    let old = start(&kv, 1, &remote).await;
    let handle = old.submit::<Create>(named("a"), "r").unwrap();
    eventually("the old leader asks the remote", || {
        remote.calls("announce") == 1
    })
    .await;

    let new = start(&kv, 2, &remote).await;
    eventually("the new leader goes on", || remote.calls("announce") == 2).await;
    let taken_over = new.submit::<Create>(named("a"), "r").unwrap();
    assert_eq!(taken_over.id(), handle.id());
    remote.let_pass(2);
    // Both calls return; only one leader can commit.
    let error = handle.wait().await.unwrap_err();
    assert!(matches!(error, Error::Fenced) && error.retriable());
    assert_eq!(taken_over.wait().await.unwrap().output, 1);
    old.deposed().await;
    assert!(matches!(
        old.submit::<Create>(named("b"), ""),
        Err(Error::Fenced)
    ));
}

#[tokio::test]
async fn a_deposed_leader_cannot_begin_a_saga() {
    let (kv, remote) = (kv(), Remote::new());
    let old = start(&kv, 1, &remote).await;
    let _new = start(&kv, 1, &remote).await;
    let fenced = old
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    assert!(matches!(fenced, Error::Fenced), "{fenced}");
    assert_eq!(remote.calls("expire"), 0);
    assert_eq!(value(&kv, &thing("a")).await, None);
}

#[tokio::test]
async fn a_lower_epoch_is_refused() {
    let (kv, remote) = (kv(), Remote::new());
    let _newer = start(&kv, 7, &remote).await;
    let older = SagaExecutor::start(config(&kv, 6, &remote)).await;
    assert!(matches!(older, Err(Error::Fenced)));
}

#[tokio::test]
async fn locks_of_recovered_sagas_are_held_before_new_ones_run() {
    let (kv, remote) = (kv(), Remote::pausing());
    let old = start(&kv, 1, &remote).await;
    let first = old.submit::<Create>(named("a"), "").unwrap();
    eventually("the remote is asked", || remote.calls("announce") == 1).await;
    let new = start(&kv, 2, &remote).await;
    let second = new.submit::<Create>(named("a"), "").unwrap();
    eventually("the first goes on", || remote.calls("announce") == 2).await;
    assert!(new.show(second.id()).unwrap().waits_for_locks);
    assert!(!new.show(first.id()).unwrap().waits_for_locks);
    remote.let_pass(2);
    assert_eq!(
        second.wait().await.unwrap_err().to_string(),
        "thing a exists"
    );
}

#[tokio::test]
async fn ids_are_never_used_again() {
    let (kv, remote) = (kv(), Remote::new());
    let mut last = SagaId(0);
    for epoch in [1, 1, 2, 9] {
        let executor = start(&kv, epoch, &remote).await;
        for name in ["a", "b"] {
            let handle = executor.submit::<Calls>(named(name), "").unwrap();
            assert!(handle.id() > last);
            last = handle.id();
            handle.wait().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_saga_of_an_unknown_version_waits_for_a_human_with_its_locks() {
    let (kv, remote) = (kv(), Remote::pausing());
    let old = start(&kv, 1, &remote).await;
    let handle = old.submit::<Create>(named("a"), "r").unwrap();
    eventually("the remote is asked", || remote.calls("announce") == 1).await;
    let mut registry = Registry::new();
    registry
        .register(Calls {
            remote: remote.clone(),
            forgets_to_undo: false,
        })
        .unwrap();
    let lacking = SagaConfig::new(kv.clone(), 2, registry, TaskGroup::new("test"));
    let lacking = SagaExecutor::start(lacking).await.unwrap();
    let info = lacking.show(handle.id()).unwrap();
    assert_eq!(
        info.last_error.as_deref(),
        Some("no registered saga fits create/v1")
    );
    assert_eq!(info.state, State::Running);
    assert!(matches!(
        lacking.retry(info.id).await,
        Err(Error::WrongState { .. })
    ));
    assert!(matches!(
        lacking.abort(info.id).await,
        Err(Error::WrongState { .. })
    ));
    let waiting = lacking.submit::<Calls>(named(&thing("a")), "").unwrap();
    tokio::task::yield_now().await;
    assert!(lacking.show(waiting.id()).unwrap().waits_for_locks);
    // A binary that knows it brings it to its end.
    let knowing = start(&kv, 3, &remote).await;
    remote.let_pass(2);
    knowing
        .submit::<Create>(named("a"), "r")
        .unwrap()
        .wait()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_damaged_record_stops_the_start() {
    let (kv, remote) = (kv(), Remote::new());
    kv.txn(Txn::new().then(Op::put(format!("{RECORD_PREFIX}5"), "{")))
        .await
        .unwrap();
    let error = SagaExecutor::start(config(&kv, 1, &remote))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("saga record root-coord/saga/5 is corrupt"),
        "{error}"
    );
}

#[tokio::test]
async fn finished_records_are_pruned_by_number_and_by_age() {
    let (kv, remote) = (kv(), Remote::new());
    let clock = ManualClock::new(1_000_000);
    let mut config = config(&kv, 1, &remote);
    config.clock = clock.shared();
    config.options.keep_finished_max = 3;
    config.options.keep_finished_for = Duration::from_secs(60);
    let executor = SagaExecutor::start(config).await.unwrap();
    let run = async |number: u32| {
        let handle = executor
            .submit::<Calls>(named("a"), &format!("r{number}"))
            .unwrap();
        let id = handle.id();
        handle.wait().await.unwrap();
        id
    };
    let count = async || kv.range(RECORD_PREFIX, None, 99).await.unwrap().pairs.len();
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(run(number).await);
        assert!(
            count().await <= 4,
            "the last one finished is deleted with the next write"
        );
    }
    assert_eq!(run(9).await, ids[9], "it is still remembered");
    assert_ne!(run(0).await, ids[0], "it is not");
    clock.advance(Duration::from_secs(61));
    run(20).await;
    assert_eq!(count().await, 1, "all others are too old");
}

#[tokio::test]
async fn an_abort_is_on_record_when_it_returns_and_the_next_leader_takes_the_saga_back() {
    let (kv, remote) = (kv(), Remote::pausing());
    let mut config = config(&kv, 1, &remote);
    // The leader dies before it undoes anything.
    config.faults = Some(Arc::new(|_: SagaId, point: &FaultPoint| match point {
        FaultPoint::BeforeUndo { .. } => Fault::Crash,
        _ => Fault::None,
    }));
    let old = SagaExecutor::start(config).await.unwrap();
    let handle = old.submit::<Create>(named("a"), "r").unwrap();
    // The call is still under way when it is given up: nobody knows what it has done.
    eventually("the remote is asked", || remote.calls("announce") == 1).await;
    old.abort(handle.id()).await.unwrap();
    let stopped = handle.wait().await.unwrap_err();
    assert!(matches!(stopped, Error::Stopped), "{stopped}");
    assert_eq!(value(&kv, &thing("a")).await.as_deref(), Some("creating"));

    let new = start(&kv, 2, &remote).await;
    new.idle().await;
    assert_eq!(new.show(old.list()[0].id).unwrap().state, State::Failed);
    assert_eq!(value(&kv, &thing("a")).await, None);
    assert_eq!(
        remote.calls("release"),
        1,
        "also the call that was given up"
    );
    let again = new.submit::<Create>(named("a"), "r").unwrap();
    let error = again.wait().await.unwrap_err();
    assert_eq!(error.to_string(), "saga was aborted by an operator");
}

#[tokio::test]
async fn a_saga_that_waits_for_its_locks_can_be_aborted_for_good() {
    let (kv, remote) = (kv(), Remote::pausing());
    let old = start(&kv, 1, &remote).await;
    let _first = old.submit::<Create>(named("a"), "first").unwrap();
    eventually("the remote is asked", || remote.calls("announce") == 1).await;
    let second = old.submit::<Create>(named("a"), "second").unwrap();
    old.abort(second.id()).await.unwrap();
    let told = second.wait().await.unwrap_err().to_string();

    let new = start(&kv, 2, &remote).await;
    let again = new.submit::<Create>(named("a"), "second").unwrap();
    assert_eq!(again.wait().await.unwrap_err().to_string(), told);
    remote.let_pass(2);
    let first = new.submit::<Create>(named("a"), "first").unwrap();
    first.wait().await.unwrap();
}
