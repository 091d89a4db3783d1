//! Undos that are rejected, and what a human can do about them.

use redkite_saga::{Error, State, StepError};
use redkite_types::SagaId;

use crate::toy::{Create, Remote, eventually, kv, named, start, thing, value};

fn rejected(message: &str) -> StepError {
    StepError::Rejected(redkite_types::Error::internal(message))
}

fn unknown() -> StepError {
    StepError::Unknown(redkite_types::Error::internal("no answer"))
}

fn make_stuck(remote: &Remote) {
    remote.fail("announce", vec![unknown(); 1_000]);
    remote.fail(
        "release",
        vec![rejected("cannot be released"), unknown(), unknown()],
    );
}

async fn stuck(executor: &redkite_saga::SagaExecutor, remote: &Remote) -> SagaId {
    make_stuck(remote);
    let handle = executor.submit::<Create>(named("a"), "r").unwrap();
    let id = handle.id();
    let error = handle.wait().await.unwrap_err();
    assert!(matches!(error, Error::Stuck { .. }), "{error}");
    assert_eq!(
        remote.calls("release"),
        3,
        "an unknown outcome of an undo is tried again"
    );
    id
}

#[tokio::test]
async fn a_rejected_undo_leaves_the_saga_stuck_with_its_locks_also_after_a_restart() {
    let (kv, remote) = (kv(), Remote::new());
    let executor = start(&kv, 1, &remote).await;
    let id = stuck(&executor, &remote).await;
    for epoch in 2..4 {
        let executor = start(&kv, epoch, &remote).await;
        let info = executor.list().remove(0);
        assert_eq!((info.id, info.state), (id, State::Stuck));
        let why = info.last_error.unwrap();
        assert_eq!(why, "undo of step announce: cannot be released");
        let waiting = executor.submit::<Create>(named("a"), "").unwrap();
        tokio::task::yield_now().await;
        assert!(executor.show(waiting.id()).unwrap().waits_for_locks);
        let again = executor
            .submit::<Create>(named("a"), "r")
            .unwrap()
            .wait()
            .await;
        assert!(matches!(again, Err(Error::Stuck { .. })));
    }
    assert_eq!(remote.calls("release"), 3);
}

#[tokio::test]
async fn a_retry_takes_the_undo_up_again() {
    let (kv, remote) = (kv(), Remote::new());
    let executor = start(&kv, 1, &remote).await;
    let id = stuck(&executor, &remote).await;
    remote.fail("release", vec![rejected("still not")]);
    executor.retry(id).await.unwrap();
    executor.idle().await;
    assert_eq!(executor.show(id).unwrap().state, State::Stuck);
    executor.retry(id).await.unwrap();
    executor.idle().await;
    assert_eq!(executor.show(id).unwrap().state, State::Failed);
    assert_eq!(value(&kv, &thing("a")).await, None);
    let answer = executor
        .submit::<Create>(named("a"), "r")
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    assert_eq!(
        answer.to_string(),
        "no answer",
        "the reason why it was unwound"
    );
    remote.fail("announce", vec![]);
    executor
        .submit::<Create>(named("a"), "")
        .unwrap()
        .wait()
        .await
        .unwrap();
    let refused = executor.retry(id).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("saga {id} is failed, which does not allow to retry")
    );
}

#[tokio::test]
async fn an_abort_gives_up_what_is_left_and_frees_the_locks() {
    let (kv, remote) = (kv(), Remote::new());
    let first = start(&kv, 1, &remote).await;
    let id = stuck(&first, &remote).await;
    let executor = start(&kv, 2, &remote).await;
    let refused = first.retry(id).await.unwrap_err();
    assert!(matches!(refused, Error::Fenced), "{refused}");
    remote.fail("announce", vec![]);
    let waiting = executor.submit::<Create>(named("a"), "").unwrap();
    executor.abort(id).await.unwrap();
    assert_eq!(executor.show(id).unwrap().state, State::Failed);
    // What the human left behind is found by the next one.
    assert_eq!(
        waiting.wait().await.unwrap_err().to_string(),
        "thing a exists"
    );
    eventually("nothing is left", || executor.list().is_empty()).await;
    let executor = start(&kv, 3, &remote).await;
    assert!(executor.list().is_empty());
}
