//! How an author writes a saga: a kind, typed parameters, locks, and a list of steps.

use std::any::TypeId;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redkite_metastore::{Compare, KeyValue, Txn};
use redkite_types::{Error, ErrorCode, Revision, SagaId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::lock::LockKey;
use crate::record::Outputs;

/// A durable list of steps that either all take effect or are all taken back.
///
/// The value itself holds the services that the steps use; one value serves all runs.
///
/// # Correctness
/// - `steps` is a function of the kind and version alone: to change names, order or number of the
///   steps, write a new version and keep the old one registered until no record uses it.
/// - A call step may run more than once, also in another process; its effect is then the same.
/// - An undo accepts that there is nothing to undo, and that it ran before.
/// - Two sagas which could disturb each other ask for conflicting locks.
pub trait Saga: Send + Sync + 'static {
    /// What the saga does; part of its record.
    const KIND: &'static str;
    /// Which list of steps; part of its record.
    const VERSION: u32;
    /// What is asked for; kept as JSON in the record.
    type Params: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What the caller gets.
    type Output: Clone + Send + Sync + 'static;

    /// The locks that are held from before the record exists until the saga is over.
    fn locks(&self, params: &Self::Params) -> Vec<LockKey>;

    /// The steps, in order.
    fn steps(&self) -> Vec<Step<Self::Params>>;

    /// The caller's answer, from what the steps handed on.
    ///
    /// # Errors
    /// Only an author's bug, such as asking for an output that no step makes.
    fn output(
        &self,
        params: &Self::Params,
        outputs: &Outputs,
    ) -> redkite_types::Result<Self::Output>;

    /// Runs under the locks before anything is recorded: refuses the request, or answers it at once
    /// because what it asks for is there already.
    ///
    /// # Errors
    /// The caller's answer; nothing was done.
    fn check(
        &self,
        params: &Self::Params,
    ) -> impl Future<Output = redkite_types::Result<Check<Self::Output>>> + Send {
        let _ = params;
        async { Ok(Check::Proceed) }
    }

    /// For how long a step before the pivot is retried while its outcome is unknown.
    fn budget(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// What [`Saga::check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check<T> {
    /// The steps must run.
    Proceed,
    /// There is nothing to do; this is the answer.
    Already(T),
}

/// The name of a step together with the type of its output.
pub struct StepKey<T> {
    name: &'static str,
    output: PhantomData<fn() -> T>,
}

impl<T> StepKey<T> {
    /// Names a step. The name is persisted: it must not change within a version.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            output: PhantomData,
        }
    }

    /// The name.
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl<T> Clone for StepKey<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for StepKey<T> {}

impl<T> fmt::Debug for StepKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What a remote side recognises a repeated call by: the same for every attempt of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// The saga.
    pub saga_id: SagaId,
    /// The step.
    pub step: &'static str,
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.saga_id, self.step)
    }
}

/// What a step knows when it runs or is undone.
pub struct StepCx<P> {
    /// What was asked for.
    pub params: Arc<P>,
    /// What earlier steps handed on.
    pub outputs: Arc<Outputs>,
    /// The saga.
    pub saga_id: SagaId,
    /// The step.
    pub step: &'static str,
    /// The request that the saga answers.
    pub request_id: Arc<str>,
    /// The metastore's revision of the saga's last write, zero before its first. A call step can ask
    /// others to catch up with it: all earlier metadata steps are in it.
    pub revision: Revision,
    /// Counts from zero in this process.
    pub attempt: u32,
}

impl<P> StepCx<P> {
    /// The output of an earlier step; see [`Outputs::get`].
    ///
    /// # Errors
    /// Internal: an author's bug.
    pub fn get<T: DeserializeOwned>(&self, key: StepKey<T>) -> redkite_types::Result<T> {
        self.outputs.get(key)
    }

    /// The output of a step if it came to one; see [`Outputs::find`].
    ///
    /// # Errors
    /// Internal: an author's bug.
    pub fn find<T: DeserializeOwned>(&self, key: StepKey<T>) -> redkite_types::Result<Option<T>> {
        self.outputs.find(key)
    }

    /// What the remote side recognises a repetition by.
    pub fn idempotency_key(&self) -> IdempotencyKey {
        IdempotencyKey {
            saga_id: self.saga_id,
            step: self.step,
        }
    }
}

/// Why a call step or its undo did not succeed.
#[derive(Clone, Debug, PartialEq)]
pub enum StepError {
    /// Nothing happened, certainly, and trying again is of no use.
    Rejected(Error),
    /// It may have happened or not; it is tried again.
    Unknown(Error),
}

