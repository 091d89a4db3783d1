//! A store behind a network, as its clients see it.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use redkite_metastore::{
    Error, KeyValue, MemKv, MetaClient, MetaClientOptions, MetaKv, MetaService, Op, Page, Result,
    SharedKv, Txn, TxnOutcome, WatchEvent, WatchStream, testing,
};
use redkite_rpc::{ChannelPool, RpcOptions, ServerBuilder};
use redkite_runtime::{Health, OnFailure, TaskGroup};
use redkite_types::{Outcome, Revision};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(60);

/// Serves a store on `address` until the group ends.
async fn serve(kv: SharedKv, address: &str, tasks: &TaskGroup) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = ServerBuilder::new(RpcOptions::default(), Health::default())
        .add_service(MetaService::server(kv));
    tasks.spawn(
        "server",
        OnFailure::Log,
        server.serve(listener, tasks.token()),
    );
    address
}

fn client(addresses: &[SocketAddr]) -> MetaClient {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    let pool = ChannelPool::new(RpcOptions::default());
    MetaClient::new(pool, addresses, MetaClientOptions::default()).unwrap()
}

fn put(key: &str, value: &str) -> Txn {
    Txn::new().then(Op::put(key, value.to_owned()))
}

/// A store that answers every call with an error.
struct Refusing(fn() -> Error);

#[async_trait]
impl MetaKv for Refusing {
    async fn get(&self, _key: &str) -> Result<Option<KeyValue>> {
        Err(self.0())
    }

    async fn range(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Result<Page> {
        Err(self.0())
    }

    async fn txn(&self, _txn: Txn) -> Result<TxnOutcome> {
        Err(self.0())
    }

    async fn watch(&self, _prefix: &str, _after: Revision) -> Result<WatchStream> {
        Err(self.0())
    }

    async fn lease_grant(&self, _ttl: Duration) -> Result<u64> {
        Err(self.0())
    }

    async fn lease_keep_alive(&self, _lease: u64) -> Result<()> {
        Err(self.0())
    }

    async fn lease_revoke(&self, _lease: u64) -> Result<()> {
        Err(self.0())
    }
}

/// A store that names a leader elsewhere.
struct Follower(Option<String>);

#[async_trait]
impl MetaKv for Follower {
    async fn get(&self, _key: &str) -> Result<Option<KeyValue>> {
        Err(self.error())
    }

