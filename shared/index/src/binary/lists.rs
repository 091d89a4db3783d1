//! Inverted lists of binary vectors.

use bytes::Bytes;
use redkite_types::{MetricType, StopFlag};

use super::{BinaryParams, BinaryRows, distance};
use crate::{
    buffer::{AlignedBuffer, aligned_copy, view},
    error::{Error, Result},
    file::{Header, Section, Stored},
    index::BuildOptions,
    kernel::kernels,
    random::split_mix,
};

/// Rows that a centroid is learned from, at most.
const SAMPLE_PER_LIST: usize = 64;

/// Below this number of rows a list, there would be lists of chance: fewer lists are made.
const MIN_ROWS_PER_LIST: usize = 39;

/// Rounds of learning; later ones hardly move a bit.
const ROUNDS: usize = 8;

/// Rows assigned between two looks at the stop flag.
const BLOCK_ROWS: usize = 256;

/// Which rows are in which list, and each list's centroid.
pub(super) struct Lists {
    width: usize,
    /// `[nlist, width]` bytes.
    centroids: Bytes,
    /// `[nlist + 1]` u32.
    offsets: Bytes,
    /// `[rows]` u32, by list and then in order.
    rows: Bytes,
}

impl Lists {
    pub(super) fn build(
        params: &BinaryParams,
        rows: &BinaryRows<'_>,
        options: &BuildOptions<'_>,
    ) -> Result<Self> {
        let count = rows.rows();
        let nlist = params.nlist.min(count / MIN_ROWS_PER_LIST).max(1);
        let centroids = learn(rows, nlist, options.seed, options.stop)?;
        let mut list_of = Vec::with_capacity(count);
        for row in 0..count as u32 {
            if (row as usize).is_multiple_of(BLOCK_ROWS) {
                options.stop.check()?;
            }
            list_of.push(nearest(&centroids, rows.width, rows.row(row)));
            options.count(1);
        }
        let mut offsets = vec![0u32; nlist + 1];
        for list in &list_of {
            offsets[*list as usize + 1] += 1;
        }
        for list in 0..nlist {
            offsets[list + 1] += offsets[list];
        }
        let mut next = offsets.clone();
        let mut buffer = AlignedBuffer::zeroed(count * size_of::<u32>());
        let list_rows: &mut [u32] = buffer.values_mut();
        for (row, list) in list_of.iter().enumerate() {
            let place = &mut next[*list as usize];
            list_rows[*place as usize] = row as u32;
            *place += 1;
        }
        Ok(Self {
            width: rows.width,
            centroids: aligned_copy(&centroids),
            offsets: aligned_copy(&offsets),
            rows: buffer.into_bytes(),
        })
    }

    pub(super) fn from_stored(header: &Header, stored: &mut Stored) -> Result<Self> {
        let (nlist, width) = (header.nlist, header.dim / 8);
        if nlist == 0 || nlist > 65_536 {
            return Err(Error::corrupt("lists"));
        }
        let lists = Self {
            width,
            centroids: stored.take(Section::BinaryCentroids, 0, nlist * width)?,
            offsets: stored.take(Section::ListOffsets, 0, (nlist + 1) * 4)?,
            rows: stored.take(Section::ListRows, 0, header.rows * 4)?,
        };
        let offsets: &[u32] = view(&lists.offsets);
        let rows: &[u32] = view(&lists.rows);
        let is_whole = offsets.is_sorted()
            && offsets.first() == Some(&0)
            && offsets.last().map(|end| *end as usize) == Some(header.rows)
            && rows.iter().all(|row| (*row as usize) < header.rows);
        match is_whole {
            true => Ok(lists),
            false => Err(Error::corrupt("lists")),
        }
    }

    /// Number of lists.
    pub(super) fn len(&self) -> usize {
        self.centroids.len() / self.width
    }

    /// Where the rows of each list begin, and where the last end.
    pub(super) fn offsets(&self) -> &[u32] {
        view(&self.offsets)
    }

    /// The rows of all lists.
    pub(super) fn all_rows(&self) -> &[u32] {
        view(&self.rows)
    }

    pub(super) fn rows(&self, list: u32) -> &[u32] {
        let (offsets, rows) = (self.offsets(), self.all_rows());
        &rows[offsets[list as usize] as usize..offsets[list as usize + 1] as usize]
    }

    /// The lists, the one with the nearest centroid first.
    pub(super) fn order(&self, metric: MetricType, query: &[u8]) -> impl Iterator<Item = u32> {
        let centroids = self.centroids.chunks_exact(self.width);
        let distances = centroids.map(|centroid| distance(metric, query, centroid));
        let mut order: Vec<(f32, u32)> = distances.zip(0..).collect();
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        order.into_iter().map(|(_, list)| list)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.centroids.len() + self.offsets.len() + self.rows.len()
    }

    pub(super) fn sections(&self) -> Vec<(Section, usize, Bytes)> {
        vec![
            (Section::BinaryCentroids, 0, self.centroids.clone()),
            (Section::ListOffsets, 0, self.offsets.clone()),
            (Section::ListRows, 0, self.rows.clone()),
        ]
    }
}

/// The list whose centroid differs in the fewest bits.
fn nearest(centroids: &[u8], width: usize, row: &[u8]) -> u32 {
    let hamming = kernels().hamming;
    let distances = centroids.chunks_exact(width).map(|c| hamming(c, row));
    // A list has a number below 65,536.
    let best = distances.enumerate().min_by_key(|(_, distance)| *distance);
    best.map_or(0, |(list, _)| list as u32)
}

/// `[nlist, width]` bytes of centroids, from an even sample.
fn learn(rows: &BinaryRows<'_>, nlist: usize, seed: u64, stop: &StopFlag) -> Result<Vec<u8>> {
    let (count, width) = (rows.rows(), rows.width);
    let sampled = count.min(nlist * SAMPLE_PER_LIST);
    // Evenly over the rows, which may be in an order of their own.
    let sample = |i: usize| rows.row((i * count / sampled) as u32);
    let mut state = seed;
    let mut centroids = vec![0u8; nlist * width];
    for (list, centroid) in centroids.chunks_exact_mut(width).enumerate() {
        if sampled > 0 {
            // One of the list's own part of the sample, so that none is drawn twice.
            let (from, to) = (list * sampled / nlist, (list + 1) * sampled / nlist);
            let step = split_mix(&mut state) as usize % (to - from).max(1);
            centroid.copy_from_slice(sample((from + step).min(sampled - 1)));
        }
    }
    for _ in 0..ROUNDS {
        let mut counts = vec![0u32; nlist];
        let mut ones = vec![0u32; nlist * width * 8];
        for at in 0..sampled {
            if at % BLOCK_ROWS == 0 {
                stop.check()?;
            }
            let row = sample(at);
            let list = nearest(&centroids, width, row) as usize;
            counts[list] += 1;
            let ones = &mut ones[list * width * 8..][..width * 8];
            for (bit, ones) in ones.iter_mut().enumerate() {
                *ones += u32::from(row[bit / 8] >> (bit % 8) & 1);
            }
        }
        let mut moved = false;
        for (list, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let centroid = &mut centroids[list * width..][..width];
            let ones = &ones[list * width * 8..][..width * 8];
            for (byte, ones) in centroid.iter_mut().zip(ones.chunks_exact(8)) {
                let bits = ones.iter().enumerate();
                let majority = bits.fold(0, |byte, (bit, ones)| {
                    byte | u8::from(ones * 2 > *count) << bit
                });
                moved |= *byte != majority;
                *byte = majority;
            }
        }
        if !moved {
            break;
        }
    }
    Ok(centroids)
}
