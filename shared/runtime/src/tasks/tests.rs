use std::sync::atomic::AtomicBool;

use super::*;
use crate::testing::eventually_true;

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_tasks_and_names_those_that_hang() {
    let group = TaskGroup::new("test");
    let token = group.token();
    group.spawn(
        "polite",
        OnFailure::Log,
        async move { token.cancelled().await },
    );
    group.spawn("stubborn", OnFailure::Log, std::future::pending::<()>());
    let error = group.shutdown(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.names.len(), 1);
    assert!(error.names[0].starts_with("stubborn"), "{error}");
    group.abort();
    group.shutdown(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test]
async fn a_panic_or_an_error_of_a_vital_task_stops_the_group_and_its_parents() {
    for panics in [true, false] {
        let parent = TaskGroup::new("process");
        let child = parent.child("role");
        child.spawn("vital", OnFailure::Shutdown, async move {
            assert!(!panics, "out of luck");
            Err::<(), _>("out of luck")
        });
        let reason = parent.failed().await;
        assert!(
            reason.contains("vital") && reason.contains("out of luck"),
            "{reason}"
        );
        assert!(parent.token().is_cancelled() && child.token().is_cancelled());
        assert_eq!(child.failure(), Some(reason));
    }
}

#[tokio::test]
async fn a_failure_that_is_only_logged_stops_nothing() {
    let group = TaskGroup::new("test");
    group.spawn("optional", OnFailure::Log, async {
        Err::<(), _>("never mind")
    });
    let watched = group.clone();
    eventually_true("the task ended", move || watched.running().is_empty()).await;
    assert_eq!(group.failure(), None);
    assert!(!group.token().is_cancelled());
}

#[tokio::test]
async fn a_child_stops_alone_and_a_parent_waits_for_the_children() {
    let parent = TaskGroup::new("process");
    let (left, right) = (parent.child("left"), parent.child("right"));
    for group in [&left, &right] {
        group.spawn_cancellable("loop", OnFailure::Log, std::future::pending::<()>());
    }
    left.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(parent.running().len(), 1);
    assert!(!parent.token().is_cancelled());
    parent.shutdown(Duration::from_secs(60)).await.unwrap();
    assert!(right.running().is_empty());
}

#[tokio::test]
async fn detached_work_goes_on_when_its_caller_leaves() {
    let group = TaskGroup::new("test");
    assert_eq!(group.detach("sum", async { 40 + 2 }).await, Ok(42));

    let done = Arc::new(AtomicBool::new(false));
    let (start, started) = oneshot::channel::<()>();
    let inside = Arc::clone(&done);
    drop(group.detach("change", async move {
        started.await.unwrap();
        inside.store(true, Ordering::SeqCst);
    }));
    start.send(()).unwrap();
    eventually_true("the work is done", || done.load(Ordering::SeqCst)).await;

    let error = group
        .detach("bad", async { assert!(false_at_run_time(), "oh") })
        .await
        .unwrap_err();
    assert_eq!(
        error,
        Error::Panicked {
            what: "bad".into(),
            message: "oh".to_owned()
        }
    );
}

fn false_at_run_time() -> bool {
    false
}
