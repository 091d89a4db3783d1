//! Codes whose high and low halves lie apart, so that of a row that is too far away only one half is read.
//!
//! A walk rejects most of the rows that it compares, and what it waits for is memory. The high four bits of
//! each dimension tell most of them: an estimate of the key comes from these alone, and only where it is not
//! clearly above the limit does the low half come from memory, and with it the exact key of the code.
//!
//! # The estimate
//! A row `x` is `x̂ + e`: the middle of its cell of sixteen codes, and what the low half adds to it. With
//! `δ = q − x`, `|x̂ − q|² = |δ|² + 2 e·δ + |e|²`, and `|e|²` is known for each row. What the low half adds has
//! nothing to do with the direction from the row to the query, so `e·δ` scatters around zero by `|δ|` times the
//! deviation of one `e`, which is 4.6 where codes fill their cells evenly. It is `δ` that counts and not `q`:
//! near the query, where it matters, the estimate is the more precise. Inner products differ by the same
//! `e·δ` once a row's own `e·x` is added.
//!
//! That low halves have nothing to do with `δ` is not so for every data: where values are few numbers, whole
//! cells are off in the same way. So a build looks at neighbours in the finished graph, and keeps a slack that
//! holds for 98 % of them.
//!
//! # Source
//! Two levels of scalar codes as in LVQ (Aguerrebere et al. 2023, §3.2), there with the second for reranking;
//! here it decides within the walk. Bounds by the scatter of an estimate as in ADSampling (Gao & Long 2023).

use bytes::Bytes;
use redkite_types::{MetricType, StopFlag, Stopped};

use super::{Codes, Encoding, Prepared};
use crate::buffer::AlignedBuffer;
use crate::kernel::{HALVES_BYTES, Half, LINE_BYTES, kernels, prefetch_each, prefetch_rows};
use crate::sq8::{Quantizer, ROWS_BETWEEN_LOOKS, ZERO};

/// Shorter rows stay whole: of two cache lines one is not enough to pay for looking twice.
const HALVED_FROM: usize = 3 * LINE_BYTES;

/// Codes of a cell: all with the same high half.
const CELL: i32 = 16;

/// Twice the middle of the first cell, signed.
const TWICE_FIRST_MIDDLE: i32 = CELL - 1 - 2 * ZERO as i32;

/// Two standard deviations of what an even low half adds: `2 · √((16² − 1) / 12)`.
const LEAST_SLACK: f32 = 9.22;

/// Of neighbours in the graph, so many have an error within the slack.
const WITHIN_SLACK: f64 = 0.98;

/// Rows whose neighbours are looked at for it.
const SAMPLED_ROWS: usize = 256;

/// Of what rows add to their estimates, this part is told apart; what is larger counts as the largest of them.
const ADDS_TOLD_APART: f64 = 0.999;

/// How halves are compared.
#[derive(Clone, Debug)]
pub(crate) struct Halves {
    /// An estimate is too large by no more than this times the distance of row and query, in steps of a code.
    pub(crate) slack: f32,
    /// The largest squared length of a row, in steps; of inner products only.
    pub(crate) longest: f32,
    /// What a row adds to its estimate is at least `least + step · n`. So coarse, because four bytes of each row
    /// would be another cache line to wait for, and too small is never wrong.
    pub(crate) least: f32,
    pub(crate) step: f32,
    /// `[rows]` those `n`.
    pub(crate) adds: Bytes,
}

/// What a query must know to be compared with halves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HalfQuery {
    /// The squared distance of a row, in steps, is at most `start + slope · key`.
    start: f32,
    slope: f32,
    /// The slack, as a part of a key for each step of distance.
    slack: f32,
    /// What the number that a row adds is multiplied by.
    share: f32,
    /// Sum of the query's codes.
    sum: i32,
}

impl HalfQuery {
    /// Estimates above this one are those of rows whose keys are likely above the limit.
    #[inline]
    fn threshold(&self, limit: f32) -> f32 {
        let square = (self.start + self.slope * limit).max(0.0);
        limit + self.slack * square.sqrt()
    }
}

