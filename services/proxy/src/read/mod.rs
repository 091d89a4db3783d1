//! Carries plans of reads out: asks the owners of the channels and puts their answers together.
//!
//! - [`search`]: one search, with groups, rows to take vectors from, and pages
//! - [`hybrid`]: several searches and one list

pub mod hybrid;
pub mod search;

use std::sync::Arc;

use redkite_catalog::CollectionEntry;
use redkite_proto::redkite::rootcoord::AllocRequest;
use redkite_runtime::{Clock as _, Deadline, SystemClock};
use redkite_types::{ConsistencyLevel, Result, Timestamp};

use crate::{
    context::{ProxyContext, RequestContext},
    plan::{
        ReadTime,
        consistency::{Arrival, Asked, Rounds},
    },
};

/// A read of one collection at one time.
pub struct Reading<'a> {
    /// The proxy.
    pub context: &'a Arc<ProxyContext>,
    /// When the answer must be there.
    pub deadline: Deadline,
    /// The collection.
    pub entry: &'a CollectionEntry,
    /// What is seen.
    pub time: ReadTime,
}

impl<'a> Reading<'a> {
    /// Decides at which time the read looks. The root coordinator is asked for it only if that time
    /// has to be later than all earlier writes, or be the same in several places: what is bounded, or
    /// names a time itself, sees what has been applied where it looks.
    ///
    /// # Errors
    /// Code 1100 for an unknown consistency level; what the root coordinator answers.
    pub async fn begin(
        context: &'a Arc<ProxyContext>,
        meta: &RequestContext,
        entry: &'a CollectionEntry,
        asked: Asked,
        rounds: Rounds,
    ) -> Result<Self> {
        let level = entry.info().map_or(0, |info| info.consistency_level);
        let own = redkite_proto::convert::schema::consistency_from_proto(level)?;
        let level = asked.level(own)?;
        let exact = level == ConsistencyLevel::Strong
            || asked.iterator
            || rounds == Rounds::Several
            || time_to_live(entry).is_some();
        let arrival = if exact {
            Arrival::Exactly(now(context, meta.deadline).await?)
        } else {
            Arrival::About(Timestamp::new(SystemClock.unix_millis(), 0))
        };
        Ok(Self {
            context,
            deadline: meta.deadline,
            entry,
            time: ReadTime::decide(asked, level, arrival, context.options.graceful_time.get()),
        })
    }

    /// Rows written before this have outlived the collection's time to live.
    pub fn expired_before(&self) -> u64 {
        time_to_live(self.entry).map_or(0, |seconds| {
            let ms = seconds.saturating_mul(1_000);
            self.time.answered.minus_ms(ms).0
        })
    }

    /// Milliseconds until the deadline.
    pub fn millis_left(&self) -> u32 {
        u32::try_from(self.deadline.left().as_millis()).unwrap_or(u32::MAX)
    }
}

/// Seconds that rows of a collection live, if they do not for ever.
fn time_to_live(entry: &CollectionEntry) -> Option<u64> {
    let seconds = entry.property("collection.ttl.seconds")?;
    seconds.parse().ok().filter(|seconds| *seconds > 0)
}

/// A timestamp later than every write that was acknowledged before the call.
///
/// # Errors
/// What the root coordinator answers.
pub async fn now(context: &ProxyContext, deadline: Deadline) -> Result<Timestamp> {
    let root = context.peers.root_coord()?;
    let answer = redkite_rpc::call(deadline, AllocRequest { count: 1 }, |request| {
        root.alloc_timestamp(request)
    })
    .await?;
    Ok(Timestamp(answer.first))
}
