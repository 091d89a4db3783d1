//! Metadata of one collection with a compactor that may crash.

use super::*;

/// Metadata of one collection, and one compactor at a time.
pub(super) struct World {
    pub(super) kv: Arc<MemKv>,
    pub(super) steps: Arc<Steps>,
    pub(super) played: Arc<Played>,
    pub(super) options: CompactionOptions,
    pub(super) clock: ManualClock,
}

/// A compactor with its tasks.
pub(super) struct Process {
    pub(super) compactor: Arc<Compactor>,
    pub(super) tasks: TaskGroup,
}

impl World {
    pub(super) async fn new() -> Self {
        let steps = Arc::<Steps>::default();
        let world = Self {
            kv: Arc::new(MemKv::new()),
            played: Arc::new(Played {
                steps: steps.clone(),
                ..Played::default()
            }),
            steps,
            options: CompactionOptions {
                segment_target_size: ByteSize(1_000),
                min_small_segments: 3,
                retention: HumanDuration::secs(0),
                ..CompactionOptions::default()
            },
            clock: ManualClock::new(NOW_MS),
        };
        let collection = CollectionInfo {
            id: C.0,
            database_id: 1,
            name: "c".to_owned(),
            channels: vec![CHANNEL.to_owned()],
            ..CollectionInfo::default()
        };
        let mut records = vec![
            (
                keys::collection(DatabaseId(1), C),
                collection.encode_to_vec(),
            ),
            partition(redkite_proto::redkite::meta::ObjectState::Created),
            (
                keys::checkpoint(CHANNEL),
                ChannelCheckpoint {
                    channel: CHANNEL.to_owned(),
                    collection_id: C.0,
                    lsn: 5,
                    ts: FLUSHED,
                }
                .encode_to_vec(),
            ),
            (
                keys::channel_owner(CHANNEL),
                ChannelOwner {
                    channel: CHANNEL.to_owned(),
                    epoch: 1,
                    ..ChannelOwner::default()
                }
                .encode_to_vec(),
            ),
            (keys::delta(C, 30), delta(30, 800).encode_to_vec()),
            build(40, SOURCES[0]),
        ];
        for id in SOURCES {
            records.push((
                keys::segment(C, P, SegmentId(id)),
                segment(id, 100).encode_to_vec(),
            ));
        }
        world.put(records).await;
        world
    }

    pub(super) async fn put(&self, records: Vec<(String, Vec<u8>)>) {
        let ops = records.into_iter();
        let txn = ops.fold(Txn::new(), |txn, (key, value)| {
            txn.then(Op::put(key, value))
        });
        self.kv.txn(txn).await.unwrap();
    }

    pub(super) async fn start(&self) -> Process {
        let catalog = Catalog::load(self.kv.as_ref()).await.unwrap();
        let tasks = TaskGroup::new("datacoord");
        let follow = catalog.clone().follow(self.kv.clone(), tasks.token());
        tasks.spawn("catalog", OnFailure::Log, follow);
        let kv = SteppedKv {
            kv: self.kv.clone(),
            steps: self.steps.clone(),
        };
        let compactor = Compactor::new(
            Arc::new(kv),
            CommitGate::new(self.played.store.clone()),
            catalog,
            self.played.clone(),
            tasks.clone(),
            self.options.clone(),
            Arc::new(self.clock.clone()),
        );
        Process { compactor, tasks }
    }

    pub(super) async fn records<M: Message + Default>(&self, prefix: &str) -> Vec<M> {
        let pairs = self.kv.range(prefix, None, 1_000).await.unwrap().pairs;
        let decode = |pair: KeyValue| M::decode(pair.value).unwrap();
        pairs.into_iter().map(decode).collect()
    }

    pub(super) async fn segments(&self) -> Vec<SegmentInfo> {
        self.records(&keys::segments(C)).await
    }

    pub(super) async fn deltas(&self) -> Vec<i64> {
        let deltas: Vec<DeltaInfo> = self.records(&keys::deltas(C)).await;
        deltas.iter().map(|delta| delta.id).collect()
    }

    pub(super) async fn plans(&self) -> Vec<CompactionInfo> {
        self.records(&keys::compactions(C)).await
    }

    /// Waits until no plan is executing; goes on with those that nobody works on.
    pub(super) async fn settle(&self, process: &Process) {
        eventually("every plan has ended", PATIENCE, || async {
            let plans = self.plans().await;
            for plan in &plans {
                if plan.state() == State::Executing {
                    process.compactor.start(C, plan.plan_id);
                }
            }
            let ended = |plan: &CompactionInfo| plan.state() != State::Executing;
            plans.iter().all(ended).then_some(())
        })
        .await;
    }

    pub(super) async fn is_old_state(&self) -> bool {
        let ids: Vec<i64> = self.segments().await.iter().map(|one| one.id).collect();
        ids == SOURCES
    }

    /// One segment with the rows of all, nothing of the sources, one plan completed.
    pub(super) async fn check_new_state(&self, context: &str) {
        let segments = self.segments().await;
        assert_eq!(segments.len(), 1, "{context}: {segments:?}");
        let made = &segments[0];
        assert_eq!(
            (made.rows, &made.compacted_from[..]),
            (297, &SOURCES[..]),
            "{context}"
        );
        assert_eq!(made.deletes_applied_ts, FLUSHED, "{context}");
        let builds: Vec<SegmentIndexInfo> = self.records(&keys::segment_indexes(C)).await;
        assert!(builds.is_empty(), "{context}: {builds:?}");
        assert!(self.deltas().await.is_empty(), "{context}");
        let plans = self.plans().await;
        let completed: Vec<_> = plans
            .iter()
            .filter(|plan| plan.state() == State::Completed)
            .collect();
        assert_eq!(completed.len(), 1, "{context}: {plans:?}");
        assert_eq!(completed[0].targets, [made.id], "{context}");
        // No two attempts wrote to the same place.
        let requests = self.played.requests.lock();
        let mut targets: Vec<i64> = requests
            .iter()
            .flat_map(|one| one.targets.clone())
            .collect();
        let all = targets.len();
        targets.sort_unstable();
        targets.dedup();
        assert_eq!(targets.len(), all, "{context}");
    }
}

impl Process {
    pub(super) async fn compact(
        &self,
    ) -> Result<redkite_proto::redkite::datacoord::CompactResponse> {
        self.compactor
            .request(Request {
                collection_id: C.0,
                ..Request::default()
            })
            .await
    }

    pub(super) async fn seen(&self, world: &World) {
        let revision = world.kv.range("x", None, 1).await.unwrap().revision;
        self.compactor
            .catalog
            .at_least(revision, PATIENCE)
            .await
            .unwrap();
    }
}

pub(super) fn partition(state: redkite_proto::redkite::meta::ObjectState) -> (String, Vec<u8>) {
    let info = PartitionInfo {
        id: P.0,
        collection_id: C.0,
        state: state.into(),
        ..PartitionInfo::default()
    };
    (keys::partition(C, P), info.encode_to_vec())
}
