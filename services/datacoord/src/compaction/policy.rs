//! Which segments are compacted together. Pure.

use std::collections::BTreeMap;

use super::{
    facts::{Candidate, DeleteFile},
    options::CompactionOptions,
};

/// Sources of one plan at most: bounds its transaction.
const MAX_SOURCES: usize = 128;
/// Delete files are merged up to this size together: bounds the memory for it, and what a load reads
/// of deletes that do not concern it.
const MAX_MERGED_BYTES: u64 = 64 << 20;

/// Segments that are replaced by new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The segments, all of one partition and channel.
    pub sources: Vec<i64>,
    /// How many new ones there are to be.
    pub targets: usize,
}

/// Delete files that become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Whose deletes they are.
    pub channel: String,
    /// The delete files.
    pub sources: Vec<i64>,
}

/// The delete files that are merged without anybody asking: of each channel the smallest ones, when
/// there are enough of about the same size (the largest no larger than the rest together), so that a
/// delete is written again about log n times. A load then reads few files, and a segment need not be
/// written again for their number.
pub fn merges(files: Vec<DeleteFile>, options: &CompactionOptions) -> Vec<Merge> {
    let mut channels: BTreeMap<String, Vec<DeleteFile>> = BTreeMap::new();
    for file in files {
        channels.entry(file.channel.clone()).or_default().push(file);
    }
    let merges = channels.into_iter().filter_map(|(channel, mut files)| {
        files.sort_by_key(|file| (file.size, file.id));
        let mut run: Vec<&DeleteFile> = Vec::new();
        let mut sum = 0_u64;
        for file in &files {
            let after = sum.saturating_add(file.size);
            if run.len() == MAX_SOURCES || after > MAX_MERGED_BYTES {
                break;
            }
            sum = after;
            run.push(file);
        }
        while run
            .last()
            .is_some_and(|largest| largest.size > sum - largest.size)
        {
            sum -= run.pop().map_or(0, |largest| largest.size);
        }
        let mut sources: Vec<i64> = run.iter().map(|file| file.id).collect();
        sources.sort_unstable();
        (sources.len() >= options.min_delete_files).then_some(Merge { channel, sources })
    });
    merges.collect()
}

/// What is due without anybody asking.
///
/// Segments below half of the target size are merged when together they come to more than that, or
/// when there are enough of about the same size (the largest no larger than the rest together), so
/// that a row is written again about log n times while its segment grows. A segment is written
/// again by itself when the share of rows that would go, or the number of delete files that a load
/// must read for it, passes a limit.
pub fn automatic(candidates: Vec<Candidate>, options: &CompactionOptions) -> Vec<Plan> {
    let target = options.segment_target_size.as_u64();
    let is_due = |one: &Candidate| {
        one.dead_share() > options.delete_share || one.delete_files > options.max_delete_files
    };
    let mut plans = Vec::new();
    for group in by_place(candidates) {
        let (mut small, large): (Vec<_>, Vec<_>) = group
            .into_iter()
            .partition(|one| one.live_size() < target / 2);
        let mut alone: Vec<Candidate> = large;
        small.sort_by_key(|one| (one.live_size(), one.id));
        let mut run: Vec<Candidate> = Vec::new();
        for one in small {
            let sum = total(&run);
            if !run.is_empty() && (sum + one.live_size() > target || run.len() == MAX_SOURCES) {
                finish(&mut plans, &mut alone, std::mem::take(&mut run), options);
            }
            run.push(one);
        }
        finish(&mut plans, &mut alone, run, options);
        let due = alone.iter().filter(|one| is_due(one));
        plans.extend(due.map(|one| plan(std::slice::from_ref(one), target)));
    }
    plans
}

/// Makes a plan of a run of small segments if it is worth it; what is left over stays alone.
fn finish(
    plans: &mut Vec<Plan>,
    alone: &mut Vec<Candidate>,
    mut run: Vec<Candidate>,
    options: &CompactionOptions,
) {
    let target = options.segment_target_size.as_u64();
    let fills = |run: &[Candidate]| run.len() > 1 && total(run) >= target / 2;
    while !fills(&run) {
        let lopsided = run
            .last()
            .is_some_and(|largest| largest.live_size() * 2 > total(&run));
        if run.len() >= options.min_small_segments && !lopsided {
            break;
        }
        match run.pop() {
            Some(largest) => alone.push(largest),
            None => return,
        }
    }
    plans.push(plan(&run, target));
}

