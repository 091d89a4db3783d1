//! One list from the hits of several searches.

use std::{
    cmp::Ordering,
    collections::HashMap,
    f32::consts::{FRAC_2_PI, PI},
};

use redkite_types::{GroupKey, MetricType, PrimaryKey};

use crate::plan::rank::{GroupScorer, Ranker};

use super::search::Pick;

/// A row that one or more searches found.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Its primary key.
    pub key: PrimaryKey,
    /// One of its hits, with the final score.
    pub pick: Pick,
}

/// What is needed to put one query's hits in order.
pub struct Fusion<'a> {
    ranker: &'a Ranker,
    metrics: &'a [MetricType],
    /// Whether the larger final score is the better one.
    descending: bool,
    /// Whether all scores are turned so that larger is better.
    turn: bool,
}

impl<'a> Fusion<'a> {
    /// Looks at how the searches measure.
    pub fn new(ranker: &'a Ranker, metrics: &'a [MetricType]) -> Self {
        let larger = metrics.iter().filter(|metric| metric.larger_is_nearer());
        let larger = larger.count();
        let mixed = larger > 0 && larger < metrics.len();
        let (descending, turn) = match ranker {
            Ranker::Rrf { .. } => (true, false),
            Ranker::Weighted { normalize, .. } => (*normalize || larger > 0, mixed),
        };
        Self {
            ranker,
            metrics,
            descending,
            turn,
        }
    }

    /// Ranks the rows that the searches found for one query, best first with ties in order of the
    /// primary key. `lists` has each search's hits, best first.
    pub fn rank(&self, lists: &[Vec<Pick>], key: impl Fn(Pick) -> PrimaryKey) -> Vec<Ranked> {
        let mut places: HashMap<PrimaryKey, usize> = HashMap::new();
        let mut rows: Vec<Ranked> = Vec::new();
        for (search, list) in lists.iter().enumerate() {
            for (rank, pick) in list.iter().enumerate() {
                let score = self.part(search, rank, pick.score);
                let place = places.entry(key(*pick)).or_insert_with_key(|key| {
                    rows.push(Ranked {
                        key: key.clone(),
                        pick: pick.with_score(0.0),
                    });
                    rows.len() - 1
                });
                rows[*place].pick.score += score;
            }
        }
        rows.sort_by(|a, b| {
            self.order(a.pick.score, b.pick.score)
                .then_with(|| a.key.cmp(&b.key))
        });
        rows
    }

    /// Puts ranked rows into groups of at most `size`, the best group first, and brings back the
    /// rows group by group. Of groups with equal scores the larger comes first, then the one with
    /// the smaller first key.
    pub fn group(
        &self,
        rows: Vec<Ranked>,
        size: usize,
        scorer: GroupScorer,
        group: impl Fn(Pick) -> GroupKey,
    ) -> Vec<Vec<Ranked>> {
        let mut places: HashMap<GroupKey, usize> = HashMap::new();
        let mut groups: Vec<Vec<Ranked>> = Vec::new();
        for row in rows {
            let place = *places.entry(group(row.pick)).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            if groups[place].len() < size {
                groups[place].push(row);
            }
        }
        groups.sort_by(|a, b| {
            self.order(score_of(a, scorer), score_of(b, scorer))
                .then_with(|| b.len().cmp(&a.len()))
                .then_with(|| a[0].key.cmp(&b[0].key))
        });
        groups
    }

    fn order(&self, a: f32, b: f32) -> Ordering {
        if self.descending {
            b.total_cmp(&a)
        } else {
            a.total_cmp(&b)
        }
    }

    /// What a hit adds to its row's score; ranks count from 0.
    fn part(&self, search: usize, rank: usize, score: f32) -> f32 {
        match self.ranker {
            Ranker::Rrf { k } => 1.0 / (k + (rank + 1) as f32),
            Ranker::Weighted { weights, normalize } => {
                let metric = self.metrics[search];
                let score = match (*normalize, self.turn) {
                    (true, _) => normalized(metric, score),
                    (false, true) => turned(metric, score),
                    (false, false) => score,
                };
                weights[search] * score
            }
        }
    }
}

/// A group's score; its rows stand best first, and there is at least one.
fn score_of(group: &[Ranked], scorer: GroupScorer) -> f32 {
    let sum = || group.iter().map(|row| row.pick.score).sum::<f32>();
    match scorer {
        GroupScorer::Max => group[0].pick.score,
        GroupScorer::Sum => sum(),
        GroupScorer::Avg => sum() / group.len() as f32,
    }
}

/// A score in `[0, 1]`, larger is nearer, as Milvus normalizes each metric.
fn normalized(metric: MetricType, score: f32) -> f32 {
    match metric {
        MetricType::Cosine => (1.0 + score) * 0.5,
        MetricType::Ip => 0.5 + score.atan() / PI,
        MetricType::L2 | MetricType::Hamming | MetricType::Jaccard => turned(metric, score),
    }
}

/// A score of which larger is nearer.
fn turned(metric: MetricType, score: f32) -> f32 {
    match metric {
        MetricType::Cosine | MetricType::Ip => score,
        MetricType::L2 | MetricType::Hamming | MetricType::Jaccard => {
            1.0 - FRAC_2_PI * score.atan()
        }
    }
}
