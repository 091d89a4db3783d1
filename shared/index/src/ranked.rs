//! Candidates of which it is not known beforehand how many must be scored exactly.
//!
//! Where a filter excludes what lies around a query, the best of what it allows lie at a far rank, where
//! rows are so dense that codes cannot tell them apart. So they are scored in the order of their codes for as
//! long as one could still be among the best.

use redkite_types::StopFlag;

use crate::error::Result;
use crate::margin::Trend;
use crate::topk::{TopK, pack, unpack};

/// Candidates that are put in order first; then always as many again.
const FIRST_PART: usize = 256;

/// Rows and the keys of their codes, put in order only as far as they are scored.
#[derive(Default)]
pub(crate) struct Ranked {
    packed: Vec<u64>,
    sorted: usize,
}

impl Ranked {
    /// Takes the rows that are kept, which are put in order only when asked for.
    pub(crate) fn take(best: &mut TopK) -> Self {
        Self {
            packed: best.take(),
            sorted: 0,
        }
    }

    /// Adds a row.
    #[inline]
    pub(crate) fn push(&mut self, key: f32, row: u32) {
        self.packed.push(pack(key, row));
    }

    /// The next rows in order, none once all were given.
    fn next_part(&mut self) -> &[u64] {
        let start = self.sorted;
        let rest = &mut self.packed[start..];
        let count = start.max(FIRST_PART).min(rest.len());
        if count > 0 && count < rest.len() {
            rest.select_nth_unstable(count - 1);
        }
        rest[..count].sort_unstable();
        self.sorted += count;
        &self.packed[start..self.sorted]
    }

    /// Scores rows, best code first, until it is unlikely that one that is left belongs to the best.
    ///
    /// # Errors
    /// `Cancelled`, and those of `exact`.
    pub(crate) fn score(
        &mut self,
        scoring: &mut Scoring<'_>,
        stop: &StopFlag,
        ask: impl Fn(u32),
        mut exact: impl FnMut(u32) -> Result<f32>,
    ) -> Result<()> {
        loop {
            stop.check()?;
            let part = self.next_part().iter().map(|packed| unpack(*packed));
            if part.len() == 0 || scoring.offer(part, &ask, &mut exact)? {
                return Ok(());
            }
        }
    }
}

/// The best of the rows that were scored, and whether another can be one of them.
pub(crate) struct Scoring<'a> {
    pub(crate) best: &'a mut TopK,
    pub(crate) trend: Trend,
    /// Rows to score, whether it is unlikely or not that they count.
    pub(crate) least: usize,
    /// Whether those that cannot count are left out nevertheless.
    pub(crate) ends_early: bool,
    pub(crate) scored: usize,
}

impl Scoring<'_> {
    /// Scores rows, whose keys grow, with `exact`; `ask` is told of each a little before. Answers whether
    /// it ended before their end.
    ///
    /// # Errors
    /// Those of `exact`.
    pub(crate) fn offer(
        &mut self,
        rows: impl Iterator<Item = (f32, u32)> + Clone,
        ask: impl Fn(u32),
        mut exact: impl FnMut(u32) -> Result<f32>,
    ) -> Result<bool> {
        let mut soon = rows.clone().skip(ROWS_AHEAD);
        for (coarse, row) in rows {
            if self.is_over(coarse) {
                return Ok(true);
            }
            if let Some((_, row)) = soon.next() {
                ask(row);
            }
            let key = exact(row)?;
            self.best.push(key, row);
            self.trend.learn(coarse, key);
            self.scored += 1;
        }
        Ok(false)
    }

    /// Whether rows of such keys need not be scored.
    pub(crate) fn is_over(&self, coarse: f32) -> bool {
        let limit = self.best.limit();
        if self.scored >= self.least {
            return self.trend.is_likely_beyond(coarse, limit);
        }
        self.ends_early && self.trend.margin().is_beyond(coarse, limit)
    }
}

/// Rows that are asked for before they are scored.
const ROWS_AHEAD: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::margin::LIKELY_FAR;
    use crate::testing::Rng;

    /// The best ten of rows whose exact keys differ by as much as `spread` and whose codes are off by as much
    /// as `noise`; how many of them were found, and how many rows were scored.
    fn scored(rng: &mut Rng, spread: f64, noise: f64) -> (usize, usize) {
        let keys: Vec<f32> = (0..5_000)
            .map(|_| (9.0 + spread * rng.unit()) as f32)
            .collect();
        let mut ranked = Ranked::default();
        for (row, key) in keys.iter().enumerate() {
            let off: f64 = (0..6).map(|_| rng.unit() - 0.5).sum();
            ranked.push(key + (noise * off) as f32, row as u32);
        }
        let mut best = TopK::with_k(10);
        let mut scoring = Scoring {
            best: &mut best,
            trend: Trend::new(1.0, LIKELY_FAR),
            least: 15,
            ends_early: false,
            scored: 0,
        };
        let (stop, exact) = (StopFlag::new(), |row: u32| Ok(keys[row as usize]));
        ranked.score(&mut scoring, &stop, |_| (), exact).unwrap();
        let count = scoring.scored;
        let mut order = keys.clone();
        order.sort_by(f32::total_cmp);
        let found = best.drain().filter(|(key, _)| *key <= order[9]).count();
        (found, count)
    }

    #[test]
    fn as_many_are_scored_as_codes_cannot_tell_apart() {
        let mut rng = Rng::from_env();
        for (spread, noise, most) in [
            (5_000.0, 0.1, 30),
            (5_000.0, 10.0, 120),
            (5_000.0, 500.0, 4_000),
            (1.0, 100.0, 5_000),
        ] {
            let (mut found, mut count) = (0, 0);
            for _ in 0..20 {
                let (hits, rows) = scored(&mut rng, spread, noise);
                found += hits;
                count += rows;
            }
            println!("{spread} {noise}: {found} of 200, {} scored", count / 20);
            assert!(found >= 194, "{spread} {noise}: {found} of 200");
            assert!(count / 20 <= most, "{spread} {noise}: {}", count / 20);
        }
    }

    #[test]
    fn everything_is_put_in_order_part_by_part() {
        let mut rng = Rng::from_env();
        for len in [0, 1, 255, 256, 257, 3_000] {
            let mut ranked = Ranked::default();
            let mut expected = Vec::new();
            for row in 0..len {
                let key = rng.unit() as f32;
                ranked.push(key, row);
                expected.push(pack(key, row));
            }
            expected.sort_unstable();
            let mut order = Vec::new();
            loop {
                let part = ranked.next_part();
                if part.is_empty() {
                    break;
                }
                order.extend_from_slice(part);
            }
            assert_eq!(order, expected);
        }
    }
}