impl Halves {
    /// What else a query that was made ready for whole codes needs. Where all rows have one `length`, a query of inner
    /// products is taken to have it, too: its own does not change their order, and the nearer it is to its rows the
    /// less estimates scatter.
    pub(super) fn prepare(
        &self,
        metric: MetricType,
        quantizer: &Quantizer,
        length: Option<f32>,
        query: &Prepared,
    ) -> HalfQuery {
        let sum = query.offset / i32::from(ZERO);
        match metric {
            MetricType::Ip => {
                let times = match length {
                    Some(length) if query.square.is_normal() => length / query.square.sqrt(),
                    _ => 1.0,
                };
                let (square, along_mean) = (times * times * query.square, times * query.along_mean);
                let ratio = times * query.scale / quantizer.scale;
                let step = match ratio > 0.0 {
                    true => 1.0 / ratio,
                    false => 0.0,
                };
                let unit = quantizer.scale * quantizer.scale;
                HalfQuery {
                    start: (square - 2.0 * along_mean) / unit + self.longest,
                    slope: 2.0 * ratio,
                    slack: self.slack * step,
                    share: step,
                    sum,
                }
            }
            MetricType::L2 | MetricType::Cosine | MetricType::Hamming | MetricType::Jaccard => {
                HalfQuery {
                    start: query.start,
                    slope: 1.0,
                    slack: 2.0 * self.slack,
                    share: 1.0,
                    sum,
                }
            }
        }
    }
}

/// Twice the middle of a code's cell, and twice what the code has beyond it; signed.
fn twice_parts(code: u8) -> (i32, i32) {
    let middle = 2 * CELL * (i32::from(code) / CELL) + TWICE_FIRST_MIDDLE;
    (middle, 2 * (i32::from(code) - i32::from(ZERO)) - middle)
}

/// Moves the high halves of a row's codes to its front, and the low ones behind them.
fn part_row(row: &mut [u8], room: &mut Vec<u8>) {
    room.clear();
    room.extend_from_slice(row);
    let (high, low) = row.split_at_mut(room.len() / 2);
    let groups = high
        .chunks_mut(HALVES_BYTES)
        .zip(low.chunks_mut(HALVES_BYTES));
    for ((high, low), codes) in groups.zip(room.chunks(2 * HALVES_BYTES)) {
        let (first, second) = codes.split_at(HALVES_BYTES);
        for (at, (a, b)) in first.iter().zip(second).enumerate() {
            high[at] = a >> 4 | b & 0xf0;
            low[at] = a & 0x0f | b << 4;
        }
    }
}

/// Puts a row's codes together again, as [`part_row`] found them.
pub(super) fn join_row(parted: &[u8], row: &mut [u8]) {
    let (high, low) = parted.split_at(parted.len() / 2);
    let groups = high.chunks(HALVES_BYTES).zip(low.chunks(HALVES_BYTES));
    for ((high, low), codes) in groups.zip(row.chunks_mut(2 * HALVES_BYTES)) {
        let (first, second) = codes.split_at_mut(HALVES_BYTES);
        for (at, (high, low)) in high.iter().zip(low).enumerate() {
            first[at] = high << 4 | low & 0x0f;
            second[at] = high & 0xf0 | low >> 4;
        }
    }
}

impl Codes {
    /// Ends building as [`Codes::finish`], and takes the halves of codes apart where that saves cache lines.
    /// `neighbours(row, out)` appends those of a row in the finished graph.
    ///
    /// # Errors
    /// When the flag is raised; the codes are of no use then.
    pub(crate) fn finish_in_halves(
        &mut self,
        neighbours: impl Fn(u32, &mut Vec<u32>),
        stop: &StopFlag,
    ) -> Result<(), Stopped> {
        let stride = self.stride();
        let quantizer = match &self.encoding {
            Encoding::Sq8(quantizer) if stride >= HALVED_FROM => quantizer.clone(),
            Encoding::Sq8(_) | Encoding::F32 => {
                self.finish();
                return Ok(());
            }
        };
        let slack = self.slack(neighbours);
        self.sums = Vec::new();
        let (mut own, mut longest) = (Vec::with_capacity(self.rows), 0f64);
        for row in 0..self.rows {
            if row.is_multiple_of(ROWS_BETWEEN_LOOKS) {
                stop.check()?;
            }
            let codes = &self.row(row as u32)[..self.dim];
            own.push(match self.metric {
                MetricType::Ip => {
                    let (along, square) = ip_numbers(codes, &quantizer);
                    longest = longest.max(square);
                    -along
                }
                MetricType::L2 | MetricType::Cosine | MetricType::Hamming | MetricType::Jaccard => {
                    l2_number(codes)
                }
            });
        }
        let (least, step, adds) = rounded_down(&own);
        drop(own);
        let mut room = Vec::with_capacity(stride);
        let rows = self
            .data
            .as_mut()
            .unwrap_or_default()
            .chunks_exact_mut(stride);
        for (number, row) in rows.enumerate() {
            if number.is_multiple_of(ROWS_BETWEEN_LOOKS) {
                stop.check()?;
            }
            part_row(row, &mut room);
        }
        self.finish();
        self.halves = Some(Halves {
            slack,
            longest: longest as f32,
            least,
            step,
            adds,
        });
        Ok(())
    }

