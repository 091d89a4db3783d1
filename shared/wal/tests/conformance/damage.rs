//! Damage is named, never served.

use rand::RngExt as _;
use redkite_runtime::testing::test_rng;
use redkite_types::{Coded as _, ErrorCode};
use redkite_wal::{Error, Lsn};

use crate::{
    homes::{CHANNEL, Home, Limits, homes},
    payload, payloads, read_all, small_parts,
};

const RECORDS: usize = 40;

/// A log of many small parts, closed.
async fn fill(home: &Home, limits: &Limits) {
    let store = home.store(limits);
    for epoch in 1..=2 {
        let log = store.open(CHANNEL, epoch).await.unwrap();
        for number in 1..=RECORDS / 2 {
            log.append(payload(number)).await.unwrap();
        }
        log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_bit_is_named_with_its_place() {
    let mut rng = test_rng();
    for home in homes() {
        fill(&home, &small_parts()).await;
        let store = home.store(&small_parts());
        assert!(
            store.check(CHANNEL, Lsn(1)).await.unwrap().is_empty(),
            "{}",
            home.name
        );
        let parts = home.parts().await;
        for _ in 0..100 {
            let (part, bytes) = &parts[rng.random_range(0..parts.len())];
            let bit = rng.random_range(0..bytes.len() * 8);
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            home.overwrite(part, damaged).await;
            let found = store.check(CHANNEL, Lsn(1)).await.unwrap();
            let place = format!(
                "{}: {} byte {}: {found:?}",
                home.name,
                part.display(),
                bit / 8
            );
            assert!(!found.is_empty(), "{place}");
            for damage in found {
                assert_eq!(damage.file, *part, "{place}");
                assert!(damage.offset as usize <= bit / 8, "{place}");
            }
            home.overwrite(part, bytes.clone()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_damaged_places_are_found_and_not_only_the_first() {
    for home in homes() {
        fill(&home, &small_parts()).await;
        let parts = home.parts().await;
        let damaged = [&parts[1], &parts[parts.len() / 2], &parts[parts.len() - 2]];
        for (part, bytes) in damaged {
            let mut bytes = bytes.clone();
            bytes[80] ^= 1;
            home.overwrite(part, bytes).await;
        }
        let found = home
            .store(&small_parts())
            .check(CHANNEL, Lsn(1))
            .await
            .unwrap();
        for (part, _) in damaged {
            let is_named = found.iter().any(|damage| damage.file == *part);
            assert!(is_named, "{}: {} in {found:?}", home.name, part.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_ends_a_read_and_later_records_can_still_be_read() {
    for home in homes() {
        fill(&home, &small_parts()).await;
        let parts = home.parts().await;
        let (part, bytes) = &parts[2];
        let mut damaged = bytes.clone();
        let last = damaged.len() - 1;
        damaged[last.min(100)] ^= 4;
        home.overwrite(part, damaged).await;
        let log = home.store(&small_parts()).open(CHANNEL, 3).await.unwrap();
        let results = read_all(&*log, 1).await;
        let (end, before) = results.split_last().unwrap();
        assert!(before.iter().all(Result::is_ok), "{}", home.name);
        let Err(Error::Corrupt { file, .. }) = end else {
            panic!("{}: {end:?}", home.name);
        };
        assert_eq!(file, part);
        assert_eq!(payloads(&*log, RECORDS as u64 - 5).await.len(), 6);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_last_acknowledged_part_is_damaged_is_not_opened() {
    for home in homes() {
        fill(&home, &small_parts()).await;
        let (part, bytes) = home
            .parts()
            .await
            .into_iter()
            .rfind(|(part, _)| !part.ends_with("owner"))
            .unwrap();
        let mut damaged = bytes.clone();
        damaged[70] ^= 1;
        home.overwrite(&part, damaged).await;
        let refused = home
            .store(&small_parts())
            .open(CHANNEL, 3)
            .await
            .unwrap_err();
        assert_eq!(
            refused.code(),
            ErrorCode::DataIntegrity,
            "{}: {refused}",
            home.name
        );
        home.overwrite(&part, bytes).await;
        let log = home.store(&small_parts()).open(CHANNEL, 3).await.unwrap();
        assert_eq!(payloads(&*log, 1).await.len(), RECORDS, "{}", home.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_missing_is_noticed() {
    for home in homes() {
        fill(&home, &small_parts()).await;
        let parts = home.parts().await;
        home.delete(&parts[2].0).await;
        let store = home.store(&small_parts());
        assert!(
            !store.check(CHANNEL, Lsn(1)).await.unwrap().is_empty(),
            "{}",
            home.name
        );
        let log = store.open(CHANNEL, 3).await.unwrap();
        let results = read_all(&*log, 1).await;
        assert!(
            matches!(results.last(), Some(Err(Error::Corrupt { .. }))),
            "{}: {:?}",
            home.name,
            results.last()
        );
    }
}
