//! Toy sagas in the shape of the real ones, and a remote service that they call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redkite_metastore::{Compare, MemKv, Op, SharedKv, Txn};
use redkite_runtime::TaskGroup;
use redkite_saga::{
    Check, LockKey, Outputs, Registry, Saga, SagaConfig, SagaExecutor, SagaOptions, StepError,
    StepKey,
};
use redkite_types::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// A service behind the network: keeps names, and can be told to misbehave.
pub(crate) struct Remote {
    names: Mutex<BTreeSet<String>>,
    calls: Mutex<BTreeMap<String, u32>>,
    errors: Mutex<BTreeMap<&'static str, Vec<StepError>>>,
    /// Permits to pass; calls wait for one each when it is closed in by [`Remote::pausing`].
    gate: Option<Semaphore>,
    next_id: AtomicI64,
}

impl Remote {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::build(None))
    }

    /// Calls of `announce` wait until [`Remote::let_pass`].
    pub(crate) fn pausing() -> Arc<Self> {
        Arc::new(Self::build(Some(Semaphore::new(0))))
    }

    fn build(gate: Option<Semaphore>) -> Self {
        Self {
            names: Mutex::default(),
            calls: Mutex::default(),
            errors: Mutex::default(),
            gate,
            next_id: AtomicI64::new(1),
        }
    }

    pub(crate) fn let_pass(&self, calls: usize) {
        self.gate.as_ref().unwrap().add_permits(calls);
    }

    /// The next calls of this name answer these errors, the last first, without effect.
    pub(crate) fn fail(&self, call: &'static str, errors: Vec<StepError>) {
        self.errors.lock().insert(call, errors);
    }

    pub(crate) fn calls(&self, call: &str) -> u32 {
        self.calls.lock().get(call).copied().unwrap_or_default()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.names.lock().iter().cloned().collect()
    }

    fn enter(&self, call: &'static str) -> Result<(), StepError> {
        *self.calls.lock().entry(call.to_owned()).or_default() += 1;
        match self.errors.lock().get_mut(call).and_then(Vec::pop) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn announce(&self, name: String) -> Result<(), StepError> {
        self.enter("announce")?;
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        self.names.lock().insert(name);
        Ok(())
    }

    fn release(&self, call: &'static str, name: &str) -> Result<(), StepError> {
        self.enter(call)?;
        self.names.lock().remove(name);
        Ok(())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// A step of any toy saga; naming the parameters here spares every closure from doing so.
type Step = redkite_saga::Step<Named>;

pub(crate) fn named(name: &str) -> Named {
    Named {
        name: name.to_owned(),
    }
}

pub(crate) fn thing(name: &str) -> String {
    format!("things/{name}")
}

const ALLOCATE: StepKey<i64> = StepKey::new("allocate");
const EXPIRE: StepKey<()> = StepKey::new("expire");
const ADD_META: StepKey<()> = StepKey::new("add_meta");
const ANNOUNCE: StepKey<()> = StepKey::new("announce");
const COMMIT: StepKey<()> = StepKey::new("commit");

/// Creates a thing, as `create_partition` does.
pub(crate) struct Create {
    pub(crate) remote: Arc<Remote>,
}

impl Saga for Create {
    const KIND: &'static str = "create";
    const VERSION: u32 = 1;
    type Params = Named;
    type Output = i64;

    fn locks(&self, params: &Named) -> Vec<LockKey> {
        vec![LockKey::write(thing(&params.name)), LockKey::read("things")]
    }

    fn steps(&self) -> Vec<Step> {
        let [ids, cache, query, release] = [(); 4].map(|()| self.remote.clone());
        vec![
            Step::allocate(ALLOCATE, move |_| {
                let id = ids.next_id.fetch_add(1, Ordering::SeqCst);
                async move { Ok(id) }
            }),
            Step::call(EXPIRE, move |_| {
                let entered = cache.enter("expire");
                async move { entered }
            }),
            Step::meta(ADD_META, |cx| {
                let key = thing(&cx.params.name);
                cx.get(ALLOCATE)?;
                Ok(Txn::new()
                    .when(Compare::Absent { key: key.clone() })
                    .then(Op::put(key, "creating")))
            })
            .on_refused(|cx, _| {
                let name = &cx.params.name;
                Error::new(ErrorCode::InvalidParameter, format!("thing {name} exists"))
            })
            .undo_meta(|cx| Ok(Txn::new().then(Op::delete(thing(&cx.params.name))))),
            Step::call(ANNOUNCE, move |cx| {
                let query = query.clone();
                async move { query.announce(cx.params.name.clone()).await }
            })
            .undo_call(move |cx| {
                let released = release.release("release", &cx.params.name);
                async move { released }
            }),
            Step::meta(COMMIT, |cx| {
                Ok(Txn::new().then(Op::put(thing(&cx.params.name), "created")))
            })
            .pivot(),
        ]
    }

    fn output(&self, _params: &Named, outputs: &Outputs) -> Result<i64> {
        outputs.get(ALLOCATE)
    }
}

/// Drops a thing: the first step is the pivot.
pub(crate) struct Drop {
    pub(crate) remote: Arc<Remote>,
    pub(crate) kv: SharedKv,
}

impl Saga for Drop {
    const KIND: &'static str = "drop";
    const VERSION: u32 = 2;
    type Params = Named;
    type Output = ();

    fn locks(&self, params: &Named) -> Vec<LockKey> {
        vec![LockKey::write(thing(&params.name))]
    }

    async fn check(&self, params: &Named) -> Result<Check<()>> {
        let found = self
            .kv
            .get(&thing(&params.name))
            .await
            .map_err(|e| Error::from_coded(&e))?;
        Ok(if found.is_none() {
            Check::Already(())
        } else {
            Check::Proceed
        })
    }

    fn steps(&self) -> Vec<Step> {
        let (release, forget) = (self.remote.clone(), self.remote.clone());
        let mark = StepKey::<()>::new("mark");
        vec![
            Step::meta(mark, |cx| {
                Ok(Txn::new().then(Op::put(thing(&cx.params.name), "dropping")))
            })
            .pivot(),
            Step::call(StepKey::new("release"), move |cx| {
                let released = release.release("release", &cx.params.name);
                async move { released }
            }),
            Step::call(StepKey::new("forget"), move |cx| {
                let released = forget.release("forget", &cx.params.name);
                async move { released }
            }),
            Step::meta(StepKey::<()>::new("remove"), |cx| {
                Ok(Txn::new().then(Op::delete(thing(&cx.params.name))))
            }),
        ]
    }

    fn output(&self, _params: &Named, _outputs: &Outputs) -> Result<()> {
        Ok(())
    }
}

/// Changes a thing and tells of it, as most definitions do: a call is the last step.
pub(crate) struct Alter {
    pub(crate) remote: Arc<Remote>,
}

impl Saga for Alter {
    const KIND: &'static str = "alter";
    const VERSION: u32 = 1;
    type Params = Named;
    type Output = String;

    fn locks(&self, params: &Named) -> Vec<LockKey> {
        vec![LockKey::write(thing(&params.name))]
    }

    fn steps(&self) -> Vec<Step> {
        let remote = self.remote.clone();
        vec![
            Step::meta_async(StepKey::<String>::new("alter"), |cx| async move {
                let key = thing(&cx.params.name);
                Ok((Txn::new().then(Op::put(key.clone(), "altered")), key))
            })
            .pivot(),
            Step::call(ANNOUNCE, move |cx| {
                let remote = remote.clone();
                async move { remote.announce(cx.params.name.clone()).await }
            }),
        ]
    }

    fn output(&self, _params: &Named, outputs: &Outputs) -> Result<String> {
        outputs.get(StepKey::new("alter"))
    }
}

/// Waits before it begins, between two calls and before its pivot.
pub(crate) struct Waits {
    pub(crate) remote: Arc<Remote>,
}

impl Saga for Waits {
    const KIND: &'static str = "waits";
    const VERSION: u32 = 1;
    type Params = Named;
    type Output = ();

    fn locks(&self, params: &Named) -> Vec<LockKey> {
        vec![LockKey::write(thing(&params.name))]
    }

    fn steps(&self) -> Vec<Step> {
        let wait = |name: &'static str| {
            let remote = self.remote.clone();
            Step::wait(StepKey::new(name), move |_| {
                let entered = remote.enter(name);
                async move { entered.map_err(|error| error.error().clone()) }
            })
        };
        let announce = |name: &'static str| {
            let (remote, undone) = (self.remote.clone(), self.remote.clone());
            Step::call(StepKey::new(name), move |cx| {
                let remote = remote.clone();
                async move { remote.announce(format!("{}-{name}", cx.params.name)).await }
            })
            .undo_call(move |cx| {
                let released = undone.release("release", &format!("{}-{name}", cx.params.name));
                async move { released }
            })
        };
        vec![
            wait("before"),
            announce("first"),
            wait("between"),
            announce("second"),
            wait("at_last"),
            Step::meta(COMMIT, |cx| {
                Ok(Txn::new().then(Op::put(thing(&cx.params.name), "created")))
            })
            .pivot(),
        ]
    }

    fn output(&self, _params: &Named, _outputs: &Outputs) -> Result<()> {
        Ok(())
    }
}

