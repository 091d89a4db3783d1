//! Raft's messages over gRPC, both ends.
//!
//! Each message is one of openraft's types in postcard. A snapshot is a stream: its head first,
//! then the state in pieces. Errors of the other end are text only: openraft's own change with its
//! versions, and replicas of two versions meet during an upgrade.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout,
    Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, BasicNode, OptionalSend};
use redkite_proto::redkite::metastore as pb;
use redkite_rpc::ChannelPool;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::raft::types::{Raft, Snapshot, SnapshotMeta, TypeConfig, Vote};

type Client = pb::raft_client::RaftClient<Channel>;
type RpcFailure = RPCError<u64, BasicNode, RaftError<u64>>;

/// The largest message: a read of the log plus one entry of the largest size.
const MESSAGE_BYTES: usize = 64 << 20;
/// A piece of a snapshot.
const PIECE_BYTES: usize = 1 << 20;
/// No snapshot of metadata is larger; a stream that goes on is refused.
const SNAPSHOT_BYTES: usize = 4 << 30;
/// A replica that cannot be reached is tried again after this.
const RETRY: Duration = Duration::from_millis(200);

/// Makes connections to other replicas.
pub(super) struct Network {
    node_id: u64,
    pool: ChannelPool,
}

impl Network {
    pub(super) fn new(node_id: u64, pool: ChannelPool) -> Self {
        Self { node_id, pool }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        let (node_id, pool) = (self.node_id, self.pool.clone());
        Peer {
            node_id,
            target,
            address: node.addr.clone(),
            pool,
        }
    }
}

/// Another replica.
pub(super) struct Peer {
    node_id: u64,
    target: u64,
    address: String,
    pool: ChannelPool,
}

impl Peer {
    fn client(&self) -> Result<Client, Unreachable> {
        let channel = self
            .pool
            .get(&self.address)
            .map_err(|error| Unreachable::new(&error))?;
        Ok(Client::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES))
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<u64> {
        Timeout {
            action,
            id: self.node_id,
            target: self.target,
            timeout,
        }
    }

    async fn call<Q, A, S, F>(
        &self,
        action: RPCTypes,
        message: &Q,
        option: &RPCOption,
        send: F,
    ) -> Result<A, RpcFailure>
    where
        Q: Serialize,
        A: DeserializeOwned,
        F: FnOnce(Client, Request<pb::RaftMessage>) -> S,
        S: Future<Output = Result<Response<pb::RaftMessage>, Status>>,
    {
        let client = self.client()?;
        let mut request = Request::new(encode(message).map_err(network)?);
        request.set_timeout(option.hard_ttl());
        match tokio::time::timeout(option.hard_ttl(), send(client, request)).await {
            Ok(Ok(response)) => Ok(decode(response.get_ref()).map_err(network)?),
            Ok(Err(status)) => Err(failure(&status)),
            Err(_) => Err(self.timeout(action, option.hard_ttl()).into()),
        }
    }
}

fn network(status: Status) -> NetworkError {
    NetworkError::new(&status)
}

fn failure(status: &Status) -> RpcFailure {
    match status.code() {
        // Nobody there, or a replica that is going down: worth a pause.
        Code::Unavailable | Code::Internal => Unreachable::new(status).into(),
        _ => NetworkError::new(status).into(),
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcFailure> {
        let send =
            |mut client: Client, request| async move { client.append_entries(request).await };
        self.call(RPCTypes::AppendEntries, &rpc, &option, send)
            .await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcFailure> {
        let send = |mut client: Client, request| async move { client.vote(request).await };
        self.call(RPCTypes::Vote, &rpc, &option, send).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let mut client = self.client()?;
        let head = encode(&(vote, &snapshot.meta)).map_err(network)?;
        let state = *snapshot.snapshot;
        let pieces = (0..state.len()).step_by(PIECE_BYTES).map(move |start| {
            let end = state.len().min(start + PIECE_BYTES);
            pb::RaftMessage {
                payload: state.slice(start..end),
            }
        });
        let messages = futures::stream::iter(std::iter::once(head).chain(pieces));
        tokio::select! {
            closed = cancel => Err(closed.into()),
            () = tokio::time::sleep(option.hard_ttl()) => {
                Err(self.timeout(RPCTypes::InstallSnapshot, option.hard_ttl()).into())
            }
            response = client.snapshot(messages) => match response {
                Ok(response) => Ok(decode(response.get_ref()).map_err(network)?),
                Err(status) => Err(Unreachable::new(&status).into()),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY))
    }
}

fn encode<T: Serialize>(message: &T) -> Result<pb::RaftMessage, Status> {
    let payload = postcard::to_stdvec(message)
        .map_err(|error| Status::internal(format!("a raft message cannot be encoded: {error}")))?;
    Ok(pb::RaftMessage {
        payload: payload.into(),
    })
}

fn decode<T: DeserializeOwned>(message: &pb::RaftMessage) -> Result<T, Status> {
    postcard::from_bytes(&message.payload).map_err(|error| {
        Status::invalid_argument(format!("a raft message cannot be decoded: {error}"))
    })
}

/// The service that other replicas call.
#[derive(Clone)]
pub(super) struct RaftService {
    pub(super) raft: Raft,
    /// No other replica gets this one's vote before: what it has confirmed in an earlier life serves
    /// until then, see `MetaNode::confirm_lead`.
    pub(super) votes_from: Instant,
}

impl RaftService {
    /// The generated server around the service.
    pub(super) fn into_server(self) -> pb::raft_server::RaftServer<Self> {
        pb::raft_server::RaftServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl pb::raft_server::Raft for RaftService {
    async fn append_entries(
        &self,
        request: Request<pb::RaftMessage>,
    ) -> Result<Response<pb::RaftMessage>, Status> {
        let request: AppendEntriesRequest<TypeConfig> = decode(request.get_ref())?;
        let response = self.raft.append_entries(request).await.map_err(refused)?;
        Ok(Response::new(encode(&response)?))
    }

    async fn vote(
        &self,
        request: Request<pb::RaftMessage>,
    ) -> Result<Response<pb::RaftMessage>, Status> {
        let request: VoteRequest<u64> = decode(request.get_ref())?;
        tokio::time::sleep_until(self.votes_from).await;
        let response = self.raft.vote(request).await.map_err(refused)?;
        Ok(Response::new(encode(&response)?))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::RaftMessage>>,
    ) -> Result<Response<pb::RaftMessage>, Status> {
        let mut messages = request.into_inner();
        let head = messages
            .next()
            .await
            .ok_or_else(|| Status::invalid_argument("no head"))??;
        let (vote, meta): (Vote, SnapshotMeta) = decode(&head)?;
        let mut state = Vec::new();
        while let Some(piece) = messages.next().await {
            let piece = piece?.payload;
            if state.len() + piece.len() > SNAPSHOT_BYTES {
                return Err(Status::resource_exhausted("the snapshot is too large"));
            }
            state.extend_from_slice(&piece);
        }
        let snapshot = Snapshot {
            meta,
            snapshot: Box::new(Bytes::from(state)),
        };
        let response = self
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(refused)?;
        Ok(Response::new(encode(&response)?))
    }
}

fn refused(error: impl std::error::Error) -> Status {
    let text = AnyError::error(redkite_types::error::chain(&error));
    Status::internal(format!("raft refused the message: {text}"))
}