/// What a client asks for: as few segments as the target size allows, or with `only_deletes` as many
/// as there are; everything that can go gone.
pub fn manual(candidates: Vec<Candidate>, only_deletes: bool, target: u64) -> Vec<Plan> {
    let mut plans = Vec::new();
    for mut group in by_place(candidates) {
        // The largest first, each to the first that has room for it.
        group.sort_by_key(|one| (std::cmp::Reverse(one.live_size()), one.id));
        let mut bins: Vec<(u64, Vec<Candidate>)> = Vec::new();
        for one in group {
            let size = one.live_size();
            let room = bins.iter_mut().find(|(sum, bin)| {
                !only_deletes && sum.saturating_add(size) <= target && bin.len() < MAX_SOURCES
            });
            match room {
                Some((sum, bin)) => {
                    *sum += size;
                    bin.push(one);
                }
                None => bins.push((size, vec![one])),
            }
        }
        let worth_it = bins
            .iter()
            .filter(|(_, bin)| bin.len() > 1 || bin.iter().any(|one| one.is_worth_it));
        plans.extend(worth_it.map(|(_, bin)| plan(bin, target)));
    }
    plans
}

fn by_place(candidates: Vec<Candidate>) -> impl Iterator<Item = Vec<Candidate>> {
    let mut places: BTreeMap<(i64, String), Vec<Candidate>> = BTreeMap::new();
    for one in candidates {
        let place = (one.partition, one.channel.clone());
        places.entry(place).or_default().push(one);
    }
    places.into_values()
}

fn total(candidates: &[Candidate]) -> u64 {
    candidates.iter().map(Candidate::live_size).sum()
}

fn plan(run: &[Candidate], target: u64) -> Plan {
    let mut sources: Vec<i64> = run.iter().map(|one| one.id).collect();
    sources.sort_unstable();
    // To the nearest whole number: two halves are worse than one that is a little larger.
    let targets = total(run).saturating_add(target / 2) / target.max(1);
    Plan {
        sources,
        targets: usize::try_from(targets)
            .unwrap_or(usize::MAX)
            .clamp(1, MAX_SOURCES),
    }
}

#[cfg(test)]
mod tests {
    use redkite_config::ByteSize;

    use super::*;

    fn options() -> CompactionOptions {
        CompactionOptions {
            segment_target_size: ByteSize(1_000),
            min_small_segments: 4,
            max_delete_files: 10,
            ..CompactionOptions::default()
        }
    }

    /// A segment of 100 rows.
    fn one(id: i64, size: u64, dead_rows: i64, delete_files: usize) -> Candidate {
        Candidate {
            id,
            partition: 11,
            channel: "10v0".into(),
            size,
            rows: 100,
            dead_rows,
            delete_files,
            is_worth_it: dead_rows > 0,
        }
    }

    fn sizes(sizes: &[u64]) -> Vec<Candidate> {
        (1..)
            .zip(sizes)
            .map(|(id, size)| one(id, *size, 0, 0))
            .collect()
    }

    fn sources(plans: Vec<Plan>) -> Vec<Vec<i64>> {
        plans.into_iter().map(|plan| plan.sources).collect()
    }

    #[test]
    fn what_is_due_by_itself() {
        let cases = [
            ("nothing", vec![], vec![]),
            ("one small one", sizes(&[10]), vec![]),
            ("too few small ones", sizes(&[10, 10, 10]), vec![]),
            (
                "enough small ones",
                sizes(&[10, 10, 10, 10]),
                vec![vec![1, 2, 3, 4]],
            ),
            ("two that fill one", sizes(&[400, 450]), vec![vec![1, 2]]),
            ("two that fill half", sizes(&[250, 250]), vec![vec![1, 2]]),
            ("two that do not", sizes(&[200, 250]), vec![]),
            ("large ones stay", sizes(&[500, 900, 2_000]), vec![]),
            (
                "the large one of a lopsided run waits for its like",
                sizes(&[10, 10, 10, 10, 300]),
                vec![vec![1, 2, 3, 4]],
            ),
            (
                "as many runs as they fill",
                sizes(&[400, 400, 400, 400]),
                vec![vec![1, 2], vec![3, 4]],
            ),
            ("few deletes", vec![one(1, 900, 20, 1)], vec![]),
            ("many deletes", vec![one(1, 900, 21, 1)], vec![vec![1]]),
            (
                "a small one with many deletes",
                vec![one(1, 9, 21, 1)],
                vec![vec![1]],
            ),
            (
                "everything deleted",
                vec![one(1, 900, 100, 1)],
                vec![vec![1]],
            ),
            ("many delete files", vec![one(1, 900, 0, 11)], vec![vec![1]]),
            (
                "what is merged anyway is not written twice",
                vec![
                    one(1, 10, 50, 1),
                    one(2, 5, 0, 0),
                    one(3, 5, 0, 0),
                    one(4, 5, 0, 0),
                ],
                vec![vec![1, 2, 3, 4]],
            ),
        ];
        for (name, candidates, want) in cases {
            assert_eq!(sources(automatic(candidates, &options())), want, "{name}");
        }
    }

    #[test]
    fn partitions_and_channels_are_never_mixed() {
        let mut all = sizes(&[400, 400, 400]);
        all[1].partition = 12;
        all[2].channel = "10v1".into();
        assert_eq!(automatic(all.clone(), &options()), []);
        assert_eq!(manual(all, false, 1_000), []);
    }

