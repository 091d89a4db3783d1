use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::*;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::tasks::TaskGroup;
use crate::testing::eventually_true;

enum CounterMsg {
    Add(u64, Reply<u64>),
    Panic,
    Fail,
    /// Does not end before it is told to.
    Block(Arc<Notify>),
}

struct Counter {
    total: u64,
    dropped: Arc<AtomicUsize>,
}

impl Actor for Counter {
    type Msg = CounterMsg;

    async fn handle(&mut self, message: CounterMsg) -> Result<(), ActorError> {
        match message {
            CounterMsg::Add(amount, reply) => {
                self.total += amount;
                reply.send(self.total);
            }
            CounterMsg::Panic => panic!("counter is broken"),
            CounterMsg::Fail => return Err("counter gives up".into()),
            CounterMsg::Block(until) => until.notified().await,
        }
        Ok(())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

struct World {
    group: TaskGroup,
    handle: Handle<CounterMsg>,
    built: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

async fn world(capacity: usize) -> World {
    let group = TaskGroup::new("test");
    let supervisor = Supervisor::start(&group).await.unwrap();
    let (built, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, drops) = (Arc::clone(&built), Arc::clone(&dropped));
    let handle = supervisor.spawn(
        "counter",
        move |_own| {
            count.fetch_add(1, Ordering::SeqCst);
            let dropped = Arc::clone(&drops);
            async move { Ok(Counter { total: 0, dropped }) }
        },
        capacity,
    );
    handle.wait_running(soon()).await.unwrap();
    World {
        group,
        handle,
        built,
        dropped,
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn add(amount: u64) -> impl FnOnce(Reply<u64>) -> CounterMsg {
    move |reply| CounterMsg::Add(amount, reply)
}

#[tokio::test]
async fn messages_are_handled_in_order_and_answered() {
    let world = world(8).await;
    assert_eq!(world.handle.ask(add(2), soon()).await, Ok(2));
    assert_eq!(world.handle.ask(add(3), soon()).await, Ok(5));
    world.group.shutdown(Duration::from_secs(20)).await.unwrap();
    assert_eq!(world.dropped.load(Ordering::SeqCst), 1);
    let error = world.handle.ask(add(1), soon()).await.unwrap_err();
    assert_eq!(
        error,
        Error::Stopping {
            what: "counter".into()
        }
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_panic_or_an_error_the_actor_is_rebuilt_with_fresh_state() {
    let world = world(8).await;
    assert_eq!(world.handle.ask(add(2), soon()).await, Ok(2));
    for (deaths, fatal) in [CounterMsg::Panic, CounterMsg::Fail]
        .into_iter()
        .enumerate()
    {
        world.handle.tell(fatal).unwrap();
        let dropped = Arc::clone(&world.dropped);
        eventually_true("the state is dropped", move || {
            dropped.load(Ordering::SeqCst) == deaths + 1
        })
        .await;
        let built = Arc::clone(&world.built);
        eventually_true("it is built again", move || {
            built.load(Ordering::SeqCst) == deaths + 2
        })
        .await;
        assert_eq!(world.handle.ask_waiting(add(7), soon()).await, Ok(7));
    }
    assert_eq!(world.group.failure(), None);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_answer_is_told_of_the_death() {
    let world = world(8).await;
    let gate = Arc::new(Notify::new());
    world
        .handle
        .tell(CounterMsg::Block(Arc::clone(&gate)))
        .unwrap();
    world.handle.tell(CounterMsg::Panic).unwrap();
    let mut asked = Box::pin(world.handle.ask(add(1), soon()));
    assert!(futures::FutureExt::now_or_never(&mut asked).is_none());
    gate.notify_one();
    assert_eq!(
        asked.await,
        Err(Error::Interrupted {
            what: "counter".into()
        })
    );
}

#[tokio::test(start_paused = true)]
async fn dying_too_often_stops_the_process() {
    let world = world(8).await;
    for _ in 0..5 {
        // While it is being rebuilt the message waits.
        world
            .handle
            .tell_waiting(CounterMsg::Panic, soon())
            .await
            .unwrap();
        let dropped = Arc::clone(&world.dropped);
        let before = world.built.load(Ordering::SeqCst);
        eventually_true("it died", move || dropped.load(Ordering::SeqCst) == before).await;
    }
    let reason = world.group.failed().await;
    assert!(
        reason.contains("counter") && reason.contains("5 times"),
        "{reason}"
    );
    assert!(reason.contains("counter is broken"), "{reason}");
    assert!(matches!(
        world.handle.tell(CounterMsg::Fail),
        Err(Error::Stopping { .. })
    ));
}

#[tokio::test]
async fn a_full_mailbox_refuses_and_makes_inner_callers_wait() {
    let world = world(2).await;
    let gate = Arc::new(Notify::new());
    world
        .handle
        .tell(CounterMsg::Block(Arc::clone(&gate)))
        .unwrap();
    let mut queued = Box::pin(world.handle.ask(add(1), soon()));
    assert!(futures::FutureExt::now_or_never(&mut queued).is_none());
    assert_eq!(world.handle.pending(), 2);

    let error = world.handle.ask(add(1), soon()).await.unwrap_err();
    assert_eq!(
        error,
        Error::Busy {
            what: "counter".into(),
            capacity: 2
        }
    );
    let mut waiting = Box::pin(world.handle.ask_waiting(add(1), soon()));
    assert!(futures::FutureExt::now_or_never(&mut waiting).is_none());

    gate.notify_one();
    assert_eq!(queued.await, Ok(1));
    assert_eq!(waiting.await, Ok(2));
    let handle = world.handle.clone();
    eventually_true("the mailbox is empty", move || handle.pending() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_deadline() {
    let world = world(2).await;
    let gate = Arc::new(Notify::new());
    world
        .handle
        .tell(CounterMsg::Block(Arc::clone(&gate)))
        .unwrap();
    let short = Deadline::after(Duration::from_secs(1));
    let error = world.handle.ask(add(1), short).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
    gate.notify_one();
    // The message was in the mailbox: it had its effect all the same.
    assert_eq!(world.handle.ask_waiting(add(1), soon()).await, Ok(2));
}

#[tokio::test]
async fn an_actor_can_be_stopped_alone_and_aborted_with_its_group() {
    let stopped = world(2).await;
    stopped.handle.stop_and_wait(soon()).await.unwrap();
    assert_eq!(stopped.dropped.load(Ordering::SeqCst), 1);
    assert!(matches!(
        stopped.handle.tell(CounterMsg::Fail),
        Err(Error::Stopping { .. })
    ));
    assert_eq!(stopped.group.failure(), None);

    let crashed = world(2).await;
    crashed
        .handle
        .tell(CounterMsg::Block(Arc::new(Notify::new())))
        .unwrap();
    crashed.group.abort();
    eventually_true("the state is dropped", || {
        crashed.dropped.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_fails_is_tried_again() {
    let group = TaskGroup::new("test");
    let supervisor = Supervisor::start(&group).await.unwrap();
    let failed = Arc::new(AtomicBool::new(false));
    let first = Arc::clone(&failed);
    let handle = supervisor.spawn(
        "counter",
        move |_own| {
            let first_time = !first.swap(true, Ordering::SeqCst);
            async move {
                if first_time {
                    return Err("the catalog is not there yet".into());
                }
                Ok(Counter {
                    total: 0,
                    dropped: Arc::default(),
                })
            }
        },
        2,
    );
    let error = handle.ask(add(1), soon()).await.unwrap_err();
    assert_eq!(
        error,
        Error::Interrupted {
            what: "counter".into()
        }
    );
    assert_eq!(handle.ask_waiting(add(1), soon()).await, Ok(1));
    assert!(failed.load(Ordering::SeqCst));
}
