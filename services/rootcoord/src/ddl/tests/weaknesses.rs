//! What Milvus 2.3's definition of partitions is known to get wrong, one test each, and its limit.

use redkite_proto::redkite::meta::ObjectState;
use redkite_runtime::testing::PATIENCE;
use tokio::task::JoinSet;

use super::*;

const IN_DOUBT: &str = "the node is gone";

async fn books(deployment: &Deployment) -> Arc<redkite_catalog::CollectionEntry> {
    let view = deployment.context.fresh_view().await.unwrap();
    view.collection(DatabaseId::DEFAULT, "books")
        .unwrap()
        .clone()
}

/// The partitions of a name in any state.
async fn records(
    deployment: &Deployment,
    name: &str,
) -> Vec<redkite_proto::redkite::meta::PartitionInfo> {
    let entry = books(deployment).await;
    let all = entry.partitions.values();
    let of_name = all.filter(|partition| partition.name == name);
    of_name
        .map(|partition| partition.as_ref().clone())
        .collect()
}

fn refusal() -> Error {
    let mut error = Error::internal(IN_DOUBT);
    error.retriable = false;
    error
}

/// A collection that is loaded, so that a partition has to be served before it is there.
async fn loaded() -> Deployment {
    Deployment::with(vec![create_index(), load_books()]).await
}

/// Begins a creation that waits for the query nodes, and ends the process there. The partition's
/// record.
async fn cut_off(
    deployment: &Deployment,
    command: Command,
) -> redkite_proto::redkite::meta::PartitionInfo {
    let tasks = TaskGroup::new("first");
    let gate = Arc::new(deployment.gate_of(1, &tasks).await);
    deployment.others.silent.send_replace(true);
    let asked = deployment.others.asked.lock().len();
    let submitting = gate.clone();
    let mut request = JoinSet::new();
    request.spawn(async move { submit(&submitting, command).await });
    redkite_runtime::testing::eventually("the nodes are asked", PATIENCE, || async {
        (deployment.others.asked.lock().len() > asked).then_some(())
    })
    .await;
    let found = records(deployment, "p").await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].state(), ObjectState::Creating);
    tasks.abort();
    drop(request);
    found.into_iter().next().unwrap()
}

fn away() -> Error {
    let mut away = Error::internal("the proxy is away");
    away.retriable = true;
    away
}

/// 1: the list of steps is lost with the process. 3: recovery takes a new timestamp.
#[tokio::test]
async fn what_a_crash_cuts_off_goes_on_where_it_was_with_its_ids_and_its_time() {
    let deployment = loaded().await;
    let begun = cut_off(&deployment, create_partition("p")).await;
    deployment.others.silent.send_replace(false);
    let gate = deployment.gate_of(2, &deployment.tasks).await;
    gate.executor().idle().await;
    let found = records(&deployment, "p").await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].state(), ObjectState::Created);
    assert_eq!(
        (found[0].id, found[0].created_ts),
        (begun.id, begun.created_ts)
    );
    let loaded = &books(&deployment).await.loaded_partitions;
    assert!(loaded.contains(&PartitionId(begun.id)));
    assert!(gate.executor().list().is_empty());
}

/// 1, the other way: what cannot be finished after the crash is taken back as a whole.
#[tokio::test]
async fn what_a_crash_cuts_off_and_nobody_can_finish_is_taken_back() {
    let deployment = loaded().await;
    let before = observe(deployment.kv.clone()).await;
    cut_off(&deployment, create_partition("p")).await;
    *deployment.others.nodes_refuse.lock() = Some(refusal());
    deployment.others.silent.send_replace(false);
    let gate = deployment.gate_of(2, &deployment.tasks).await;
    gate.executor().idle().await;
    assert!(records(&deployment, "p").await.is_empty());
    let visible = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.ends_with(" keys"));
        lines.map(str::to_owned).collect()
    };
    // The saga's own record says how it ended.
    assert_eq!(
        visible(&observe(deployment.kv.clone()).await),
        visible(&before)
    );
}

