//! The four suites.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redkite_metastore::read_all;
use redkite_runtime::TaskGroup;

use crate::definition::Registry;
use crate::error::{Error, Result};
use crate::executor::{SagaConfig, SagaExecutor};
use crate::fault::FaultPoint;
use crate::handle::Completed;
use crate::options::SagaOptions;
use crate::record::{RECORD_PREFIX, Record, State};
use crate::spec::{Saga, StepKind};
use crate::testing::World;
use crate::testing::script::{FailAt, FailHow, Script};

/// No single wait of a suite takes longer unless something hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Attempts that a step behind the pivot fails at before it is let through.
const FAILURES_BEHIND_PIVOT: u32 = 3;
/// Pairs of crashes that are tried at most.
const MAX_CRASH_PAIRS: usize = 400;

/// All four suites, see [`crate::testing`].
pub async fn run_all<S, F, Fut>(build: F)
where
    S: Saga,
    F: Fn() -> Fut,
    Fut: Future<Output = World<S>>,
{
    Box::pin(it_runs(&build)).await;
    Box::pin(every_call_may_run_twice(&build)).await;
    Box::pin(a_failure_at_any_step_leaves_no_trace(&build)).await;
    Box::pin(a_crash_at_any_point_does_not_matter(&build)).await;
}

/// Suite 1: it runs, changes something, and a repeated request finds the same saga.
pub async fn it_runs<S, F, Fut>(build: &F)
where
    S: Saga,
    F: Fn() -> Fut,
    Fut: Future<Output = World<S>>,
{
    let world = build().await;
    let before = (world.observe)().await;
    let executor = world.start(1, &Script::new()).await;
    let first = executor
        .submit::<S>((world.params)(), "request")
        .expect("the executor is open");
    let second = executor
        .submit::<S>((world.params)(), "request")
        .expect("the executor is open");
    assert_eq!(first.id(), second.id(), "one request must be one saga");
    patiently(first.wait()).await.expect("the saga runs");
    patiently(second.wait())
        .await
        .expect("who comes later gets the same answer");
    let after = (world.observe)().await;
    assert!(
        before != after,
        "the saga changes nothing that is observed:\n{before}"
    );
    let third = executor
        .submit::<S>((world.params)(), "request")
        .expect("the executor is open");
    patiently(third.wait())
        .await
        .expect("a finished saga still answers its request");
    assert_same(&(world.observe)().await, &after, "after a repeated request");
    // Its end may be told before it is written down.
    patiently(executor.idle()).await;
    assert!(
        executor.list().is_empty(),
        "a saga is left over: {:?}",
        executor.list()
    );
    patiently(executor.shutdown(PATIENCE))
        .await
        .expect("the executor stops");
}

/// Suite 2: calls and undos by call run twice, and it makes no difference.
pub async fn every_call_may_run_twice<S, F, Fut>(build: &F)
where
    S: Saga,
    F: Fn() -> Fut,
    Fut: Future<Output = World<S>>,
{
    let baseline = Baseline::take(build).await;
    let world = build().await;
    world
        .run(1, &Script::new().calling_twice())
        .await
        .expect("the saga runs with doubled calls");
    assert_same(
        &(world.observe)().await,
        &baseline.after,
        "with every call run twice",
    );
    for fail in baseline.failures() {
        let world = build().await;
        let script = Script::new().failing(fail).calling_twice();
        let failed = world.run(1, &script).await;
        assert!(failed.is_err(), "it must fail at {fail:?}");
        let context = format!("with every call and undo run twice, failing at {fail:?}");
        assert_same(&(world.observe)().await, &baseline.before, &context);
    }
}

/// Suite 3: a failure before the pivot, in every way and at every step, leaves the state as it was;
/// one behind the pivot is only a delay.
pub async fn a_failure_at_any_step_leaves_no_trace<S, F, Fut>(build: &F)
where
    S: Saga,
    F: Fn() -> Fut,
    Fut: Future<Output = World<S>>,
{
    let baseline = Baseline::take(build).await;
    for fail in baseline.failures() {
        let world = build().await;
        let failed = world.run(1, &Script::new().failing(fail)).await;
        assert!(
            matches!(failed, Err(Error::Failed(_))),
            "at {fail:?}: {:?}",
            failed.err()
        );
        let context = format!("after a failure at {fail:?}");
        assert_same(&(world.observe)().await, &baseline.before, &context);
        world.assert_finished(State::Failed, &context).await;
    }
    for fail in baseline.failures_behind_pivot() {
        let world = build().await;
        let context = format!("after a failure behind the pivot, at {fail:?}");
        let done = world.run(1, &Script::new().failing(fail)).await;
        assert!(done.is_ok(), "{context}: {:?}", done.err());
        assert_same(&(world.observe)().await, &baseline.after, &context);
        world.assert_finished(State::Done, &context).await;
    }
}

