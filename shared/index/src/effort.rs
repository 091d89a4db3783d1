//! How many lists of an inverted index a search visits.

use crate::allowed::Allowed;

/// When a search may stop to visit lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Lists to visit, at least.
    pub(crate) nprobe: usize,
    /// Allowed rows to look at, at least. Under a filter it is what `nprobe` lists hold without one:
    /// the rows that a filter hides around the query are made up for further out.
    pub(crate) rows: usize,
}

impl Effort {
    /// For so many rows in so many lists; `needed` rows must be found if there are so many.
    pub(crate) fn new(
        nprobe: usize,
        rows: usize,
        lists: usize,
        allowed: Allowed<'_>,
        needed: usize,
    ) -> Self {
        let usual = match allowed.set {
            Some(_) => (nprobe * rows).div_ceil(lists.max(1)),
            None => 0,
        };
        Self {
            nprobe,
            rows: usual.max(needed).min(allowed.count),
        }
    }

    pub(crate) fn begin(self, allowed: Allowed<'_>, rows: usize) -> Visits {
        Visits {
            effort: self,
            share: allowed.count as f64 / rows.max(1) as f64,
            lists: 0,
            looked_at: 0,
            missing: 0.0,
            most_missing: 0.0,
            is_skewed: false,
        }
    }
}

/// What a search met until it had visited enough lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    /// Lists that were visited.
    pub(crate) lists: usize,
    /// Whether the filter excludes what lies around the query, by more than chance does.
    pub(crate) is_skewed: bool,
}

/// What a search meets on its way.
///
/// A filter that has nothing to do with the vectors leaves every list its share. One that excludes
/// what lies around the query does not, and what it allows is then all about equally far away, in lists
/// that are hard to rank: so rows that are missing from the lists on the way are looked at
/// twice further out.
#[derive(Debug)]
pub(crate) struct Visits {
    effort: Effort,
    /// Of the rows, how many are allowed.
    share: f64,
    lists: usize,
    looked_at: usize,
    /// Allowed rows that the visited lists should have had and did not.
    missing: f64,
    most_missing: f64,
    /// Whether ever more were missing than by chance.
    is_skewed: bool,
}

/// Standard deviations that are no chance: lists that would have been visited without a filter are looked at
/// one after the other, and of a thousand searches some are taken for skewed.
const SKEW: f64 = 3.0;

/// Missing rows that are no chance, where nearly all are allowed.
const LEAST_MISSING: f64 = 4.0;

impl Visits {
    /// A list of so many rows of which so many are allowed was looked at.
    pub(crate) fn add(&mut self, rows: usize, allowed: usize) {
        self.looked_at += allowed;
        self.missing += self.share * rows as f64 - allowed as f64;
        self.most_missing = self.most_missing.max(self.missing);
        self.lists += 1;
        if self.lists <= self.effort.nprobe {
            let expected = self.looked_at as f64 + self.missing;
            let chance = SKEW * (expected * (1.0 - self.share)).max(0.0).sqrt();
            self.is_skewed |= self.missing > chance.max(LEAST_MISSING);
        }
    }

    /// What was met so far.
    pub(crate) fn met(&self) -> Met {
        Met {
            lists: self.lists,
            is_skewed: self.is_skewed,
        }
    }

    /// Whether enough allowed rows were looked at.
    pub(crate) fn are_enough(&self) -> bool {
        self.looked_at as f64 >= self.effort.rows as f64 + 2.0 * self.most_missing
    }
}

#[cfg(test)]
mod tests {
    use redkite_types::BitSet;

    use super::*;

    /// Lists of 100 rows each; answers how many are visited.
    fn visited(allow: &BitSet, nprobe: usize, lists: usize) -> usize {
        let allowed = Allowed::of(Some(allow), lists * 100);
        let effort = Effort::new(nprobe, lists * 100, lists, allowed, 10);
        let mut visits = effort.begin(allowed, lists * 100);
        let mut rank = 0;
        while rank < lists && (rank < nprobe || !visits.are_enough()) {
            let rows = rank * 100..(rank + 1) * 100;
            visits.add(100, rows.filter(|row| allow.get(*row)).count());
            rank += 1;
        }
        rank
    }

    #[test]
    fn without_a_filter_nprobe_lists_are_visited() {
        let allowed = Allowed::of(None, 1_000);
        let mut visits = Effort::new(3, 1_000, 10, allowed, 10).begin(allowed, 1_000);
        (0..3).for_each(|_| visits.add(100, 100));
        assert!(visits.are_enough());
    }

    #[test]
    fn an_even_filter_is_made_up_for_and_no_more() {
        let tenth = BitSet::from_fn(10_000, |row| row % 10 == 0);
        assert_eq!(visited(&tenth, 4, 100), 40);
    }

    /// Whether the filter is said to exclude what is near, after ten lists of 100 rows.
    fn is_skewed(allow: &BitSet) -> bool {
        let allowed = Allowed::of(Some(allow), 10_000);
        let mut visits = Effort::new(10, 10_000, 100, allowed, 10).begin(allowed, 10_000);
        for list in 0..10 {
            let rows = list * 100..(list + 1) * 100;
            visits.add(100, rows.filter(|row| allow.get(*row)).count());
        }
        assert_eq!(visits.met().lists, 10);
        visits.met().is_skewed
    }

    #[test]
    fn a_filter_that_excludes_what_is_near_is_told_from_chance() {
        let mut rng = crate::testing::Rng::from_env();
        for share in [0.99, 0.5, 0.1, 0.01] {
            let mut taken = 0;
            for _ in 0..200 {
                let any = BitSet::from_fn(10_000, |_| rng.unit() < share);
                taken += usize::from(is_skewed(&any));
            }
            assert!(taken <= 8, "{share}: {taken} of 200");
        }
        for (share, without) in [(1.0, 20), (0.5, 60), (0.1, 200)] {
            let mut noticed = 0;
            for _ in 0..200 {
                let set = BitSet::from_fn(10_000, |row| row >= without && rng.unit() < share);
                noticed += usize::from(is_skewed(&set));
            }
            assert!(noticed >= 150, "{share} {without}: {noticed} of 200");
        }
    }

    #[test]
    fn what_lies_near_needs_no_more_lists() {
        let near = BitSet::from_fn(10_000, |row| row < 5_000);
        assert_eq!(visited(&near, 4, 100), 4);
    }

    #[test]
    fn what_lies_behind_excluded_lists_is_looked_at_widely() {
        let far = BitSet::from_fn(10_000, |row| row >= 5_000);
        assert_eq!(visited(&far, 4, 100), 100);
        // Excluded around the query, and everything else allowed.
        let hole = BitSet::from_fn(10_000, |row| row >= 200);
        assert_eq!(visited(&hole, 4, 100), 10);
    }
}
