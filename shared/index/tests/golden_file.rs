//! The file format is a promise: a file of each version stays readable and is written back unchanged.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::io::Cursor;
use std::ops::Range;

use redkite_index::{
    BuildOptions, Hit, IndexParams, IndexType, RawSlice, SearchParams, VectorIndex, build, load,
    open, open_file,
};
use redkite_types::MetricType;
use redkite_types::StopFlag;

const DIM: usize = 20;
const ROWS: usize = 300;

/// Rows of the files from version 3 on, which are kept small: two pages of DISKANN, and two lists that meet
/// within a block of the others.
fn few_rows(index_type: IndexType) -> usize {
    match index_type {
        IndexType::DiskAnn => 70,
        _ => 100,
    }
}

/// Small integers, so that every processor computes the same bits.
fn rows() -> Vec<f32> {
    let mix = |i: usize| {
        let first = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (first ^ (first >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40
    };
    let value = |i: usize| (mix(i) % 41) as f32 - 20.0;
    (0..ROWS * DIM).map(value).collect()
}

/// What every file is built with.
fn options(stop: &StopFlag) -> BuildOptions<'_> {
    BuildOptions {
        threads: 1,
        seed: 1,
        progress: None,
        stop,
    }
}

fn bytes_of(index: &dyn VectorIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    bytes
}

/// Of each section of a file where its entry begins, its kind, and its bytes.
fn sections_of(file: &[u8]) -> impl Iterator<Item = (usize, u32, Range<usize>)> + use<> {
    let count = u32::from_le_bytes(file[16..20].try_into().unwrap()) as usize;
    let entries: Vec<_> = (0..count)
        .map(|number| {
            let entry = 64 + 32 * number;
            let long = |at| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
            let kind = u32::from_le_bytes(file[entry..entry + 4].try_into().unwrap());
            let start = long(entry + 16);
            (entry, kind, start..start + long(entry + 24))
        })
        .collect();
    entries.into_iter()
}

/// The file with checksums that fit its bytes.
fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    let mut end = 64;
    for (entry, _, bytes) in sections_of(&file) {
        let crc = crc32c::crc32c(&file[bytes]);
        file[entry + 8..entry + 12].copy_from_slice(&crc.to_le_bytes());
        end = entry + 32;
    }
    file[12..16].fill(0);
    let crc = crc32c::crc32c(&file[..end]);
    file[12..16].copy_from_slice(&crc.to_le_bytes());
    file
}

fn check(index: &dyn VectorIndex) {
    check_type(index, IndexType::Hnsw, ROWS);
}

fn check_type(index: &dyn VectorIndex, index_type: IndexType, rows_in_it: usize) {
    assert_eq!((index.len(), index.dim()), (rows_in_it, DIM));
    assert_eq!(
        (index.metric(), index.index_type()),
        (MetricType::L2, index_type)
    );
    let values = rows();
    let raw = RawSlice::new(&values, DIM).unwrap();
    for row in [0, 7, rows_in_it - 1] {
        let (params, stop, mut hits) = (SearchParams::default(), StopFlag::new(), Vec::new());
        let query = &values[row * DIM..][..DIM];
        index
            .search(query, &raw, &params, None, 3, &stop, &mut hits)
            .unwrap();
        assert_eq!((hits[0].row, hits[0].score), (row as u32, 0.0));
    }
}

/// The types that version 2 added, and their files.
const VERSION_2: [(IndexType, &[u8]); 6] = [
    (
        IndexType::HnswSq,
        include_bytes!("golden/hnsw_sq_v2.rkindex"),
    ),
    (
        IndexType::IvfFlat,
        include_bytes!("golden/ivf_flat_v2.rkindex"),
    ),
    (
        IndexType::IvfSq8,
        include_bytes!("golden/ivf_sq8_v2.rkindex"),
    ),
    (IndexType::IvfPq, include_bytes!("golden/ivf_pq_v2.rkindex")),
    (
        IndexType::IvfRabitq,
        include_bytes!("golden/ivf_rabitq_v2.rkindex"),
    ),
    (IndexType::Scann, include_bytes!("golden/scann_v2.rkindex")),
];

