//! Who rebuilds, when, and when no more.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use ractor::{
    Actor as _, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent,
};
use redkite_telemetry::chain;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::handle::{Current, Handle};
use super::shell::{Factory, Shell};
use super::{Actor, ActorError};
use crate::backoff::Backoff;
use crate::error::{BoxError, Error, Result, panic_message};
use crate::tasks::{OnFailure, TaskGroup};

/// When a dead actor is rebuilt, and when it is given up.
#[derive(Clone, Copy, Debug)]
pub struct RestartPolicy {
    /// The pause before the first rebuild; doubles with each further one.
    pub initial_backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// So many deaths within `window` are the end of the process.
    pub max_deaths: usize,
    /// See `max_deaths`.
    pub window: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            max_deaths: 5,
            window: Duration::from_secs(60),
        }
    }
}

/// Watches over the actors of one process. Clones are the same supervisor.
///
/// Its actors stop when the task group stops; an actor that dies too often stops the task group.
#[derive(Clone)]
pub struct Supervisor {
    group: TaskGroup,
    policy: RestartPolicy,
    obituaries: ActorRef<Watch>,
}

/// Asks for the cause of death of an actor.
struct Watch {
    actor: ActorId,
    death: oneshot::Sender<String>,
}

impl Supervisor {
    /// Starts supervision within a task group.
    ///
    /// # Errors
    /// [`Error::Stopping`] when the runtime is going away.
    pub async fn start(group: &TaskGroup) -> Result<Self> {
        Self::with_policy(group, RestartPolicy::default()).await
    }

    /// [`Supervisor::start`] with other limits.
    ///
    /// # Errors
    /// As [`Supervisor::start`].
    pub async fn with_policy(group: &TaskGroup, policy: RestartPolicy) -> Result<Self> {
        let stopping = |_error: SpawnErr| Error::Stopping {
            what: "supervisor".into(),
        };
        let (obituaries, _task) = ractor::Actor::spawn(None, Registrar, ())
            .await
            .map_err(stopping)?;
        let registrar = KillOnDrop(obituaries.get_cell());
        let token = group.token();
        group.spawn("supervisor", OnFailure::Log, async move {
            token.cancelled().await;
            // It must outlive its children: ractor kills those of a parent that ends.
            registrar.0.stop_children_and_wait(None, None).await;
            registrar.0.stop(None);
        });
        Ok(Self {
            group: group.clone(),
            policy,
            obituaries,
        })
    }

    /// The group that its actors live in.
    pub fn group(&self) -> &TaskGroup {
        &self.group
    }

    /// Starts an actor. `factory` builds it from what is durable, now and after every death; it
    /// gets the actor's own handle. `capacity` messages may wait.
    ///
    /// Returns at once; messages that come before the first incarnation is built are refused by
    /// [`Handle::ask`] and wait in [`Handle::ask_waiting`].
    pub fn spawn<A, F, B>(
        &self,
        name: impl Into<Cow<'static, str>>,
        factory: F,
        capacity: usize,
    ) -> Handle<A::Msg>
    where
        A: Actor,
        F: Fn(Handle<A::Msg>) -> B + Send + Sync + 'static,
        B: Future<Output = Result<A, ActorError>> + Send + 'static,
    {
        let name = name.into();
        let handle = Handle::new(name.clone(), capacity, self.group.token().child_token());
        let factory: Arc<Factory<A>> = Arc::new(move |handle| factory(handle).boxed());
        let life = Life::<A> {
            supervisor: self.clone(),
            handle: handle.clone(),
            factory,
            deaths: VecDeque::new(),
        };
        self.group.spawn(name, OnFailure::Shutdown, life.run());
        handle
    }
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("group", &self.group)
            .finish()
    }
}

/// All incarnations of one actor, one after the other.
struct Life<A: Actor> {
    supervisor: Supervisor,
    handle: Handle<A::Msg>,
    factory: Arc<Factory<A>>,
    deaths: VecDeque<Instant>,
}

/// Ends an actor together with the task that answers for it, also when that task is aborted.
struct KillOnDrop(ActorCell);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// How one incarnation ended.
enum End {
    Stopped,
    Died(String),
}

