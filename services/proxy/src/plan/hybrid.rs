//! A hybrid search, parsed and checked.

use std::sync::Arc;

use redkite_catalog::CollectionEntry;
use redkite_proto::milvus::milvus::HybridSearchRequest;
use redkite_types::{Error, ErrorCode, Result, limits};

use super::{
    GroupPlan, OutputFields, SearchPlan,
    consistency::Asked,
    params::Params,
    rank::{GroupScorer, Ranker},
    shape,
};

const MAX_REQUESTS: usize = 1_024;

/// Several searches, and how their hits become one list.
#[derive(Clone, Debug)]
pub struct HybridPlan {
    /// The searches; all have the same number of queries and bring back the same fields.
    pub searches: Vec<SearchPlan>,
    /// How hits are put in order.
    pub ranker: Ranker,
    /// Hits to bring back for each query, or groups.
    pub limit: usize,
    /// Hits to leave out before them, or groups.
    pub offset: usize,
    /// How hits are grouped.
    pub group: Option<GroupPlan>,
    /// How the rows of a group make its score.
    pub scorer: GroupScorer,
    /// What comes back.
    pub output: OutputFields,
    /// Decimals of the scores; `None` leaves them as they are.
    pub round_decimal: Option<u32>,
    /// How fresh it must be.
    pub asked: Asked,
}

impl HybridPlan {
    /// Parses and checks a request.
    ///
    /// # Errors
    /// Milvus's code and text of the first thing that is wrong; never worth a retry.
    pub fn new(entry: &CollectionEntry, request: HybridSearchRequest) -> Result<Self> {
        refuse_unsupported(&request)?;
        match request.requests.len() {
            0 => {
                return Err(Error::invalid_parameter(
                    "minimum of ann search requests is 1",
                ));
            }
            1..=MAX_REQUESTS => {}
            _ => {
                return Err(Error::input(
                    ErrorCode::Unexpected,
                    format!("maximum of ann search requests is {MAX_REQUESTS}"),
                ));
            }
        }
        let mut params = Params::new(request.rank_params);
        let (limit, offset) = window(&mut params)?;
        let round_decimal = shape::round_decimal(&mut params)?;
        let group = GroupPlan::take(&mut params, entry.schema())?;
        let scorer = GroupScorer::take(&mut params)?;
        let ranker = Ranker::take(&mut params, request.function_score)?;
        params.drop_keys(&["cluster_id"]);
        params.finish()?;
        ranker.check_requests(request.requests.len())?;

        let output = OutputFields::resolve(entry.schema(), &request.output_fields)?;
        let mut searches = Vec::with_capacity(request.requests.len());
        for mut each in request.requests {
            if each.partition_names.is_empty() {
                each.partition_names.clone_from(&request.partition_names);
            }
            each.output_fields.clear();
            let mut search = SearchPlan::of_hybrid(entry, &each, group)?;
            Arc::make_mut(&mut search.shape).output = output.clone();
            searches.push(search);
        }
        let nq = searches[0].nq;
        if let Some(other) = searches.iter().find(|search| search.nq != nq) {
            return Err(Error::invalid_parameter(format!(
                "nq of the requests of a hybrid search should be the same[expected={nq}][actual={}]",
                other.nq
            )));
        }
        Ok(Self {
            searches,
            ranker,
            limit,
            offset,
            group,
            scorer,
            output,
            round_decimal,
            asked: Asked {
                level: request.consistency_level,
                use_default: request.use_default_consistency,
                guarantee_ts: request.guarantee_timestamp,
                iterator: false,
            },
        })
    }
}

fn refuse_unsupported(request: &HybridSearchRequest) -> Result<()> {
    let namespace = request.namespace.as_ref();
    let what = if request.travel_timestamp != 0 {
        "travel_timestamp is not served"
    } else if namespace.is_some_and(|namespace| !namespace.is_empty()) {
        "namespaces are not served"
    } else if !request.function_chains.is_empty() {
        "function chains of a hybrid search are not served"
    } else {
        return Ok(());
    };
    Err(shape::unsupported(what))
}

fn window(params: &mut Params) -> Result<(usize, usize)> {
    let max = limits::MAX_RESULT_WINDOW;
    let limit = params
        .take_number::<i64>("limit")?
        .ok_or_else(|| Error::invalid_parameter("limit not found in rank_params"))?;
    let offset = params.take_number::<i64>("offset")?.unwrap_or(0);
    let range = |what: &str, low: i64, value: i64| {
        Error::invalid_parameter(format!(
            "invalid max query result window, {what} should be in range [{low}, {max}], but got \
             {value}"
        ))
    };
    if !(1..=max).contains(&limit) {
        return Err(range(&format!("limit [{limit}] is invalid, it"), 1, limit));
    }
    if !(0..=max).contains(&offset) {
        return Err(range(
            &format!("offset [{offset}] is invalid, it"),
            0,
            offset,
        ));
    }
    if limit + offset > max {
        return Err(range("(offset+limit)", 1, limit + offset));
    }
    Ok((
        limit.unsigned_abs() as usize,
        offset.unsigned_abs() as usize,
    ))
}
