use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::testing::eventually_true;

/// Occupies one thread until the sender is used or dropped.
async fn occupy(pool: &CpuPool, priority: Priority) -> (mpsc::SyncSender<()>, CpuPool) {
    let (release, released) = mpsc::sync_channel::<()>(1);
    let (begun, has_begun) = oneshot::channel();
    let busy = pool.clone();
    let group = crate::TaskGroup::new("test");
    group.spawn("occupant", crate::OnFailure::Log, async move {
        let _ = busy
            .run(priority, move || {
                let _ = begun.send(());
                let _ = released.recv();
            })
            .await;
    });
    has_begun.await.unwrap();
    (release, pool.clone())
}

#[tokio::test]
async fn answers_come_back_and_panics_are_errors() {
    let pool = CpuPool::new(2, 8).unwrap();
    assert_eq!(pool.run(Priority::Search, || 6 * 7).await, Ok(42));
    let error = pool
        .run(Priority::Build, || panic!("no"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Panicked { .. }), "{error}");
    assert_eq!(pool.run(Priority::Build, || 1).await, Ok(1));
}

#[tokio::test]
async fn work_is_skipped_when_its_caller_has_gone() {
    let pool = CpuPool::new(1, 8).unwrap();
    let (release, _pool) = occupy(&pool, Priority::Search).await;
    let ran = Arc::new(AtomicBool::new(false));
    let inside = Arc::clone(&ran);
    let abandoned = pool.run(Priority::Search, move || {
        inside.store(true, Ordering::SeqCst)
    });
    // Polled once, so that the work is in the queue, then dropped.
    assert!(futures::FutureExt::now_or_never(abandoned).is_none());
    release.send(()).unwrap();
    pool.run(Priority::Search, || ()).await.unwrap();
    assert!(!ran.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_search_never_waits_for_a_segment_and_neither_for_a_build() {
    let pool = CpuPool::new(1, 8).unwrap();
    let (release, _pool) = occupy(&pool, Priority::Build).await;
    let mut builds = Box::pin(pool.run(Priority::Build, || ()));
    assert!(futures::FutureExt::now_or_never(&mut builds).is_none());
    assert_eq!(pool.run(Priority::Segment, || 1).await, Ok(1));
    let (flushed, _pool) = occupy(&pool, Priority::Segment).await;
    assert_eq!(pool.run(Priority::Search, || 1).await, Ok(1));
    flushed.send(()).unwrap();
    release.send(()).unwrap();
    builds.await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn builds_give_way_to_all_other_threads() {
    let pool = CpuPool::new(2, 8).unwrap();
    let niceness = || rustix::process::getpriority_process(None).unwrap();
    let own = niceness();
    assert_eq!(pool.run(Priority::Search, niceness).await, Ok(own));
    let of_builds = pool.run(Priority::Build, niceness).await;
    assert_eq!(of_builds, Ok((own + BUILD_NICENESS).min(19)));
}

#[tokio::test]
async fn two_threads_make_one_build_at_a_time() {
    let pool = CpuPool::new(2, 8).unwrap();
    let (release, _pool) = occupy(&pool, Priority::Build).await;
    let mut second = Box::pin(pool.run(Priority::Build, || ()));
    assert!(futures::FutureExt::now_or_never(&mut second).is_none());
    assert_eq!(pool.run(Priority::Search, || 1).await, Ok(1));
    release.send(()).unwrap();
    second.await.unwrap();
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let pool = CpuPool::new(1, 2).unwrap();
    let (release, _pool) = occupy(&pool, Priority::Search).await;
    let ran = Arc::new(AtomicUsize::new(0));
    let mut waiting: Vec<_> = (0..3)
        .map(|_| {
            let ran = Arc::clone(&ran);
            Box::pin(pool.run(Priority::Search, move || ran.fetch_add(1, Ordering::SeqCst)))
        })
        .collect();
    for one in &mut waiting {
        assert!(futures::FutureExt::now_or_never(one).is_none());
    }
    let refused = pool.try_run(Priority::Search, || ()).await;
    assert_eq!(
        refused,
        Err(Error::Busy {
            what: WHAT.into(),
            capacity: 2
        })
    );
    release.send(()).unwrap();
    for one in waiting {
        one.await.unwrap();
    }
    assert_eq!(ran.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn long_work_learns_that_nobody_waits() {
    let pool = CpuPool::new(1, 2).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let inside = Arc::clone(&ended);
    let mut work = Box::pin(pool.run_stoppable(Priority::Search, move |stop| {
        while !stop.is_stopped() {
            std::thread::yield_now();
        }
        inside.store(true, Ordering::SeqCst);
    }));
    assert!(futures::FutureExt::now_or_never(&mut work).is_none());
    drop(work);
    // Either it ran and saw the flag, or it was skipped: in both cases the thread is free again.
    pool.run(Priority::Search, || ()).await.unwrap();
    drop(pool);
}

#[tokio::test]
async fn who_waits_is_told_when_the_pool_ends() {
    let pool = CpuPool::new(1, 2).unwrap();
    let (release, other) = occupy(&pool, Priority::Search).await;
    let shared = Arc::clone(&pool.0.search.shared);
    let slot = Arc::clone(&pool.0.search.slots)
        .try_acquire_owned()
        .unwrap();
    let waiting = pool.submit(Priority::Search, slot, || ());
    shared.close();
    assert!(waiting.await.is_err());
    drop((release, other, pool));
    eventually_true("the threads let go", || Arc::strong_count(&shared) == 1).await;
}
