//! What bundles need of the data nodes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use redkite_node::Peers;
use redkite_proto::redkite::datanode::{
    CopyFilesRequest, CountRowsRequest, CountRowsResponse, FinishBundleRequest, OpenBundleRequest,
    ReadBundleRequest, ReadBundleResponse, RemoveBundleRequest, data_node_server::DataNode,
};
use redkite_rpc::{call, status::from_status};
use redkite_runtime::Deadline;
use redkite_types::{Error, ErrorCode, Result};

/// How long small files may take to be written or read.
const SMALL_WITHIN: Duration = Duration::from_secs(60);
/// How long removing may take.
const REMOVED_WITHIN: Duration = Duration::from_secs(600);

/// The data nodes, as bundles need them. Each call may be repeated.
#[async_trait]
pub trait BundleAround: Send + Sync + 'static {
    /// Makes a place a job's own.
    ///
    /// # Errors
    /// Code 1 while no data node is announced; else the data node's, as of the others.
    async fn open(&self, request: OpenBundleRequest) -> Result<()>;

    /// Copies files. Dropping the future stops it.
    ///
    /// # Errors
    /// As [`BundleAround::open`].
    async fn copy(&self, request: CopyFilesRequest) -> Result<()>;

    /// Completes a bundle; answers where what says so is.
    ///
    /// # Errors
    /// As [`BundleAround::open`].
    async fn finish(&self, request: FinishBundleRequest) -> Result<String>;

    /// Removes what a job has written.
    ///
    /// # Errors
    /// As [`BundleAround::open`].
    async fn remove(&self, request: RemoveBundleRequest) -> Result<()>;

    /// Reads what a bundle says of itself.
    ///
    /// # Errors
    /// As [`BundleAround::open`].
    async fn read(&self, request: ReadBundleRequest) -> Result<ReadBundleResponse>;

    /// Counts rows of segments.
    ///
    /// # Errors
    /// As [`BundleAround::open`].
    async fn count(&self, request: CountRowsRequest) -> Result<CountRowsResponse>;
}

/// The data nodes of a deployment, taken in turn.
pub struct PeersBundles {
    peers: Arc<Peers>,
    turn: AtomicUsize,
}

impl PeersBundles {
    /// Those that the metadata shows.
    pub fn new(peers: Arc<Peers>) -> Self {
        Self {
            peers,
            turn: AtomicUsize::new(0),
        }
    }

    fn node(&self) -> Result<Arc<dyn DataNode>> {
        let nodes = self.peers.data_nodes();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let chosen = turn % nodes.len().max(1);
        let node = nodes.into_iter().nth(chosen).map(|(_, node)| node);
        node.ok_or_else(|| {
            let text = "service not ready[no datanode is announced]";
            Error::new(ErrorCode::ServiceNotReady, text)
        })
    }
}

#[async_trait]
impl BundleAround for PeersBundles {
    async fn open(&self, request: OpenBundleRequest) -> Result<()> {
        let node = self.node()?;
        let deadline = Deadline::after(SMALL_WITHIN);
        call(deadline, request, |request| node.open_bundle(request)).await?;
        Ok(())
    }

    async fn copy(&self, request: CopyFilesRequest) -> Result<()> {
        let node = self.node()?;
        // How long it may take is for the stores to say, which give up by themselves.
        let answer = node.copy_files(tonic::Request::new(request)).await;
        answer.map_err(|status| from_status(&status).error)?;
        Ok(())
    }

    async fn finish(&self, request: FinishBundleRequest) -> Result<String> {
        let node = self.node()?;
        let deadline = Deadline::after(SMALL_WITHIN);
        let answer = call(deadline, request, |request| node.finish_bundle(request)).await?;
        Ok(answer.metadata_uri)
    }

    async fn remove(&self, request: RemoveBundleRequest) -> Result<()> {
        let node = self.node()?;
        let deadline = Deadline::after(REMOVED_WITHIN);
        call(deadline, request, |request| node.remove_bundle(request)).await?;
        Ok(())
    }

    async fn read(&self, request: ReadBundleRequest) -> Result<ReadBundleResponse> {
        let node = self.node()?;
        let deadline = Deadline::after(SMALL_WITHIN);
        let answer = call(deadline, request, |request| node.read_bundle(request)).await?;
        Ok(answer)
    }

    async fn count(&self, request: CountRowsRequest) -> Result<CountRowsResponse> {
        let node = self.node()?;
        let answer = node.count_rows(tonic::Request::new(request)).await;
        let answer = answer.map_err(|status| from_status(&status).error)?;
        Ok(answer.into_inner())
    }
}