    async fn range(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Result<Page> {
        Err(self.error())
    }

    async fn txn(&self, _txn: Txn) -> Result<TxnOutcome> {
        Err(self.error())
    }

    async fn watch(&self, _prefix: &str, _after: Revision) -> Result<WatchStream> {
        Err(self.error())
    }

    async fn lease_grant(&self, _ttl: Duration) -> Result<u64> {
        Err(self.error())
    }

    async fn lease_keep_alive(&self, _lease: u64) -> Result<()> {
        Err(self.error())
    }

    async fn lease_revoke(&self, _lease: u64) -> Result<()> {
        Err(self.error())
    }
}

impl Follower {
    fn error(&self) -> Error {
        Error::NotLeader {
            leader: self.0.clone(),
        }
    }
}

#[tokio::test]
async fn passes_the_conformance_suite() {
    let tasks = TaskGroup::new("test");
    let address = serve(Arc::new(MemKv::new()), "127.0.0.1:0", &tasks).await;
    testing::run_all(Arc::new(client(&[address]))).await;
}

#[tokio::test]
async fn history_that_is_gone_is_named() {
    let tasks = TaskGroup::new("test");
    let address = serve(Arc::new(MemKv::with_history(20)), "127.0.0.1:0", &tasks).await;
    testing::compacted_history_is_named(&client(&[address]), 20).await;
}

#[tokio::test]
async fn followers_are_left_for_the_leader_that_they_name() {
    let tasks = TaskGroup::new("test");
    let leader = serve(Arc::new(MemKv::new()), "127.0.0.1:0", &tasks).await;
    let named = serve(
        Arc::new(Follower(Some(leader.to_string()))),
        "127.0.0.1:0",
        &tasks,
    )
    .await;
    let unsure = serve(Arc::new(Follower(None)), "127.0.0.1:0", &tasks).await;
    // The leader is not even among the addresses that the client was given.
    for addresses in [vec![named], vec![unsure, named]] {
        let client = client(&addresses);
        client.txn(put("a", "1")).await.unwrap();
        assert!(client.get("a").await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_write_is_repeated_only_if_it_certainly_had_no_effect() {
    let tasks = TaskGroup::new("test");
    let good = Arc::new(MemKv::new());
    let good_address = serve(good, "127.0.0.1:0", &tasks).await;
    let unknown = || Error::Unavailable {
        what: "lost".into(),
        outcome: Outcome::Unknown,
    };
    let not_applied = || Error::Unavailable {
        what: "full".into(),
        outcome: Outcome::NotApplied,
    };

    let address = serve(Arc::new(Refusing(not_applied)), "127.0.0.1:0", &tasks).await;
    client(&[address, good_address])
        .txn(put("a", "1"))
        .await
        .unwrap();
    // Nobody listens there: nothing was sent.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    client(&[nobody, good_address])
        .txn(put("a", "2"))
        .await
        .unwrap();

    let address = serve(Arc::new(Refusing(unknown)), "127.0.0.1:0", &tasks).await;
    let client = client(&[address, good_address]);
    let error = client.txn(put("a", "3")).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    // The next call goes elsewhere, and a read may try as often as it likes.
    assert_eq!(&client.get("a").await.unwrap().unwrap().value[..], b"2");
}

#[tokio::test]
async fn errors_keep_their_meaning_over_the_network() {
    let errors: [fn() -> Error; 3] = [
        || Error::Compacted { oldest: 42 },
        || Error::LeaseNotFound { lease: 7 },
        || Error::Invalid {
            what: "nonsense".into(),
        },
    ];
    for error in errors {
        let tasks = TaskGroup::new("test");
        let address = serve(Arc::new(Refusing(error)), "127.0.0.1:0", &tasks).await;
        let answer = client(&[address]).get("a").await.unwrap_err();
        assert_eq!(format!("{answer:?}"), format!("{:?}", error()));
    }
    // Another replica's broken disk is no reason to stop this process.
    let tasks = TaskGroup::new("test");
    let broken: fn() -> Error = || Error::Corrupt {
        what: "torn".into(),
    };
    let address = serve(Arc::new(Refusing(broken)), "127.0.0.1:0", &tasks).await;
    let answer = client(&[address]).txn(put("a", "1")).await.unwrap_err();
    assert!(
        matches!(
            answer,
            Error::Unavailable {
                outcome: Outcome::Unknown,
                ..
            }
        ),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_without_a_gap_when_its_server_comes_back() {
    let kv = MemKv::new();
    let first = TaskGroup::new("first");
    let address = serve(Arc::new(kv.clone()), "127.0.0.1:0", &first).await;
    let client = client(&[address]);
    let mut watch = client.watch("k/", Revision(0)).await.unwrap();

    let mut expected = Vec::new();
    let mut seen = Vec::new();
    let mut tasks = first;
    for round in 0..4 {
        for i in 0..25 {
            let key = format!("k/{round}/{i}");
            kv.txn(put(&key, "v")).await.unwrap();
            expected.push(key);
            // Some are written while nobody serves.
            if i == 10 {
                tasks.abort();
                let _ = tasks.shutdown(PATIENCE).await;
            }
        }
        tasks = TaskGroup::new("next");
        serve(Arc::new(kv.clone()), &address.to_string(), &tasks).await;
        let reading = async {
            while seen.len() < expected.len() {
                for event in watch.next().await.unwrap().unwrap().events {
                    match event {
                        WatchEvent::Put(pair) => seen.push(pair.key),
                        WatchEvent::Delete { key } => panic!("{key} was never deleted"),
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("the watch goes on");
        assert_eq!(seen, expected);
    }
}
