//! Scores of hits by their codes alone, for indexes that are built to do without the vectors.

use redkite_types::MetricType;

/// How an ordering key of scores follows from one of codes, which leaves out what all rows have in
/// common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    /// Keys grow by so much for each one of a key of codes. Positive: the order stays.
    pub(crate) slope: f64,
    /// The key where that of the codes is zero.
    pub(crate) start: f64,
}

impl Line {
    /// Of codes whose keys are estimates of the metric as rows are compared by it: squared distances (of
    /// normalised rows for cosine), or negated inner products; `common` was left out of them.
    pub(crate) fn of_estimates(metric: MetricType, common: f64) -> Self {
        match metric {
            // −cos = |a − b|² / 2 − 1, on normalised rows.
            MetricType::Cosine => Self {
                slope: 0.5,
                start: 0.5 * common - 1.0,
            },
            MetricType::L2 | MetricType::Ip | MetricType::Hamming | MetricType::Jaccard => Self {
                slope: 1.0,
                start: common,
            },
        }
    }
}

/// Scores by codes, of one query.
#[derive(Clone, Copy)]
pub(crate) struct CodeScores<'a> {
    pub(crate) metric: MetricType,
    line: Line,
    /// One over the length of each row, for cosine, else empty.
    inverse_norms: &'a [f32],
    /// Whether the query is zero throughout.
    is_zero: bool,
}

impl<'a> CodeScores<'a> {
    pub(crate) fn new(
        metric: MetricType,
        line: Line,
        query: &[f32],
        inverse_norms: &'a [f32],
    ) -> Self {
        Self {
            metric,
            line,
            inverse_norms,
            is_zero: query.iter().all(|value| *value == 0.0),
        }
    }

    /// The ordering key of a row's score. An estimate beyond what the metric can be is moved to its end:
    /// clients take roots of squared distances.
    #[inline]
    pub(crate) fn key(&self, of_codes: f32, row: u32) -> f32 {
        let Line { slope, start } = self.line;
        let key = (slope * f64::from(of_codes) + start) as f32;
        match self.metric {
            MetricType::Ip => key,
            // Exactly as vectors have it: what has no direction has the cosine zero.
            MetricType::Cosine if self.is_zero || self.has_no_direction(row) => 0.0,
            MetricType::Cosine => key.clamp(-1.0, 1.0),
            MetricType::L2 | MetricType::Hamming | MetricType::Jaccard => key.max(0.0),
        }
    }

    fn has_no_direction(&self, row: u32) -> bool {
        self.inverse_norms.get(row as usize) == Some(&0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_within_what_the_metric_can_be() {
        let key = |metric, line, of_codes| {
            CodeScores::new(metric, line, &[1.0], &[0.5, 0.0]).key(of_codes, 0)
        };
        let line = |metric, common| Line::of_estimates(metric, common);
        let l2 = line(MetricType::L2, 4.0);
        assert_eq!(key(MetricType::L2, l2, 2.5), 6.5);
        assert_eq!(key(MetricType::L2, l2, -4.5), 0.0);
        let cosine = line(MetricType::Cosine, 1.0);
        assert_eq!(key(MetricType::Cosine, cosine, 0.5), -0.25);
        assert_eq!(key(MetricType::Cosine, cosine, -2.0), -1.0);
        assert_eq!(key(MetricType::Cosine, cosine, 9.0), 1.0);
        let ip = line(MetricType::Ip, -3.0);
        assert_eq!(key(MetricType::Ip, ip, -9.0), -12.0);
    }

    #[test]
    fn what_has_no_direction_has_the_cosine_zero() {
        let line = Line::of_estimates(MetricType::Cosine, 0.0);
        let of = |query: &[f32], row| {
            CodeScores::new(MetricType::Cosine, line, query, &[0.5, 0.0]).key(0.25, row)
        };
        assert_eq!(of(&[0.0, 1.0], 0), -0.875);
        assert_eq!(of(&[0.0, 1.0], 1), 0.0);
        assert_eq!(of(&[0.0, 0.0], 0), 0.0);
    }
}
