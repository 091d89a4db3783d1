//! Lloyd's clustering by squared distance.

use crate::error::Result;
use crate::random::split_mix;

/// Passes over the sample: further ones hardly move the centroids.
const ITERATIONS: usize = 8;

/// How far the halves of a split cluster are moved apart, relative to each value.
const SPLIT: f32 = 1.0 / 1024.0;

/// Finds `k` centroids of `count` vectors; fewer if there are fewer of these, but at least one.
///
/// `row(i, out)` writes a vector: no copy of them is held, which may be as large as all there are.
/// `assign` writes to each row the nearest of the centroids that it is given. The result depends on
/// the rows and the seed only.
///
/// # Errors
/// Those of `assign`.
pub(super) fn train(
    dim: usize,
    k: usize,
    count: usize,
    row: impl Fn(usize, &mut [f32]),
    mut seed: u64,
    mut assign: impl FnMut(&[f32], &mut [u32]) -> Result<()>,
) -> Result<Vec<f32>> {
    let k = k.min(count);
    if k == 0 {
        return Ok(vec![0.0; dim]);
    }
    let mut centroids = vec![0f32; k * dim];
    let drawn = draw(count, k, &mut seed);
    for (number, centroid) in drawn.into_iter().zip(centroids.chunks_exact_mut(dim)) {
        row(number as usize, centroid);
    }
    let mut nearest = vec![0u32; count];
    for _ in 0..ITERATIONS {
        assign(&centroids, &mut nearest)?;
        let counts = move_to_means(dim, &row, &nearest, &mut centroids);
        fill_empty(dim, counts, &mut centroids);
    }
    Ok(centroids)
}

/// `k` different numbers below `count`.
fn draw(count: usize, k: usize, seed: &mut u64) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count as u32).collect();
    for at in 0..k {
        let other = at + (split_mix(seed) % (count - at) as u64) as usize;
        numbers.swap(at, other);
    }
    numbers.truncate(k);
    numbers
}

/// Puts each centroid in the middle of its rows; how many each has. One without rows stays.
fn move_to_means(
    dim: usize,
    row: impl Fn(usize, &mut [f32]),
    nearest: &[u32],
    centroids: &mut [f32],
) -> Vec<usize> {
    let k = centroids.len() / dim;
    let mut counts = vec![0usize; k];
    let mut sums = vec![0f32; centroids.len()];
    let mut values = vec![0f32; dim];
    for (number, cluster) in nearest.iter().enumerate() {
        row(number, &mut values);
        counts[*cluster as usize] += 1;
        let sum = &mut sums[*cluster as usize * dim..][..dim];
        sum.iter_mut().zip(&values).for_each(|(sum, x)| *sum += x);
    }
    for (cluster, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let sum = &sums[cluster * dim..][..dim];
        let centroid = &mut centroids[cluster * dim..][..dim];
        let share = 1.0 / *count as f32;
        centroid
            .iter_mut()
            .zip(sum)
            .for_each(|(x, sum)| *x = sum * share);
    }
    counts
}

/// Gives each cluster without rows half of the then largest one.
fn fill_empty(dim: usize, mut counts: Vec<usize>, centroids: &mut [f32]) {
    for empty in 0..counts.len() {
        if counts[empty] > 0 {
            continue;
        }
        // The first of the largest, so that the same rows give the same centroids.
        let mut largest = 0;
        for (cluster, count) in counts.iter().enumerate() {
            if *count > counts[largest] {
                largest = cluster;
            }
        }
        if counts[largest] < 2 {
            return;
        }
        counts[empty] = counts[largest] / 2;
        counts[largest] -= counts[empty];
        for at in 0..dim {
            let value = centroids[largest * dim + at];
            let shift = if at % 2 == 0 { SPLIT } else { -SPLIT };
            centroids[empty * dim + at] = value * (1.0 + shift);
            centroids[largest * dim + at] = value * (1.0 - shift);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::error::Result;
    use crate::testing::Rng;

    fn by_definition(dim: usize, rows: &[f32]) -> impl Fn(&[f32], &mut [u32]) -> Result<()> {
        move |centroids, nearest| {
            for (row, nearest) in rows.chunks(dim).zip(nearest) {
                let distance = |centroid: &[f32]| -> f32 {
                    row.iter().zip(centroid).map(|(x, y)| (x - y).powi(2)).sum()
                };
                let keys = centroids.chunks(dim).map(distance).enumerate();
                let best = keys.min_by(|a, b| a.1.total_cmp(&b.1));
                *nearest = best.map_or(0, |(cluster, _)| cluster as u32);
            }
            Ok(())
        }
    }

    fn train(
        dim: usize,
        k: usize,
        rows: &[f32],
        seed: u64,
        assign: impl FnMut(&[f32], &mut [u32]) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let row = |i: usize, out: &mut [f32]| out.copy_from_slice(&rows[i * dim..][..dim]);
        super::train(dim, k, rows.len() / dim, row, seed, assign)
    }

    #[test]
    fn separate_clusters_are_told_apart() {
        let mut rng = Rng::from_env();
        let (dim, k) = (6, 5);
        let rows: Vec<f32> = (0..400)
            .flat_map(|row| vec![(row % k) as f32 * 100.0; dim])
            .map(|centre| centre + rng.gaussian())
            .collect();
        // More centroids than clusters, for the first draw may miss one.
        let found = train(dim, 4 * k, &rows, 3, by_definition(dim, &rows)).unwrap();
        for row in rows.chunks(dim) {
            let nearest = found.chunks(dim).map(|centroid| {
                let pairs = row.iter().zip(centroid);
                pairs.map(|(x, y)| (x - y).powi(2)).sum::<f32>()
            });
            assert!(nearest.fold(f32::MAX, f32::min) < 40.0);
        }
    }

    #[test]
    fn too_few_or_equal_rows_are_no_trouble() {
        let none = train(3, 4, &[], 1, |_, _| Ok(())).unwrap();
        assert_eq!(none, [0.0; 3]);
        let one = [1.0, 2.0, 3.0];
        assert_eq!(train(3, 4, &one, 1, by_definition(3, &one)).unwrap(), one);
        let same = [7.0; 30];
        let found = train(3, 4, &same, 1, by_definition(3, &same)).unwrap();
        assert!(found.len() == 12 && found.iter().all(|x| (x - 7.0).abs() < 0.1));
    }
}