/// 2: the step that fails is not taken back itself: the query coordinator was told to serve the
/// partition, and would go on.
#[tokio::test]
async fn the_step_that_fails_is_taken_back_too() {
    let deployment = loaded().await;
    let gate = deployment.gate().await;
    *deployment.others.nodes_refuse.lock() = Some(refusal());
    let error = submit(&gate, create_partition("p")).await.unwrap_err();
    assert!(error.message.contains(IN_DOUBT), "{error}");
    let entry = books(&deployment).await;
    assert!(records(&deployment, "p").await.is_empty());
    assert_eq!(entry.loaded_partitions.len(), entry.partitions.len());
}

/// 3: a step that never succeeds is tried again for ever, and nobody sees it.
#[tokio::test]
async fn a_step_that_never_succeeds_can_be_seen_with_its_reason_and_blocks_nobody_else() {
    let deployment = loaded().await;
    let gate = Arc::new(deployment.gate().await);
    let submitting = gate.clone();
    let mut request = JoinSet::new();
    deployment.others.silent.send_replace(true);
    let asked = deployment.others.asked.lock().len();
    request.spawn(async move { submit(&submitting, create_partition("p")).await });
    redkite_runtime::testing::eventually("it has come to the query nodes", PATIENCE, || async {
        (deployment.others.asked.lock().len() > asked).then_some(())
    })
    .await;
    *deployment.others.proxies_refuse.lock() = Some(away());
    deployment.others.silent.send_replace(false);
    redkite_runtime::testing::eventually("it is tried again", PATIENCE, || async {
        let sagas = gate.executor().list();
        sagas.iter().any(|saga| saga.retries > 0).then_some(())
    })
    .await;
    let saga = gate.executor().list().remove(0);
    assert_eq!(saga.step.as_deref(), Some("publish"));
    let why = saga.last_error.unwrap();
    assert!(why.contains("the proxy is away"), "{why}");
    *deployment.others.proxies_refuse.lock() = None;
    request.join_all().await.remove(0).unwrap();
    gate.executor().idle().await;
    assert!(gate.executor().list().is_empty());
}

/// 3, before anything is written: who does not answer shows, and nothing is to be taken back.
#[tokio::test]
async fn a_proxy_that_does_not_answer_shows_before_anything_is_written() {
    let deployment = loaded().await;
    let before = dump(deployment.kv.as_ref()).await;
    let asked = deployment.others.asked.lock().len();
    let gate = deployment.gate().await;
    *deployment.others.proxies_refuse.lock() = Some(away());
    let error = submit(&gate, create_partition("p")).await.unwrap_err();
    assert!(error.message.contains("the proxy is away"), "{error}");
    assert_eq!(deployment.others.asked.lock().len(), asked);
    assert!(gate.executor().list().is_empty());
    let after = dump(deployment.kv.as_ref()).await;
    // Ids and times come in windows, and taking one is not part of the definition.
    let is_window = |line: &&str| line.contains(keys::TSO_WINDOW) || line.contains(keys::ID_WINDOW);
    let written = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !is_window(line));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(written(&after), written(&before));
    *deployment.others.proxies_refuse.lock() = None;
    submit(&gate, create_partition("p")).await.unwrap();
}

/// 2 and the order of Milvus: the data coordinator is told as well, and what it cannot take is taken back.
#[tokio::test]
async fn what_the_data_coordinator_does_not_hear_of_is_taken_back() {
    let deployment = loaded().await;
    let gate = deployment.gate().await;
    *deployment.others.data_refuses.lock() = Some(refusal());
    let error = submit(&gate, create_partition("p")).await.unwrap_err();
    assert!(error.message.contains(IN_DOUBT), "{error}");
    let entry = books(&deployment).await;
    assert!(records(&deployment, "p").await.is_empty());
    assert_eq!(entry.loaded_partitions.len(), entry.partitions.len());
    *deployment.others.data_refuses.lock() = None;
    submit(&gate, create_partition("p")).await.unwrap();
    assert_eq!(records(&deployment, "p").await.len(), 1);
}

