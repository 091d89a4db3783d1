//! Compactions: started by hand, and how far they are.

use std::{sync::Arc, time::Duration};

use redkite_proto::{
    milvus::{
        common::{CompactionState, CompactionTaskState, CompactionType},
        milvus::{
            CompactionMergeInfo, GetCompactionPlansRequest, GetCompactionPlansResponse,
            GetCompactionStateRequest, GetCompactionStateResponse, ManualCompactionRequest,
            ManualCompactionResponse,
        },
    },
    redkite::{
        datacoord::{CompactRequest, ListCompactionsRequest},
        meta::{CompactionInfo, compaction_info::State},
    },
    status,
};
use redkite_types::{Error, ErrorCode, Result, Revision};
use tracing::debug;

use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
};

/// The id of a compaction that had nothing to do, as Milvus answers it.
const NOTHING_TO_DO: i64 = -1;
/// The size by which clients say "as large as the server likes", in MiB.
const SERVERS_CHOICE: i64 = i64::MAX;
/// How long an answer waits for this proxy's view to show what it tells.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn manual_compaction(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: ManualCompactionRequest,
) -> Result<ManualCompactionResponse> {
    let (name, id) = (&message.collection_name, message.collection_id);
    let entry = lookup::collection_or_id(&context.view(), &meta.database, name, id)?;
    check(&message)?;
    if message.major_compaction {
        if entry
            .schema()
            .fields
            .iter()
            .any(|field| field.is_clustering_key)
        {
            return Err(unsupported("clustering compaction is not served"));
        }
        // Without a key to cluster by there is nothing to do.
        return Ok(answer(NOTHING_TO_DO, 0));
    }
    let request = CompactRequest {
        collection_id: entry.id().0,
        partition_id: message.partition_id,
        channel: message.channel,
        segment_ids: message.segment_ids,
        only_deletes: message.l0_compaction,
        target_size: match message.target_size {
            SERVERS_CHOICE => 0,
            mib => u64::try_from(mib).unwrap_or(0).saturating_mul(1 << 20),
        },
    };
    let coord = context.peers.data_coord()?;
    let planned =
        redkite_rpc::call(meta.deadline, request, |request| coord.compact(request)).await?;
    let id = match planned.compaction_id {
        0 => NOTHING_TO_DO,
        id => id,
    };
    Ok(answer(id, planned.plans))
}

fn check(message: &ManualCompactionRequest) -> Result<()> {
    if message.timetravel != 0 {
        return Err(unsupported(
            "compaction up to a time of the past is not served",
        ));
    }
    if message.target_size < 0 {
        return Err(Error::invalid_parameter(format!(
            "target size {} is negative",
            message.target_size
        )));
    }
    if message.major_compaction && message.l0_compaction {
        return Err(Error::invalid_parameter(
            "a compaction cannot be both a clustering and an L0 compaction",
        ));
    }
    if message.l0_compaction && message.target_size > 0 {
        return Err(Error::invalid_parameter(
            "an L0 compaction merges nothing and takes no target size",
        ));
    }
    let scoped =
        message.partition_id != 0 || !message.channel.is_empty() || !message.segment_ids.is_empty();
    if message.major_compaction && scoped {
        return Err(unsupported(
            "clustering compaction of a part of a collection",
        ));
    }
    Ok(())
}

fn answer(id: i64, plans: i32) -> ManualCompactionResponse {
    ManualCompactionResponse {
        status: Some(status::success()),
        compaction_id: id,
        compaction_plan_count: plans,
    }
}

fn unsupported(what: &str) -> Error {
    Error::input(
        ErrorCode::UnsupportedOperation,
        format!("unsupported operation: {what}"),
    )
}

/// An id that nobody knows, or that is forgotten, is a compaction without plans, and so a completed
/// one: as in Milvus.
pub(crate) async fn get_compaction_state(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetCompactionStateRequest,
) -> Result<GetCompactionStateResponse> {
    let plans = list(context, &meta, message.compaction_id, 0).await?;
    let count = |state: State| {
        let same = plans.iter().filter(|plan| plan.state() == state);
        same.count() as i64
    };
    Ok(GetCompactionStateResponse {
        status: Some(status::success()),
        state: overall(&plans).into(),
        executing_plan_no: count(State::Executing),
        timeout_plan_no: 0,
        completed_plan_no: count(State::Completed),
        failed_plan_no: count(State::Failed),
    })
}

