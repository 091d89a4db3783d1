//! Sagas without their types, and the registry of them.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redkite_types::{Revision, SagaId};
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::lock::LockKey;
use crate::record::Outputs;
use crate::spec::{Check, Refusal, RunFuture, Saga, Step, StepCx, StepKind, UndoFuture, UndoKind};

/// A value whose type only the definition knows.
pub(crate) type AnyArc = Arc<dyn Any + Send + Sync>;

/// What there is to know about a step without running it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepInfo {
    /// Its persisted name.
    pub name: &'static str,
    /// What it is.
    pub kind: StepKind,
    /// Whether it hands something on.
    pub has_output: bool,
    /// How it is taken back, if at all.
    pub undo: Option<UndoKind>,
    /// Whether there is no way back behind it.
    pub is_pivot: bool,
    #[serde(skip)]
    pub(crate) timeout: Option<Duration>,
}

impl StepInfo {
    /// Whether anybody could tell that it ran.
    fn has_effect(&self) -> bool {
        match self.kind {
            StepKind::Allocate | StepKind::Wait => false,
            StepKind::Call | StepKind::Meta => true,
        }
    }
}

/// The list of steps, and what follows from it for writes and unwinding.
#[derive(Clone, Debug)]
pub(crate) struct StepPlan {
    pub(crate) steps: Vec<StepInfo>,
    pivot: usize,
}

impl StepPlan {
    fn new(steps: Vec<StepInfo>) -> Self {
        let last = steps.len().saturating_sub(1);
        let pivot = steps.iter().position(|step| step.is_pivot).unwrap_or(last);
        Self { steps, pivot }
    }

    /// Whether the point of no return lies before the step at `cursor`.
    pub(crate) fn is_past_pivot(&self, cursor: usize) -> bool {
        cursor > self.pivot
    }

    /// Whether the record must be written together with the end of this step.
    pub(crate) fn writes_at_end(&self, step: usize) -> bool {
        let info = &self.steps[step];
        let is_last = step + 1 == self.steps.len();
        is_last
            || info.kind == StepKind::Meta
            || (info.kind == StepKind::Call && step == self.pivot)
    }

    /// Up to where (exclusive) call steps may have been started by an executor whose last write has
    /// this cursor: calls without output follow each other without a write in between.
    pub(crate) fn maybe_started(&self, cursor: usize) -> usize {
        let mut end = cursor;
        for (index, info) in self.steps.iter().enumerate().skip(cursor) {
            match info.kind {
                StepKind::Call => end = index + 1,
                StepKind::Wait => {}
                StepKind::Allocate | StepKind::Meta => return end,
            }
            if info.has_output || self.writes_at_end(index) {
                return end;
            }
        }
        end
    }

    /// Passes over steps that have no undo.
    pub(crate) fn next_undo(&self, cursor: usize) -> usize {
        let is_undoable = |info: &StepInfo| info.undo.is_some();
        self.steps[..cursor]
            .iter()
            .rposition(is_undoable)
            .map_or(0, |step| step + 1)
    }

    fn problem(&self) -> Option<String> {
        let mut names = HashSet::new();
        if let Some(twice) = self.steps.iter().find(|step| !names.insert(step.name)) {
            return Some(format!("step {} is listed twice", twice.name));
        }
        if self.steps.iter().filter(|step| step.is_pivot).count() > 1 {
            return Some("more than one step is the pivot".to_owned());
        }
        if !self.steps.iter().any(|step| step.has_effect()) {
            return Some("no step has an effect".to_owned());
        }
        self.steps.iter().enumerate().find_map(|(index, step)| {
            let name = step.name;
            if self.is_past_pivot(index) && step.undo.is_some() {
                Some(format!(
                    "step {name} lies behind the pivot and is never undone"
                ))
            } else if !step.has_effect() && (step.undo.is_some() || step.is_pivot) {
                Some(format!(
                    "step {name} has no effect, so neither undo nor pivot"
                ))
            } else {
                None
            }
        })
    }
}

/// What a step knows, without the types.
#[derive(Clone)]
pub(crate) struct RawCx {
    pub(crate) params: AnyArc,
    pub(crate) outputs: Arc<Outputs>,
    pub(crate) saga_id: SagaId,
    pub(crate) request_id: Arc<str>,
    pub(crate) revision: Revision,
    pub(crate) attempt: u32,
}

/// A saga without its types.
pub(crate) trait Definition: Send + Sync {
    fn kind(&self) -> &'static str;
    fn version(&self) -> u32;
    fn plan(&self) -> &StepPlan;
    fn budget(&self) -> Duration;
    fn parse(&self, params: &Value) -> Result<AnyArc, String>;
    fn locks(&self, params: &AnyArc) -> Vec<LockKey>;
    fn check(&self, params: AnyArc) -> BoxFuture<'_, redkite_types::Result<Option<AnyArc>>>;
    fn run(&self, step: usize, cx: RawCx) -> RunFuture;
    /// `None` when the step has no undo.
    fn undo(&self, step: usize, cx: RawCx) -> Option<UndoFuture>;
    fn refused(&self, step: usize, cx: RawCx, refusal: &Refusal) -> redkite_types::Error;
    fn output(&self, params: &AnyArc, outputs: &Outputs) -> redkite_types::Result<AnyArc>;
}

