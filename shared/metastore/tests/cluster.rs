//! Three replicas over loopback.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redkite_metastore::{
    Error, Leadership, MetaClient, MetaClientOptions, MetaKv as _, MetaNode, MetaNodeOptions,
    MetaService, Op, Txn, read_all, testing,
};
use redkite_proto::redkite::metastore::{RaftMessage, raft_client::RaftClient};
use redkite_rpc::{ChannelPool, RpcOptions, ServerBuilder};
use redkite_runtime::{Health, OnFailure, TaskGroup};
use tempfile::TempDir;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(120);
const ELECTION_MIN: Duration = Duration::from_secs(2);

struct Replica {
    node: MetaNode,
    tasks: TaskGroup,
}

struct Cluster {
    dir: TempDir,
    addresses: BTreeMap<u64, String>,
    replicas: BTreeMap<u64, Replica>,
}

impl Cluster {
    async fn of(count: u64) -> Self {
        let mut listeners = BTreeMap::new();
        for id in 1..=count {
            listeners.insert(id, TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses: BTreeMap<_, _> = listeners
            .iter()
            .map(|(id, listener)| (*id, listener.local_addr().unwrap().to_string()))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            dir,
            addresses,
            replicas: BTreeMap::new(),
        };
        let founders = cluster.addresses.clone();
        for (id, listener) in listeners {
            cluster.start(id, listener, founders.clone()).await;
        }
        cluster
    }

    async fn start(&mut self, id: u64, listener: TcpListener, founders: BTreeMap<u64, String>) {
        let dir = self.dir.path().join(id.to_string());
        let mut options = MetaNodeOptions::single(id, dir, &self.addresses[&id]);
        options.founders = founders;
        options.snapshot_every = 50;
        options.keep_entries = 10;
        options.heartbeat = Duration::from_millis(100);
        options.election_min = ELECTION_MIN;
        options.election_max = Duration::from_secs(3);
        options.request_timeout = Duration::from_secs(3);
        let tasks = TaskGroup::new(format!("replica {id}"));
        let pool = ChannelPool::new(RpcOptions::default());
        let node = MetaNode::open(options, pool, &tasks).await.unwrap();
        let server = ServerBuilder::new(RpcOptions::default(), Health::default())
            .add_service(MetaService::server(Arc::new(node.clone())))
            .add_service(node.raft_service());
        tasks.spawn(
            "server",
            OnFailure::Log,
            server.serve(listener, tasks.token()),
        );
        self.replicas.insert(id, Replica { node, tasks });
    }

    async fn restart(&mut self, id: u64) {
        let listener = TcpListener::bind(&self.addresses[&id]).await.unwrap();
        self.start(id, listener, BTreeMap::new()).await;
    }

    async fn stop(&mut self, id: u64) {
        let replica = self.replicas.remove(&id).unwrap();
        replica.tasks.abort();
        replica.node.shutdown().await.unwrap();
    }

    fn client(&self) -> MetaClient {
        let pool = ChannelPool::new(RpcOptions::default());
        let addresses = self.addresses.values().cloned().collect();
        MetaClient::new(pool, addresses, MetaClientOptions::default()).unwrap()
    }

    async fn leader(&self) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (id, replica) in &self.replicas {
                let leadership = replica.node.leadership();
                if matches!(*leadership.borrow(), Leadership::Leader { .. }) {
                    return *id;
                }
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::task::yield_now().await;
        }
    }
}