/// Suite 4: the process dies at any point, and the next one brings the saga to the same end; then
/// the next one dies too.
pub async fn a_crash_at_any_point_does_not_matter<S, F, Fut>(build: &F)
where
    S: Saga,
    F: Fn() -> Fut,
    Fut: Future<Output = World<S>>,
{
    let baseline = Baseline::take(build).await;
    let count = baseline.points.len();
    for crash in 0..count {
        let world = build().await;
        world.crash_once(&Script::new().crashing_at(crash)).await;
        let context = format!("after a crash at {:?}", baseline.points[crash]);
        world.assert_recovers(&baseline, &context).await;
    }
    crash_while_unwinding(build, &baseline).await;
    fail_after_a_crash(build, &baseline).await;
    let pairs = (0..count).flat_map(|first| (0..count).map(move |second| (first, second)));
    for (first, second) in pairs.take(MAX_CRASH_PAIRS) {
        let world = build().await;
        world.crash_once(&Script::new().crashing_at(first)).await;
        world.recover(2, &Script::new().crashing_at(second)).await;
        let context = format!("after crashes at points {first} and, recovering, {second}");
        world.assert_recovers(&baseline, &context).await;
    }
}

async fn crash_while_unwinding<S, F, Fut>(build: &F, baseline: &Baseline)
where
    S: Saga,
    F: Fn() -> Fut,
    Fut: Future<Output = World<S>>,
{
    for fail in baseline.failures() {
        let world = build().await;
        let script = Script::new().failing(fail);
        let failed = world.run(1, &script).await;
        assert!(failed.is_err(), "it must fail at {fail:?}");
        for (crash, point) in script.points().iter().enumerate() {
            let world = build().await;
            world
                .crash_once(&Script::new().failing(fail).crashing_at(crash))
                .await;
            let context = format!("after failing at {fail:?} and a crash at {point:?}");
            world.assert_recovers(baseline, &context).await;
        }
    }
}

/// What the dead process may have begun is undone too, although the next one never began it.
async fn fail_after_a_crash<S, F, Fut>(build: &F, baseline: &Baseline)
where
    S: Saga,
    F: Fn() -> Fut,
    Fut: Future<Output = World<S>>,
{
    for fail in baseline.failures() {
        for (crash, point) in baseline.points.iter().enumerate() {
            let world = build().await;
            world.crash_once(&Script::new().crashing_at(crash)).await;
            world.recover(2, &Script::new().failing(fail)).await;
            let state = world.record().await.map(|record| record.state);
            let context = format!("after a crash at {point:?} and then failing at {fail:?}");
            let expected = match state {
                Some(State::Done) => &baseline.after,
                None | Some(State::Failed) => &baseline.before,
                Some(State::Running | State::Unwinding | State::Stuck) => {
                    panic!("the record {context} is {state:?}")
                }
            };
            assert_same(&(world.observe)().await, expected, &context);
        }
    }
}

/// What a saga does when nothing goes wrong.
struct Baseline {
    before: String,
    after: String,
    points: Vec<FaultPoint>,
    steps: Vec<(&'static str, StepKind)>,
    pivot: usize,
}

impl Baseline {
    async fn take<S, F, Fut>(build: &F) -> Self
    where
        S: Saga,
        F: Fn() -> Fut,
        Fut: Future<Output = World<S>>,
    {
        let world = build().await;
        let registry = world.registry();
        let infos = registry
            .steps(S::KIND, S::VERSION)
            .expect("the saga is registered");
        let last = infos.len() - 1;
        let pivot = infos.iter().position(|info| info.is_pivot).unwrap_or(last);
        let steps = infos.iter().map(|info| (info.name, info.kind)).collect();
        let before = (world.observe)().await;
        let script = Script::new();
        world.run(1, &script).await.expect("the saga runs");
        let after = (world.observe)().await;
        Self {
            before,
            after,
            points: script.points(),
            steps,
            pivot,
        }
    }

    /// Every way in which a step before the pivot, or the pivot, can fail.
    fn failures(&self) -> Vec<FailAt> {
        Self::ways(&self.steps[..=self.pivot], u32::MAX)
    }

