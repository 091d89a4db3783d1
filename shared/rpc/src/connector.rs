//! A service by its address, in this process or in another one.
//!
//! A caller holds `Arc<dyn QueryNode>`, the generated trait of the server itself, and cannot tell
//! where the service runs: in the same process a call is a call, otherwise it goes through a
//! channel of the pool.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use parking_lot::{Mutex, RwLock};
use redkite_proto::redkite::{datacoord, datanode, proxy, querycoord, querynode, rootcoord};
use redkite_runtime::CancellationToken;
use redkite_types::{Error as UserError, ErrorCode, Outcome};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::call::{send_deadline, timeout_of};
use crate::channel::ChannelPool;
use crate::error::Result;
use crate::layer::panicked;
use crate::options::RpcOptions;
use crate::status::{RpcError, check_size, to_status};

/// How addresses of services in the same process begin.
const LOCAL: &str = "local://";

/// Finds services by address. Clones are the same connector.
///
/// What it gives out stays valid when a service is registered again under its address, as after a
/// restart in a test.
#[derive(Clone, Debug)]
pub struct Connector(Arc<Inner>);

/// Services of one trait; each is an `Arc` of it.
type ByAddress = HashMap<String, Box<dyn Any + Send + Sync>>;

#[derive(Debug)]
struct Inner {
    pool: ChannelPool,
    /// By trait.
    local: RwLock<HashMap<TypeId, ByAddress>>,
    isolated: RwLock<HashSet<String>>,
    /// Cancelled when the calls to an address are given up; then the address has a new one.
    calls: Mutex<HashMap<String, CancellationToken>>,
}

impl Connector {
    /// A connector that knows no service in this process yet.
    pub fn new(options: RpcOptions) -> Self {
        Self(Arc::new(Inner {
            pool: ChannelPool::new(options),
            local: RwLock::default(),
            isolated: RwLock::default(),
            calls: Mutex::default(),
        }))
    }

    /// The channels to other processes.
    pub fn pool(&self) -> &ChannelPool {
        &self.0.pool
    }

    /// Takes away every local service at an address; calls to it fail as to a process that is
    /// gone.
    pub fn unregister_local(&self, address: &str) {
        for services in self.0.local.write().values_mut() {
            services.remove(address);
        }
    }

    /// Gives up all calls to another process that are not answered yet, and its connection: it is known
    /// to be gone, or to be somebody that nobody listens to any more. Later calls are tried.
    pub fn give_up(&self, address: &str) {
        if let Some(calls) = self.0.calls.lock().remove(address) {
            calls.cancel();
        }
        self.0.pool.forget(address);
    }

    fn calls(&self, address: &str) -> CancellationToken {
        let mut calls = self.0.calls.lock();
        match calls.get(address) {
            Some(token) => token.clone(),
            None => calls.entry(address.to_owned()).or_default().clone(),
        }
    }

    /// Cuts the way to an address, or heals it; for tests.
    pub fn isolate(&self, address: &str, isolated: bool) {
        let mut addresses = self.0.isolated.write();
        if isolated {
            addresses.insert(address.to_owned());
        } else {
            addresses.remove(address);
        }
    }

    fn register<S: ?Sized + Send + Sync + 'static>(&self, address: &str, service: Arc<S>) {
        let mut local = self.0.local.write();
        let services = local.entry(TypeId::of::<S>()).or_default();
        services.insert(address.to_owned(), Box::new(service));
    }

    /// Refuses at once what is no address at all.
    fn check(&self, address: &str) -> Result<()> {
        if !address.starts_with(LOCAL) {
            self.0.pool.get(address)?;
        }
        Ok(())
    }

    fn route<S: ?Sized + Send + Sync + 'static>(&self, address: &str) -> Result<Way<S>, Status> {
        if self.0.isolated.read().contains(address) {
            return Err(gone(address));
        }
        let local = self.0.local.read();
        let service = local
            .get(&TypeId::of::<S>())
            .and_then(|all| all.get(address));
        if let Some(service) = service.and_then(|any| any.downcast_ref::<Arc<S>>()) {
            return Ok(Way::Here(Arc::clone(service)));
        }
        drop(local);
        if address.starts_with(LOCAL) {
            return Err(gone(address));
        }
        let channel = self.0.pool.get(address);
        channel
            .map(Way::There)
            .map_err(|error| to_status(&RpcError::new(error.into())))
    }
}