async fn put(client: &MetaClient, key: &str, value: &str) {
    let deadline = Instant::now() + PATIENCE;
    // A value written twice is no harm here, so an unknown outcome is simply tried again.
    while let Err(error) = client
        .txn(Txn::new().then(Op::put(key, value.to_owned())))
        .await
    {
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        assert!(Instant::now() < deadline, "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_pass_the_conformance_suite() {
    let cluster = Cluster::of(3).await;
    cluster.leader().await;
    testing::run_all(Arc::new(cluster.client())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_when_the_leader_stops_and_it_catches_up_by_snapshot() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.client();
    let mut expected = 0;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        for i in 0..20 {
            put(&client, &format!("k/{expected}"), &i.to_string()).await;
            expected += 1;
        }
        cluster.stop(leader).await;
        // More than the others keep in their logs, so that the one stopped needs a snapshot.
        for i in 0..200 {
            put(&client, &format!("k/{expected}"), &i.to_string()).await;
            expected += 1;
        }
        assert_eq!(read_all(&client, "k/").await.unwrap().0.len(), expected);
        cluster.restart(leader).await;
        let follower = &cluster.replicas[&leader].node;
        let target = cluster.replicas[&cluster.leader().await]
            .node
            .status()
            .unwrap()
            .applied;
        let deadline = Instant::now() + PATIENCE;
        while follower.status().unwrap().applied < target {
            assert!(
                Instant::now() < deadline,
                "{:?}",
                follower.status().unwrap()
            );
            tokio::task::yield_now().await;
        }
        // A follower never answers from its own state, it names the leader.
        let now_leads = cluster.leader().await;
        if now_leads != leader {
            let error = follower.get("k/0").await.unwrap_err();
            let Error::NotLeader { leader: hint } = error else {
                panic!("{error:?}")
            };
            assert_eq!(hint.as_ref(), Some(&cluster.addresses[&now_leads]));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_answers_nothing() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    put(&cluster.client(), "k", "1").await;
    let others: Vec<_> = cluster
        .replicas
        .keys()
        .copied()
        .filter(|id| *id != leader)
        .collect();
    for id in others {
        cluster.stop(id).await;
    }
    let node = &cluster.replicas[&leader].node;
    let error = node.get("k").await.unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. } | Error::NotLeader { .. }),
        "{error:?}"
    );
    let error = node
        .txn(Txn::new().then(Op::put("k", "2")))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. } | Error::NotLeader { .. }),
        "{error:?}"
    );
}

/// It has forgotten that it confirmed a leader, which relies on that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_restarted_gives_no_vote_while_what_it_confirmed_may_serve() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let other = (1..=3).find(|id| *id != leader).unwrap();
    cluster.stop(other).await;
    let restarted = Instant::now();
    cluster.restart(other).await;
    // Of a term that is long over, so that it changes nothing.
    let request = openraft::raft::VoteRequest::new(openraft::Vote::new(0, leader), None);
    let payload = postcard::to_stdvec(&request).unwrap().into();
    let address = format!("http://{}", cluster.addresses[&other]);
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap();
    let mut client = RaftClient::new(channel.connect().await.unwrap());
    client.vote(RaftMessage { payload }).await.unwrap();
    assert!(restarted.elapsed() >= ELECTION_MIN / 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_grows_and_replaces_a_member() {
    let mut cluster = Cluster::of(1).await;
    let client = cluster.client();
    for i in 0..120 {
        put(&client, &format!("k/{i}"), "v").await;
    }
    for id in 2..=4 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        cluster
            .addresses
            .insert(id, listener.local_addr().unwrap().to_string());
        cluster.start(id, listener, BTreeMap::new()).await;
    }
    let node = cluster.replicas[&1].node.clone();
    // At the same time: neither takes back the other.
    let add = async |id: u64| {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = node.add_voter(id, &cluster.addresses[&id]).await {
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
            assert!(Instant::now() < deadline, "{error:?}");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(add(2), add(3));
    assert_eq!(node.status().unwrap().voters, [1, 2, 3]);
    node.add_voter(4, &cluster.addresses[&4]).await.unwrap();
    node.remove_member(3).await.unwrap();
    assert_eq!(node.status().unwrap().voters, [1, 2, 4]);
    let again = node.remove_member(3).await.unwrap_err();
    assert!(matches!(again, Error::Invalid { .. }), "{again:?}");
    let client = cluster.client();
    put(&client, "k/last", "v").await;
    assert_eq!(read_all(&client, "k/").await.unwrap().0.len(), 121);
}
