//! Submitting, waiting, retrying, refusing, locking, stopping.

use std::time::Duration;

use redkite_metastore::{Op, Txn};
use redkite_saga::{Error, Registry, SagaExecutor, State, StepError};
use redkite_types::{Coded as _, ErrorCode, SagaId};

use crate::toy::{
    Calls, Create, Drop, Remote, config, eventually, kv, named, registry, start, thing, value,
};

fn unknown() -> StepError {
    StepError::Unknown(redkite_types::Error::new(
        ErrorCode::ServiceUnavailable,
        "no answer",
    ))
}

fn rejected() -> StepError {
    StepError::Rejected(redkite_types::Error::new(
        ErrorCode::CapacityExceeded,
        "no room",
    ))
}

#[tokio::test]
async fn a_saga_answers_with_its_output_and_the_revision_that_shows_it() {
    let (kv, remote) = (kv(), Remote::new());
    let executor = start(&kv, 1, &remote).await;
    let mut handle = executor.submit::<Create>(named("a"), "r1").unwrap();
    let committed = handle.committed().await.unwrap();
    let done = handle.wait().await.unwrap();
    assert_eq!(done.output, 1);
    assert_eq!(done.revision, committed);
    let pair = kv.get(&thing("a")).await.unwrap().unwrap();
    assert_eq!(
        (&pair.value[..], pair.revision),
        (&b"created"[..], done.revision)
    );
}

#[tokio::test]
async fn an_unknown_outcome_is_tried_again_within_the_budget() {
    let (kv, remote) = (kv(), Remote::new());
    remote.fail("announce", vec![unknown(), unknown()]);
    let executor = start(&kv, 1, &remote).await;
    executor
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!((remote.calls("announce"), remote.calls("release")), (3, 0));
}

#[tokio::test]
async fn a_step_of_unknown_outcome_is_undone_too_and_a_rejected_one_is_not() {
    let (kv, remote) = (kv(), Remote::new());
    let executor = start(&kv, 1, &remote).await;
    remote.fail("announce", vec![unknown(); 1_000]);
    let failed = executor
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await;
    assert_eq!(failed.unwrap_err().to_string(), "no answer");
    assert_eq!(remote.calls("release"), 1);
    remote.fail("announce", vec![rejected()]);
    let failed = executor
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await;
    assert_eq!(failed.unwrap_err().code(), ErrorCode::CapacityExceeded);
    assert_eq!(remote.calls("release"), 1);
    // What may have happened in an earlier attempt is undone, whatever the last one says.
    remote.fail("announce", vec![rejected(), unknown()]);
    executor
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    assert_eq!(remote.calls("release"), 2);
    assert_eq!(value(&kv, &thing("a")).await, None);
}

#[tokio::test]
async fn behind_the_pivot_everything_is_tried_again() {
    let (kv, remote) = (kv(), Remote::new());
    let executor = start(&kv, 1, &remote).await;
    executor
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap();
    remote.fail(
        "release",
        [vec![rejected(); 5], vec![unknown(); 5]].concat(),
    );
    executor
        .submit::<Drop>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(remote.calls("release"), 11);
    assert_eq!(
        (value(&kv, &thing("a")).await, remote.names().len()),
        (None, 0)
    );
}

#[tokio::test]
async fn a_refused_compare_is_the_authors_error() {
    let (kv, remote) = (kv(), Remote::new());
    kv.txn(Txn::new().then(Op::put(thing("a"), "mine")))
        .await
        .unwrap();
    let executor = start(&kv, 1, &remote).await;
    let error = executor
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    let error = redkite_types::Error::from(error);
    assert_eq!(
        (error.code, &*error.message),
        (ErrorCode::InvalidParameter, "thing a exists")
    );
    assert_eq!(value(&kv, &thing("a")).await.as_deref(), Some("mine"));
}

