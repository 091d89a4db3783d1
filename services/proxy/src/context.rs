//! What all handlers share, and what comes with a request.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redkite_catalog::{Catalog, CatalogView, Lease};
use redkite_runtime::{Admission, Deadline, Permit, Random, TaskGroup};
use redkite_types::{Error, ErrorCode, NodeId, Result, limits};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{
    auth::{Caller, Guard},
    options::{ProxyOptions, SecurityOptions},
    patience::Patience,
    plan::Shapes,
    read::Recent,
    services::Services,
};

/// Unit of the memory for writes, in bytes.
const BUFFER_UNIT: usize = 1 << 10;
/// When a write that found no memory may try again.
const BUFFER_RETRY: Duration = Duration::from_millis(50);

/// How long a request waits for a session that was lost to be there again.
pub const AWAIT_LEASE: Duration = Duration::from_secs(3);

/// Who this proxy is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its node id.
    pub node: NodeId,
    /// Where the other services reach it.
    pub address: String,
    /// What clients are told: `STANDALONE` or `CLUSTER`.
    pub deploy_mode: &'static str,
}

/// How long a proxy lives, and answers.
#[derive(Clone, Debug)]
pub struct Life {
    /// Changes of state run here and go on when their client leaves.
    pub tasks: TaskGroup,
    /// Holds while definitions that change wait for this proxy.
    pub lease: Lease,
    /// Cancelled once its process stops.
    pub leaving: CancellationToken,
}

/// What all handlers of a proxy share.
pub struct ProxyContext {
    /// The newest view of all metadata; somebody else keeps it following.
    pub catalog: Arc<Catalog>,
    /// The other services.
    pub peers: Arc<dyn Services>,
    /// What the operator set.
    pub options: ProxyOptions,
    /// Changes of state run here and go on when their client leaves.
    pub tasks: TaskGroup,
    /// Who this proxy is.
    pub identity: Identity,
    /// Holds while definitions that change wait for this proxy, so that what it knows is up to date.
    pub lease: Lease,
    /// Cancelled once this process stops.
    leaving: CancellationToken,
    /// Randomness for ids.
    pub random: Random,
    /// By database, or under no name for all of them: everything written up to this timestamp was
    /// flushed by a `FlushAll` of this proxy.
    pub(crate) flushed_all: Mutex<HashMap<String, u64>>,
    /// Lets calls in, or refuses them.
    pub(crate) guard: Guard,
    /// About what time it is.
    pub(crate) recent: Recent,
    /// What the last searches have asked for.
    pub(crate) shapes: Shapes,
    /// Memory for writes on their way.
    write_buffer: Admission,
    sequence: AtomicU64,
    /// Tells the request ids of this process from those of all others.
    run: u64,
}

impl ProxyContext {
    /// Puts a proxy together; nothing runs yet.
    pub fn new(
        catalog: Arc<Catalog>,
        peers: Arc<dyn Services>,
        options: ProxyOptions,
        security: &SecurityOptions,
        identity: Identity,
        life: Life,
    ) -> Arc<Self> {
        let Life {
            tasks,
            lease,
            leaving,
        } = life;
        let random = Random::from_system();
        let units = options.write_buffer_size.as_usize() / BUFFER_UNIT;
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let write_buffer = Admission::new("write buffer", units, BUFFER_RETRY);
        Arc::new(Self {
            catalog,
            peers,
            options,
            tasks,
            identity,
            lease,
            leaving,
            guard: Guard::new(security, &random),
            recent: Recent::default(),
            shapes: Shapes::default(),
            run: random.next_u64(),
            random,
            flushed_all: Mutex::default(),
            write_buffer,
            sequence: AtomicU64::new(0),
        })
    }

    /// The newest view of all metadata.
    pub fn view(&self) -> Arc<CatalogView> {
        self.catalog.view()
    }

    /// The pauses of a call of another service that is tried again until `deadline`.
    pub(crate) fn patience(&self, deadline: Deadline) -> Patience<'_> {
        Patience::new(deadline, &self.leaving)
    }

    /// Waits a little for the lease, should it not hold.
    ///
    /// # Errors
    /// Code 1: others may have taken this proxy for dead.
    pub async fn await_lease(&self) -> Result<()> {
        if self.lease.holds() {
            return Ok(());
        }
        let held = tokio::time::timeout(AWAIT_LEASE, self.lease.held());
        held.await.map_err(|_| {
            Error::new(
                ErrorCode::ServiceNotReady,
                "service not ready[others may have taken this proxy for dead]",
            )
        })
    }

    /// Takes memory for a write of so many encoded bytes, until the permit is dropped.
    ///
    /// # Errors
    /// Code 8, retriable, when too many are on their way.
    pub(crate) fn admit_write(&self, bytes: usize) -> Result<Permit> {
        let units = u32::try_from(bytes.div_ceil(BUFFER_UNIT)).unwrap_or(u32::MAX);
        Ok(self.write_buffer.acquire(units)?)
    }

    /// An id that no request of any proxy had before.
    pub fn unique_id(&self) -> String {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{sequence}", self.run)
    }
}

/// What comes with a request besides its message.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The database that it is about: the message's, else the connection's, else `default`.
    pub database: String,
    /// The client's id of the request, if it gave one; for logs.
    pub request_id: Option<String>,
    /// When the client stops waiting.
    pub deadline: Deadline,
    /// What [`Connect`](crate::grpc) gave the client to identify itself with.
    pub client: Option<i64>,
    /// Whose call it is.
    pub caller: Caller,
}

impl RequestContext {
    /// Reads the metadata of a request.
    ///
    /// `db_name` is what the message itself says; `timeout` is for clients that set none. Whose call
    /// it is remains to be found out.
    pub fn read<T>(request: &Request<T>, db_name: &str, timeout: Duration) -> Self {
        let metadata = request.metadata();
        let text = |key: &str| {
            metadata
                .get(key)
                .and_then(|value| value.to_str().ok())
                .filter(|text| !text.is_empty())
        };
        let database = if db_name.is_empty() {
            text("dbname").unwrap_or(limits::DEFAULT_DATABASE)
        } else {
            db_name
        };
        Self {
            database: database.to_owned(),
            request_id: text("client-request-id").map(ToOwned::to_owned),
            deadline: redkite_rpc::deadline_of(request, timeout),
            client: text("identifier").and_then(|text| text.parse().ok()),
            caller: Caller::anybody(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&'static str, &'static str)], db_name: &str) -> RequestContext {
        let mut request = Request::new(());
        for (key, value) in pairs {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        RequestContext::read(&request, db_name, Duration::from_secs(60))
    }

    #[test]
    fn the_messages_database_beats_the_connections() {
        assert_eq!(read(&[], "").database, "default");
        assert_eq!(read(&[("dbname", "")], "").database, "default");
        assert_eq!(read(&[("dbname", "books")], "").database, "books");
        assert_eq!(read(&[("dbname", "books")], "films").database, "films");
    }

    #[test]
    fn a_client_is_known_by_what_it_sends() {
        let sent = [("identifier", "77"), ("client-request-id", "r1")];
        let request = read(&sent, "");
        assert_eq!(request.client, Some(77));
        assert_eq!(request.request_id.as_deref(), Some("r1"));
        assert_eq!(read(&[], "").request_id, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clients_deadline_beats_the_default() {
        assert_eq!(read(&[], "").deadline.left(), Duration::from_secs(60));
        let asked = read(&[("grpc-timeout", "1500m")], "");
        assert_eq!(asked.deadline.left(), Duration::from_millis(1_500));
    }
}