impl<A: Actor> Life<A> {
    async fn run(mut self) -> Result<(), BoxError> {
        let policy = self.supervisor.policy;
        let mut backoff = Backoff::new(policy.initial_backoff, policy.max_backoff);
        let outcome = loop {
            let cause = match self.incarnation().await {
                End::Stopped => break Ok(()),
                End::Died(cause) => cause,
            };
            metrics::counter!("redkite_runtime_actor_deaths_total").increment(1);
            error!(actor = self.handle.name(), %cause, "actor died");
            if self.count_death() >= policy.max_deaths {
                break Err(format!(
                    "actor died {} times in {:?}, last cause: {cause}",
                    policy.max_deaths, policy.window
                ));
            }
            if self.deaths.len() == 1 {
                backoff.reset();
            }
            let stop = self.handle.0.stop.clone();
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                break Ok(());
            }
        };
        self.handle.0.places.close();
        self.handle.0.current.send_replace(Current::Stopped);
        outcome.map_err(Into::into)
    }

    /// Builds the actor and waits for its end.
    async fn incarnation(&self) -> End {
        let stop = self.handle.0.stop.clone();
        let build = AssertUnwindSafe((self.factory)(self.handle.clone())).catch_unwind();
        let actor = match stop.run_until_cancelled(build).await {
            None => return End::Stopped,
            Some(Ok(Ok(actor))) => actor,
            Some(Ok(Err(error))) => return End::Died(chain(&*error)),
            Some(Err(panic)) => return End::Died(panic_message(&*panic)),
        };
        let registrar = self.supervisor.obituaries.get_cell();
        let spawned = Shell::spawn_linked(None, Shell::new(), actor, registrar).await;
        let (incarnation, task) = match spawned {
            Ok(spawned) => spawned,
            Err(error) => return End::Died(chain(&error)),
        };
        let killer = KillOnDrop(incarnation.get_cell());
        let (death, mut died) = oneshot::channel();
        let watch = Watch {
            actor: incarnation.get_id(),
            death,
        };
        if self.supervisor.obituaries.send_message(watch).is_err() {
            // The supervisor is gone, so the group is stopping.
            return End::Stopped;
        }
        self.handle
            .0
            .current
            .send_replace(Current::Running(incarnation.clone()));
        info!(actor = self.handle.name(), "actor runs");
        let cause = tokio::select! {
            cause = &mut died => cause,
            () = stop.cancelled() => {
                incarnation.stop(None);
                died.await
            }
        };
        self.handle.0.current.send_replace(Current::Starting);
        // The state is dropped with the task, and whoever waits for the end waits for that.
        if task.await.is_err() {
            warn!(
                actor = self.handle.name(),
                "actor's task did not end by itself"
            );
        }
        drop(killer);
        match cause {
            Ok(cause) if !stop.is_cancelled() => End::Died(cause),
            Ok(_) | Err(_) => End::Stopped,
        }
    }

    /// Counts a death and answers how many there were within the window.
    fn count_death(&mut self) -> usize {
        let now = Instant::now();
        self.deaths.push_back(now);
        let window = self.supervisor.policy.window;
        while self
            .deaths
            .front()
            .is_some_and(|death| now.duration_since(*death) > window)
        {
            self.deaths.pop_front();
        }
        self.deaths.len()
    }
}

/// The ractor parent of all actors: survives their deaths and passes on the causes.
struct Registrar;

#[derive(Default)]
struct Deaths {
    watched: HashMap<ActorId, oneshot::Sender<String>>,
    /// Those who died before anybody asked.
    early: HashMap<ActorId, String>,
}

#[ractor::async_trait]
impl ractor::Actor for Registrar {
    type Msg = Watch;
    type State = Deaths;
    type Arguments = ();

    async fn pre_start(
        &self,
        _myself: ActorRef<Watch>,
        (): (),
    ) -> Result<Deaths, ActorProcessingErr> {
        Ok(Deaths::default())
    }

    async fn handle(
        &self,
        _myself: ActorRef<Watch>,
        watch: Watch,
        deaths: &mut Deaths,
    ) -> Result<(), ActorProcessingErr> {
        match deaths.early.remove(&watch.actor) {
            Some(cause) => drop(watch.death.send(cause)),
            None => drop(deaths.watched.insert(watch.actor, watch.death)),
        }
        Ok(())
    }

    // ractor's own answer to a child's death is to stop the parent too.
    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Watch>,
        event: SupervisionEvent,
        deaths: &mut Deaths,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, cause) = match event {
            SupervisionEvent::ActorFailed(actor, cause) => (actor.get_id(), chain(&*cause)),
            SupervisionEvent::ActorTerminated(actor, state, reason) => {
                // Before anybody hears of the end, the actor's resources are free.
                drop(state);
                (
                    actor.get_id(),
                    reason.unwrap_or_else(|| "it stopped".to_owned()),
                )
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {
                return Ok(());
            }
        };
        match deaths.watched.remove(&actor) {
            Some(death) => drop(death.send(cause)),
            None => drop(deaths.early.insert(actor, cause)),
        }
        Ok(())
    }
}