#[tokio::test]
async fn a_check_can_answer_at_once_and_writes_nothing() {
    let (kv, remote) = (kv(), Remote::new());
    let executor = start(&kv, 1, &remote).await;
    let handle = executor.submit::<Drop>(named("absent"), "").unwrap();
    assert_eq!(handle.wait().await.unwrap().revision.0, 0);
    assert!(
        kv.range("root-coord/saga/", None, 9)
            .await
            .unwrap()
            .pairs
            .is_empty()
    );
}

#[tokio::test]
async fn a_saga_goes_on_when_nobody_waits() {
    let (kv, remote) = (kv(), Remote::new());
    let executor = start(&kv, 1, &remote).await;
    drop(executor.submit::<Create>(named("a"), "").unwrap());
    executor.idle().await;
    assert_eq!(value(&kv, &thing("a")).await.as_deref(), Some("created"));
}

#[tokio::test]
async fn one_request_is_one_saga_also_after_a_restart() {
    let (kv, remote) = (kv(), Remote::pausing());
    let executor = start(&kv, 1, &remote).await;
    let first = executor.submit::<Create>(named("a"), "r").unwrap();
    let second = executor.submit::<Create>(named("a"), "r").unwrap();
    assert_eq!(first.id(), second.id());
    remote.let_pass(1);
    let (first, second) = (first.wait().await.unwrap(), second.wait().await.unwrap());
    assert_eq!(first, second);
    let reused = executor.submit::<Drop>(named("a"), "r").unwrap_err();
    assert!(matches!(reused, Error::RequestIdReused { .. }));
    executor.shutdown(Duration::from_secs(60)).await.unwrap();

    let executor = start(&kv, 2, &remote).await;
    let third = executor
        .submit::<Create>(named("a"), "r")
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(third, first);
    assert_eq!(remote.calls("announce"), 1);
}

#[tokio::test]
async fn a_failed_request_keeps_its_answer_too() {
    let (kv, remote) = (kv(), Remote::new());
    remote.fail("announce", vec![rejected()]);
    let executor = start(&kv, 1, &remote).await;
    executor
        .submit::<Create>(named("a"), "r")
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    let executor = start(&kv, 2, &remote).await;
    let again = executor
        .submit::<Create>(named("a"), "r")
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    assert_eq!(again.to_string(), "no room");
    assert_eq!(remote.calls("announce"), 1);
}

#[tokio::test]
async fn two_sagas_on_one_name_follow_each_other() {
    let (kv, remote) = (kv(), Remote::pausing());
    let executor = start(&kv, 1, &remote).await;
    let first = executor.submit::<Create>(named("a"), "").unwrap();
    eventually("the first waits for the remote", || {
        remote.calls("announce") == 1
    })
    .await;
    let second = executor.submit::<Create>(named("a"), "").unwrap();
    let other = executor.submit::<Create>(named("b"), "").unwrap();
    eventually("the other runs beside it", || remote.calls("announce") == 2).await;
    let info = executor.show(second.id()).unwrap();
    assert!(info.waits_for_locks, "{info:?}");
    remote.let_pass(2);
    first.wait().await.unwrap();
    other.wait().await.unwrap();
    assert_eq!(
        second.wait().await.unwrap_err().to_string(),
        "thing a exists"
    );
}

#[tokio::test]
async fn concurrent_creators_of_one_name_make_one_thing() {
    let (kv, remote) = (kv(), Remote::new());
    let executor = start(&kv, 1, &remote).await;
    let handles: Vec<_> = (0..50)
        .map(|_| executor.submit::<Create>(named("a"), "").unwrap())
        .collect();
    let mut created = 0;
    for handle in handles {
        created += usize::from(handle.wait().await.is_ok());
    }
    assert_eq!((created, remote.calls("announce")), (1, 1));
}