    /// Says how the halves of codes that were put together are apart.
    pub(crate) fn with_halves(mut self, halves: Option<Halves>) -> Self {
        self.halves = halves;
        self
    }

    /// How much too large estimates are, as neighbours in the graph have it.
    fn slack(&self, neighbours: impl Fn(u32, &mut Vec<u32>)) -> f32 {
        let sampled = self.rows.min(SAMPLED_ROWS);
        let (mut errors, mut around) = (Vec::new(), Vec::new());
        for number in 0..sampled {
            let row = (number * self.rows / sampled) as u32;
            around.clear();
            neighbours(row, &mut around);
            if let Some(first) = around.first().copied() {
                neighbours(first, &mut around);
            }
            let query = &self.row(row)[..self.dim];
            errors.extend(
                around
                    .iter()
                    .filter_map(|other| error_beside(self.row(*other), query)),
            );
        }
        let at = (errors.len() as f64 * WITHIN_SLACK) as usize;
        if at >= errors.len() {
            return LEAST_SLACK;
        }
        let (_, slack, _) = errors.select_nth_unstable_by(at, f32::total_cmp);
        slack.max(LEAST_SLACK)
    }

    /// Asks for what an estimate reads of rows, or for all of them where there is no limit.
    #[inline]
    pub(super) fn prefetch_halves(&self, halves: &Halves, rows: &[u32], limit: f32) {
        let stride = self.stride();
        let len = match limit == f32::INFINITY {
            true => stride,
            false => stride / 2,
        };
        prefetch_rows(&self.data, stride, 0, len, rows);
        prefetch_each(&halves.adds, rows);
    }

    /// Appends estimates of the keys of rows, and asks for the low halves of those that are not likely above the limit.
    #[inline]
    pub(super) fn begin_halves(
        &self,
        halves: &Halves,
        query: &mut Prepared,
        rows: &[u32],
        limit: f32,
        keys: &mut Vec<f32>,
    ) {
        self.estimate(halves, query, rows, limit, keys);
        if limit != f32::INFINITY {
            self.prefetch_low(&query.near);
        }
    }

    /// Puts exact keys in the place of those estimates.
    #[inline]
    pub(super) fn finish_halves(&self, query: &mut Prepared, keys: &mut [f32]) {
        let Prepared {
            codes,
            dots,
            low_dots,
            near,
            near_at,
            factor,
            offset,
            ..
        } = query;
        low_dots.resize(near.len(), 0);
        let dot_halves = kernels().dot_halves;
        dot_halves(&self.data, self.stride(), Half::Low, near, codes, low_dots);
        let adds = self.adds();
        let start = keys.len() - dots.len();
        let keys = &mut keys[start..];
        for ((row, at), low) in near.iter().zip(&*near_at).zip(&*low_dots) {
            let at = *at as usize;
            let add = adds.get(*row as usize).copied().unwrap_or(0.0);
            keys[at] = add + *factor * (CELL * dots[at] + low - *offset) as f32;
        }
    }

    /// Appends the estimates of rows, and leaves those that are not likely above the limit in `query.near`.
    #[inline]
    fn estimate(
        &self,
        halves: &Halves,
        query: &mut Prepared,
        rows: &[u32],
        limit: f32,
        keys: &mut Vec<f32>,
    ) {
        let Prepared {
            codes,
            dots,
            near,
            near_at,
            factor,
            halves: of_query,
            ..
        } = query;
        dots.resize(rows.len(), 0);
        let dot_halves = kernels().dot_halves;
        dot_halves(&self.data, self.stride(), Half::High, rows, codes, dots);
        let from_middle = TWICE_FIRST_MIDDLE * of_query.sum;
        let half_factor = *factor * 0.5;
        let least = of_query.share * halves.least;
        let step = of_query.share * halves.step;
        let threshold = of_query.threshold(limit);
        let start = keys.len();
        keys.extend(rows.iter().zip(&*dots).map(|(row, dot)| {
            let own = least + step * f32::from(halves.adds[*row as usize]);
            own + half_factor * (2 * CELL * dot + from_middle) as f32
        }));
        near.resize(rows.len(), 0);
        near_at.resize(rows.len(), 0);
        let mut count = 0;
        for (at, (row, key)) in (0u32..).zip(rows.iter().zip(&keys[start..])) {
            near[count] = *row;
            near_at[count] = at;
            // Without a branch: which rows are near is as good as random.
            let is_far = *key > threshold;
            count += usize::from(!is_far);
        }
        near.truncate(count);
        near_at.truncate(count);
    }