/// The plans of one compaction, or all that are remembered of a collection.
pub(crate) async fn get_compaction_state_with_plans(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: GetCompactionPlansRequest,
) -> Result<GetCompactionPlansResponse> {
    let (name, id) = (&message.collection_name, message.collection_id);
    let collection = if name.is_empty() && id == 0 {
        0
    } else {
        let view = context.view();
        let entry = lookup::collection_or_id(&view, &meta.database, name, id)?;
        entry.id().0
    };
    let plans = list(context, &meta, message.compaction_id, collection).await?;
    Ok(GetCompactionPlansResponse {
        status: Some(status::success()),
        state: overall(&plans).into(),
        merge_infos: plans.into_iter().map(merge_info).collect(),
    })
}

/// Plans by compaction, by collection, or by both.
async fn list(
    context: &ProxyContext,
    meta: &RequestContext,
    compaction: i64,
    collection: i64,
) -> Result<Vec<CompactionInfo>> {
    let coord = context.peers.data_coord()?;
    let request = ListCompactionsRequest {
        compaction_id: compaction,
        collection_id: collection,
    };
    let answer = redkite_rpc::call(meta.deadline, request, |request| {
        coord.list_compactions(request)
    })
    .await?;
    // Who hears that it is completed expects to find the new segments.
    let revision = Revision(answer.revision);
    if let Err(error) = context.catalog.at_least(revision, SEEN_WITHIN).await {
        debug!(%error, "compacted segments are not seen yet");
    }
    let mut plans = answer.plans;
    plans.retain(|plan| collection == 0 || plan.collection_id == collection);
    Ok(plans)
}

fn overall(plans: &[CompactionInfo]) -> CompactionState {
    let executing = plans.iter().any(|plan| plan.state() == State::Executing);
    if executing {
        CompactionState::Executing
    } else {
        CompactionState::Completed
    }
}

fn merge_info(plan: CompactionInfo) -> CompactionMergeInfo {
    let state = match plan.state() {
        State::Executing => CompactionTaskState::Executing,
        State::Completed => CompactionTaskState::Completed,
        State::Failed => CompactionTaskState::Failed,
    };
    CompactionMergeInfo {
        target: plan.targets.first().copied().unwrap_or(NOTHING_TO_DO),
        plan_id: plan.plan_id,
        trigger_id: plan.trigger_id,
        collection_id: plan.collection_id,
        partition_id: plan.partition_id,
        channel: plan.channel,
        r#type: CompactionType::Mix.into(),
        state: state.into(),
        failure_reason: plan.fail_reason,
        sources: plan.sources,
        targets: plan.targets,
    }
}

#[cfg(test)]
mod tests {
    use redkite_proto::milvus::milvus::milvus_service_server::MilvusService;
    use tonic::Request;

    use super::*;
    use crate::testing::{COLLECTION, COLLECTION_ID, Fixture};

    async fn compact(
        fixture: &Fixture,
        message: ManualCompactionRequest,
    ) -> ManualCompactionResponse {
        let message = ManualCompactionRequest {
            collection_name: COLLECTION.to_owned(),
            ..message
        };
        let answer = fixture.front.manual_compaction(Request::new(message)).await;
        answer.unwrap().into_inner()
    }

    fn code(answer: &ManualCompactionResponse) -> i32 {
        answer.status.as_ref().unwrap().code
    }

    #[tokio::test]
    async fn every_part_of_a_request_is_passed_on() {
        let fixture = Fixture::with_collection().await;
        fixture
            .fake
            .compaction_id
            .store(77, std::sync::atomic::Ordering::Relaxed);
        let answer = compact(
            &fixture,
            ManualCompactionRequest {
                partition_id: 11,
                channel: "10v0".to_owned(),
                segment_ids: vec![20],
                target_size: 3,
                ..ManualCompactionRequest::default()
            },
        )
        .await;
        assert_eq!((code(&answer), answer.compaction_id), (0, 77));
        let asked = CompactRequest {
            collection_id: COLLECTION_ID.0,
            partition_id: 11,
            channel: "10v0".to_owned(),
            segment_ids: vec![20],
            only_deletes: false,
            target_size: 3 << 20,
        };
        let chosen = ManualCompactionRequest {
            l0_compaction: true,
            ..ManualCompactionRequest::default()
        };
        compact(&fixture, chosen).await;
        let by_default = ManualCompactionRequest {
            target_size: i64::MAX,
            ..ManualCompactionRequest::default()
        };
        compact(&fixture, by_default).await;
        let whole = CompactRequest {
            collection_id: COLLECTION_ID.0,
            ..CompactRequest::default()
        };
        let deletes = CompactRequest {
            only_deletes: true,
            ..whole.clone()
        };
        assert_eq!(*fixture.fake.compactions.lock(), [asked, deletes, whole]);
    }

