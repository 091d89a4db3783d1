//! Sending messages.

use std::borrow::Cow;
use std::sync::Arc;

use ractor::{ActorRef, MessagingErr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::deadline::Deadline;
use crate::error::{Error, Result};

/// One message on its way, with the place in the mailbox that it holds until it is handled.
pub(super) struct Envelope<M> {
    pub(super) message: M,
    pub(super) span: Span,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Which incarnation of an actor takes messages now.
pub(super) enum Current<M> {
    /// It is being built, for the first time or again.
    Starting,
    Running(ActorRef<Envelope<M>>),
    /// It was stopped, or given up.
    Stopped,
}

pub(super) struct Mailbox<M> {
    pub(super) name: Cow<'static, str>,
    pub(super) capacity: usize,
    pub(super) places: Arc<Semaphore>,
    pub(super) current: watch::Sender<Current<M>>,
    pub(super) stop: CancellationToken,
}

/// Sends messages to one actor, whichever incarnation of it lives. Cheap to clone.
pub struct Handle<M>(pub(super) Arc<Mailbox<M>>);

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> std::fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("actor", &self.0.name)
            .finish()
    }
}

/// Where the answer to one message goes.
#[derive(Debug)]
pub struct Reply<R>(oneshot::Sender<R>);

impl<R> Reply<R> {
    /// Answers. That nobody waits any more is no error.
    pub fn send(self, answer: R) {
        let _ = self.0.send(answer);
    }

    /// Whether nobody waits any more.
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }

    /// A reply without an actor, for tests of a pure core.
    pub fn channel() -> (Self, oneshot::Receiver<R>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }
}

impl<M: Send + 'static> Handle<M> {
    pub(super) fn new(name: Cow<'static, str>, capacity: usize, stop: CancellationToken) -> Self {
        let capacity = capacity.clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Mailbox {
            name,
            capacity,
            places: Arc::new(Semaphore::new(capacity)),
            current: watch::Sender::new(Current::Starting),
            stop,
        }))
    }

    /// The actor's name, for logs.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Sends a message and waits for its answer; refused at once when the mailbox is full. For the
    /// entry points of RPCs.
    ///
    /// # Errors
    /// [`Error::Busy`] (full) and [`Error::Stopping`]: nothing happened. [`Error::Interrupted`]
    /// (the actor died or is being rebuilt) and [`Error::DeadlineExceeded`]: the message may have
    /// had an effect.
    pub async fn ask<R>(
        &self,
        message: impl FnOnce(Reply<R>) -> M,
        deadline: Deadline,
    ) -> Result<R> {
        let permit = self.try_place()?;
        let (reply, answer) = Reply::channel();
        self.deliver(message(reply), permit)?;
        self.answer(answer, deadline).await
    }

    /// As [`Handle::ask`], but waits while the mailbox is full or the actor is being rebuilt. For
    /// callers inside the process.
    ///
    /// # Errors
    /// As [`Handle::ask`], without [`Error::Busy`].
    pub async fn ask_waiting<R>(
        &self,
        message: impl FnOnce(Reply<R>) -> M,
        deadline: Deadline,
    ) -> Result<R> {
        let permit = self.place(deadline).await?;
        let (reply, answer) = Reply::channel();
        self.deliver(message(reply), permit)?;
        self.answer(answer, deadline).await
    }

    /// Sends a message that has no answer; refused at once when the mailbox is full.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Interrupted`] or [`Error::Stopping`]; it was not sent.
    pub fn tell(&self, message: M) -> Result<()> {
        let permit = self.try_place()?;
        self.deliver(message, permit)
    }

    /// As [`Handle::tell`], but waits while the mailbox is full or the actor is being rebuilt. For
    /// tasks that report back to their actor.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] or [`Error::Stopping`]; it was not sent.
    pub async fn tell_waiting(&self, message: M, deadline: Deadline) -> Result<()> {
        let permit = self.place(deadline).await?;
        self.deliver(message, permit)
    }

    /// Asks the actor to end after the message that it handles now, for good.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// [`Handle::stop`], and waits until the actor's state is dropped.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] when it still handles a message.
    pub async fn stop_and_wait(&self, deadline: Deadline) -> Result<()> {
        self.stop();
        let mut current = self.0.current.subscribe();
        let stopped = current.wait_for(|current| matches!(current, Current::Stopped));
        // The sender lives in `self`, so waiting cannot fail.
        deadline
            .timeout(format!("the end of {}", self.0.name), stopped)
            .await
            .map(|_| ())
    }

    /// Waits until the actor takes messages.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`]; [`Error::Stopping`] when it never will again.
    pub async fn wait_running(&self, deadline: Deadline) -> Result<()> {
        let mut current = self.0.current.subscribe();
        let running = current.wait_for(|current| !matches!(current, Current::Starting));
        let what = format!("the start of {}", self.0.name);
        match deadline.timeout(what, running).await?.as_deref() {
            Ok(Current::Running(_)) => Ok(()),
            Ok(Current::Starting | Current::Stopped) | Err(_) => Err(self.stopping()),
        }
    }

    /// Messages that wait or are being handled.
    pub fn pending(&self) -> usize {
        self.0.capacity - self.0.places.available_permits()
    }

    fn try_place(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.0.places)
            .try_acquire_owned()
            .map_err(|error| match error {
                TryAcquireError::NoPermits => Error::Busy {
                    what: self.0.name.clone(),
                    capacity: self.0.capacity,
                },
                TryAcquireError::Closed => self.stopping(),
            })
    }

    async fn place(&self, deadline: Deadline) -> Result<OwnedSemaphorePermit> {
        self.wait_running(deadline).await?;
        let what = format!("a place in the mailbox of {}", self.0.name);
        let place = Arc::clone(&self.0.places).acquire_owned();
        deadline
            .timeout(what, place)
            .await?
            .map_err(|_| self.stopping())
    }

    fn deliver(&self, message: M, permit: OwnedSemaphorePermit) -> Result<()> {
        let actor = match &*self.0.current.borrow() {
            Current::Running(actor) => actor.clone(),
            Current::Starting => return Err(self.interrupted()),
            Current::Stopped => return Err(self.stopping()),
        };
        let envelope = Envelope {
            message,
            span: Span::current(),
            permit,
        };
        actor.send_message(envelope).map_err(|error| match error {
            MessagingErr::SendErr(_)
            | MessagingErr::ChannelClosed
            | MessagingErr::InvalidActorType => self.interrupted(),
        })
    }

    async fn answer<R>(&self, answer: oneshot::Receiver<R>, deadline: Deadline) -> Result<R> {
        let what = format!("the answer of {}", self.0.name);
        // A reply that was dropped without an answer died with its actor.
        deadline
            .timeout(what, answer)
            .await?
            .map_err(|_| self.interrupted())
    }

    fn interrupted(&self) -> Error {
        Error::Interrupted {
            what: self.0.name.clone(),
        }
    }

    fn stopping(&self) -> Error {
        Error::Stopping {
            what: self.0.name.clone(),
        }
    }
}
