//! How services talk to each other and to clients: gRPC servers, channels, errors on the wire.
//!
//! It owns transport: what happens between a caller's typed request and a service's handler. It
//! never knows what a request means, and holds no state of any service.
//!
//! - [`options`]: the section `rpc` of the configuration
//! - [`status`]: our errors as `tonic::Status` and back, one function for each direction
//! - [`server`]: a gRPC server on a bound listener, with health, tracing and an orderly end
//! - [`channel`]: one lazily connected channel for each address
//! - [`call`](mod@call): one call with its deadline and its trace
//! - [`retry`]: when to try again, within a budget
//! - [`connector`]: a service by its address, in this process or in another one
//! - [`admin`]: the HTTP side for operators: health, readiness, metrics

pub mod admin;
pub mod call;
pub mod channel;
mod connection;
pub mod connector;
mod deadline;
mod dispatch;
pub mod error;
mod executor;
mod layer;
pub mod options;
pub mod retry;
pub mod server;
pub mod status;

pub use call::{call, deadline_of};
pub use channel::ChannelPool;
pub use connector::Connector;
pub use error::{Error, Result};
pub use layer::Admit;
pub use options::RpcOptions;
pub use retry::{Retry, RetryBudget};
pub use server::ServerBuilder;
pub use status::{RpcError, check_size, from_status, to_status};