#[tokio::test]
async fn a_shutdown_stops_at_a_step_boundary_and_the_next_executor_goes_on() {
    let (kv, remote) = (kv(), Remote::pausing());
    let executor = start(&kv, 1, &remote).await;
    let handle = executor.submit::<Create>(named("a"), "r").unwrap();
    let waiting = executor.submit::<Create>(named("a"), "").unwrap();
    eventually("the remote is asked", || remote.calls("announce") == 1).await;
    let stopping = executor.clone();
    let stopped = tokio::join!(stopping.shutdown(Duration::from_secs(60)), async {
        assert!(matches!(waiting.wait().await, Err(Error::Stopped)));
        remote.let_pass(2);
        handle.wait().await
    });
    stopped.0.unwrap();
    assert!(matches!(stopped.1, Err(Error::Stopped)));
    assert!(matches!(
        executor.submit::<Create>(named("b"), ""),
        Err(Error::Stopped)
    ));
    assert_eq!(remote.calls("release"), 0, "a shutdown never unwinds");

    let executor = start(&kv, 2, &remote).await;
    let handle = executor.submit::<Create>(named("a"), "r").unwrap();
    assert_eq!(handle.wait().await.unwrap().output, 1);
    assert_eq!(value(&kv, &thing("a")).await.as_deref(), Some("created"));
}

#[tokio::test]
async fn a_running_saga_can_be_aborted_before_its_pivot_only() {
    let (kv, remote) = (kv(), Remote::new());
    let mut config = config(&kv, 1, &remote);
    config.options.budget = Some(Duration::from_secs(3_600));
    let executor = SagaExecutor::start(config).await.unwrap();
    remote.fail("announce", vec![unknown(); 100_000]);
    let handle = executor.submit::<Create>(named("a"), "").unwrap();
    eventually("it is tried again", || remote.calls("announce") > 2).await;
    let info = &executor.list()[0];
    assert!(info.retries > 0, "{info:?}");
    assert_eq!(
        (info.step.as_deref(), info.state),
        (Some("announce"), State::Running)
    );
    assert_eq!(info.last_error.as_deref(), Some("no answer"));
    executor.abort(handle.id()).await.unwrap();
    assert_eq!(handle.wait().await.unwrap_err().code(), ErrorCode::Canceled);
    assert_eq!(value(&kv, &thing("a")).await, None);

    remote.fail("announce", vec![]);
    executor
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap();
    remote.fail("forget", vec![unknown(); 20]);
    let mut handle = executor.submit::<Drop>(named("a"), "").unwrap();
    handle.committed().await.unwrap();
    let refused = executor.abort(handle.id()).await.unwrap_err();
    assert!(matches!(refused, Error::WrongState { .. }), "{refused}");
    handle.wait().await.unwrap();
    assert!(matches!(
        executor.abort(SagaId(5)).await,
        Err(Error::NotFound { .. })
    ));
}

#[tokio::test]
async fn there_is_a_limit_to_sagas_under_way() {
    let (kv, remote) = (kv(), Remote::pausing());
    let mut config = config(&kv, 1, &remote);
    config.options.max_running = 2;
    let executor = SagaExecutor::start(config).await.unwrap();
    let first = executor.submit::<Create>(named("a"), "").unwrap();
    let _second = executor.submit::<Create>(named("b"), "").unwrap();
    let busy = executor.submit::<Create>(named("c"), "").unwrap_err();
    assert!(matches!(busy, Error::Busy { limit: 2 }) && busy.retriable());
    remote.let_pass(2);
    first.wait().await.unwrap();
    executor
        .submit::<Calls>(named("c"), "")
        .unwrap()
        .wait()
        .await
        .unwrap();
}

#[test]
fn a_saga_is_registered_once() {
    let (kv, remote) = (kv(), Remote::new());
    let mut registry: Registry = registry(&kv, &remote);
    let twice = registry.register(Create { remote });
    assert!(matches!(
        twice,
        Err(Error::Definition { kind: "create", .. })
    ));
}