struct Typed<S: Saga> {
    saga: S,
    steps: Vec<Step<S::Params>>,
    plan: StepPlan,
}

impl<S: Saga> Typed<S> {
    fn cx(&self, step: usize, cx: RawCx) -> StepCx<S::Params> {
        StepCx {
            params: typed::<S>(&cx.params),
            outputs: cx.outputs,
            saga_id: cx.saga_id,
            step: self.steps[step].name,
            request_id: cx.request_id,
            revision: cx.revision,
            attempt: cx.attempt,
        }
    }
}

fn typed<S: Saga>(params: &AnyArc) -> Arc<S::Params> {
    // A definition is only ever handed what its own `parse` or the typed `submit` has made.
    params
        .clone()
        .downcast()
        .expect("parameters belong to this definition")
}

impl<S: Saga> Definition for Typed<S> {
    fn kind(&self) -> &'static str {
        S::KIND
    }

    fn version(&self) -> u32 {
        S::VERSION
    }

    fn plan(&self) -> &StepPlan {
        &self.plan
    }

    fn budget(&self) -> Duration {
        self.saga.budget()
    }

    fn parse(&self, params: &Value) -> Result<AnyArc, String> {
        let params: S::Params =
            serde::Deserialize::deserialize(params).map_err(|error| error.to_string())?;
        Ok(Arc::new(params))
    }

    fn locks(&self, params: &AnyArc) -> Vec<LockKey> {
        self.saga.locks(&typed::<S>(params))
    }

    fn check(&self, params: AnyArc) -> BoxFuture<'_, redkite_types::Result<Option<AnyArc>>> {
        async move {
            match self.saga.check(&typed::<S>(&params)).await? {
                Check::Proceed => Ok(None),
                Check::Already(output) => Ok(Some(Arc::new(output) as AnyArc)),
            }
        }
        .boxed()
    }

    fn run(&self, step: usize, cx: RawCx) -> RunFuture {
        (self.steps[step].run)(self.cx(step, cx))
    }

    fn undo(&self, step: usize, cx: RawCx) -> Option<UndoFuture> {
        let undo = self.steps[step].undo.as_ref()?;
        Some(undo(self.cx(step, cx)))
    }

    fn refused(&self, step: usize, cx: RawCx, refusal: &Refusal) -> redkite_types::Error {
        match &self.steps[step].refused {
            Some(refused) => refused(&self.cx(step, cx), refusal),
            None => refusal.default_error(self.steps[step].name),
        }
    }

    fn output(&self, params: &AnyArc, outputs: &Outputs) -> redkite_types::Result<AnyArc> {
        Ok(Arc::new(self.saga.output(&typed::<S>(params), outputs)?))
    }
}

/// All sagas that an executor can run, in every version that a record may still name.
#[derive(Clone, Default)]
pub struct Registry {
    definitions: BTreeMap<(String, u32), Arc<dyn Definition>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a saga.
    ///
    /// # Errors
    /// [`Error::Definition`]: its list of steps contradicts itself, or it is there already.
    pub fn register<S: Saga>(&mut self, saga: S) -> Result<()> {
        let steps = saga.steps();
        let infos = steps.iter().map(|step| StepInfo {
            name: step.name,
            kind: step.kind,
            has_output: step.has_output,
            undo: step.undo_kind,
            is_pivot: step.is_pivot,
            timeout: step.timeout,
        });
        let plan = StepPlan::new(infos.collect());
        let invalid = |what| Error::Definition {
            kind: S::KIND,
            version: S::VERSION,
            what,
        };
        if let Some(problem) = plan.problem() {
            return Err(invalid(problem));
        }
        let key = (S::KIND.to_owned(), S::VERSION);
        if self.definitions.contains_key(&key) {
            return Err(invalid("it is registered twice".to_owned()));
        }
        self.definitions
            .insert(key, Arc::new(Typed { saga, steps, plan }));
        Ok(())
    }

    pub(crate) fn get(&self, kind: &str, version: u32) -> Result<&Arc<dyn Definition>> {
        self.definitions
            .get(&(kind.to_owned(), version))
            .ok_or_else(|| Error::NotRegistered {
                kind: kind.to_owned(),
                version,
            })
    }

    /// The steps of a saga.
    ///
    /// # Errors
    /// [`Error::NotRegistered`].
    pub fn steps(&self, kind: &str, version: u32) -> Result<&[StepInfo]> {
        Ok(&self.get(kind, version)?.plan().steps)
    }

