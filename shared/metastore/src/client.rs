//! The metastore of another process, found by following its leader.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use redkite_proto::redkite::metastore as pb;
use redkite_rpc::ChannelPool;
use redkite_runtime::{Backoff, Deadline};
use redkite_types::{Outcome, Revision, Timestamp};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::command::{MetaCommand, invalid};
use crate::error::{Error, Result};
use crate::kv::{KeyValue, MetaKv, Page, Txn, TxnOutcome, WatchBatch, WatchStream};
use crate::wire::{MESSAGE_BYTES, error_from_status, millis};

type Client = pb::meta_store_client::MetaStoreClient<Channel>;

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct MetaClientOptions {
    /// How long a call goes on trying, all attempts together.
    pub timeout: Duration,
    /// How long one attempt may take before another replica is asked.
    pub attempt_timeout: Duration,
    /// The first pause between attempts, and the longest.
    pub backoff: (Duration, Duration),
}

impl Default for MetaClientOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            attempt_timeout: Duration::from_secs(5),
            backoff: (Duration::from_millis(10), Duration::from_millis(500)),
        }
    }
}

/// A [`MetaKv`] of another process; clones share what they know of the leader.
///
/// Reads are repeated until the time is over. Writes are repeated only while each attempt
/// certainly had no effect; after one whose outcome is unknown that is what the caller is told. A
/// watch goes on over lost connections and changes of the leader without a gap, until the history
/// that it needs is gone.
#[derive(Clone, Debug)]
pub struct MetaClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: ChannelPool,
    addresses: Vec<String>,
    options: MetaClientOptions,
    /// Whom to ask: the leader, as far as this client knows.
    target: Mutex<String>,
}

/// Whether an attempt may be followed by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// Running twice is as good as once.
    Always,
    /// Only after an attempt that certainly had no effect.
    IfNotApplied,
}

impl MetaClient {
    /// A client of the replicas at these addresses (`host:port`); it connects with its first call.
    ///
    /// # Errors
    /// [`Error::Invalid`] without an address.
    pub fn new(
        pool: ChannelPool,
        addresses: Vec<String>,
        options: MetaClientOptions,
    ) -> Result<Self> {
        let first = addresses
            .first()
            .ok_or_else(|| invalid("no address of a metastore"))?;
        let target = Mutex::new(first.clone());
        Ok(Self {
            inner: Arc::new(Inner {
                pool,
                addresses,
                options,
                target,
            }),
        })
    }

    /// Calls until it succeeds, or the error is final, or the time is over.
    async fn call<A, S>(&self, repeat: Repeat, send: impl Fn(Client) -> S) -> Result<A>
    where
        S: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Deadline::after(self.inner.options.timeout);
        let mut backoff = self.backoff();
        loop {
            let target = self.inner.target.lock().clone();
            let error = match self.attempt(&target, deadline, &send).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = match (&error, error.outcome()) {
                (Error::NotLeader { .. }, _) => true,
                (Error::Unavailable { .. }, outcome) => {
                    repeat == Repeat::Always || outcome == Outcome::NotApplied
                }
                _ => false,
            };
            // Whoever answered so is not the one to ask next, whether by us or by the caller.
            let hinted = self.turn_from(&target, &error);
            if !again {
                return Err(error);
            }
            debug!(%target, error = %error, "metastore call is repeated");
            let pause = if hinted {
                Duration::ZERO
            } else {
                backoff.next_delay()
            };
            if pause >= deadline.left() {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt<A, S>(
        &self,
        target: &str,
        deadline: Deadline,
        send: impl Fn(Client) -> S,
    ) -> Result<A>
    where
        S: Future<Output = Result<Response<A>, Status>>,
    {
        let client = self.client(target)?;
        let deadline = deadline.at_most(self.inner.options.attempt_timeout);
        match tokio::time::timeout_at(deadline.instant(), send(client)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(error_from_status(&status)),
            Err(_) => Err(Error::Unavailable {
                what: format!("no answer from {target}"),
                outcome: Outcome::Unknown,
            }),
        }
    }

    fn client(&self, target: &str) -> Result<Client> {
        let channel = self
            .inner
            .pool
            .get(target)
            .map_err(|error| Error::Unavailable {
                what: error.to_string(),
                outcome: Outcome::NotApplied,
            })?;
        Ok(Client::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES))
    }

    /// Chooses whom to ask after `target` failed; true where the error itself named the leader.
    fn turn_from(&self, target: &str, error: &Error) -> bool {
        let (next, hinted) = match error {
            Error::NotLeader {
                leader: Some(leader),
            } if leader != target => (leader.clone(), true),
            Error::NotLeader { .. } | Error::Unavailable { .. } => {
                let addresses = &self.inner.addresses;
                let at = addresses.iter().position(|address| address == target);
                (
                    addresses[at.map_or(0, |at| (at + 1) % addresses.len())].clone(),
                    false,
                )
            }
            Error::Compacted { .. }
            | Error::HistoryPruned { .. }
            | Error::Deposed { .. }
            | Error::LeaseNotFound { .. }
            | Error::Invalid { .. }
            | Error::Storage { .. }
            | Error::Corrupt { .. } => return false,
        };
        let mut current = self.inner.target.lock();
        // Another call may have found the leader meanwhile.
        if *current == target {
            *current = next;
        }
        hinted
    }

    fn backoff(&self) -> Backoff {
        let (initial, max) = self.inner.options.backoff;
        Backoff::new(initial, max)
    }
}

fn request<T>(message: &T) -> Request<T>
where
    T: Clone,
{
    Request::new(message.clone())
}

#[async_trait]
impl MetaKv for MetaClient {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        let message = pb::GetRequest {
            key: key.to_owned(),
        };
        let send = |mut client: Client| {
            let request = request(&message);
            async move { client.get(request).await }
        };
        Ok(self.call(Repeat::Always, send).await?.pair.map(Into::into))
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        let message = pb::RangeRequest {
            prefix: prefix.to_owned(),
            after: after.unwrap_or_default().to_owned(),
            limit: limit as u64,
        };
        let send = |mut client: Client| {
            let request = request(&message);
            async move { client.range(request).await }
        };
        Ok(self.call(Repeat::Always, send).await?.into())
    }

