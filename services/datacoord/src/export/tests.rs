//! How segments become parts.

use redkite_proto::redkite::meta::{FileInfo, SegmentInfo};

use super::prepare::parts;

fn segment(id: i64, channel: &str, partition: i64, size: u64) -> SegmentInfo {
    SegmentInfo {
        id,
        channel: channel.to_owned(),
        partition_id: partition,
        files: vec![FileInfo {
            size,
            ..FileInfo::default()
        }],
        ..SegmentInfo::default()
    }
}

#[test]
fn each_segment_is_in_one_part_and_parts_are_of_one_place() {
    let large = 200 << 20;
    let segments = [
        segment(1, "7v0", 1, 10),
        segment(2, "7v1", 1, 10),
        segment(3, "7v0", 1, large),
        segment(4, "7v0", 2, 10),
        segment(5, "7v0", 1, large),
        segment(6, "7v0", 2, 10),
    ];
    let parts: Vec<Vec<i64>> = parts(&segments)
        .into_iter()
        .map(|part| part.segments)
        .collect();
    assert_eq!(parts, [vec![1, 3], vec![5], vec![4, 6], vec![2]]);
}

#[test]
fn no_rows_are_one_part_too() {
    assert_eq!(parts(&[]).len(), 1);
}
