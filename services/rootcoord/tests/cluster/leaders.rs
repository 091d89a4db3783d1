//! The leader dies after each write of a record, and between each effect and its record. The next one
//! finishes or takes back; who asked, asks again under the same id, and gets one effect and one answer.

use prost::Message as _;
use redkite_proto::{
    convert::schema as convert,
    milvus::milvus::*,
    redkite::{meta::ObjectState, rootcoord::ddl_request::Command},
};
use redkite_types::{CollectionSchema, DataType, DatabaseId, FieldSchema, Result, Revision};

use crate::{
    harness::{Cluster, request},
    script::{WHY, matters},
};

const SYNC_QUERYCOORD: &str = "sync_querycoord";
const ANNOUNCE: &str = "announce";

fn create(name: &str) -> Command {
    let id = FieldSchema {
        is_primary_key: true,
        ..FieldSchema::new("id", DataType::Int64)
    };
    let vector = FieldSchema {
        dim: 4,
        ..FieldSchema::new("vector", DataType::FloatVector)
    };
    let schema = CollectionSchema {
        fields: vec![id, vector],
        ..CollectionSchema::default()
    };
    Command::CreateCollection(CreateCollectionRequest {
        collection_name: name.to_owned(),
        schema: convert::to_client(name, &schema).encode_to_vec().into(),
        ..CreateCollectionRequest::default()
    })
}

fn drop_collection(name: &str) -> Command {
    Command::DropCollection(DropCollectionRequest {
        collection_name: name.to_owned(),
        ..DropCollectionRequest::default()
    })
}

fn create_partition(name: &str) -> Command {
    Command::CreatePartition(CreatePartitionRequest {
        collection_name: name.to_owned(),
        partition_name: "p".to_owned(),
        ..CreatePartitionRequest::default()
    })
}

fn drop_partition(name: &str) -> Command {
    Command::DropPartition(DropPartitionRequest {
        collection_name: name.to_owned(),
        partition_name: "p".to_owned(),
        ..DropPartitionRequest::default()
    })
}

/// A definition under test, always about the collection `c`.
struct Case {
    before: fn(&str) -> Vec<Command>,
    command: fn(&str) -> Command,
    /// The step that is refused, so that the saga is taken back.
    rejected: Option<&'static str>,
}

impl Case {
    /// Runs it in a collection of its own and returns the answer and what is there then, in which the
    /// collection is called `c`.
    async fn run(
        &self,
        cluster: &Cluster,
        round: &str,
        dies_at: Option<usize>,
    ) -> (String, String) {
        let name = format!("c{round}");
        for (number, command) in (self.before)(&name).into_iter().enumerate() {
            let id = format!("before-{round}-{number}");
            cluster.prepare(&id, command).await;
        }
        if !(self.before)(&name).is_empty() {
            cluster.fill(&name).await;
        }
        let asked = request(&format!("request-{round}"), (self.command)(&name));
        cluster.script.arm(dies_at, self.rejected);
        let answer = cluster.submit(&asked).await;
        cluster.script.ended().await;
        let again = cluster.submit(&asked).await;
        assert_eq!(
            again, answer,
            "one request has one answer, in round {round}"
        );
        assert!(cluster.script.has_struck(), "nobody died in round {round}");
        let seen = cluster.observe().await.replace(&name, "c");
        cluster.script.arm(None, None);
        cluster
            .prepare(&format!("after-{round}"), drop_collection(&name))
            .await;
        (shown(&answer), seen)
    }

    /// The leader dies at each point in turn.
    async fn at_every_point(&self) {
        let cluster = Cluster::new().await;
        let (answer, seen) = self.run(&cluster, "whole", None).await;
        assert_eq!(answer.contains(WHY), self.rejected.is_some(), "{answer}");
        let (_, points) = self.points(&cluster).await;
        let points: Vec<usize> = points;
        assert!(points.len() > 4, "{points:?}");
        for point in points {
            let round = point.to_string();
            let (found, left) = self.run(&cluster, &round, Some(point)).await;
            assert_eq!(found, answer, "with a death at point {point}");
            assert_eq!(left, seen, "with a death at point {point}");
        }
    }

    /// The numbers of the points at which a death matters, in a run without one.
    async fn points(&self, cluster: &Cluster) -> (String, Vec<usize>) {
        let name = "counted";
        for (number, command) in (self.before)(name).into_iter().enumerate() {
            cluster.prepare(&format!("counted-{number}"), command).await;
        }
        cluster.script.arm(None, self.rejected);
        let asked = request("counted", (self.command)(name));
        let answer = cluster.submit(&asked).await;
        cluster.script.ended().await;
        let passed = cluster.script.passed();
        cluster
            .prepare("counted-after", drop_collection(name))
            .await;
        let numbered = passed.iter().enumerate();
        let points = numbered.filter(|(_, point)| matters(point));
        (shown(&answer), points.map(|(number, _)| number).collect())
    }
}

/// An answer without its revision, which no two runs share.
fn shown(answer: &Result<Revision>) -> String {
    match answer {
        Ok(revision) => format!("done, with an effect: {}", revision.0 > 0),
        Err(error) => format!("{} {}", error.code.number(), error.message),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_is_created_whoever_leads() {
    let case = Case {
        before: |_| Vec::new(),
        command: create,
        rejected: None,
    };
    case.at_every_point().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_that_cannot_be_created_leaves_nothing_whoever_leads() {
    let case = Case {
        before: |_| Vec::new(),
        command: create,
        rejected: Some(SYNC_QUERYCOORD),
    };
    case.at_every_point().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_is_dropped_whoever_leads() {
    let case = Case {
        before: |name| vec![create(name), create_partition(name)],
        command: drop_collection,
        rejected: None,
    };
    case.at_every_point().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_created_whoever_leads() {
    let case = Case {
        before: |name| vec![create(name)],
        command: create_partition,
        rejected: None,
    };
    case.at_every_point().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_cannot_be_created_leaves_nothing_whoever_leads() {
    let case = Case {
        before: |name| vec![create(name)],
        command: create_partition,
        rejected: Some(ANNOUNCE),
    };
    case.at_every_point().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_dropped_whoever_leads() {
    let case = Case {
        before: |name| vec![create(name), create_partition(name)],
        command: drop_partition,
        rejected: None,
    };
    case.at_every_point().await;
}

/// Two clients want one name at the same time, and the leader dies while they wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_that_create_one_name_make_one_collection() {
    let cluster = Cluster::new().await;
    for (round, dies_at) in [None, Some(3), Some(6), Some(9)].into_iter().enumerate() {
        let name = format!("c{round}");
        cluster
            .prepare(&format!("warm-{round}"), create("warm"))
            .await;
        cluster.script.arm(dies_at, None);
        let one = request(&format!("one-{round}"), create(&name));
        let two = request(&format!("two-{round}"), create(&name));
        let (one, two) = tokio::join!(cluster.submit(&one), cluster.submit(&two));
        one.unwrap();
        two.unwrap();
        assert!(cluster.script.has_struck(), "nobody died in round {round}");
        let view = cluster.view().await;
        let all = view.all_collections().filter(|entry| entry.name() == name);
        let all: Vec<_> = all.collect();
        assert_eq!(all.len(), 1, "round {round}");
        assert_eq!(all[0].state(), ObjectState::Created);
        let found = view.collection(DatabaseId::DEFAULT, &name).unwrap();
        assert_eq!(found.id(), all[0].id());
        assert_eq!(found.partitions.len(), 1);
    }
}