const FIRST: StepKey<()> = StepKey::new("first");
const SECOND: StepKey<String> = StepKey::new("second");
const THIRD: StepKey<()> = StepKey::new("third");

/// Calls alone, with and without outputs; the last one is the implied pivot.
pub(crate) struct Calls {
    pub(crate) remote: Arc<Remote>,
    /// For the test of the suites themselves.
    pub(crate) forgets_to_undo: bool,
}

impl Calls {
    fn step<T: Serialize + Send + 'static>(
        &self,
        key: StepKey<T>,
        output: impl Fn(&str) -> T + Send + Sync + 'static,
    ) -> Step {
        let (remote, undone) = (self.remote.clone(), self.remote.clone());
        let step = Step::call(key, move |cx| {
            let name = format!("{}-{}", cx.params.name, cx.step);
            remote.names.lock().insert(name.clone());
            let output = output(&name);
            async move { Ok(output) }
        });
        if self.forgets_to_undo && key.name() == FIRST.name() {
            return step;
        }
        step.undo_call(move |cx| {
            let released = undone.release("undo", &format!("{}-{}", cx.params.name, cx.step));
            async move { released }
        })
    }
}

impl Saga for Calls {
    const KIND: &'static str = "calls";
    const VERSION: u32 = 1;
    type Params = Named;
    type Output = String;