/// How to reach a service.
enum Way<S: ?Sized> {
    Here(Arc<S>),
    There(Channel),
}

fn given_up(address: &str) -> Status {
    let error = UserError::new(
        ErrorCode::ServiceUnavailable,
        format!("service unavailable: the process at {address} is not alive any more"),
    );
    to_status(&RpcError::new(error).with_outcome(Outcome::Unknown))
}

fn gone(address: &str) -> Status {
    let error = UserError::new(
        ErrorCode::ServiceUnavailable,
        format!("service unavailable: nobody answers at {address}"),
    );
    to_status(&RpcError::new(error).with_outcome(Outcome::NotApplied))
}

/// Calls a handler in this process as a server would: panics caught, and within the time that the
/// request says; for a deadline that goes along with it the caller cares.
async fn here<A>(
    method: &str,
    timeout: Option<Duration>,
    handler: impl Future<Output = Result<Response<A>, Status>> + Send,
) -> Result<Response<A>, Status> {
    let caught = AssertUnwindSafe(handler).catch_unwind();
    let outcome = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, caught).await,
        None => Ok(caught.await),
    };
    match outcome {
        Ok(Ok(answer)) => answer,
        Ok(Err(panic)) => Err(to_status(&panicked(method, &*panic))),
        Err(_) => Err(to_status(&RpcError::timeout(
            &format!("{method} was not answered in time"),
            Outcome::Unknown,
        ))),
    }
}

/// One service: how to register it, how to find it, and what stands in its place at the caller.
macro_rules! service {
    (
        $package:ident, $server:ident, $client_module:ident, $service:ident, $client:ident,
        $standin:ident, $register:ident, $find:ident;
        $($method:ident: $request:ident => $response:ident),* $(,)?
    ) => {
        impl Connector {
            /// Makes a service of this process reachable under an address such as
            /// `local://querynode/3`; replaces an earlier one.
            pub fn $register(
                &self,
                address: &str,
                service: Arc<dyn $package::$server::$service>,
            ) {
                self.register::<dyn $package::$server::$service>(address, service);
            }

            /// The service at an address. Whether anybody is there, its first call tells.
            ///
            /// # Errors
            /// [`crate::Error::Address`].
            pub fn $find(&self, address: &str) -> Result<Arc<dyn $package::$server::$service>> {
                self.check(address)?;
                Ok(Arc::new($standin { connector: self.clone(), address: address.to_owned() }))
            }
        }

        struct $standin {
            connector: Connector,
            address: String,
        }

        #[tonic::async_trait]
        impl $package::$server::$service for $standin {
            $(
                async fn $method(
                    &self,
                    request: Request<$package::$request>,
                ) -> Result<Response<$package::$response>, Status> {
                    let way = self.connector.route::<dyn $package::$server::$service>(
                        &self.address,
                    )?;
                    match way {
                        Way::Here(service) => {
                            let timeout = timeout_of(request.metadata());
                            let handler = service.$method(request);
                            here(stringify!($method), timeout, handler).await
                        }
                        Way::There(channel) => {
                            let mut request = request;
                            send_deadline(&mut request);
                            let limit = self.connector.0.pool.max_message_size();
                            check_size(request.get_ref(), limit)?;
                            let mut client = $package::$client_module::$client::new(channel)
                                .max_decoding_message_size(limit)
                                .max_encoding_message_size(limit);
                            let calls = self.connector.calls(&self.address);
                            tokio::select! {
                                answer = client.$method(request) => answer,
                                () = calls.cancelled() => Err(given_up(&self.address)),
                            }
                        }
                    }
                }
            )*
        }
    };
}

