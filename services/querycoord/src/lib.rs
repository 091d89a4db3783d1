//! Who serves what: the owner of every channel, and what each owner has to serve.
//!
//! Owns channel ownership and load progress. Never touches data: it compares what the metadata
//! asks for with what the nodes have answered, and sends each node the difference's end state.
//!
//! - [`assign`]: chooses an owner for each channel without one (pure)
//! - [`request`]: what an owner is to serve, from the metadata (pure)
//! - [`keeper`]: makes it so, and again after each change
//! - [`progress`]: how far collections are loaded
//! - [`service`]: the gRPC side
//! - [`run`]: puts it together and starts it

pub mod assign;
pub mod keeper;
pub mod progress;
pub mod request;
pub mod run;
pub mod service;

pub use keeper::Keeper;
pub use service::QueryCoordService;
