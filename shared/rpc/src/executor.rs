//! Where the requests of a connection run.
//!
//! A request that is answered without waiting needs no task of its own: it is carried out where it
//! was read, and its answer is written in the same turn. Making a task, and waking the connection
//! for the answer, would cost about as much as the transport's own work on a search.
//!
//! That holds for a client that sends one request after the other. Of a connection with several at a
//! time, and of one whose requests take long, each request is a task that any thread may run.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use redkite_runtime::error::panic_message;
use tokio::time::Instant;
use tracing::error;

/// Requests that become tasks, before one is carried out at once again.
const SPREAD: u32 = 256;

/// A request that runs for so long without waiting holds up too much of its connection.
const LONG: Duration = Duration::from_millis(10);

/// How often a connection looks for requests within one turn of its task.
const MOST_PASSES: usize = 16;

/// Runs the requests of one connection. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Executor(Arc<State>);

/// Only the connection's own task changes it: it reads the requests.
#[derive(Default)]
struct State {
    /// Whether a request was carried out since the connection has begun to look for them.
    had_one: AtomicBool,
    /// So many of the next requests become tasks.
    spread: AtomicU32,
    wakes: Arc<Wakes>,
}

impl Executor {
    /// A connection that tells this executor of its turns.
    pub(crate) fn turns<C>(&self, connection: C) -> Turns<C> {
        Turns {
            connection: Box::pin(connection),
            state: Arc::clone(&self.0),
            waker: Waker::from(Arc::clone(&self.0.wakes)),
        }
    }

    /// Whether the next request is likely to be the only one of its turn.
    fn is_alone(&self) -> bool {
        let state = &*self.0;
        let left = state.spread.load(Ordering::Relaxed);
        if left > 0 {
            state.spread.store(left - 1, Ordering::Relaxed);
            return false;
        }
        // A second one came with it.
        if state.had_one.swap(true, Ordering::Relaxed) {
            self.spread();
            return false;
        }
        true
    }

    fn spread(&self) {
        self.0.spread.store(SPREAD, Ordering::Relaxed);
    }
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        let mut request = Box::pin(request);
        if self.is_alone() {
            let started = Instant::now();
            // Should it have to wait, its task asks it again, and that is who it will wake.
            let mut nobody = Context::from_waker(Waker::noop());
            let poll = AssertUnwindSafe(|| request.as_mut().poll(&mut nobody));
            let polled = std::panic::catch_unwind(poll);
            // The answer has woken the connection, which looks for the next request now, and at
            // everything else with it: hyper ends no pass before a look that finds nothing.
            self.0.wakes.are_seen();
            if started.elapsed() > LONG {
                self.spread();
            }
            match polled {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(())) => return,
                // As in a task, it ends this request only.
                Err(panic) => {
                    error!(error = %panic_message(&*panic), "a request's stream panicked");
                    return;
                }
            }
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "it ends with its connection, which a group knows, and nobody asks how"
        )]
        tokio::spawn(request);
    }
}

/// See [`Executor::turns`].
pub(crate) struct Turns<C> {
    connection: Pin<Box<C>>,
    state: Arc<State>,
    waker: Waker,
}

impl<C> Turns<C> {
    /// The connection itself.
    pub(crate) fn inner(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }
}