    fn prefetch_low(&self, rows: &[u32]) {
        let (stride, half) = (self.stride(), self.stride() / 2);
        prefetch_rows(&self.data, stride, half, half, rows);
        if !self.add.is_empty() {
            prefetch_each(self.adds(), rows);
        }
    }
}

/// The largest numbers of 256 that are evenly apart and not above the given ones: the least, the step, and how many
/// of them each has.
fn rounded_down(numbers: &[f32]) -> (f32, f32, Bytes) {
    let least = numbers.iter().copied().fold(f32::INFINITY, f32::min);
    let mut sorted = numbers.to_vec();
    let at = (sorted.len() as f64 * ADDS_TOLD_APART) as usize;
    let most = match at < sorted.len() {
        true => *sorted.select_nth_unstable_by(at, f32::total_cmp).1,
        false => least,
    };
    let step = (most - least) / f32::from(u8::MAX);
    let mut counts = AlignedBuffer::zeroed(numbers.len());
    if step > 0.0 {
        for (number, count) in numbers.iter().zip(counts.as_mut()) {
            // Cut off, and at most 255.
            *count = ((number - least) / step) as u8;
        }
    }
    (
        if numbers.is_empty() { 0.0 } else { least },
        step.max(0.0),
        counts.into_bytes(),
    )
}

/// What a row adds to estimated distances: `|x̂|² − |e|²`, in steps of a code.
fn l2_number(codes: &[u8]) -> f32 {
    let squares = codes.iter().map(|code| {
        let (middle, rest) = twice_parts(*code);
        middle * middle - rest * rest
    });
    squares.sum::<i32>() as f32 / 4.0
}

/// What a row adds to its estimated inner products, and its squared length; in steps of a code.
fn ip_numbers(codes: &[u8], quantizer: &Quantizer) -> (f32, f64) {
    let (mut own, mut square) = (0f64, 0f64);
    for (code, mean) in codes.iter().zip(&quantizer.mean) {
        let level = f64::from(i32::from(*code) - i32::from(ZERO));
        let value = f64::from(mean / quantizer.scale) + level;
        own += 0.5 * f64::from(twice_parts(*code).1) * value;
        square += value * value;
    }
    (own as f32, square)
}

