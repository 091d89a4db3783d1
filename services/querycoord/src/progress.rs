//! How far collections are loaded.

use std::collections::BTreeMap;

use redkite_proto::redkite::{querycoord::PartitionProgress, querynode};

/// What the owner of one channel last said.
pub type ChannelProgress = Vec<querynode::PartitionProgress>;

/// Adds up what the owners of all channels said, as percent for each of `wanted`.
///
/// A partition that not every channel has spoken of is at zero.
pub fn add_up<'a>(
    wanted: impl Iterator<Item = i64>,
    channels: impl Iterator<Item = Option<&'a ChannelProgress>> + Clone,
) -> Vec<PartitionProgress> {
    wanted
        .map(|partition_id| {
            let mut sum = Sum::default();
            for channel in channels.clone() {
                sum.add(channel.and_then(|said| {
                    said.iter()
                        .find(|progress| progress.partition_id == partition_id)
                }));
            }
            PartitionProgress {
                partition_id,
                percent: sum.percent(),
                fail_reason: sum.fail_reason,
            }
        })
        .collect()
}

/// Whether every partition is loaded.
pub fn is_complete(partitions: &[PartitionProgress]) -> bool {
    partitions.iter().all(|partition| partition.percent == 100)
}

#[derive(Default)]
struct Sum {
    segments: i32,
    loaded: i32,
    silent: bool,
    fail_reason: String,
}

impl Sum {
    fn add(&mut self, said: Option<&querynode::PartitionProgress>) {
        let Some(said) = said else {
            self.silent = true;
            return;
        };
        self.segments += said.segments;
        self.loaded += said.segments_loaded;
        if self.fail_reason.is_empty() {
            self.fail_reason.clone_from(&said.fail_reason);
        }
    }

    fn percent(&self) -> i32 {
        if self.silent {
            return 0;
        }
        // Everything loaded is 100; a rest, however small, never is.
        self.loaded.min(self.segments) * 100 / self.segments.max(1)
            + if self.segments == 0 { 100 } else { 0 }
    }
}

/// The last word of each channel of a collection.
pub type Channels = BTreeMap<String, ChannelProgress>;

#[cfg(test)]
mod tests {
    use super::*;

    fn said(partition_id: i64, segments: i32, segments_loaded: i32) -> ChannelProgress {
        vec![querynode::PartitionProgress {
            partition_id,
            segments,
            segments_loaded,
            fail_reason: String::new(),
        }]
    }

    fn percent(channels: &[Option<&ChannelProgress>]) -> i32 {
        add_up([7].into_iter(), channels.iter().copied())[0].percent
    }

    #[test]
    fn percent_is_100_only_when_every_channel_has_all() {
        assert_eq!(percent(&[Some(&said(7, 0, 0))]), 100);
        assert_eq!(percent(&[Some(&said(7, 0, 0)), None]), 0);
        assert_eq!(percent(&[Some(&said(7, 3, 1)), Some(&said(7, 1, 1))]), 50);
        assert_eq!(percent(&[Some(&said(7, 1000, 999))]), 99);
        assert_eq!(percent(&[Some(&said(7, 4, 4)), Some(&said(7, 0, 0))]), 100);
        assert_eq!(percent(&[Some(&said(8, 4, 4))]), 0);
    }
}