    async fn get_as_of(&self, key: &str, ts: Timestamp) -> Result<Option<KeyValue>> {
        let message = pb::GetAsOfRequest {
            key: key.to_owned(),
            ts: ts.0,
        };
        let send = |mut client: Client| {
            let request = request(&message);
            async move { client.get_as_of(request).await }
        };
        Ok(self.call(Repeat::Always, send).await?.pair.map(Into::into))
    }

    async fn range_as_of(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        ts: Timestamp,
    ) -> Result<Page> {
        let range = pb::RangeRequest {
            prefix: prefix.to_owned(),
            after: after.unwrap_or_default().to_owned(),
            limit: limit as u64,
        };
        let message = pb::RangeAsOfRequest {
            range: Some(range),
            ts: ts.0,
        };
        let send = |mut client: Client| {
            let request = request(&message);
            async move { client.range_as_of(request).await }
        };
        Ok(self.call(Repeat::Always, send).await?.into())
    }

    async fn prune_history(&self, before: Timestamp) -> Result<u64> {
        let message = pb::PruneHistoryRequest { before: before.0 };
        let send = |mut client: Client| {
            let request = request(&message);
            async move { client.prune_history(request).await }
        };
        Ok(self.call(Repeat::Always, send).await?.versions)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        // Here already: a message that is too large would fail without saying why.
        let command = MetaCommand::Txn(txn);
        command.validate()?;
        let MetaCommand::Txn(txn) = &command else {
            return Err(invalid("not a transaction"));
        };
        let message = pb::TxnRequest::from(txn);
        let send = |mut client: Client| {
            let request = request(&message);
            async move { client.txn(request).await }
        };
        Ok(self.call(Repeat::IfNotApplied, send).await?.into())
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        let mut watching = Watching {
            client: self.clone(),
            prefix: prefix.to_owned(),
            after,
            stream: None,
        };
        watching.connect().await?;
        let batches = stream::unfold(Some(watching), |watching| async {
            let mut watching = watching?;
            match watching.next().await {
                Ok(batch) => Some((Ok(batch), Some(watching))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(batches.boxed())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<u64> {
        let message = pb::LeaseGrantRequest {
            ttl_ms: millis(ttl),
        };
        let send = |mut client: Client| {
            let request = request(&message);
            async move { client.lease_grant(request).await }
        };
        // A lease granted twice ends by itself.
        Ok(self.call(Repeat::Always, send).await?.lease)
    }

    async fn lease_keep_alive(&self, lease: u64) -> Result<()> {
        let message = pb::LeaseKeepAliveRequest { lease };
        let send = |mut client: Client| {
            let request = request(&message);
            async move { client.lease_keep_alive(request).await }
        };
        self.call(Repeat::Always, send).await.map(drop)
    }

    async fn lease_revoke(&self, lease: u64) -> Result<()> {
        let message = pb::LeaseRevokeRequest { lease };
        let send = |mut client: Client| {
            let request = request(&message);
            async move { client.lease_revoke(request).await }
        };
        self.call(Repeat::Always, send).await.map(drop)
    }
}

/// A watch and where it stands.
struct Watching {
    client: MetaClient,
    prefix: String,
    after: Revision,
    stream: Option<Streaming<pb::WatchBatch>>,
}

impl Watching {
    async fn connect(&mut self) -> Result<&mut Streaming<pb::WatchBatch>> {
        let message = pb::WatchRequest {
            prefix: self.prefix.clone(),
            after: self.after.0,
        };
        let send = |mut client: Client| {
            let request = request(&message);
            async move { client.watch(request).await }
        };
        let stream = self.client.call(Repeat::Always, send).await?;
        Ok(self.stream.insert(stream))
    }

    /// The next batch, over as many connections as it takes.
    async fn next(&mut self) -> Result<WatchBatch> {
        let mut backoff = self.client.backoff();
        loop {
            let item = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match self.connect().await {
                    Ok(stream) => stream.message().await,
                    // Nobody is there, for as long as a call waits: a watch waits for longer.
                    Err(error @ (Error::NotLeader { .. } | Error::Unavailable { .. })) => {
                        debug!(error = %error, prefix = self.prefix, "metastore watch waits");
                        tokio::time::sleep(backoff.next_delay()).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            let error = match item {
                Ok(Some(batch)) => {
                    let batch = WatchBatch::try_from(batch)?;
                    self.after = batch.revision;
                    return Ok(batch);
                }
                Ok(None) => None,
                Err(status) => Some(error_from_status(&status)),
            };
            self.stream = None;
            match error {
                Some(error @ (Error::NotLeader { .. } | Error::Unavailable { .. })) => {
                    let target = self.client.inner.target.lock().clone();
                    self.client.turn_from(&target, &error);
                }
                Some(error) => return Err(error),
                None => {}
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}