/// What version 3 added or laid out anew, and the files.
const VERSION_3: [(IndexType, &[u8]); 4] = [
    (IndexType::IvfPq, include_bytes!("golden/ivf_pq_v3.rkindex")),
    (IndexType::Scann, include_bytes!("golden/scann_v3.rkindex")),
    (
        IndexType::HnswPq,
        include_bytes!("golden/hnsw_pq_v3.rkindex"),
    ),
    (
        IndexType::DiskAnn,
        include_bytes!("golden/diskann_v3.rkindex"),
    ),
];

/// Whose hits have the scores of the codes, which is what version 4 added, and the files.
const VERSION_4: [(IndexType, &[u8]); 4] = [
    (
        IndexType::HnswSq,
        include_bytes!("golden/hnsw_sq_v4.rkindex"),
    ),
    (
        IndexType::HnswPq,
        include_bytes!("golden/hnsw_pq_v4.rkindex"),
    ),
    (
        IndexType::IvfRabitq,
        include_bytes!("golden/ivf_rabitq_v4.rkindex"),
    ),
    (IndexType::Scann, include_bytes!("golden/scann_v4.rkindex")),
];

/// Whose codes have their halves apart, which is what version 5 added, and the files.
const VERSION_5: [(IndexType, &[u8]); 2] = [
    (IndexType::Hnsw, include_bytes!("golden/hnsw_v5.rkindex")),
    (
        IndexType::HnswSq,
        include_bytes!("golden/hnsw_sq_v5.rkindex"),
    ),
];

/// Of so many rows that they have a dimension, which is what version 6 added.
const VERSION_6: &[u8] = include_bytes!("golden/hnsw_v6.rkindex");
const ROWS_6: usize = 512;

fn rows_6() -> Vec<f32> {
    // As many as there are, and these again a little further away.
    let near = rows();
    let far = near.iter().map(|value| value + 1.0);
    let all = near.iter().copied().chain(far);
    all.take(ROWS_6 * DIM).collect()
}

/// Rows long enough for that, and few of them.
const DIM_5: usize = 140;
const ROWS_5: usize = 30;

/// What the files of version 5 are built with.
fn params_5(index_type: IndexType) -> IndexParams {
    match index_type {
        IndexType::HnswSq => IndexParams {
            index_type,
            is_refined: false,
            ..IndexParams::hnsw(MetricType::Ip, 4, 20)
        },
        _ => IndexParams::hnsw(MetricType::L2, 4, 20),
    }
}

/// What the files of version 4 are built with.
fn params_4(index_type: IndexType) -> IndexParams {
    let params = match index_type {
        IndexType::HnswSq => IndexParams::hnsw(MetricType::L2, 4, 20),
        _ => params_3(index_type),
    };
    IndexParams {
        index_type,
        is_refined: false,
        ..params
    }
}

/// What the files of version 3 are built with.
fn params_3(index_type: IndexType) -> IndexParams {
    let mut params = match index_type {
        IndexType::DiskAnn => IndexParams::disk_ann(MetricType::L2, 6, 12),
        IndexType::HnswPq => IndexParams::hnsw(MetricType::L2, 4, 20),
        _ => IndexParams::ivf(index_type, MetricType::L2, 2),
    };
    params.index_type = index_type;
    if matches!(index_type, IndexType::IvfPq | IndexType::HnswPq) {
        (params.pq_m, params.nbits) = (5, 4);
    }
    params
}