/// 4: a request that comes while an earlier one of the same name is still being taken back makes a
/// second partition. 5: that names are unique is nobody's to see to.
#[tokio::test]
async fn of_many_requests_for_one_name_one_partition_comes() {
    let deployment = loaded().await;
    let gate = Arc::new(deployment.gate().await);
    *deployment.others.nodes_refuse.lock() = Some(refusal());
    submit(&gate, create_partition("p")).await.unwrap_err();
    // At once after the error, and again while the first of them waits for the query nodes.
    *deployment.others.nodes_refuse.lock() = None;
    deployment.others.silent.send_replace(true);
    let asked = deployment.others.asked.lock().len();
    let mut requests = JoinSet::new();
    for _ in 0..8 {
        let gate = gate.clone();
        requests.spawn(async move { submit(&gate, create_partition("p")).await });
    }
    redkite_runtime::testing::eventually("one has begun", PATIENCE, || async {
        (deployment.others.asked.lock().len() > asked).then_some(())
    })
    .await;
    assert_eq!(records(&deployment, "p").await.len(), 1);
    deployment.others.silent.send_replace(false);
    for answer in requests.join_all().await {
        answer.unwrap();
    }
    let found = records(&deployment, "p").await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].state(), ObjectState::Created);
    assert_eq!(
        deployment.others.asked.lock().len(),
        asked + 1,
        "the others found it there"
    );
}

/// 6: the record of what was dropped stays for twenty minutes. 7: copies of records grow without end.
#[tokio::test]
async fn nothing_is_left_of_what_was_dropped() {
    let deployment = Deployment::with(vec![]).await;
    let gate = deployment.gate().await;
    let drop = Command::DropPartition(DropPartitionRequest {
        collection_name: "books".into(),
        partition_name: "p".into(),
        ..DropPartitionRequest::default()
    });
    let keys = async || {
        let all = dump(deployment.kv.as_ref()).await;
        let of_sagas = |line: &&str| line.contains(redkite_saga::RECORD_PREFIX);
        all.lines().filter(|line| !of_sagas(line)).count()
    };
    let (before, mut ids) = (keys().await, Vec::new());
    for _ in 0..20 {
        submit(&gate, create_partition("p")).await.unwrap();
        ids.push(records(&deployment, "p").await[0].id);
        submit(&gate, drop.clone()).await.unwrap();
        assert!(records(&deployment, "p").await.is_empty());
        assert_eq!(keys().await, before);
    }
    ids.dedup();
    assert_eq!(ids.len(), 20, "each is a partition of its own");
}

#[tokio::test]
async fn the_limit_admits_4096_partitions_and_no_more() {
    const LIMIT: usize = 4_096;
    let mut deployment = Deployment::with(vec![]).await;
    let former = &deployment.context;
    let options = RootCoordOptions {
        max_partition_num: LIMIT,
        ..RootCoordOptions::default()
    };
    deployment.context = Arc::new(DdlContext {
        kv: former.kv.clone(),
        catalog: former.catalog.clone(),
        announce: former.announce.clone(),
        ids: former.ids.clone(),
        tso: former.tso.clone(),
        options,
    });
    let id = books(&deployment).await.id();
    let made = (0..LIMIT as i64 - 4).map(|number| {
        let info = redkite_proto::redkite::meta::PartitionInfo {
            id: 1_000_000 + number,
            name: format!("n{number}"),
            collection_id: id.0,
            ..Default::default()
        };
        Op::put(
            keys::partition(id, PartitionId(info.id)),
            info.encode_to_vec(),
        )
    });
    deployment
        .kv
        .txn(made.fold(Txn::new(), Txn::then))
        .await
        .unwrap();
    let gate = deployment.gate().await;
    // With `_default`, 4,093 are there.
    for name in ["a", "b", "c"] {
        submit(&gate, create_partition(name)).await.unwrap();
    }
    assert_eq!(books(&deployment).await.visible_partitions().count(), LIMIT);
    let error = submit(&gate, create_partition("d")).await.unwrap_err();
    assert_eq!(error.code.number(), 1100);
    let text = "partition number (4096) exceeds max configuration (4096), collection: books";
    assert_eq!(error.message, text);
    // One that is there is no error, and one that goes makes room.
    submit(&gate, create_partition("a")).await.unwrap();
    let drop = Command::DropPartition(DropPartitionRequest {
        collection_name: "books".into(),
        partition_name: "a".into(),
        ..DropPartitionRequest::default()
    });
    submit(&gate, drop).await.unwrap();
    submit(&gate, create_partition("d")).await.unwrap();
}