/// By how much an estimate is too large, divided by what slack is multiplied with; none for equal rows.
fn error_beside(row: &[u8], query: &[u8]) -> Option<f32> {
    let (mut along, mut square) = (0i64, 0i64);
    for (code, query) in row.iter().zip(query) {
        let apart = i64::from(*query) - i64::from(*code);
        along += i64::from(twice_parts(*code).1) * apart;
        square += apart * apart;
    }
    (square > 0).then(|| (along as f64 * 0.5 / (square as f64).sqrt()) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::Comparable;
    use crate::testing::{Clusters, Rng};

    const METRICS: [MetricType; 3] = [MetricType::L2, MetricType::Ip, MetricType::Cosine];

    /// The same rows whole and in halves; every row has all others as neighbours.
    fn both(metric: MetricType, dim: usize, vectors: &[f32]) -> (Codes, Codes) {
        let encode = || Codes::encode(metric, dim, vectors, &StopFlag::new()).unwrap();
        let (mut whole, mut halved) = (encode(), encode());
        whole.finish();
        let rows = halved.rows as u32;
        let neighbours =
            |row, out: &mut Vec<u32>| out.extend((0..rows).filter(|other| *other != row));
        halved
            .finish_in_halves(neighbours, &StopFlag::new())
            .unwrap();
        assert!(halved.halves.is_some());
        (whole, halved)
    }

    fn keys(codes: &Codes, query: &[f32], limit: f32) -> Vec<f32> {
        let (mut prepared, mut keys) = (Prepared::default(), vec![7.0]);
        codes.prepare(query, &mut prepared);
        let rows: Vec<u32> = (0..codes.rows as u32).collect();
        Comparable::keys(codes, &mut prepared, &rows, limit, &mut keys);
        // What was there before stays.
        assert_eq!(keys.remove(0), 7.0);
        keys
    }

    #[test]
    fn halves_put_together_are_the_codes() {
        let mut rng = Rng::from_env();
        let row: Vec<u8> = (0..192).map(|_| rng.below(256) as u8).collect();
        let mut parted = row.clone();
        part_row(&mut parted, &mut Vec::new());
        let (high, low) = parted.split_at(96);
        for (dim, code) in row.iter().enumerate() {
            let at = dim / 64 * 32 + dim % 32;
            let half = |bytes: &[u8]| {
                if dim % 64 < 32 {
                    bytes[at] & 15
                } else {
                    bytes[at] >> 4
                }
            };
            assert_eq!(half(high) << 4 | half(low), *code, "dimension {dim}");
            let (middle, rest) = twice_parts(*code);
            assert_eq!(middle + rest, 2 * (i32::from(*code) - 128));
            assert!(rest.abs() < CELL);
        }
        let mut joined = vec![0; row.len()];
        join_row(&parted, &mut joined);
        assert_eq!(joined, row);
    }

    #[test]
    fn without_a_limit_keys_are_those_of_whole_codes() {
        for metric in METRICS {
            for dim in [130, 192, 200, 384, 500] {
                let mut clusters = Clusters::new(dim, 5, Rng::from_env());
                let (vectors, query) = (clusters.rows(100), clusters.rows(1));
                let (whole, halved) = both(metric, dim, &vectors);
                let expected = keys(&whole, &query, f32::INFINITY);
                assert_eq!(
                    keys(&halved, &query, f32::INFINITY),
                    expected,
                    "{metric} {dim}"
                );
            }
        }
    }

    /// Of rows whose keys are below the limit nearly all have them exactly, and the rest of them nearly so; all
    /// other keys are above the limit.
    #[test]
    fn keys_below_a_limit_are_exact_and_few_others_are_looked_at() {
        for metric in METRICS {
            let (mut below, mut missed, mut far, mut estimated) = (0, 0, 0, 0);
            for dim in [192, 384] {
                let mut clusters = Clusters::new(dim, 20, Rng::from_env());
                let (vectors, queries) = (clusters.rows(2000), clusters.rows(20));
                let (whole, halved) = both(metric, dim, &vectors);
                for query in queries.chunks(dim) {
                    let exact = keys(&whole, query, f32::INFINITY);
                    let mut sorted = exact.clone();
                    let (_, limit, _) = sorted.select_nth_unstable_by(40, f32::total_cmp);
                    for (key, exact) in keys(&halved, query, *limit).iter().zip(&exact) {
                        if exact < limit {
                            below += 1;
                            missed += usize::from(key != exact);
                        } else {
                            far += 1;
                            estimated += usize::from(key != exact);
                            assert!(key >= limit, "{metric} {dim}: {key} for {exact} of {limit}");
                        }
                    }
                }
            }
            assert!(missed * 50 <= below, "{metric}: {missed} of {below} missed");
            assert!(
                estimated * 2 >= far,
                "{metric}: {estimated} of {far} estimated"
            );
        }
    }

    /// Values that are few numbers put whole cells off in the same way, which the build must see.
    #[test]
    fn rows_of_few_values_have_the_slack_that_they_need() {
        let (dim, mut rng) = (256, Rng::from_env());
        let mut rows = |count: usize| -> Vec<f32> {
            (0..count * dim)
                .map(|_| if rng.unit() < 0.5 { 0.55 } else { -0.4 })
                .collect()
        };
        let (vectors, queries) = (rows(1000), rows(20));
        let (whole, halved) = both(MetricType::L2, dim, &vectors);
        let (mut below, mut missed) = (0, 0);
        for query in queries.chunks(dim) {
            let exact = keys(&whole, query, f32::INFINITY);
            let mut sorted = exact.clone();
            let (_, limit, _) = sorted.select_nth_unstable_by(20, f32::total_cmp);
            for (key, exact) in keys(&halved, query, *limit).iter().zip(&exact) {
                below += usize::from(exact < limit);
                missed += usize::from(exact < limit && key != exact);
            }
        }
        assert!(missed * 20 <= below, "{missed} of {below} missed");
    }

    #[test]
    fn numbers_are_rounded_down_only() {
        let mut rng = Rng::from_env();
        let mut numbers: Vec<f32> = (0..3000).map(|_| rng.gaussian() * 1000.0).collect();
        numbers.extend([1e9, f32::MAX / 4.0]);
        let (least, step, counts) = rounded_down(&numbers);
        let (mut close, slack) = (0, step * 1e-3);
        for (number, count) in numbers.iter().zip(&counts) {
            let rounded = least + step * f32::from(*count);
            assert!(rounded <= number + slack, "{rounded} above {number}");
            close += usize::from(number - rounded <= step * 1.01);
        }
        assert!(close >= numbers.len() - 5, "{close} are within a step");
        assert_eq!(rounded_down(&[]).0, 0.0);
        let (least, step, counts) = rounded_down(&[5.0; 3]);
        assert_eq!((least, step, &counts[..]), (5.0, 0.0, &[0; 3][..]));
    }
}
