//! When scoring candidates exactly may end.
//!
//! Candidates come in the order of the keys of their codes, and a few more than the `k` that are asked for, because
//! rounding mixes up neighbours. By how much it does is seen on those that were scored: the exact key of a row
//! is a line of the coarse one, whose slope is known, and what is left over scatters. A candidate that
//! lies far beyond the `k`-th best of now is beyond it for sure, and with it all behind it. So instead of
//! 20 vectors a search for 10 mostly looks at 11 to 13, each of which may have to be read from a file.
//!
//! Where a filter excludes what lies around the query, the same question is when scoring must not end, see
//! [`Trend`].

/// Scored candidates without which nothing is known about the scatter.
const LEAST: u32 = 8;

/// How many standard deviations are far: of a million candidates that would have counted some tens are missed.
const FAR: f64 = 4.0;

/// The same for a [`Trend`]: of a hundred candidates that would have counted one is missed.
pub(crate) const LIKELY_FAR: f64 = 2.5;

/// The same where candidates are of many lists. Codes of a few bits are off by more the further a list lies from
/// the query, and a list's rows in the same way, so those of one say little of those of another.
pub(crate) const LIKELY_FAR_IN_LISTS: f64 = 3.5;

/// What the exact keys of a query's candidates say about the coarse ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Margin {
    /// Exact keys grow by so much for each one of a coarse key.
    slope: f64,
    scored: u32,
    /// Mean of what is left over, and the sum of the squares of the distances to it.
    mean: f64,
    squares: f64,
}

impl Margin {
    pub(crate) fn new(slope: f32) -> Self {
        Self {
            slope: f64::from(slope),
            scored: 0,
            mean: 0.0,
            squares: 0.0,
        }
    }

    /// Takes note of a candidate that was scored.
    ///
    /// # Source
    /// Welford 1962, for the running variance.
    pub(crate) fn learn(&mut self, coarse: f32, exact: f32) {
        let left = f64::from(exact) - self.slope * f64::from(coarse);
        self.scored += 1;
        let before = left - self.mean;
        self.mean += before / f64::from(self.scored);
        self.squares += before * (left - self.mean);
    }

    /// Whether a candidate cannot have an exact key below `limit`.
    pub(crate) fn is_beyond(&self, coarse: f32, limit: f32) -> bool {
        if self.scored < LEAST {
            return false;
        }
        let scatter = (self.squares / f64::from(self.scored - 1)).sqrt();
        self.slope * f64::from(coarse) + self.mean - FAR * scatter > f64::from(limit)
    }
}

/// How the exact keys of scored candidates go with the coarse ones.
///
/// A [`Margin`] takes it that what rounding adds to a key does not go with the key, which is so where rounding is
/// little beside the differences of keys. Where it is not, the smallest coarse keys are those that rounding
/// made small: exact keys then grow more slowly than coarse ones, or not at all, and the slope must be seen too.
/// Candidates are chosen by coarse key only, so a line through what was scored is no worse for the choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trend {
    margin: Margin,
    /// Standard deviations that are far.
    far: f64,
    /// Mean of the coarse keys, the sum of the squares of the distances to it, and that of their products with
    /// those of what is left over.
    mean: f64,
    squares: f64,
    products: f64,
}

impl Trend {
    /// Exact keys grow by `slope` at most for each one of a coarse key; `far` are standard deviations.
    pub(crate) fn new(slope: f32, far: f64) -> Self {
        Self {
            margin: Margin::new(slope),
            far,
            mean: 0.0,
            squares: 0.0,
            products: 0.0,
        }
    }

    /// What is known if rounding is little.
    pub(crate) fn margin(&self) -> &Margin {
        &self.margin
    }

    /// Takes note of a candidate that was scored.
    pub(crate) fn learn(&mut self, coarse: f32, exact: f32) {
        self.margin.learn(coarse, exact);
        let (coarse, exact) = (f64::from(coarse), f64::from(exact));
        let before = coarse - self.mean;
        self.mean += before / f64::from(self.margin.scored);
        self.squares += before * (coarse - self.mean);
        let left = exact - self.margin.slope * coarse;
        self.products += before * (left - self.margin.mean);
    }

