//! What exports need of the other services.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redkite_catalog::CollectionEntry;
use redkite_node::Peers;
use redkite_proto::redkite::{
    datanode::{
        ExportPartRequest, ExportPartResponse, FinishExportRequest, RemoveExportRequest,
        data_node_server::DataNode,
    },
    querynode::FlushRequest,
    rootcoord::AllocRequest,
};
use redkite_rpc::{call, status::from_status};
use redkite_runtime::Deadline;
use redkite_types::{Error, ErrorCode, Result, Timestamp};

/// How long an allocation may take.
const ALLOC_WITHIN: Duration = Duration::from_secs(5);
/// How long an owner may take to write what it has in memory.
const FLUSH_WITHIN: Duration = Duration::from_secs(600);
/// How long small files may take to be written or removed.
const SMALL_WITHIN: Duration = Duration::from_secs(60);

/// The other services, as exports need them.
#[async_trait]
pub trait Around: Send + Sync + 'static {
    /// A timestamp later than every write that was acknowledged before.
    ///
    /// # Errors
    /// Retriable while the root coordinator is away.
    async fn now(&self) -> Result<Timestamp>;

    /// Has the owners of all channels put every write up to a time into segments. Later writes get
    /// later times.
    ///
    /// # Errors
    /// Retriable while an owner is away.
    async fn flush(&self, entry: &CollectionEntry, until: Timestamp) -> Result<()>;

    /// Has a data node write a part. Dropping the future stops it.
    ///
    /// # Errors
    /// Code 1 while no data node is announced; else the data node's.
    async fn part(&self, request: ExportPartRequest) -> Result<ExportPartResponse>;

    /// Has a data node complete an export.
    ///
    /// # Errors
    /// As [`Around::part`].
    async fn finish(&self, request: FinishExportRequest) -> Result<()>;

    /// Has a data node remove an export's output.
    ///
    /// # Errors
    /// As [`Around::part`].
    async fn remove(&self, request: RemoveExportRequest) -> Result<()>;
}

/// The services of a deployment, found through the metadata.
pub struct PeersAround(pub Arc<Peers>);

impl PeersAround {
    /// The data node of a task; another one once it is gone.
    fn node(&self, task: &str) -> Result<Arc<dyn DataNode>> {
        let nodes = self.0.data_nodes();
        let hash = task.bytes().fold(0_usize, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(byte.into())
        });
        let chosen = hash % nodes.len().max(1);
        let node = nodes.into_iter().nth(chosen).map(|(_, node)| node);
        node.ok_or_else(|| {
            let text = "service not ready[no datanode is announced]";
            Error::new(ErrorCode::ServiceNotReady, text)
        })
    }
}

#[async_trait]
impl Around for PeersAround {
    async fn now(&self) -> Result<Timestamp> {
        let root = self.0.root_coord()?;
        let deadline = Deadline::after(ALLOC_WITHIN);
        let message = AllocRequest { count: 1 };
        let answer = call(deadline, message, |request| root.alloc_timestamp(request)).await?;
        Ok(Timestamp(answer.first))
    }

    async fn flush(&self, entry: &CollectionEntry, until: Timestamp) -> Result<()> {
        let deadline = Deadline::after(FLUSH_WITHIN);
        for channel in entry.channels() {
            let owner = entry.owners.get(channel).ok_or_else(|| {
                let text = format!("channel not available[channel {channel} has no owner]");
                Error::new(ErrorCode::ChannelNotAvailable, text)
            })?;
            let node = self.0.query_node(&owner.address)?;
            let message = FlushRequest {
                channel: channel.clone(),
                collection_id: entry.id().0,
                wait: true,
                guarantee_ts: until.0,
                hold: 0,
            };
            call(deadline, message, |request| node.flush(request)).await?;
        }
        Ok(())
    }

    async fn part(&self, request: ExportPartRequest) -> Result<ExportPartResponse> {
        let node = self.node(&request.task_id)?;
        let answer = node.export_part(tonic::Request::new(request)).await;
        let answer = answer.map_err(|status| from_status(&status).error)?;
        Ok(answer.into_inner())
    }

    async fn finish(&self, request: FinishExportRequest) -> Result<()> {
        let node = self.node(&request.task_id)?;
        let deadline = Deadline::after(SMALL_WITHIN);
        call(deadline, request, |request| node.finish_export(request)).await?;
        Ok(())
    }

    async fn remove(&self, request: RemoveExportRequest) -> Result<()> {
        let node = self.node(&request.task_id)?;
        let deadline = Deadline::after(SMALL_WITHIN);
        call(deadline, request, |request| node.remove_export(request)).await?;
        Ok(())
    }
}