    #[test]
    fn merging_again_and_again_writes_a_row_few_times() {
        // Flushes of 10 bytes each; what is due is done after each of them.
        let (mut all, mut next, mut written) = (Vec::new(), 0, 0);
        for _ in 0..400 {
            next += 1;
            all.push(one(next, 10, 0, 0));
            for plan in automatic(all.clone(), &options()) {
                let merged = all.iter().filter(|one| plan.sources.contains(&one.id));
                let size = merged.map(|one| one.size).sum();
                all.retain(|one| !plan.sources.contains(&one.id));
                next += 1;
                all.push(one(next, size, 0, 0));
                written += size;
            }
        }
        assert!(written <= 4_000 * 6, "{written} bytes for 4000");
        assert!(all.len() < 25, "{} segments are left", all.len());
    }

    #[test]
    fn what_a_client_asks_for() {
        let cases = [
            ("nothing to do", sizes(&[10]), false, 1_000, vec![]),
            (
                "two small ones",
                sizes(&[10, 10]),
                false,
                1_000,
                vec![vec![1, 2]],
            ),
            (
                "deletes",
                vec![one(1, 900, 1, 1)],
                false,
                1_000,
                vec![vec![1]],
            ),
            (
                "as far as the size allows",
                sizes(&[600, 300, 500, 100]),
                false,
                1_000,
                vec![vec![1, 2, 4]],
            ),
            (
                "a smaller size",
                sizes(&[600, 300, 500, 100]),
                false,
                400,
                vec![vec![2, 4]],
            ),
            (
                "no limit",
                sizes(&[600, 900, 500]),
                false,
                u64::MAX,
                vec![vec![1, 2, 3]],
            ),
            (
                "only deletes",
                vec![one(1, 10, 1, 1), one(2, 10, 0, 0), one(3, 10, 2, 1)],
                true,
                1_000,
                vec![vec![1], vec![3]],
            ),
        ];
        for (name, candidates, only_deletes, target, want) in cases {
            assert_eq!(
                sources(manual(candidates, only_deletes, target)),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn delete_files_of_about_the_same_size_become_one() {
        const MIB: u64 = 1 << 20;
        // (name, sizes of files 1, 2, …, those that are merged)
        let cases: [(&str, Vec<u64>, Vec<i64>); 9] = [
            ("none", vec![], vec![]),
            ("too few", vec![5, 5, 5], vec![]),
            ("enough", vec![5, 5, 5, 5], vec![1, 2, 3, 4]),
            (
                "the large one stays",
                vec![50, 5, 5, 5, 5],
                vec![2, 3, 4, 5],
            ),
            (
                "as large as the rest",
                vec![20, 5, 5, 5, 5],
                vec![1, 2, 3, 4, 5],
            ),
            ("growing sizes", vec![1, 2, 4, 8, 16, 32], vec![]),
            (
                "two large ones",
                vec![50, 5, 5, 5, 5, 50],
                vec![1, 2, 3, 4, 5, 6],
            ),
            (
                "what is full stays",
                vec![60 * MIB, MIB, MIB, MIB, MIB],
                vec![2, 3, 4, 5],
            ),
            (
                "up to the largest size",
                vec![20 * MIB, 20 * MIB, 10 * MIB, 10 * MIB, 10 * MIB, 10 * MIB],
                vec![1, 3, 4, 5, 6],
            ),
        ];
        for (name, sizes, want) in cases {
            let files = (1..).zip(sizes).map(|(id, size)| DeleteFile {
                id,
                channel: "10v0".into(),
                size,
            });
            let options = CompactionOptions {
                min_delete_files: 4,
                ..options()
            };
            let found = merges(files.collect(), &options);
            let sources: Vec<Vec<i64>> = found.into_iter().map(|merge| merge.sources).collect();
            let want: Vec<Vec<i64>> = if want.is_empty() { vec![] } else { vec![want] };
            assert_eq!(sources, want, "{name}");
        }
    }

    #[test]
    fn delete_files_of_different_channels_stay_apart_and_a_merge_is_bounded() {
        let file = |id: i64, channel: &str| DeleteFile {
            id,
            channel: channel.into(),
            size: 10,
        };
        let files = (0..300).map(|id| file(id, if id % 3 == 0 { "10v0" } else { "10v1" }));
        let found = merges(files.collect(), &options());
        let found: Vec<(&str, usize)> = found
            .iter()
            .map(|merge| (merge.channel.as_str(), merge.sources.len()))
            .collect();
        assert_eq!(found, [("10v0", 100), ("10v1", MAX_SOURCES)]);
    }

    #[test]
    fn what_is_larger_than_the_target_is_divided() {
        let plans = manual(vec![one(1, 3_200, 10, 1)], false, 1_000);
        assert_eq!(plans[0].targets, 3);
        let plans = manual(vec![one(1, 100, 100, 1)], false, 1_000);
        assert_eq!(plans[0].targets, 1);
    }
}
