//! Going through lists row by row, and not looking at rows that cannot be among the best.
//!
//! What a list can add at most is known, so a row is passed over when the lists that may have it
//! could not lift it above the worst of the best so far. Rows come in order, and of equal scores the
//! earlier row is the better one, so a row that could only be equal is passed over too. Sums are in
//! f64 and rounded once; rounding keeps the order, so nothing that counts is lost.

use redkite_types::StopFlag;

use super::postings::List;
use crate::{allowed::Allowed, error::Result, params::RangeBounds, topk::TopK};
use redkite_types::MetricType;

/// Rows looked at between two looks at the stop flag.
const STRIDE: usize = 4_096;

/// The best rows so far.
pub(super) struct Best<'a> {
    pub(super) topk: TopK,
    /// Scores must be larger than this.
    pub(super) floor: f64,
    pub(super) range: Option<&'a RangeBounds>,
}

impl Best<'_> {
    /// Takes a row in, if its score is good enough.
    pub(super) fn offer(&mut self, row: u32, score: f64) {
        if score <= self.floor {
            return;
        }
        let rounded = score as f32;
        // A score may round down to the radius, or to zero.
        if rounded <= 0.0
            || !self
                .range
                .is_none_or(|range| range.contains(MetricType::Ip, rounded))
        {
            return;
        }
        self.topk.push(-rounded, row);
    }

    /// A row of a later number must have a larger score.
    fn threshold(&self) -> f64 {
        let worst = self.topk.worst().map_or(0.0, |key| f64::from(-key));
        worst.max(self.floor)
    }
}

/// A list while it is gone through, and the query's value in its dimension.
pub(super) struct Term<'a> {
    list: List<'a>,
    weight: f64,
    /// The most that it adds to a score.
    bound: f64,
    at: usize,
}

/// Behind the last row.
const END: u32 = u32::MAX;

impl<'a> Term<'a> {
    pub(super) fn new(list: List<'a>, weight: f64) -> Self {
        Self {
            bound: f64::from(list.max) * weight,
            list,
            weight,
            at: 0,
        }
    }

    /// All rows, with what the list adds to their scores.
    pub(super) fn postings(&self) -> impl Iterator<Item = (u32, f64)> + '_ {
        let values = self.list.values.iter();
        let values = values.map(|value| f64::from(*value) * self.weight);
        self.list.rows.iter().copied().zip(values)
    }

    /// The row at which it stands.
    fn row(&self) -> u32 {
        self.list.rows.get(self.at).copied().unwrap_or(END)
    }

    /// What it adds to the score of the row at which it stands.
    fn value(&self) -> f64 {
        f64::from(self.list.values[self.at]) * self.weight
    }

    /// Goes to the first row that is not before `row`.
    fn seek(&mut self, row: u32) {
        let rest = &self.list.rows[self.at..];
        let mut step = 1;
        while step < rest.len() && rest[step] < row {
            step *= 2;
        }
        let (from, to) = (step / 2, rest.len().min(step + 1));
        self.at += from + rest[from..to].partition_point(|at| *at < row);
    }
}

/// Walks the union of the lists that can lift a row above the threshold by themselves, and looks
/// into the others only as long as they could matter.
pub(super) fn max_score<'a>(
    mut terms: Vec<Term<'_>>,
    mut best: Best<'a>,
    allowed: Allowed<'_>,
    stop: &StopFlag,
) -> Result<Best<'a>> {
    terms.sort_by(|a, b| a.bound.total_cmp(&b.bound));
    // What the first lists add at most, together.
    let mut sums = Vec::with_capacity(terms.len());
    let mut sum = 0.0;
    for term in &terms {
        sum += term.bound;
        sums.push(sum);
    }
    let mut threshold = best.threshold();
    let mut first = sums.partition_point(|sum| *sum <= threshold);
    let mut looked_at = 0usize;
    loop {
        looked_at += 1;
        if looked_at.is_multiple_of(STRIDE) {
            stop.check()?;
        }
        let (others, essential) = terms.split_at_mut(first);
        let row = essential.iter().map(Term::row).min().unwrap_or(END);
        if row == END {
            return Ok(best);
        }
        let mut score = 0.0;
        for term in essential.iter_mut().filter(|term| term.row() == row) {
            score += term.value();
            term.at += 1;
        }
        if !allowed.has(row) {
            continue;
        }
        let mut is_lost = false;
        for (term, sum) in others.iter_mut().zip(&sums).rev() {
            if score + sum <= threshold {
                is_lost = true;
                break;
            }
            term.seek(row);
            if term.row() == row {
                score += term.value();
            }
        }
        if is_lost {
            continue;
        }
        best.offer(row, score);
        let raised = best.threshold();
        if raised > threshold {
            threshold = raised;
            first = sums.partition_point(|sum| *sum <= threshold);
        }
    }
}

/// Goes on to the pivot: the first row that the lists up to it, in the order of where they stand,
/// could lift above the threshold.
pub(super) fn wand<'a>(
    mut terms: Vec<Term<'_>>,
    mut best: Best<'a>,
    allowed: Allowed<'_>,
    stop: &StopFlag,
) -> Result<Best<'a>> {
    let mut looked_at = 0usize;
    loop {
        looked_at += 1;
        if looked_at.is_multiple_of(STRIDE) {
            stop.check()?;
        }
        terms.retain(|term| term.row() != END);
        terms.sort_by_key(Term::row);
        let threshold = best.threshold();
        let mut sum = 0.0;
        let pivot = terms.iter().position(|term| {
            sum += term.bound;
            sum > threshold
        });
        let Some(pivot) = pivot else {
            return Ok(best);
        };
        let row = terms[pivot].row();
        if terms[0].row() < row {
            for term in terms.iter_mut().take_while(|term| term.row() < row) {
                term.seek(row);
            }
            continue;
        }
        let mut score = 0.0;
        for term in terms.iter_mut().take_while(|term| term.row() == row) {
            score += term.value();
            term.at += 1;
        }
        if allowed.has(row) {
            best.offer(row, score);
        }
    }
}