    fn failures_behind_pivot(&self) -> Vec<FailAt> {
        Self::ways(&self.steps[self.pivot + 1..], FAILURES_BEHIND_PIVOT)
    }

    fn ways(steps: &[(&'static str, StepKind)], times: u32) -> Vec<FailAt> {
        let mut ways = Vec::new();
        for (step, kind) in steps.iter().copied() {
            ways.push(FailAt {
                step,
                how: FailHow::Rejected,
                times,
            });
            ways.push(FailAt {
                step,
                how: FailHow::UnknownBefore,
                times,
            });
            if kind == StepKind::Call {
                ways.push(FailAt {
                    step,
                    how: FailHow::UnknownAfter,
                    times,
                });
            }
        }
        ways
    }
}

impl<S: Saga> World<S> {
    fn registry(&self) -> Registry {
        let mut registry = Registry::new();
        registry
            .register((self.saga)())
            .expect("the saga is well-defined");
        registry
    }

    async fn start(&self, epoch: u64, script: &Script) -> SagaExecutor {
        let tasks = TaskGroup::new("saga-suite");
        let mut config = SagaConfig::new(self.kv.clone(), epoch, self.registry(), tasks);
        config.faults = Some(Arc::new(script.clone()));
        config.options = SagaOptions {
            backoff_initial: Duration::from_micros(100),
            backoff_max: Duration::from_millis(1),
            budget: Some(Duration::ZERO),
            ..SagaOptions::default()
        };
        patiently(SagaExecutor::start(config))
            .await
            .expect("the executor starts")
    }

    async fn run(&self, epoch: u64, script: &Script) -> Result<Completed<S::Output>> {
        let executor = self.start(epoch, script).await;
        let handle = executor
            .submit::<S>((self.params)(), "request")
            .expect("it is open");
        let answer = patiently(handle.wait()).await;
        patiently(executor.shutdown(PATIENCE))
            .await
            .expect("the executor stops");
        answer
    }

    async fn crash_once(&self, script: &Script) {
        let answer = self.run(1, script).await.map(drop);
        assert!(script.has_crashed(), "it must crash: {answer:?}");
        match answer {
            Err(Error::Stopped) => {}
            // What was answered is not taken back: those who recover find that it is to be done.
            Ok(()) => {
                let state = self.record().await.map(|record| record.state);
                let is_kept = matches!(state, Some(State::Running | State::Done));
                assert!(is_kept, "answered, but the record is {state:?}");
            }
            Err(error) => panic!("it must crash: {error:?}"),
        }
    }

    async fn recover(&self, epoch: u64, script: &Script) {
        let executor = self.start(epoch, script).await;
        patiently(executor.idle()).await;
        let left = executor.list();
        let has_crashed = script.has_crashed();
        assert!(
            left.is_empty() || has_crashed,
            "recovery leaves sagas over: {left:?}"
        );
        patiently(executor.shutdown(PATIENCE))
            .await
            .expect("the executor stops");
    }

    /// Recovers, and checks that the end fits the record: with none nothing happened.
    async fn assert_recovers(&self, baseline: &Baseline, context: &str) {
        let found = self.record().await.map(|record| record.state);
        self.recover(3, &Script::new()).await;
        let ended = self.record().await.map(|record| record.state);
        let expected = match found {
            None => None,
            Some(State::Running | State::Done) => Some(State::Done),
            Some(State::Unwinding | State::Failed | State::Stuck) => Some(State::Failed),
        };
        assert_eq!(
            ended, expected,
            "the record {context}, which left it {found:?}"
        );
        let observed = (self.observe)().await;
        let is_done = ended == Some(State::Done);
        let expected = if is_done {
            &baseline.after
        } else {
            &baseline.before
        };
        assert_same(&observed, expected, context);
    }

    async fn record(&self) -> Option<Record> {
        let read = read_all(&*self.kv, RECORD_PREFIX).await;
        let (pairs, _) = read.expect("the metastore of a test can be read");
        assert!(pairs.len() <= 1, "one request must be one saga");
        pairs
            .first()
            .map(|pair| serde_json::from_slice(&pair.value).expect("a record is JSON"))
    }

    async fn assert_finished(&self, expected: State, context: &str) {
        if let Some(record) = self.record().await {
            assert_eq!(record.state, expected, "the record {context}");
        }
    }
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("nothing of a suite hangs")
}

fn assert_same(found: &str, expected: &str, context: &str) {
    assert!(
        found == expected,
        "the observable state {context} is wrong\n--- expected\n{expected}\n--- found\n{found}"
    );
}
