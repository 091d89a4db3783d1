//! Carries plans of reads out: asks the owners of the channels and puts their answers together.
//!
//! - [`search`]: one search, with groups, rows to take vectors from, and pages
//! - [`hybrid`]: several searches and one list
//! - `recent`: about what time it is, between the calls that ask for it

pub mod hybrid;
mod recent;
pub mod search;

use std::sync::Arc;

use redkite_catalog::CollectionEntry;
use redkite_proto::redkite::rootcoord::AllocRequest;
use redkite_runtime::Deadline;
use redkite_types::{ConsistencyLevel, Result, Timestamp};

use crate::{
    context::{ProxyContext, RequestContext},
    plan::{
        ReadTime,
        consistency::{Arrival, Asked, Rounds},
    },
};

pub(crate) use self::recent::Recent;

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
    /// Decides at which time the read looks. The root coordinator is asked for it if that time has to
    /// be later than all earlier writes, or be the same in several places, and else once a second: what
    /// is bounded, or names a time itself, sees what has been applied where it looks.
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
        let arrival = match context.recent.now().filter(|_| !exact) {
            Some(about) => Arrival::About(about),
            None => Arrival::Exactly(now(context, meta.deadline).await?),
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
    let now = Timestamp(answer.first);
    context.recent.saw(now);
    Ok(now)
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Duration};

    use prost::Message as _;
    use redkite_catalog::keys;
    use redkite_proto::redkite::meta::CollectionInfo;
    use redkite_types::{CollectionId, DatabaseId};
    use tokio::time::Instant;

    use super::*;
    use crate::testing::{COLLECTION, Fixture};

    #[tokio::test]
    async fn only_reads_that_need_an_exact_time_ask_for_it_each_time() {
        let fixture = Fixture::with_collection().await;
        let context = &fixture.context;
        let entry = || crate::lookup::collection(&context.view(), "default", COLLECTION).unwrap();
        // Rows that live for a while only are compared with an exact time.
        let mut info = CollectionInfo::clone(entry().info().unwrap());
        info.properties.clear();
        let key = keys::collection(DatabaseId(info.database_id), CollectionId(info.id));
        fixture.put(vec![(key, info.encode_to_vec())]).await;
        let entry = entry();
        let request = tonic::Request::new(());
        let meta = RequestContext::read(&request, "", Duration::from_secs(60));
        let begin = async |level, rounds| {
            let asked = Asked {
                level,
                use_default: false,
                guarantee_ts: 2,
                iterator: false,
            };
            let before = fixture.fake.clock.load(Ordering::Relaxed);
            let reading = Reading::begin(context, &meta, &entry, asked, rounds).await;
            let time = reading.unwrap().time;
            let asked = fixture.fake.clock.load(Ordering::Relaxed) - before;
            (asked, time.mvcc == Timestamp::ZERO)
        };
        let (strong, bounded) = (0, 2);
        for _ in 0..3 {
            assert_eq!(begin(bounded, Rounds::Several).await, (1, false));
            assert_eq!(begin(strong, Rounds::One).await, (1, false));
            let told = Instant::now();
            let found = begin(bounded, Rounds::One).await;
            // A machine that stood still for longer than a timestamp is good for.
            if told.elapsed() < recent::GOOD_FOR {
                assert_eq!(found, (0, true));
            }
        }
        tokio::time::pause();
        tokio::time::advance(recent::GOOD_FOR).await;
        tokio::time::resume();
        assert_eq!(begin(bounded, Rounds::One).await, (1, false));
    }
}