/// Writes the files of the current version, for the day a new version is made:
/// `cargo nextest run -p redkite-index --run-ignored only`.
#[test]
#[ignore = "changes the golden file"]
fn write_the_golden_files() {
    let stop = StopFlag::new();
    let options = options(&stop);
    let write = |params: &IndexParams, rows: &[f32]| {
        let index = build(params, rows, DIM, &options).unwrap();
        let name = params.index_type.name().to_ascii_lowercase();
        let bytes = bytes_of(index.as_ref());
        let path = format!("tests/golden/{name}_v{}.rkindex", bytes[8]);
        std::fs::write(path, bytes).unwrap();
    };
    let rows = rows();
    write(&IndexParams::hnsw(MetricType::L2, 4, 20), &rows);
    for (index_type, _) in VERSION_2 {
        let mut params = IndexParams::ivf(index_type, MetricType::L2, 6);
        if index_type == IndexType::HnswSq {
            (params.m, params.ef_construction) = (4, 20);
        }
        // Others are no longer written as version 2.
        if !matches!(index_type, IndexType::IvfPq | IndexType::Scann) {
            write(&params, &rows);
        }
    }
    for (index_type, _) in VERSION_3 {
        write(&params_3(index_type), &rows[..few_rows(index_type) * DIM]);
    }
    for (index_type, _) in VERSION_4 {
        write(&params_4(index_type), &rows[..few_rows(index_type) * DIM]);
    }
    for (index_type, _) in VERSION_5 {
        let (params, rows) = (params_5(index_type), &rows[..ROWS_5 * DIM_5]);
        let bytes = bytes_of(build(&params, rows, DIM_5, &options).unwrap().as_ref());
        let name = index_type.name().to_ascii_lowercase();
        std::fs::write(format!("tests/golden/{name}_v5.rkindex"), bytes).unwrap();
    }
    write(&IndexParams::hnsw(MetricType::L2, 4, 20), &rows_6());
}

#[test]
fn version_6_is_read_and_written_back_unchanged() {
    assert_eq!(VERSION_6[8], 6);
    assert!(VERSION_6.len() < 100_000, "{}", VERSION_6.len());
    let index = open(VERSION_6.to_vec().into()).unwrap();
    assert!(
        bytes_of(index.as_ref()) == VERSION_6,
        "the format changed without a new version"
    );
    let stop = StopFlag::new();
    let options = options(&stop);
    let (values, params) = (rows_6(), IndexParams::hnsw(MetricType::L2, 4, 20));
    let raw = RawSlice::new(&values, DIM).unwrap();
    let built = build(&params, &values, DIM, &options).unwrap();
    let bytes = bytes_of(built.as_ref());
    assert_eq!((bytes[8], bytes.len()), (6, VERSION_6.len()));
    let dimension_of = |file: &[u8]| f32::from_le_bytes(file[52..56].try_into().unwrap());
    let difference = dimension_of(&bytes) - dimension_of(VERSION_6);
    assert!(difference.abs() < 1e-3, "{difference}");
    for index in [index, built] {
        let (params, mut hits) = (SearchParams::default(), Vec::new());
        let query = &values[7 * DIM..][..DIM];
        index
            .search(query, &raw, &params, None, 5, &stop, &mut hits)
            .unwrap();
        assert_eq!((hits.len(), hits[0].row), (5, 7));
    }
    for dimension in [f32::NAN, f32::INFINITY, 0.0, -3.0, 0.5] {
        let mut file = VERSION_6.to_vec();
        file[52..56].copy_from_slice(&dimension.to_le_bytes());
        let message = open(sealed(file).into()).err().unwrap().to_string();
        assert!(message.contains("dimension"), "{dimension}: {message}");
    }
}

