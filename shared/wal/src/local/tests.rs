//! What only holds for local files; what every log keeps is in `tests/conformance`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redkite_types::{Coded, ErrorCode, Outcome};

use super::{
    files::{DirFiles, FileMaker, LogFile},
    frame::{FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, encode_frame},
    *,
};
use crate::log::{Lsn, Record};

const CHANNEL: &str = "ch_0v0";

fn options() -> LocalOptions {
    LocalOptions {
        lock_wait: Duration::ZERO,
        ..LocalOptions::default()
    }
}

fn store(dir: &Path) -> LocalLogStore {
    LocalLogStore::new(dir, options())
}

fn payload(number: usize) -> Bytes {
    Bytes::from(format!("record {number} {}", "x".repeat(number % 7)))
}

async fn read_all(log: &dyn ChannelLog, from: u64) -> Result<Vec<Record>> {
    log.read_from(Lsn(from))?.try_collect().await
}

async fn payloads(log: &dyn ChannelLog, from: u64) -> Vec<Bytes> {
    let records = read_all(log, from).await.unwrap();
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.lsn.0, from + index as u64);
    }
    records.into_iter().map(|record| record.payload).collect()
}

fn log_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join(CHANNEL))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        .collect();
    files.sort();
    files
}

/// A closed log with records 1..=count, each synced alone.
async fn log_with(dir: &Path, count: usize) -> Vec<Bytes> {
    let log = store(dir).open(CHANNEL, 1).await.unwrap();
    let wanted: Vec<Bytes> = (1..=count).map(payload).collect();
    for (index, payload) in wanted.iter().enumerate() {
        assert_eq!(
            log.append(payload.clone()).await.unwrap(),
            Lsn(index as u64 + 1)
        );
    }
    log.close().await;
    wanted
}

/// Opens a damaged log, checks what is left, and that it goes on from there.
async fn expect_left(dir: &Path, wanted: &[Bytes], context: &str) {
    let store = store(dir);
    let log = store.open(CHANNEL, 1).await.expect(context);
    assert_eq!(payloads(&*log, 1).await, wanted, "{context}");
    let lsn = log.append(payload(99)).await.unwrap();
    assert_eq!(lsn.0 as usize, wanted.len() + 1, "{context}");
    log.close().await;
    let log = store.open(CHANNEL, 1).await.expect(context);
    let mut longer = wanted.to_vec();
    longer.push(payload(99));
    assert_eq!(payloads(&*log, 1).await, longer, "{context}");
    log.close().await;
}

