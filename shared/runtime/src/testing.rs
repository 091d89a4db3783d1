//! Helpers for tests. They panic instead of returning errors.

use std::future::Future;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::deadline::Deadline;

/// How long a test waits by default: far more than any machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer.
///
/// # Panics
/// After `limit`, naming what was waited for.
pub async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Deadline::after(limit);
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(!deadline.expired(), "waited {limit:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// [`eventually`] for a plain condition, with the default patience.
///
/// # Panics
/// When the condition does not come true.
pub async fn eventually_true(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, PATIENCE, || {
        std::future::ready(condition().then_some(()))
    })
    .await;
}

/// The seed of a random test: `REDKITE_TEST_SEED` or a new one, printed for the next run.
///
/// # Panics
/// When `REDKITE_TEST_SEED` is not a number.
pub fn test_seed() -> u64 {
    let seed = match std::env::var("REDKITE_TEST_SEED") {
        Ok(text) => text.parse().expect("REDKITE_TEST_SEED must be a number"),
        Err(_) => rand::random(),
    };
    println!("seed={seed}");
    seed
}

/// A generator with [`test_seed`].
pub fn test_rng() -> StdRng {
    StdRng::seed_from_u64(test_seed())
}
