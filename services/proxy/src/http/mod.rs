//! HTTP surfaces on actix-web: one place for listeners, bodies, request ids, traces and shutdown.
//!
//! A surface is a [`Surface`]: it gets whole requests and gives whole answers. It runs on the main
//! runtime, like the gRPC handlers whose functions it calls; actix's own thread only moves bytes.
//!
//! - [`listener`]: a surface on a listener, until the process stops
//! - [`message`]: requests and answers, free of actix's types
//! - [`vikingdb`]: VikingDB's task and collection API

pub mod listener;
pub mod message;
pub mod vikingdb;

pub use listener::serve;
pub use message::{HttpAnswer, HttpRequest, Surface};
