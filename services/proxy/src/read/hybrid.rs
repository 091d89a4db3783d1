//! Several searches and one list.

use futures::future;
use redkite_types::{MetricType, Result};

use super::{Reading, search};
use crate::{
    plan::HybridPlan,
    reduce::{
        rank::{Fusion, Ranked},
        search::{Found, Pick},
    },
};

/// Carries out all searches at one time and ranks what they find, window cut out.
///
/// # Errors
/// As [`search::run`].
pub async fn run(reading: &Reading<'_>, plan: &mut HybridPlan) -> Result<Found> {
    let metrics: Vec<MetricType> = plan.searches.iter().map(|search| search.metric).collect();
    let nq = plan.searches.first().map_or(0, |search| search.nq);
    let searches = plan.searches.iter_mut();
    let searches = searches.map(|each| search::run(reading, each));
    let (mut found, lists) = Found::join(future::try_join_all(searches).await?);
    let fusion = Fusion::new(&plan.ranker, &metrics);
    for query in 0..nq {
        let of_query: Vec<Vec<Pick>> = lists.iter().map(|lists| lists[query].clone()).collect();
        let ranked = fusion.rank(&of_query, |pick| found.key(pick));
        let picks = match plan.group {
            None => window(ranked, plan),
            Some(group) => {
                let key = |pick| found.group(pick, group.field);
                let groups = fusion.group(ranked, group.size, plan.scorer, key);
                window(groups, plan).into_iter().flatten().collect()
            }
        };
        found
            .lists
            .push(picks.into_iter().map(|row: Ranked| row.pick).collect());
    }
    Ok(found)
}

fn window<T>(all: Vec<T>, plan: &HybridPlan) -> Vec<T> {
    all.into_iter().skip(plan.offset).take(plan.limit).collect()
}