impl<C: Future> Future for Turns<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        let wakes = &this.state.wakes;
        wakes.task.register(context.waker());
        for _ in 0..MOST_PASSES {
            this.state.had_one.store(false, Ordering::Relaxed);
            wakes.begin();
            let mut own = Context::from_waker(&this.waker);
            if let Poll::Ready(ended) = this.connection.as_mut().poll(&mut own) {
                return Poll::Ready(ended);
            }
            if wakes.end() {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Who is woken for a connection. What it does within its turn may wake it too; that makes it look
/// again before the turn ends. Passed on, it would have the scheduler call another thread for a
/// connection that has nothing left to do.
#[derive(Default)]
struct Wakes {
    task: AtomicWaker,
    state: AtomicU8,
}

const ASLEEP: u8 = 0;
const IN_TURN: u8 = 1;
const WOKEN_IN_TURN: u8 = 2;

impl Wakes {
    fn begin(&self) {
        self.state.store(IN_TURN, Ordering::SeqCst);
    }

    /// What has woken the connection until now is looked at before its turn ends anyway.
    fn are_seen(&self) {
        // Outside of a turn, where an upgraded stream may be, a wake has gone to the task already.
        let _ =
            self.state
                .compare_exchange(WOKEN_IN_TURN, IN_TURN, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether nobody has woken the connection since it began to look.
    fn end(&self) -> bool {
        let ended =
            self.state
                .compare_exchange(IN_TURN, ASLEEP, Ordering::SeqCst, Ordering::SeqCst);
        ended.is_ok()
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted =
            self.state
                .compare_exchange(IN_TURN, WOKEN_IN_TURN, Ordering::SeqCst, Ordering::SeqCst);
        if noted == Err(ASLEEP) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn, ready};
    use std::sync::atomic::AtomicUsize;

    use hyper::rt::Executor as _;
    use tokio::sync::oneshot;

    use super::*;

    /// One turn of a connection that reads so many requests; answers how many of them were done
    /// before its end.
    async fn turn(executor: &Executor, requests: usize) -> usize {
        let done = Arc::new(AtomicUsize::new(0));
        let reads = poll_fn(|_| {
            for _ in 0..requests {
                let done = Arc::clone(&done);
                executor.execute(async move {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
            Poll::Ready(done.load(Ordering::Relaxed))
        });
        executor.turns(reads).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_alone_is_carried_out_at_once_and_several_are_not() {
        let executor = Executor::default();
        for _ in 0..3 {
            assert_eq!(turn(&executor, 1).await, 1);
        }
        assert_eq!(turn(&executor, 3).await, 1);
        // The third has used one up.
        for _ in 0..SPREAD - 1 {
            assert_eq!(turn(&executor, 1).await, 0);
        }
        assert_eq!(turn(&executor, 1).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waits_goes_on_in_a_task_and_others_are_not_held_up() {
        let executor = Executor::default();
        let (go, gone) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        executor.execute(async move {
            gone.await.unwrap();
            tell.send(()).unwrap();
        });
        executor.turns(ready(())).await;
        executor.execute(pending());
        assert_eq!(turn(&executor, 1).await, 1);
        go.send(()).unwrap();
        told.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_its_request_only() {
        let executor = Executor::default();
        executor.execute(async {
            panic!("no");
        });
        assert_eq!(turn(&executor, 1).await, 1);
    }

    #[test]
    fn an_answer_at_once_makes_no_pass_of_its_own_and_what_comes_after_it_does() {
        for (late, expected) in [(false, 1), (true, 2)] {
            let executor = Executor::default();
            let mut passes = 0;
            let mut turns = executor.turns(poll_fn(|context| {
                passes += 1;
                let waker = context.waker().clone();
                executor.execute(async move { waker.wake() });
                if late && passes == 1 {
                    context.waker().wake_by_ref();
                }
                Poll::<()>::Pending
            }));
            let mut context = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut turns).poll(&mut context).is_pending());
            drop(turns);
            assert_eq!(passes, expected);
        }
    }

    #[test]
    fn a_wake_within_a_turn_makes_another_pass_and_later_ones_wake_the_task() {
        let executor = Executor::default();
        let mut passes = 0;
        let mut last = None;
        let mut turns = executor.turns(poll_fn(|context| {
            passes += 1;
            if passes < 3 {
                context.waker().wake_by_ref();
            }
            last = Some(context.waker().clone());
            if passes < 5 {
                Poll::<()>::Pending
            } else {
                Poll::Ready(())
            }
        }));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut turns).poll(&mut context).is_pending());
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        turns.waker.wake_by_ref();
        turns.waker.wake_by_ref();
        assert!(woken.0.load(Ordering::SeqCst) >= 1);
        assert!(Pin::new(&mut turns).poll(&mut context).is_pending());
        assert!(Pin::new(&mut turns).poll(&mut context).is_ready());
        drop(turns);
        assert_eq!(passes, 5);
        assert!(last.is_some());
    }

    #[test]
    fn a_connection_that_wakes_itself_without_end_lets_others_run() {
        let executor = Executor::default();
        let mut turns = executor.turns(poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let polled = Pin::new(&mut turns).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}
