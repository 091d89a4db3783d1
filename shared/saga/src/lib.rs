//! Durable sagas: lists of steps that either all take effect or are all taken back, whatever dies.
//!
//! Owns the sagas' records in the metastore, their locks, retries, unwinding and recovery. Never
//! knows what a step does: that is the author's ([`Saga`]), in the service that owns the data.
//!
//! - [`spec`]: how an author writes a saga
//! - [`definition`]: the registry of all sagas, and the plan of their writes
//! - [`record`]: the persisted record and its transition function
//! - [`store`]: records in the metastore, each write fenced
//! - [`lock`]: read and write locks on names
//! - [`executor`]: running sagas: submit, list, retry, abort, shutdown
//! - [`handle`]: waiting for the answer
//! - [`recovery`]: what a new executor does with the records it finds
//! - [`fault`]: making steps fail and the process die, for tests
//! - [`testing`]: the free test suites of every saga

pub mod definition;
mod driver;
mod entry;
pub mod error;
pub mod executor;
pub mod fault;
pub mod handle;
pub mod lock;
mod metrics;
pub mod options;
pub mod record;
pub mod recovery;
mod retry;
mod shared;
pub mod spec;
pub mod store;
mod task;
pub mod testing;
mod unwind;

pub use definition::{Registry, StepInfo};
pub use entry::SagaInfo;
pub use error::{Error, Result};
pub use executor::{SagaConfig, SagaExecutor};
pub use fault::{Fault, FaultInjector, FaultPoint};
pub use handle::{Completed, SagaHandle};
pub use lock::{LockGuard, LockKey, LockMode, LockTable};
pub use options::SagaOptions;
pub use record::{Outputs, RECORD_PREFIX, Record, RecordedError, State};
pub use spec::{
    Check, Effect, IdempotencyKey, Refusal, Saga, Step, StepCx, StepError, StepKey, StepKind,
    UndoKind,
};