#[tokio::test]
async fn concurrent_appends_share_syncs_and_keep_each_callers_order() {
    let dir = tempfile::tempdir().unwrap();
    let syncs = Arc::new(AtomicUsize::new(0));
    let maker = FaultyMaker::new(&dir.path().join(CHANNEL), syncs.clone(), Arc::default());
    let log = LocalLog::open_with(
        CHANNEL,
        dir.path().join(CHANNEL),
        1,
        options(),
        Box::new(maker),
    );
    let log: Arc<dyn ChannelLog> = Arc::new(log.unwrap());
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let log = &log;
            scope.spawn(move || {
                let futures: Vec<_> = (0..200)
                    .map(|number| log.submit(Bytes::from(format!("{caller} {number}"))))
                    .collect();
                let lsns = futures::future::try_join_all(futures);
                let lsns = futures::executor::block_on(lsns).unwrap();
                assert!(lsns.is_sorted(), "a caller's records are out of order");
            });
        }
    });
    let records = payloads(&*log, 1).await;
    assert_eq!(records.len(), 1_600);
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        let text = String::from_utf8(record.to_vec()).unwrap();
        let (caller, number) = text.split_once(' ').unwrap();
        let expected = next.entry(caller.to_owned()).or_default();
        assert_eq!(number.parse::<usize>().unwrap(), *expected);
        *expected += 1;
    }
    let syncs = syncs.load(Ordering::Relaxed);
    assert!(syncs < 800, "{syncs} syncs for 1600 records are no groups");
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_of_the_last_frame_is_cut() {
    let whole = tempfile::tempdir().unwrap();
    let wanted = log_with(whole.path(), 4).await;
    let file = log_files(whole.path()).pop().unwrap();
    let bytes = fs::read(&file).unwrap();
    let frame_bytes = |payload: &Bytes| FRAME_HEADER_BYTES + payload.len();
    let last_start: usize = FILE_HEADER_BYTES + wanted[..3].iter().map(frame_bytes).sum::<usize>();
    let last_end = last_start + frame_bytes(&wanted[3]);
    for cut in last_start..last_end {
        for (fill, context) in [(None, "cut"), (Some(0), "zeros"), (Some(0xa5), "garbage")] {
            let mut damaged = bytes.clone();
            match fill {
                None => damaged.truncate(cut),
                Some(byte) => damaged[cut..].fill(byte),
            }
            if damaged == bytes {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let channel = dir.path().join(CHANNEL);
            fs::create_dir(&channel).unwrap();
            fs::write(channel.join(file.file_name().unwrap()), &damaged).unwrap();
            expect_left(dir.path(), &wanted[..3], &format!("{context} at {cut}")).await;
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_an_acknowledged_record_is_corruption() {
    let whole = tempfile::tempdir().unwrap();
    let wanted = log_with(whole.path(), 3).await;
    let file = log_files(whole.path()).pop().unwrap();
    let bytes = fs::read(&file).unwrap();
    let frame_bytes = |payload: &Bytes| FRAME_HEADER_BYTES + payload.len();
    let end: usize = FILE_HEADER_BYTES + wanted.iter().map(frame_bytes).sum::<usize>();
    // Every byte of header and frames, and the marker behind them, in one bit each.
    for at in 0..end + FRAME_HEADER_BYTES {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let dir = tempfile::tempdir().unwrap();
        let channel = dir.path().join(CHANNEL);
        fs::create_dir(&channel).unwrap();
        let target = channel.join(file.file_name().unwrap());
        fs::write(&target, &damaged).unwrap();
        if at >= end {
            expect_left(dir.path(), &wanted, "a damaged marker loses nothing").await;
            continue;
        }
        let refused = store(dir.path()).open(CHANNEL, 1).await.unwrap_err();
        assert_eq!(
            refused.code(),
            ErrorCode::DataIntegrity,
            "byte {at}: {refused}"
        );
        let Error::Corrupt { file, offset, .. } = refused else {
            panic!("byte {at}: {refused}");
        };
        assert_eq!(file, target);
        assert!(offset as usize <= at, "damage at {at} found at {offset}");
    }
}

#[tokio::test]
async fn a_group_that_reached_the_disk_in_parts_is_a_torn_tail() {
    // Records 1 and 2 were synced; 3, 4, 5 were one group of which 3 did not arrive.
    let header = FileHeader {
        epoch: 1,
        first_lsn: 1,
        salt: 7,
    };
    let mut bytes = header.encode().to_vec();
    encode_frame(7, 1, 0, &payload(1), &mut bytes);
    encode_frame(7, 2, 1, &payload(2), &mut bytes);
    let third = bytes.len();
    for lsn in 3..=5 {
        encode_frame(7, lsn, 2, &payload(lsn as usize), &mut bytes);
    }
    bytes[third..third + 10].fill(0);
    let write = |bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(CHANNEL)).unwrap();
        let name = "00000000000000000001.log";
        fs::write(dir.path().join(CHANNEL).join(name), bytes).unwrap();
        dir
    };
    let dir = write(&bytes);
    expect_left(dir.path(), &[payload(1), payload(2)], "torn group").await;
    // A later group proves that 3 had been synced: now its absence is corruption.
    encode_frame(7, 6, 5, &payload(6), &mut bytes);
    let dir = write(&bytes);
    let refused = store(dir.path()).open(CHANNEL, 1).await.unwrap_err();
    assert!(
        matches!(refused, Error::Corrupt { offset, .. } if offset as usize == third),
        "{refused}"
    );
}

#[tokio::test]
async fn damage_in_an_older_file_names_it_and_stops_the_read_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalLogStore::new(
        dir.path(),
        LocalOptions {
            file_size_bytes: 200,
            ..options()
        },
    );
    let log = store.open(CHANNEL, 1).await.unwrap();
    for number in 1..=30 {
        log.append(payload(number)).await.unwrap();
    }
    log.close().await;
    let files = log_files(dir.path());
    assert!(files.len() > 3, "{files:?}");
    let mut bytes = fs::read(&files[1]).unwrap();
    bytes[FILE_HEADER_BYTES + FRAME_HEADER_BYTES] ^= 4;
    fs::write(&files[1], bytes).unwrap();
    let log = store.open(CHANNEL, 1).await.unwrap();
    let results: Vec<Result<Record>> = log.read_from(Lsn(1)).unwrap().collect().await;
    let (last, before) = results.split_last().unwrap();
    assert!(before.iter().all(Result::is_ok));
    assert!(
        matches!(last, Err(Error::Corrupt { file, .. }) if *file == files[1]),
        "{last:?}"
    );
    // Newer records are still there for who needs only them.
    assert_eq!(payloads(&*log, 25).await.len(), 6);
}

#[tokio::test]
async fn truncation_drops_whole_files_and_keeps_the_numbering() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalLogStore::new(
        dir.path(),
        LocalOptions {
            file_size_bytes: 200,
            ..options()
        },
    );
    let log = store.open(CHANNEL, 1).await.unwrap();
    for number in 1..=30 {
        log.append(payload(number)).await.unwrap();
    }
    let (files_before, size_before) =
        (log_files(dir.path()).len(), log.size_bytes().await.unwrap());
    log.truncate_before(Lsn(20)).await.unwrap();
    assert!(log_files(dir.path()).len() < files_before);
    assert!(log.size_bytes().await.unwrap() < size_before);
    assert_eq!(payloads(&*log, 20).await.len(), 11);
    let gone = log.read_from(Lsn(1)).map(drop).unwrap_err();
    assert!(matches!(gone, Error::Truncated { .. }), "{gone}");
    log.truncate_before(Lsn(1_000)).await.unwrap();
    assert_eq!(log_files(dir.path()).len(), 1);
    log.close().await;
    let log = store.open(CHANNEL, 2).await.unwrap();
    assert_eq!(log.append(payload(31)).await.unwrap(), Lsn(31));
    assert_eq!(payloads(&*log, 31).await, [payload(31)]);
}