#[test]
fn version_5_is_read_and_written_back_unchanged() {
    let stop = StopFlag::new();
    let options = options(&stop);
    let values = &rows()[..ROWS_5 * DIM_5];
    let raw = RawSlice::new(values, DIM_5).unwrap();
    for (index_type, golden) in VERSION_5 {
        assert_eq!((golden[8], golden[22]), (5, 2));
        assert!(golden.len() < 20_000, "{}", golden.len());
        let index = open(golden.to_vec().into()).unwrap();
        assert!(
            bytes_of(index.as_ref()) == golden,
            "the format of {} changed without a new version",
            index_type.name()
        );
        let built = build(&params_5(index_type), values, DIM_5, &options).unwrap();
        let bytes = bytes_of(built.as_ref());
        assert_eq!((bytes[8], bytes.len()), (5, golden.len()));
        for index in [index, built] {
            let (params, mut hits) = (SearchParams::default(), Vec::new());
            let query = &values[7 * DIM_5..][..DIM_5];
            index
                .search(query, &raw, &params, None, 5, &stop, &mut hits)
                .unwrap();
            assert_eq!((hits.len(), hits[0].row), (5, 7), "{}", index_type.name());
        }
    }
    // Before version 5 nobody kept halves apart, and nobody keeps quarters.
    let (_, golden) = VERSION_5[0];
    let refused = |file: Vec<u8>| open(sealed(file).into()).err().unwrap().to_string();
    for (version, encoding) in [(4, 2), (5, 3)] {
        let mut file = golden.to_vec();
        (file[8], file[22]) = (version, encoding);
        let message = refused(file);
        assert!(message.contains("encoding"), "{message}");
    }
    // The numbers behind the means: slack, longest row, least and step.
    let (_, _, means) = sections_of(golden).find(|(_, kind, _)| *kind == 2).unwrap();
    for number in 0..4 {
        let mut file = golden.to_vec();
        let at = means.start + 4 * (DIM_5 + number);
        file[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        let message = refused(file);
        assert!(message.contains("halves"), "{message}");
    }
}

#[test]
fn version_4_is_read_and_written_back_unchanged() {
    let stop = StopFlag::new();
    let options = options(&stop);
    let values = rows();
    let raw = RawSlice::new(&values, DIM).unwrap();
    for (index_type, golden) in VERSION_4 {
        let few = few_rows(index_type);
        assert_eq!((golden[8], golden[23]), (4, 1));
        assert!(golden.len() < 20_000, "{}", golden.len());
        let index = open(golden.to_vec().into()).unwrap();
        assert!(
            bytes_of(index.as_ref()) == golden,
            "the format of {} changed without a new version",
            index_type.name()
        );
        let built = build(&params_4(index_type), &values[..few * DIM], DIM, &options).unwrap();
        assert_eq!(bytes_of(built.as_ref()).len(), golden.len());
        for index in [index, built] {
            let (params, mut hits) = (SearchParams::default(), Vec::new());
            let query = &values[7 * DIM..][..DIM];
            index
                .search(query, &raw, &params, None, 5, &stop, &mut hits)
                .unwrap();
            assert_eq!(hits[0].row, 7, "{}", index_type.name());
            // The vectors themselves are whole numbers, and so are their distances.
            let is_whole = |hit: &Hit| hit.score.fract() == 0.0;
            assert!(!hits.iter().all(is_whole), "{}", index_type.name());
        }
    }
}

/// Where older versions have nothing, whatever is there means nothing; from version 4 on it is known or
/// refused.
#[test]
fn no_flag_is_taken_for_another() {
    let with_flags = |file: &[u8], flags: u8| {
        let mut file = file.to_vec();
        file[23] = flags;
        open(sealed(file).into())
    };
    let older = include_bytes!("golden/hnsw_sq_v2.rkindex");
    check_type(
        with_flags(older, 1).unwrap().as_ref(),
        IndexType::HnswSq,
        ROWS,
    );
    let (_, newer) = VERSION_4[0];
    assert!(with_flags(newer, 1).is_ok());
    let message = with_flags(newer, 3).err().unwrap().to_string();
    assert!(message.contains("flags 3"), "{message}");
    let mut graph = include_bytes!("golden/hnsw_v1.rkindex").to_vec();
    graph[8] = 4;
    assert!(with_flags(&graph, 0).is_ok());
    assert!(with_flags(&graph, 1).is_err());
}

#[test]
fn version_3_is_read_and_written_back_unchanged() {
    let stop = StopFlag::new();
    let options = options(&stop);
    for (index_type, golden) in VERSION_3 {
        assert_eq!(golden[8], 3);
        assert!(golden.len() < 20_000, "{}", golden.len());
        let index = open(golden.to_vec().into()).unwrap();
        let few = few_rows(index_type);
        check_type(index.as_ref(), index_type, few);
        assert!(
            bytes_of(index.as_ref()) == golden,
            "the format of {} changed without a new version",
            index_type.name()
        );
        let rows = &rows()[..few * DIM];
        let built = build(&params_3(index_type), rows, DIM, &options).unwrap();
        check_type(built.as_ref(), index_type, few);
        let bytes = bytes_of(built.as_ref());
        assert_eq!((bytes[8], bytes.len()), (3, golden.len()));
    }
}

#[test]
fn version_2_is_read_and_written_back_unchanged() {
    for (index_type, golden) in VERSION_2 {
        assert_eq!(golden[8], 2);
        let index = open(golden.to_vec().into()).unwrap();
        check_type(index.as_ref(), index_type, ROWS);
        assert!(
            bytes_of(index.as_ref()) == golden,
            "the format of {} changed without a new version",
            index_type.name()
        );
    }
}

#[test]
fn version_1_is_read_and_written_back_unchanged() {
    let golden = include_bytes!("golden/hnsw_v1.rkindex");
    let index = open(golden.to_vec().into()).unwrap();
    check(index.as_ref());
    check(load(Cursor::new(golden)).unwrap().as_ref());
    assert!(
        bytes_of(index.as_ref()) == golden,
        "the format changed without a new version"
    );
}

#[test]
fn the_other_types_of_version_1_are_read_and_written_back_unchanged() {
    let graph = include_bytes!("golden/autoindex_v1.rkindex");
    let index = open(graph.to_vec().into()).unwrap();
    check_type(index.as_ref(), IndexType::AutoIndex, ROWS);
    assert!(bytes_of(index.as_ref()) == graph);

    let flat = include_bytes!("golden/flat_v1.rkindex");
    let index = open(flat.to_vec().into()).unwrap();
    let seen = (index.len(), index.dim(), index.metric(), index.index_type());
    assert_eq!(seen, (ROWS, DIM, MetricType::Cosine, IndexType::Flat));
    assert!(bytes_of(index.as_ref()) == flat);
    let values = rows();
    let raw = RawSlice::new(&values, DIM).unwrap();
    let (params, stop, mut hits) = (SearchParams::default(), StopFlag::new(), Vec::new());
    let query = &values[7 * DIM..][..DIM];
    index
        .search(query, &raw, &params, None, 1, &stop, &mut hits)
        .unwrap();
    assert!(hits[0].row == 7 && (hits[0].score - 1.0).abs() < 1e-6);
    let options = options(&stop);
    let built = build(
        &IndexParams::flat(MetricType::Cosine),
        &values,
        DIM,
        &options,
    )
    .unwrap();
    assert!(
        bytes_of(built.as_ref()) == flat,
        "the format of FLAT changed without a new version"
    );
}

#[test]
fn a_mapped_file_answers_after_it_was_unlinked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    std::fs::write(&path, include_bytes!("golden/hnsw_v1.rkindex")).unwrap();
    let index = open_file(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    check(index.as_ref());
    assert!(open_file(&path).is_err());
    std::fs::write(&path, b"").unwrap();
    assert!(open_file(&path).is_err());
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let mut newer = include_bytes!("golden/hnsw_v1.rkindex").to_vec();
    newer[8] = redkite_index::FORMAT_VERSION as u8 + 1;
    let message = open(newer.into()).err().unwrap().to_string();
    let named = format!("version {}", redkite_index::FORMAT_VERSION + 1);
    assert!(message.contains(&named), "{message}");
}