    fn locks(&self, params: &Named) -> Vec<LockKey> {
        vec![LockKey::write(params.name.as_str())]
    }

    fn steps(&self) -> Vec<Step> {
        vec![
            self.step(FIRST, |_| ()),
            self.step(SECOND, str::to_owned),
            self.step(THIRD, |_| ()),
        ]
    }

    fn output(&self, _params: &Named, outputs: &Outputs) -> Result<String> {
        outputs.get(SECOND)
    }
}

pub(crate) fn kv() -> SharedKv {
    Arc::new(MemKv::new())
}

pub(crate) fn registry(kv: &SharedKv, remote: &Arc<Remote>) -> Registry {
    let remote = remote.clone();
    let mut registry = Registry::new();
    registry
        .register(Create {
            remote: remote.clone(),
        })
        .unwrap();
    registry
        .register(Drop {
            remote: remote.clone(),
            kv: kv.clone(),
        })
        .unwrap();
    registry
        .register(Alter {
            remote: remote.clone(),
        })
        .unwrap();
    registry
        .register(Waits {
            remote: remote.clone(),
        })
        .unwrap();
    registry
        .register(Calls {
            remote,
            forgets_to_undo: false,
        })
        .unwrap();
    registry
}

pub(crate) fn config(kv: &SharedKv, epoch: u64, remote: &Arc<Remote>) -> SagaConfig {
    let tasks = TaskGroup::new("test");
    let mut config = SagaConfig::new(kv.clone(), epoch, registry(kv, remote), tasks);
    config.options = SagaOptions {
        backoff_initial: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        budget: Some(Duration::from_millis(20)),
        ..SagaOptions::default()
    };
    config
}

pub(crate) async fn start(kv: &SharedKv, epoch: u64, remote: &Arc<Remote>) -> SagaExecutor {
    SagaExecutor::start(config(kv, epoch, remote))
        .await
        .unwrap()
}

/// Waits, with a limit, until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(120), wait)
            .await
            .is_ok(),
        "never: {what}"
    );
}

pub(crate) async fn value(kv: &SharedKv, key: &str) -> Option<String> {
    let pair = kv.get(key).await.unwrap()?;
    Some(String::from_utf8(pair.value.to_vec()).unwrap())
}
