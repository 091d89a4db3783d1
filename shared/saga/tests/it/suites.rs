//! The free suites on the toy sagas, and that they catch an author's mistakes.

use std::sync::Arc;

use redkite_metastore::{Op, SharedKv, Txn};
use redkite_saga::Saga;
use redkite_saga::testing::{World, assert_golden, dump, run_all};

use crate::toy::{Alter, Calls, Create, Drop, Remote, Waits, kv, named, registry, thing};

fn world<S: Saga<Params = crate::toy::Named>>(
    kv: SharedKv,
    remote: Arc<Remote>,
    saga: impl Fn() -> S + Send + Sync + 'static,
) -> World<S> {
    let seen = kv.clone();
    World::new(
        kv,
        saga,
        || named("a"),
        move || {
            let (kv, remote) = (seen.clone(), remote.clone());
            async move { format!("{}{:?}", dump(&*kv).await, remote.names()) }
        },
    )
}

#[tokio::test]
async fn a_create_passes() {
    run_all(|| async {
        let remote = Remote::new();
        let context = remote.clone();
        world(kv(), remote, move || Create {
            remote: context.clone(),
        })
    })
    .await;
}

#[tokio::test]
async fn a_change_that_ends_with_a_call_passes() {
    run_all(|| async {
        let remote = Remote::new();
        let context = remote.clone();
        world(kv(), remote, move || Alter {
            remote: context.clone(),
        })
    })
    .await;
}

#[tokio::test]
async fn waits_between_the_steps_pass() {
    run_all(|| async {
        let remote = Remote::new();
        let context = remote.clone();
        world(kv(), remote, move || Waits {
            remote: context.clone(),
        })
    })
    .await;
}

#[tokio::test]
async fn a_drop_passes() {
    run_all(|| async {
        let (kv, remote) = (kv(), Remote::new());
        kv.txn(Txn::new().then(Op::put(thing("a"), "created")))
            .await
            .unwrap();
        let (context, store) = (remote.clone(), kv.clone());
        world(kv, remote, move || Drop {
            remote: context.clone(),
            kv: store.clone(),
        })
    })
    .await;
}

#[tokio::test]
async fn a_list_of_calls_passes() {
    run_all(|| async {
        let remote = Remote::new();
        let context = remote.clone();
        world(kv(), remote, move || Calls {
            remote: context.clone(),
            forgets_to_undo: false,
        })
    })
    .await;
}

#[tokio::test]
#[should_panic(expected = "is wrong")]
async fn a_forgotten_undo_is_caught() {
    run_all(|| async {
        let remote = Remote::new();
        let context = remote.clone();
        world(kv(), remote, move || Calls {
            remote: context.clone(),
            forgets_to_undo: true,
        })
    })
    .await;
}

const GOLDEN: &str = "
alter/v1
  alter: meta, output, pivot
  announce: call
calls/v1
  first: call, undo call
  second: call, undo call, output
  third: call, undo call
create/v1
  allocate: allocate, output
  expire: call
  add_meta: meta, undo meta
  announce: call, undo call
  commit: meta, pivot
drop/v2
  mark: meta, pivot
  release: call
  forget: call
  remove: meta
waits/v1
  before: wait
  first: call, undo call
  between: wait
  second: call, undo call
  at_last: wait
  commit: meta, pivot
";

#[test]
fn the_steps_are_pinned() {
    assert_golden(&registry(&kv(), &Remote::new()), GOLDEN);
}

#[test]
#[should_panic(expected = "give the new list a new version")]
fn a_silent_change_of_steps_is_caught() {
    assert_golden(
        &registry(&kv(), &Remote::new()),
        &GOLDEN.replace("announce", "tell"),
    );
}