    /// Every kind and version with its steps, one a line: the text of golden tests and of the docs.
    ///
    /// ```text
    /// create_partition/v1
    ///   allocate: allocate, output
    ///   add_meta: meta, undo meta
    ///   commit: meta, pivot
    /// ```
    pub fn listing(&self) -> String {
        let mut text = String::new();
        for definition in self.definitions.values() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}/v{}", definition.kind(), definition.version());
            for step in &definition.plan().steps {
                let _ = writeln!(text, "  {step}");
            }
        }
        text
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.definitions.keys()).finish()
    }
}

impl fmt::Display for StepInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StepKind::Allocate => "allocate",
            StepKind::Wait => "wait",
            StepKind::Call => "call",
            StepKind::Meta => "meta",
        };
        write!(f, "{}: {kind}", self.name)?;
        match self.undo {
            Some(UndoKind::Call) => f.write_str(", undo call")?,
            Some(UndoKind::Meta) => f.write_str(", undo meta")?,
            None => {}
        }
        if self.has_output {
            f.write_str(", output")?;
        }
        if self.is_pivot {
            f.write_str(", pivot")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &'static str, kind: StepKind) -> StepInfo {
        StepInfo {
            name,
            kind,
            has_output: false,
            undo: None,
            is_pivot: false,
            timeout: None,
        }
    }

    fn plan(steps: Vec<StepInfo>) -> StepPlan {
        StepPlan::new(steps)
    }

    #[test]
    fn calls_without_output_are_started_without_a_write_between_them() {
        let mut with_output = step("b", StepKind::Call);
        with_output.has_output = true;
        let plan = plan(vec![
            step("a", StepKind::Call),
            with_output,
            step("c", StepKind::Call),
            step("d", StepKind::Allocate),
            step("e", StepKind::Call),
            step("f", StepKind::Meta),
        ]);
        let found: Vec<usize> = (0..6).map(|cursor| plan.maybe_started(cursor)).collect();
        assert_eq!(found, [2, 2, 3, 3, 5, 5]);
    }

    #[test]
    fn behind_a_wait_a_call_may_be_started_without_a_write() {
        let plan = plan(vec![
            step("a", StepKind::Wait),
            step("b", StepKind::Call),
            step("c", StepKind::Wait),
            step("d", StepKind::Call),
            step("e", StepKind::Wait),
            step("f", StepKind::Meta),
        ]);
        let found: Vec<usize> = (0..6).map(|cursor| plan.maybe_started(cursor)).collect();
        assert_eq!(found, [4, 4, 4, 4, 4, 5]);
    }

    #[test]
    fn a_call_that_is_the_pivot_is_written_before_the_next_call() {
        let mut pivot = step("a", StepKind::Call);
        pivot.is_pivot = true;
        let plan = plan(vec![
            pivot,
            step("b", StepKind::Call),
            step("c", StepKind::Call),
        ]);
        assert!(plan.writes_at_end(0) && !plan.writes_at_end(1) && plan.writes_at_end(2));
        assert_eq!(plan.maybe_started(0), 1);
        assert!(!plan.is_past_pivot(0) && plan.is_past_pivot(1));
    }

    #[test]
    fn steps_without_undo_are_passed_over() {
        let mut undoable = step("b", StepKind::Meta);
        undoable.undo = Some(UndoKind::Meta);
        let plan = plan(vec![
            step("a", StepKind::Call),
            undoable,
            step("c", StepKind::Call),
        ]);
        let found: Vec<usize> = (0..4).map(|cursor| plan.next_undo(cursor)).collect();
        assert_eq!(found, [0, 0, 2, 2]);
    }

    #[test]
    fn contradictions_are_named() {
        let call = || step("a", StepKind::Call);
        let pivot = |name| StepInfo {
            is_pivot: true,
            ..step(name, StepKind::Call)
        };
        let undo = |name, kind| StepInfo {
            undo: Some(UndoKind::Call),
            ..step(name, kind)
        };
        let cases = [
            (vec![], "no step has an effect"),
            (vec![step("a", StepKind::Allocate)], "no step has an effect"),
            (vec![step("a", StepKind::Wait)], "no step has an effect"),
            (vec![call(), call()], "step a is listed twice"),
            (
                vec![pivot("a"), pivot("b")],
                "more than one step is the pivot",
            ),
            (
                vec![pivot("a"), undo("b", StepKind::Call)],
                "step b lies behind the pivot and is never undone",
            ),
            (
                vec![undo("b", StepKind::Allocate), call()],
                "step b has no effect, so neither undo nor pivot",
            ),
            (
                vec![undo("b", StepKind::Wait), call()],
                "step b has no effect, so neither undo nor pivot",
            ),
        ];
        for (steps, expected) in cases {
            assert_eq!(plan(steps).problem().as_deref(), Some(expected));
        }
        assert_eq!(plan(vec![call()]).problem(), None);
    }
}
