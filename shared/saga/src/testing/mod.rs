//! The free test suites of every saga. Panics are failures, as in any test.
//!
//! A test hands over a function that builds a fresh [`World`]; [`run_all`] does the rest:
//! 1. [`it_runs`], and the same request id finds the same saga;
//! 2. [`every_call_may_run_twice`], forward and back;
//! 3. [`a_failure_at_any_step_leaves_no_trace`], and behind the pivot does not matter;
//! 4. [`a_crash_at_any_point_does_not_matter`]: before and after every record write, before every
//!    step and between its effect and its record, forward and while unwinding, twice in a row, and
//!    with a failure in the process that goes on.
//!
//! [`assert_golden`] pins the names of all steps.

mod script;
mod suites;

use std::fmt::Write as _;
use std::future::Future;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redkite_metastore::{MetaKv, SharedKv, read_all};

use crate::definition::Registry;
use crate::record::RECORD_PREFIX;
use crate::spec::Saga;
use crate::store::FENCE_KEY;

pub use script::{FailAt, FailHow, Script};
pub use suites::{
    a_crash_at_any_point_does_not_matter, a_failure_at_any_step_leaves_no_trace,
    every_call_may_run_twice, it_runs, run_all,
};

/// All that a saga can see and change, fresh for each run.
pub struct World<S: Saga> {
    /// The metastore; survives a crash.
    pub kv: SharedKv,
    saga: Box<dyn Fn() -> S + Send + Sync>,
    params: Box<dyn Fn() -> S::Params + Send + Sync>,
    observe: Box<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>,
}

impl<S: Saga> World<S> {
    /// `saga` makes the saga over this world, again after every crash (what it keeps in memory alone
    /// should be made anew there); `params` what is asked for; `observe` tells, as text, all that
    /// the saga may change: metadata (see [`dump`]), calls received, caches. It leaves out what may
    /// differ between two good runs, such as the numbers of ids.
    pub fn new<Fut: Future<Output = String> + Send + 'static>(
        kv: SharedKv,
        saga: impl Fn() -> S + Send + Sync + 'static,
        params: impl Fn() -> S::Params + Send + Sync + 'static,
        observe: impl Fn() -> Fut + Send + Sync + 'static,
    ) -> Self {
        Self {
            kv,
            saga: Box::new(saga),
            params: Box::new(params),
            observe: Box::new(move || observe().boxed()),
        }
    }
}

/// The metastore's content as text, one key a line, without the sagas' own keys.
///
/// # Panics
/// When the metastore cannot be read.
pub async fn dump(kv: &dyn MetaKv) -> String {
    let (pairs, _) = read_all(kv, "")
        .await
        .expect("the metastore of a test can be read");
    let mut text = String::new();
    for pair in pairs {
        if pair.key.starts_with(RECORD_PREFIX) || pair.key == FENCE_KEY {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} = {}", pair.key, pair.value.escape_ascii());
    }
    text
}

/// Compares the steps of all registered sagas with a golden text (see [`Registry::listing`]).
///
/// # Panics
/// When they differ: a step list that was released is never changed, a new one gets a new version.
pub fn assert_golden(registry: &Registry, golden: &str) {
    let listing = registry.listing();
    assert!(
        listing.trim() == golden.trim(),
        "the steps of a saga have changed; give the new list a new version and keep the old one \
         registered, then update the golden text\n--- golden\n{golden}\n--- now\n{listing}"
    );
}