impl StepError {
    /// The error inside.
    pub fn error(&self) -> &Error {
        match self {
            Self::Rejected(error) | Self::Unknown(error) => error,
        }
    }

    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Rejected(error) | Self::Unknown(error) => error,
        }
    }

    /// For what certainly has no effect until it succeeds: only a retriable error is tried again.
    pub(crate) fn without_effect(error: Error) -> Self {
        if error.retriable {
            Self::Unknown(error)
        } else {
            Self::Rejected(error)
        }
    }
}

/// The safe reading of an error that does not say whether something happened.
impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        Self::Unknown(error)
    }
}

/// A metadata step's change, and what it hands on.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect<T> {
    /// Committed together with the saga's record.
    pub txn: Txn,
    /// For later steps.
    pub output: T,
}

impl From<Txn> for Effect<()> {
    fn from(txn: Txn) -> Self {
        Self { txn, output: () }
    }
}

impl<T> From<(Txn, T)> for Effect<T> {
    fn from((txn, output): (Txn, T)) -> Self {
        Self { txn, output }
    }
}

/// Which compare of a metadata step's own transaction did not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Its position in the step's [`Txn::compares`].
    pub failed: usize,
    /// The compare.
    pub compare: Compare,
    /// What the key holds.
    pub current: Option<KeyValue>,
}

impl Refusal {
    pub(crate) fn default_error(&self, step: &str) -> Error {
        let (Compare::Absent { key }
        | Compare::Exists { key }
        | Compare::Revision { key, .. }
        | Compare::Value { key, .. }) = &self.compare;
        Error::new(
            ErrorCode::Internal,
            format!("metadata changed unexpectedly: step {step} found another {key}"),
        )
    }
}

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// Makes or looks up a value (an id, a timestamp) and has no other effect.
    Allocate,
    /// Waits for others, who keep nothing of it.
    Wait,
    /// Calls others; at least once.
    Call,
    /// Changes metadata; exactly once.
    Meta,
}

/// How a step is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UndoKind {
    /// By a call; at least once.
    Call,
    /// By a change of metadata; exactly once.
    Meta,
}

/// The outcome of a step without its type.
#[derive(Debug, Default)]
pub(crate) struct RawEffect {
    pub(crate) txn: Txn,
    pub(crate) output: Option<Value>,
}

pub(crate) type RunFuture = BoxFuture<'static, Result<RawEffect, StepError>>;
pub(crate) type UndoFuture = BoxFuture<'static, Result<Txn, StepError>>;
type RunFn<P> = Box<dyn Fn(StepCx<P>) -> RunFuture + Send + Sync>;
type UndoFn<P> = Box<dyn Fn(StepCx<P>) -> UndoFuture + Send + Sync>;
type RefusedFn<P> = Box<dyn Fn(&StepCx<P>, &Refusal) -> Error + Send + Sync>;

/// One step of a saga.
pub struct Step<P> {
    pub(crate) name: &'static str,
    pub(crate) kind: StepKind,
    pub(crate) has_output: bool,
    pub(crate) is_pivot: bool,
    pub(crate) undo_kind: Option<UndoKind>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) run: RunFn<P>,
    pub(crate) undo: Option<UndoFn<P>>,
    pub(crate) refused: Option<RefusedFn<P>>,
}

