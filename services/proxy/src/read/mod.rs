//! Carries plans of reads out: asks the owners of the channels and puts their answers together.
//!
//! - [`search`]: one search, with groups, rows to take vectors from, and pages
//! - [`hybrid`]: several searches and one list

pub mod hybrid;
pub mod search;

use std::sync::Arc;

use redkite_catalog::CollectionEntry;
use redkite_proto::redkite::rootcoord::AllocRequest;
use redkite_runtime::Deadline;
use redkite_types::{Result, Timestamp};

use crate::{
    context::{ProxyContext, RequestContext},
    plan::{ReadTime, consistency::Asked},
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
    /// Decides at which time the read looks.
    ///
    /// # Errors
    /// Code 1100 for an unknown consistency level; what the root coordinator answers.
    pub async fn begin(
        context: &'a Arc<ProxyContext>,
        meta: &RequestContext,
        entry: &'a CollectionEntry,
        asked: Asked,
    ) -> Result<Self> {
        let level = entry.info().map_or(0, |info| info.consistency_level);
        let own = redkite_proto::convert::schema::consistency_from_proto(level)?;
        let now = now(context, meta.deadline).await?;
        Ok(Self {
            context,
            deadline: meta.deadline,
            entry,
            time: ReadTime::decide(asked, own, now, context.options.graceful_time.get())?,
        })
    }

    /// Rows written before this have outlived the collection's time to live.
    pub fn expired_before(&self) -> u64 {
        let seconds = self
            .entry
            .property("collection.ttl.seconds")
            .and_then(|text| text.parse().ok());
        match seconds {
            Some(seconds @ 1..=u64::MAX) => {
                self.time.mvcc.minus_ms(seconds.saturating_mul(1_000)).0
            }
            Some(0) | None => 0,
        }
    }

    /// Milliseconds until the deadline.
    pub fn millis_left(&self) -> u32 {
        u32::try_from(self.deadline.left().as_millis()).unwrap_or(u32::MAX)
    }
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
