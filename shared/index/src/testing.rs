//! Data and randomness of this crate's tests.

use std::sync::OnceLock;

/// SplitMix64: small, seeded, and the same on every machine.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded from `REDKITE_TEST_SEED`, else fixed; prints the seed once so a failure can be repeated.
    pub(crate) fn from_env() -> Self {
        static SEED: OnceLock<u64> = OnceLock::new();
        let seed = *SEED.get_or_init(|| {
            let given = std::env::var("REDKITE_TEST_SEED").ok();
            let seed = given
                .and_then(|text| text.parse().ok())
                .unwrap_or(20_160_330);
            println!("seed={seed}");
            seed
        });
        Self::new(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        crate::random::split_mix(&mut self.0)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn gaussian(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.unit()).cos()) as f32
    }
}

/// Gaussian clusters with an offset mean and uneven spread, like embeddings have.
pub(crate) struct Clusters {
    pub(crate) dim: usize,
    centres: Vec<Vec<f32>>,
    rng: Rng,
}

impl Clusters {
    pub(crate) fn new(dim: usize, count: usize, mut rng: Rng) -> Self {
        let offset: Vec<f32> = (0..dim).map(|_| rng.gaussian() * 0.5).collect();
        let centres = (0..count)
            .map(|_| offset.iter().map(|mean| mean + rng.gaussian()).collect())
            .collect();
        Self { dim, centres, rng }
    }

    /// `[rows, dim]` values.
    pub(crate) fn rows(&mut self, rows: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(rows * self.dim);
        for _ in 0..rows {
            let centre = &self.centres[self.rng.below(self.centres.len())];
            for mean in centre {
                values.push(mean + 0.7 * self.rng.gaussian());
            }
        }
        values
    }
}