#[tokio::test]
async fn a_former_owner_is_kept_out_by_lock_and_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let log = store.open(CHANNEL, 5).await.unwrap();
    log.append(payload(1)).await.unwrap();
    let locked = store.open(CHANNEL, 6).await.unwrap_err();
    assert!(
        locked.retriable() && matches!(locked, Error::Locked { .. }),
        "{locked}"
    );
    assert!(matches!(
        store.remove(CHANNEL).await.unwrap_err(),
        Error::Locked { .. }
    ));
    log.close().await;
    let closed = log.append(payload(2)).await.unwrap_err();
    assert!(matches!(closed, Error::Closed { .. }), "{closed}");
    store.open(CHANNEL, 6).await.unwrap().close().await;
    let fenced = store.open(CHANNEL, 5).await.unwrap_err();
    assert!(
        matches!(
            fenced,
            Error::Fenced {
                epoch: 5,
                current: 6,
                ..
            }
        ),
        "{fenced}"
    );
    let log = store.open(CHANNEL, 6).await.unwrap();
    assert_eq!(payloads(&*log, 1).await, [payload(1)]);
    drop(log);
    assert_eq!(store.channels().await.unwrap(), [CHANNEL]);
}

/// Files that fail on demand.
struct FaultyMaker {
    inner: DirFiles,
    syncs: Arc<AtomicUsize>,
    fault: Arc<Fault>,
}