    #[tokio::test]
    async fn nothing_to_do_is_an_id_of_its_own_and_always_completed() {
        let fixture = Fixture::with_collection().await;
        let answer = compact(&fixture, ManualCompactionRequest::default()).await;
        assert_eq!(
            (answer.compaction_id, answer.compaction_plan_count),
            (-1, 0)
        );
        let clustering = ManualCompactionRequest {
            major_compaction: true,
            ..ManualCompactionRequest::default()
        };
        assert_eq!(compact(&fixture, clustering).await.compaction_id, -1);
        let request = GetCompactionStateRequest { compaction_id: -1 };
        let answer = fixture
            .front
            .get_compaction_state(Request::new(request))
            .await;
        assert_eq!(
            answer.unwrap().into_inner().state(),
            CompactionState::Completed
        );
    }

    #[tokio::test]
    async fn what_cannot_be_honoured_is_refused() {
        let fixture = Fixture::with_collection().await;
        let message = ManualCompactionRequest::default;
        let cases = [
            (
                ManualCompactionRequest {
                    timetravel: 5,
                    ..message()
                },
                3000,
            ),
            (
                ManualCompactionRequest {
                    target_size: -1,
                    ..message()
                },
                1100,
            ),
            (
                ManualCompactionRequest {
                    major_compaction: true,
                    l0_compaction: true,
                    ..message()
                },
                1100,
            ),
            (
                ManualCompactionRequest {
                    l0_compaction: true,
                    target_size: 7,
                    ..message()
                },
                1100,
            ),
        ];
        for (message, want) in cases {
            assert_eq!(
                code(&compact(&fixture, message.clone()).await),
                want,
                "{message:?}"
            );
        }
        let absent = ManualCompactionRequest {
            collection_name: "absent".to_owned(),
            ..message()
        };
        let answer = fixture.front.manual_compaction(Request::new(absent)).await;
        assert_eq!(code(&answer.unwrap().into_inner()), 100);
        assert!(fixture.fake.compactions.lock().is_empty());
    }

    #[tokio::test]
    async fn plans_are_counted_and_shown() {
        let fixture = Fixture::with_collection().await;
        let plan = |plan_id, state: State, targets: &[i64]| CompactionInfo {
            plan_id,
            trigger_id: 5,
            collection_id: COLLECTION_ID.0,
            state: state.into(),
            sources: vec![plan_id * 10],
            targets: targets.to_vec(),
            ..CompactionInfo::default()
        };
        *fixture.fake.plans.lock() = vec![
            plan(1, State::Completed, &[90, 91]),
            plan(2, State::Failed, &[]),
        ];
        let request = GetCompactionStateRequest { compaction_id: 5 };
        let answer = fixture
            .front
            .get_compaction_state(Request::new(request))
            .await;
        let answer = answer.unwrap().into_inner();
        let counts = [
            answer.executing_plan_no,
            answer.completed_plan_no,
            answer.failed_plan_no,
        ];
        assert_eq!(
            (answer.state(), counts),
            (CompactionState::Completed, [0, 1, 1])
        );
        fixture
            .fake
            .plans
            .lock()
            .push(plan(3, State::Executing, &[]));
        let request = GetCompactionPlansRequest {
            collection_name: COLLECTION.to_owned(),
            ..GetCompactionPlansRequest::default()
        };
        let answer = fixture
            .front
            .get_compaction_state_with_plans(Request::new(request))
            .await;
        let answer = answer.unwrap().into_inner();
        assert_eq!(answer.state(), CompactionState::Executing);
        let shown: Vec<_> = answer
            .merge_infos
            .iter()
            .map(|plan| (plan.sources.clone(), plan.target, plan.targets.clone()))
            .collect();
        let want = [
            (vec![10], 90, vec![90, 91]),
            (vec![20], -1, vec![]),
            (vec![30], -1, vec![]),
        ];
        assert_eq!(shown, want);
    }
}