    /// Whether it is unlikely that a candidate has an exact key below `limit`.
    pub(crate) fn is_likely_beyond(&self, coarse: f32, limit: f32) -> bool {
        let scored = f64::from(self.margin.scored);
        if self.margin.scored < LEAST || self.squares <= 0.0 {
            return false;
        }
        // By so much less than the slope do exact keys grow.
        let lost = (-self.products / self.squares).clamp(0.0, self.margin.slope);
        let squares = self.margin.squares + lost * (2.0 * self.products + lost * self.squares);
        let scatter = (squares.max(0.0) / (scored - 2.0)).sqrt();
        let away = f64::from(coarse) - self.mean;
        // The line itself is known the less the further away from what was scored.
        let spread = (1.0 + 1.0 / scored + away * away / self.squares).sqrt();
        let expected = self.margin.slope * f64::from(coarse) + self.margin.mean - lost * away;
        expected - self.far * scatter * spread > f64::from(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    /// Coarse keys in order, each with an exact one that differs by as much as `noise`.
    fn candidates(rng: &mut Rng, count: usize, noise: f64) -> Vec<(f32, f32)> {
        let mut coarse: Vec<f64> = (0..count).map(|_| 50.0 * rng.unit()).collect();
        coarse.sort_by(f64::total_cmp);
        let mut exact = |key: f64| 3.0 + 0.5 * key + noise * (rng.unit() - 0.5);
        let pairs = coarse.into_iter();
        pairs.map(|key| (key as f32, exact(key) as f32)).collect()
    }

    /// How many are scored for the best `k`, and whether they are the best of all.
    fn scored(candidates: &[(f32, f32)], k: usize) -> (usize, bool) {
        let mut margin = Margin::new(0.5);
        let mut exact: Vec<f32> = Vec::new();
        for (coarse, key) in candidates {
            let limit = exact.get(k - 1).copied().unwrap_or(f32::INFINITY);
            if margin.is_beyond(*coarse, limit) {
                break;
            }
            margin.learn(*coarse, *key);
            let at = exact.partition_point(|better| better < key);
            exact.insert(at, *key);
        }
        let mut all: Vec<f32> = candidates.iter().map(|(_, key)| *key).collect();
        all.sort_by(f32::total_cmp);
        (exact.len(), exact[..k] == all[..k])
    }

    #[test]
    fn scoring_ends_early_and_misses_nothing_where_codes_are_fine() {
        let mut rng = Rng::from_env();
        let mut looked_at = 0;
        for _ in 0..1_000 {
            let (scored, is_best) = scored(&candidates(&mut rng, 20, 0.3), 10);
            assert!(is_best && scored >= 10);
            looked_at += scored;
        }
        assert!(looked_at < 13_500, "{looked_at}");
    }

    #[test]
    fn everything_is_scored_where_codes_are_coarse_or_few_were_scored() {
        let mut rng = Rng::from_env();
        for _ in 0..1_000 {
            let (scored_coarse, _) = scored(&candidates(&mut rng, 20, 40.0), 10);
            assert_eq!(scored_coarse, 20);
            let (scored_few, _) = scored(&candidates(&mut rng, 6, 0.0), 1);
            assert_eq!(scored_few, 6);
        }
    }

    #[test]
    fn a_trend_sees_that_exact_keys_do_not_grow_with_coarse_ones() {
        let mut rng = Rng::from_env();
        let (mut trend, mut fine) = (Trend::new(0.5, LIKELY_FAR), Trend::new(0.5, LIKELY_FAR));
        for (coarse, exact) in candidates(&mut rng, 100, 0.1) {
            // What rounding adds is all that the coarse key says.
            trend.learn(coarse, 3.0 + 0.1 * rng.unit() as f32);
            fine.learn(coarse, exact);
        }
        assert!(!trend.is_likely_beyond(60.0, 3.05));
        assert!(fine.is_likely_beyond(60.0, 3.05) && fine.is_likely_beyond(1.0, 3.05));
        assert!(!fine.is_likely_beyond(0.1, 3.1));
    }

    #[test]
    fn a_trend_of_equal_coarse_keys_says_nothing() {
        let mut trend = Trend::new(1.0, LIKELY_FAR);
        (0..20).for_each(|at| trend.learn(2.0, at as f32));
        assert!(!trend.is_likely_beyond(2.0, -9.0));
    }

    #[test]
    fn equal_keys_are_never_beyond() {
        let mut margin = Margin::new(0.5);
        for _ in 0..20 {
            assert!(!margin.is_beyond(4.0, 5.0));
            margin.learn(4.0, 5.0);
        }
        assert!(margin.is_beyond(4.1, 5.0));
    }
}