#[derive(Default)]
struct Fault {
    sync_fails: AtomicBool,
    disk_full: AtomicBool,
}

struct FaultyFile {
    inner: Box<dyn LogFile>,
    syncs: Arc<AtomicUsize>,
    fault: Arc<Fault>,
}

impl FaultyMaker {
    fn new(dir: &Path, syncs: Arc<AtomicUsize>, fault: Arc<Fault>) -> Self {
        let inner = DirFiles { dir: dir.into() };
        Self {
            inner,
            syncs,
            fault,
        }
    }
}

impl FileMaker for FaultyMaker {
    fn create(&self, header: &FileHeader) -> io::Result<(PathBuf, Box<dyn LogFile>)> {
        let (path, inner) = self.inner.create(header)?;
        let (syncs, fault) = (self.syncs.clone(), self.fault.clone());
        Ok((
            path,
            Box::new(FaultyFile {
                inner,
                syncs,
                fault,
            }),
        ))
    }
}

impl LogFile for FaultyFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.fault.disk_full.load(Ordering::Relaxed) {
            // Half of it arrives, as on a real disk.
            self.inner.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.write_all_at(bytes, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.fault.sync_fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("input/output error"));
        }
        self.inner.sync()
    }
}

fn faulty_log(dir: &Path) -> (LocalLog, Arc<Fault>) {
    let fault = Arc::new(Fault::default());
    let channel = dir.join(CHANNEL);
    let maker = FaultyMaker::new(&channel, Arc::default(), fault.clone());
    let log = LocalLog::open_with(CHANNEL, channel, 1, options(), Box::new(maker)).unwrap();
    (log, fault)
}

#[tokio::test]
async fn a_failed_sync_is_never_retried() {
    let dir = tempfile::tempdir().unwrap();
    let (log, fault) = faulty_log(dir.path());
    log.append(payload(1)).await.unwrap();
    fault.sync_fails.store(true, Ordering::Relaxed);
    let failed = log.append(payload(2)).await.unwrap_err();
    assert_eq!(failed.outcome(), Outcome::Unknown);
    fault.sync_fails.store(false, Ordering::Relaxed);
    let dead = log.append(payload(3)).await.unwrap_err();
    assert!(matches!(dead, Error::Failed { .. }), "{dead}");
    assert_eq!(log.last_lsn(), Lsn(1));
    assert_eq!(payloads(&log, 1).await, [payload(1)]);
}

#[test]
fn frames_that_nothing_proves_to_be_synced_are_told_apart() {
    let header = FileHeader {
        epoch: 1,
        first_lsn: 1,
        salt: 7,
    };
    let mut bytes = header.encode().to_vec();
    let unproven = |bytes: &[u8]| {
        let bytes = Bytes::copy_from_slice(bytes);
        let end = frame::read_frames(&bytes, &header, None, u64::MAX, |_, _| {}).unwrap();
        (end.unproven, end.next_lsn)
    };
    assert_eq!(unproven(&bytes), (FILE_HEADER_BYTES, 1));
    encode_frame(7, 1, 0, &payload(1), &mut bytes);
    encode_frame(7, 2, 0, &payload(2), &mut bytes);
    assert_eq!(unproven(&bytes), (FILE_HEADER_BYTES, 3), "one group");
    let second = bytes.len();
    let mut marked = bytes.clone();
    encode_frame(7, 0, 2, &[], &mut marked);
    assert_eq!(unproven(&marked), (second, 3), "a marker proves it");
    encode_frame(7, 3, 2, &payload(3), &mut bytes);
    encode_frame(7, 4, 2, &payload(4), &mut bytes);
    assert_eq!(unproven(&bytes), (second, 5), "the next group proves it");
    // The tail of a group that is torn is no part of it.
    let third = bytes.len();
    encode_frame(7, 5, 2, &payload(5), &mut bytes);
    bytes.truncate(bytes.len() - 1);
    assert_eq!(unproven(&bytes), (second, 5));
    assert!(third > second);
}

