//! VikingDB's API: collections, data and bulk tasks, signed with HMAC-SHA256.
//!
//! # Source
//! Paths, fields, codes and signatures are facts of VikingDB's public API (V1).
//!
//! - [`options`]: what an operator may set
//! - [`sign`]: whether a request is signed as it should be
//! - [`auth`]: whose request it is, and whether that user may do it
//! - [`answer`]: codes, HTTP statuses, the envelope
//! - [`body`]: fields of a JSON body
//! - [`types`]: its field types and ours
//! - `collection`, `data`, `task`: what exists, rows, and bulk exports
//! - [`filter`]: its filters in our filter language

pub mod answer;
pub mod auth;
pub mod body;
mod collection;
mod data;
pub mod filter;
pub mod options;
mod percent;
pub mod sign;
mod task;
pub mod types;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use redkite_runtime::{Deadline, SharedClock};
use redkite_types::limits;
use serde_json::Value;
use tracing::{debug, warn};

pub use self::options::VikingDbOptions;
use self::{
    answer::{Failure, Outcome},
    auth::Caller,
    body::Body,
};
use super::message::{HttpAnswer, HttpRequest, Surface};
use crate::{
    auth::Caller as AnyCaller,
    context::{ProxyContext, RequestContext},
    metrics,
};

/// VikingDB's API over one proxy.
pub struct VikingDb {
    context: Arc<ProxyContext>,
    options: VikingDbOptions,
    clock: SharedClock,
}

/// A request that passed the checks of its signature.
pub(crate) struct Call<'a> {
    pub(crate) context: &'a Arc<ProxyContext>,
    pub(crate) caller: Caller<'a>,
    pub(crate) meta: RequestContext,
    pub(crate) body: Body,
}

impl VikingDb {
    /// The API of a proxy.
    pub fn new(
        context: Arc<ProxyContext>,
        options: VikingDbOptions,
        clock: SharedClock,
    ) -> Arc<Self> {
        Arc::new(Self {
            context,
            options,
            clock,
        })
    }

    async fn dispatch(&self, request: &HttpRequest) -> Outcome {
        let Some(operation) = Operation::of(&request.method, &request.path) else {
            return Err(Failure::unserved(&request.method, &request.path));
        };
        let now = self.clock.unix_millis();
        let key = sign::verify(&self.options, request, now)?;
        if operation == Operation::Ping {
            return Ok(Value::Null);
        }
        self.context.await_lease().await?;
        let caller = Caller {
            user: &key.user,
            view: self.context.view(),
            sees_only_granted: self.context.guard.is_on(),
        };
        let call = Call {
            context: &self.context,
            caller,
            meta: RequestContext {
                database: limits::DEFAULT_DATABASE.to_owned(),
                request_id: Some(request.request_id.clone()),
                deadline: Deadline::after(self.context.options.request_timeout.get()),
                client: None,
                // Each operation checks its caller itself.
                caller: AnyCaller::anybody(),
            },
            body: Body::read(&request.body, &request.query)?,
        };
        let deadline = call.meta.deadline;
        let outcome = deadline.timeout("the request", operation.run(call)).await;
        outcome.unwrap_or_else(|late| Err(Failure::internal(late.to_string())))
    }
}

#[async_trait]
impl Surface for VikingDb {
    fn max_body(&self) -> usize {
        self.context.options.max_message_size.as_usize()
    }

    fn request_id(&self) -> String {
        self.context.unique_id()
    }

    async fn answer(self: Arc<Self>, request: HttpRequest) -> HttpAnswer {
        let started = Instant::now();
        let outcome = self.dispatch(&request).await;
        let code = outcome.as_ref().err().map_or(0, |failure| failure.code);
        let name = Operation::of(&request.method, &request.path).map_or("other", Operation::name);
        metrics::answered_http("vikingdb", name, code, started.elapsed());
        match &outcome {
            Ok(_) => {}
            Err(failure) if failure.status >= 500 => {
                warn!(code, error = %failure.message, "request failed");
            }
            Err(failure) => debug!(code, error = %failure.message, "request refused"),
        }
        answer::envelope(&request.request_id, outcome)
    }

    fn refused(&self, request_id: &str, status: u16, reason: &str) -> HttpAnswer {
        let failure = match status {
            500.. => Failure::internal(reason),
            _ => Failure::invalid(reason),
        };
        answer::envelope(request_id, Err(Failure { status, ..failure }))
    }
}

/// Implements the operations from a table of names, methods and paths.
macro_rules! operations {
    ($($name:ident $($method:literal)|+ $path:literal;)*) => {
        /// What a request asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Operation {
            $($name,)*
        }

        impl Operation {
            fn of(method: &str, path: &str) -> Option<Self> {
                match (method, path) {
                    $(($($method)|+, $path) => Some(Self::$name),)*
                    _ => None,
                }
            }

            const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

operations! {
    Ping "GET" | "POST" "/api/viking_db/data/ping";
    CreateCollection "POST" "/api/collection/create";
    GetCollection "GET" | "POST" "/api/collection/info";
    ListCollections "GET" | "POST" "/api/collection/list";
    DropCollection "POST" "/api/collection/drop";
    UpsertData "POST" "/api/collection/upsert_data";
    FetchData "GET" | "POST" "/api/collection/fetch_data";
    DeleteData "POST" "/api/collection/del_data";
    CreateTask "POST" "/api/task/create";
    GetTask "GET" | "POST" "/api/task/info";
    ListTasks "GET" | "POST" "/api/task/list";
    DropTask "POST" "/api/task/drop";
    UpdateTask "POST" "/api/task/update";
}

impl Operation {
    async fn run(self, call: Call<'_>) -> Outcome {
        match self {
            Self::Ping => Ok(Value::Null),
            Self::CreateCollection => collection::create(call).await,
            Self::GetCollection => collection::info(&call),
            Self::ListCollections => collection::list(&call),
            Self::DropCollection => collection::drop(call).await,
            Self::UpsertData => data::upsert(call).await,
            Self::FetchData => data::fetch(call).await,
            Self::DeleteData => data::delete(call).await,
            Self::CreateTask => task::create(call).await,
            Self::GetTask => task::info(call).await,
            Self::ListTasks => task::list(call).await,
            Self::DropTask => task::drop(call).await,
            Self::UpdateTask => task::update(call).await,
        }
    }
}

#[cfg(test)]
mod tests;
