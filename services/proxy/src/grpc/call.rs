//! One call: what comes with it, its time limit, its answer.

use std::{future::Future, time::Instant};

use futures::FutureExt as _;
use redkite_runtime::Deadline;
use redkite_types::Error;
use tonic::{Request, Response, Status};
use tracing::debug;

use super::message::{Message, Reply};
use crate::{
    auth::{self, Guard, guarded::Guarded},
    context::{ProxyContext, RequestContext},
    metrics::{self, Rpc},
};

/// A call that is being answered.
pub(super) struct Call {
    rpc: &'static Rpc,
    started: Instant,
    deadline: Deadline,
}

impl Call {
    /// Takes a request apart, and finds out whether its caller may make it.
    ///
    /// # Errors
    /// A gRPC status where the caller may not; clients do not try that again.
    pub(super) async fn begin<M: Message + Guarded>(
        rpc: &'static Rpc,
        context: &ProxyContext,
        request: Request<M>,
    ) -> Result<(Self, RequestContext, M), Status> {
        let options = &context.options;
        let timeout = if M::WRITES_FILES {
            options.flush_timeout
        } else {
            options.request_timeout
        };
        let db_name = request.get_ref().db_name();
        let mut meta = RequestContext::read(&request, db_name, timeout.get());
        let call = Self {
            rpc,
            started: Instant::now(),
            deadline: meta.deadline,
        };
        let (metadata, _, message) = request.into_parts();
        if context.guard.is_on() {
            let header = metadata.get(auth::HEADER);
            let header = header.map(|value| value.as_encoded_bytes());
            let admitted = context
                .guard
                .authenticate(&context.catalog, header, meta.deadline)
                .await
                .and_then(|caller| {
                    Guard::authorize(&context.view(), &caller, &meta.database, &message)?;
                    Ok(caller)
                });
            meta.caller = admitted.map_err(|refusal| {
                metrics::refused(rpc.name, refusal.reason());
                debug!(rpc = rpc.name, %refusal, "call refused");
                Status::from(refusal)
            })?;
        }
        Ok((call, meta, message))
    }

    /// Runs a read: it ends when its client leaves.
    pub(super) fn inline<T: Reply>(
        self,
        work: impl Future<Output = redkite_types::Result<T>> + Send,
    ) -> impl Future<Output = Response<T>> + Send {
        let outcome = self.deadline.timeout(self.rpc.name, work);
        outcome.map(|outcome| self.answer(outcome.map_err(Error::from).flatten()))
    }

    /// Runs a change: it goes on when its client leaves or the time is over.
    pub(super) async fn detached<T: Reply>(
        self,
        context: &ProxyContext,
        work: impl Future<Output = redkite_types::Result<T>> + Send + 'static,
    ) -> Response<T> {
        let running = context.tasks.detach(self.rpc.name, work);
        let outcome = self.deadline.timeout(self.rpc.name, running).await;
        self.answer(outcome.flatten().map_err(Error::from).flatten())
    }

    /// Answers; business errors travel in the message, with gRPC OK.
    pub(super) fn answer<T: Reply>(self, outcome: redkite_types::Result<T>) -> Response<T> {
        let code = outcome
            .as_ref()
            .map_or_else(|error| error.code.number(), |_| 0);
        self.rpc.answered(code, self.started.elapsed());
        Response::new(outcome.unwrap_or_else(|error| {
            debug!(rpc = self.rpc.name, code, error = %error.message, "request failed");
            T::failed(&error)
        }))
    }
}