#[tokio::test]
async fn what_a_failed_sync_left_behind_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (log, fault) = faulty_log(dir.path());
    log.append(payload(1)).await.unwrap();
    fault.sync_fails.store(true, Ordering::Relaxed);
    log.append(payload(2)).await.unwrap_err();
    log.close().await;
    drop(log);
    let file = log_files(dir.path()).pop().unwrap();
    let before = fs::metadata(&file).unwrap().modified().unwrap();
    expect_left(dir.path(), &[payload(1), payload(2)], "after a failed sync").await;
    let after = fs::metadata(&file).unwrap().modified().unwrap();
    assert!(after > before, "the file was only cut or synced");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let (log, fault) = faulty_log(dir.path());
    log.append(payload(1)).await.unwrap();
    fault.disk_full.store(true, Ordering::Relaxed);
    for number in 2..5 {
        let full = log.append(payload(number)).await.unwrap_err();
        assert_eq!(full.code(), ErrorCode::DiskLimitExceeded);
        assert_eq!(full.outcome(), Outcome::NotApplied);
    }
    fault.disk_full.store(false, Ordering::Relaxed);
    assert_eq!(log.append(payload(5)).await.unwrap(), Lsn(2));
    log.close().await;
    drop(log);
    expect_left(dir.path(), &[payload(1), payload(5)], "after a full disk").await;
}

fn seed() -> u64 {
    let seed = match std::env::var("REDKITE_TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => rand::random(),
    };
    println!("seed={seed}");
    seed
}

#[tokio::test]
async fn random_histories_lose_and_invent_nothing() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let options = LocalOptions {
            file_size_bytes: rng.random_range(100..20_000),
            max_group_bytes: rng.random_range(10..5_000),
            thread_idle: Duration::from_millis(rng.random_range(0..3)),
            lock_wait: Duration::from_secs(5),
            ..LocalOptions::default()
        };
        let store = LocalLogStore::new(dir.path(), options);
        let mut log = store.open(CHANNEL, 1).await.unwrap();
        let mut model: Vec<Bytes> = Vec::new();
        let mut truncated = 1;
        for _ in 0..30 {
            match rng.random_range(0..10) {
                0 => {
                    // The process dies: no close, and rubbish that was never acknowledged follows.
                    drop(log);
                    log = store.open(CHANNEL, 1).await.unwrap();
                    log.close().await;
                    if let Some(last) = log_files(dir.path()).pop() {
                        let mut bytes = fs::read(&last).unwrap();
                        let rubbish = rng.random_range(0..200);
                        bytes.extend((0..rubbish).map(|_| rng.random::<u8>()));
                        fs::write(&last, bytes).unwrap();
                    }
                    log = store.open(CHANNEL, 1).await.unwrap();
                }
                1 => {
                    let point = rng.random_range(1..model.len() as u64 + 2);
                    log.truncate_before(Lsn(point)).await.unwrap();
                    truncated = truncated.max(point);
                }
                _ => {
                    let more: Vec<Bytes> = (0..rng.random_range(1..20))
                        .map(|_| {
                            let length = rng.random_range(0..600);
                            (0..length).map(|_| rng.random::<u8>()).collect()
                        })
                        .collect();
                    let futures: Vec<_> = more
                        .iter()
                        .map(|payload| log.submit(payload.clone()))
                        .collect();
                    let lsns = futures::future::try_join_all(futures).await.unwrap();
                    assert_eq!(lsns[0].0, model.len() as u64 + 1);
                    model.extend(more);
                }
            }
            assert_eq!(log.last_lsn().0, model.len() as u64);
            let from = truncated.max(1);
            assert_eq!(payloads(&*log, from).await, model[from as usize - 1..]);
        }
    }
}
