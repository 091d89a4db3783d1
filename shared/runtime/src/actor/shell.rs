//! One incarnation of an actor, as ractor sees it.

use std::marker::PhantomData;

use futures::future::BoxFuture;
use ractor::{ActorProcessingErr, ActorRef};
use tracing::Instrument as _;

use super::handle::{Envelope, Handle};
use super::{Actor, ActorError};

/// Builds one incarnation from what is durable.
pub(super) type Factory<A> =
    dyn Fn(Handle<<A as Actor>::Msg>) -> BoxFuture<'static, Result<A, ActorError>> + Send + Sync;

pub(super) struct Shell<A>(PhantomData<fn() -> A>);

impl<A> Shell<A> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

#[ractor::async_trait]
impl<A: Actor> ractor::Actor for Shell<A> {
    type Msg = Envelope<A::Msg>;
    type State = A;
    type Arguments = A;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        built: A,
    ) -> Result<A, ActorProcessingErr> {
        Ok(built)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut A,
    ) -> Result<(), ActorProcessingErr> {
        let Envelope {
            message,
            span,
            permit,
        } = envelope;
        let handled = state.handle(message).instrument(span).await;
        drop(permit);
        handled
    }
}