impl<P: Send + Sync + 'static> Step<P> {
    /// A step that makes or looks up a value, such as an id, and has no effect that anyone sees.
    ///
    /// It needs no undo, and no write of its own: its output is recorded by the next write, which
    /// comes before the next call. A retriable error is tried again within the budget, any other
    /// ends the saga.
    pub fn allocate<T, F, Fut>(key: StepKey<T>, run: F) -> Self
    where
        T: Serialize + Send + 'static,
        F: Fn(StepCx<P>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = redkite_types::Result<T>> + Send + 'static,
    {
        Self::new(key, StepKind::Allocate, move |cx| {
            run(cx)
                .map(|made| {
                    let output = made.map_err(StepError::without_effect)?;
                    raw(Txn::new(), &output)
                })
                .boxed()
        })
    }

    /// A step that waits until others are where the saga wants them, and leaves nothing behind.
    ///
    /// It needs no undo and no record: before the first write the saga can still vanish without a
    /// trace. A retriable error is tried again within the budget, any other ends the saga.
    pub fn wait<F, Fut>(key: StepKey<()>, run: F) -> Self
    where
        F: Fn(StepCx<P>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = redkite_types::Result<()>> + Send + 'static,
    {
        Self::new(key, StepKind::Wait, move |cx| {
            run(cx)
                .map(|waited| {
                    waited
                        .map(|()| RawEffect::default())
                        .map_err(StepError::without_effect)
                })
                .boxed()
        })
    }

    /// A step that calls others; at least once, see [`StepCx::idempotency_key`].
    pub fn call<T, F, Fut>(key: StepKey<T>, run: F) -> Self
    where
        T: Serialize + Send + 'static,
        F: Fn(StepCx<P>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, StepError>> + Send + 'static,
    {
        Self::new(key, StepKind::Call, move |cx| {
            run(cx).map(|called| raw(Txn::new(), &called?)).boxed()
        })
    }

    /// A step that changes metadata, exactly once: what it builds is committed in one transaction
    /// with the saga's record. `build` returns a [`Txn`], or `(Txn, T)` to hand something on.
    ///
    /// A retriable error is tried again within the budget, any other ends the saga; so does a
    /// compare of the transaction that does not hold (see [`Step::on_refused`]).
    pub fn meta<T, R, F>(key: StepKey<T>, build: F) -> Self
    where
        T: Serialize + Send + 'static,
        R: Into<Effect<T>>,
        F: Fn(&StepCx<P>) -> redkite_types::Result<R> + Send + Sync + 'static,
    {
        Self::new(key, StepKind::Meta, move |cx| {
            let built = build(&cx).map_err(StepError::without_effect);
            let raw = built.and_then(|effect| {
                let effect: Effect<T> = effect.into();
                raw(effect.txn, &effect.output)
            });
            std::future::ready(raw).boxed()
        })
    }

    /// As [`Step::meta`], for a change that must read first.
    pub fn meta_async<T, R, F, Fut>(key: StepKey<T>, build: F) -> Self
    where
        T: Serialize + Send + 'static,
        R: Into<Effect<T>>,
        F: Fn(StepCx<P>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = redkite_types::Result<R>> + Send + 'static,
    {
        Self::new(key, StepKind::Meta, move |cx| {
            build(cx)
                .map(|built| {
                    let effect: Effect<T> = built.map_err(StepError::without_effect)?.into();
                    raw(effect.txn, &effect.output)
                })
                .boxed()
        })
    }

    fn new<T: 'static>(
        key: StepKey<T>,
        kind: StepKind,
        run: impl Fn(StepCx<P>) -> RunFuture + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: key.name(),
            kind,
            has_output: TypeId::of::<T>() != TypeId::of::<()>(),
            is_pivot: false,
            undo_kind: None,
            timeout: None,
            run: Box::new(run),
            undo: None,
            refused: None,
        }
    }

    /// Takes the step back by a call, at least once. Unknown is tried again without limit;
    /// Rejected leaves the saga stuck, until a human resolves it.
    #[must_use]
    pub fn undo_call<F, Fut>(mut self, undo: F) -> Self
    where
        F: Fn(StepCx<P>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        self.undo_kind = Some(UndoKind::Call);
        self.undo = Some(Box::new(move |cx| {
            undo(cx).map(|undone| undone.map(|()| Txn::new())).boxed()
        }));
        self
    }

    /// Takes the step back by a change of metadata, exactly once. It should compare nothing: a
    /// refused compare, or an error that is not retriable, leaves the saga stuck.
    #[must_use]
    pub fn undo_meta<F>(mut self, build: F) -> Self
    where
        F: Fn(&StepCx<P>) -> redkite_types::Result<Txn> + Send + Sync + 'static,
    {
        self.undo_kind = Some(UndoKind::Meta);
        self.undo = Some(Box::new(move |cx| {
            std::future::ready(build(&cx).map_err(StepError::without_effect)).boxed()
        }));
        self
    }

    /// Says what a refused compare of this metadata step means to the user.
    #[must_use]
    pub fn on_refused<F>(mut self, refused: F) -> Self
    where
        F: Fn(&StepCx<P>, &Refusal) -> Error + Send + Sync + 'static,
    {
        self.refused = Some(Box::new(refused));
        self
    }

    /// Marks the point of no return: once this step is done the saga only goes forward, and every
    /// later step is retried without limit. Without a mark it is the last step.
    #[must_use]
    pub fn pivot(mut self) -> Self {
        self.is_pivot = true;
        self
    }

    /// Gives up waiting for one attempt of the step or its undo after this; its outcome is then
    /// unknown.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

fn raw<T: Serialize + 'static>(txn: Txn, output: &T) -> Result<RawEffect, StepError> {
    if TypeId::of::<T>() == TypeId::of::<()>() {
        return Ok(RawEffect { txn, output: None });
    }
    let output = serde_json::to_value(output).map_err(|error| {
        // The step has run: what it did must be taken back.
        StepError::Unknown(Error::internal(format!(
            "output cannot be recorded: {error}"
        )))
    })?;
    Ok(RawEffect {
        txn,
        output: Some(output),
    })
}
