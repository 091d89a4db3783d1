//! The front door: Milvus's gRPC service.
//!
//! Owns what a client sees: which RPCs exist, how a request is checked and answered, which error
//! it gets. It is stateless: what exists comes from its view of the metadata, changes go to the
//! root coordinator, rows go to the owners of their channels. Never decides where data is or who
//! serves it.
//!
//! - [`serve`]: the gRPC services of a proxy, ready to be put on a listener
//! - [`auth`]: who a caller is, and what callers may do
//! - [`context`]: what all handlers share, and what comes with a request
//! - [`options`]: what an operator may set
//! - [`grpc`]: `MilvusService`: `ddl` changes what exists, `info` tells about it, `dml` changes rows,
//!   `dql` finds them
//! - [`http`]: HTTP surfaces; VikingDB's API
//! - [`internal`]: the side that the other services call
//! - [`lookup`]: databases, collections and partitions by name, with Milvus's errors
//! - [`owners`]: calls to the owners of a collection's channels
//! - `patience`: calls of other services that are tried again
//! - [`plan`]: what a read asks for, parsed and checked once
//! - [`read`]: carries the plans of searches out
//! - [`reduce`]: puts the answers of several channels together
//! - [`write`]: rows on their way to the channels
//! - [`run`]: puts it together and starts it
//! - [`services`]: how the other services are reached

pub mod auth;
pub mod context;
pub mod grpc;
pub mod http;
pub mod internal;
pub mod lookup;
pub mod metrics;
pub mod options;
pub mod owners;
mod patience;
pub mod plan;
pub mod read;
pub mod reduce;
pub mod run;
pub mod serve;
pub mod services;
#[cfg(test)]
mod testing;
pub mod write;

pub use context::{AWAIT_LEASE, Identity, Life, ProxyContext, RequestContext};
pub use grpc::Front;
pub use http::vikingdb::VikingDbOptions;
pub use internal::InternalService;
pub use options::{ProxyOptions, SecurityOptions};
pub use serve::{internal_server, milvus_server};
pub use services::Services;