service! {
    rootcoord, root_coord_server, root_coord_client, RootCoord, RootCoordClient,
    RootCoordStandin, register_local_root_coord, root_coord;
    submit: DdlRequest => DdlResponse,
    restore_snapshot: RestoreSnapshotRequest => RestoreSnapshotResponse,
    restore_bundle: RestoreBundleRequest => RestoreSnapshotResponse,
    alloc_timestamp: AllocRequest => AllocResponse,
    alloc_id: AllocRequest => AllocResponse,
    change_replicas: ChangeReplicasRequest => ChangeReplicasResponse,
}

service! {
    datacoord, data_coord_server, data_coord_client, DataCoord, DataCoordClient,
    DataCoordStandin, register_local_data_coord, data_coord;
    commit_flush: CommitFlushRequest => CommitFlushResponse,
    sync: SyncRequest => SyncResponse,
    drop_data: DropDataRequest => DropDataResponse,
    describe_indexes: DescribeIndexesRequest => DescribeIndexesResponse,
    compact: CompactRequest => CompactResponse,
    list_compactions: ListCompactionsRequest => ListCompactionsResponse,
    create_snapshot: CreateSnapshotRequest => CreateSnapshotResponse,
    drop_snapshot: DropSnapshotRequest => DropSnapshotResponse,
    pin_snapshot: PinSnapshotRequest => PinSnapshotResponse,
    unpin_snapshot: UnpinSnapshotRequest => UnpinSnapshotResponse,
    read_snapshot: ReadSnapshotRequest => ReadSnapshotResponse,
    attach_snapshot: AttachSnapshotRequest => AttachSnapshotResponse,
    export_snapshot: ExportSnapshotRequest => ExportSnapshotResponse,
    read_bundle: ReadBundleRequest => ReadBundleResponse,
    copy_bundle: CopyBundleRequest => CopyBundleResponse,
    create_export: CreateExportRequest => CreateExportResponse,
    list_exports: ListExportsRequest => ListExportsResponse,
    drop_export: DropExportRequest => DropExportResponse,
}

service! {
    querycoord, query_coord_server, query_coord_client, QueryCoord, QueryCoordClient,
    QueryCoordStandin, register_local_query_coord, query_coord;
    sync: SyncRequest => SyncResponse,
    load_progress: LoadProgressRequest => LoadProgressResponse,
}

service! {
    querynode, query_node_server, query_node_client, QueryNode, QueryNodeClient,
    QueryNodeStandin, register_local_query_node, query_node;
    sync_channel: SyncChannelRequest => SyncChannelResponse,
    release_channel: ReleaseChannelRequest => ReleaseChannelResponse,
    write: WriteRequest => WriteResponse,
    search: SearchRequest => SearchResponse,
    query: QueryRequest => QueryResponse,
    flush: FlushRequest => FlushResponse,
    channel_stats: ChannelStatsRequest => ChannelStatsResponse,
    hold_writes: HoldWritesRequest => HoldWritesResponse,
}

service! {
    datanode, data_node_server, data_node_client, DataNode, DataNodeClient,
    DataNodeStandin, register_local_data_node, data_node;
    build_index: BuildIndexRequest => BuildIndexResponse,
    build_progress: BuildProgressRequest => BuildProgressResponse,
    compact: CompactRequest => CompactResponse,
    export_part: ExportPartRequest => ExportPartResponse,
    finish_export: FinishExportRequest => FinishExportResponse,
    remove_export: RemoveExportRequest => RemoveExportResponse,
    open_bundle: OpenBundleRequest => OpenBundleResponse,
    copy_files: CopyFilesRequest => CopyFilesResponse,
    finish_bundle: FinishBundleRequest => FinishBundleResponse,
    remove_bundle: RemoveBundleRequest => RemoveBundleResponse,
    read_bundle: ReadBundleRequest => ReadBundleResponse,
    count_rows: CountRowsRequest => CountRowsResponse,
}

service! {
    proxy, proxy_server, proxy_client, Proxy, ProxyClient,
    ProxyStandin, register_local_proxy, proxy;
    sync: SyncRequest => SyncResponse,
}
