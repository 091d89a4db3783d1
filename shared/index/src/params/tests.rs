use redkite_types::{Coded, DataType, ErrorCode, MetricType};
use serde_json::{Map, Value, json};

use super::*;

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn build_error(index_type: &str, params: Value) -> String {
    let error = IndexParams::parse(index_type, "L2", &map(params)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidParameter);
    error.to_string()
}

fn search_error(index_type: IndexType, params: Value) -> String {
    let error = SearchParams::parse(index_type, &map(params)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidParameter);
    error.to_string()
}

#[test]
fn build_parameters_are_honoured_or_refused_with_milvus_texts() {
    let given = map(json!({"M": "8", "efConstruction": 64, "metric_type": "L2"}));
    let parsed = IndexParams::parse("hnsw", "l2", &given).unwrap();
    assert_eq!(parsed, IndexParams::hnsw(MetricType::L2, 8, 64));
    for (params, text) in [
        (
            json!({"M": -1}),
            "Out of range in json: param 'M' (-1) should be in range [2, 2048]",
        ),
        (
            json!({"M": 2049}),
            "param 'M' (2049) should be in range [2, 2048]",
        ),
        (json!({"M": 16.0}), "wrong data type in json"),
        (
            json!({"M": "True"}),
            "invalid integer value, key: 'M', value: 'True': invalid parameter",
        ),
        (
            json!({"M": [16]}),
            "invalid integer value, key: 'M', value: '[16]': invalid parameter",
        ),
        (
            json!({"efConstruction": 0}),
            "param 'efConstruction' (0) should be in range [1, 2147483647]",
        ),
        (
            json!({"nlist": 128}),
            "unknown parameter 'nlist' of index type HNSW",
        ),
        (json!({"mmap.enabled": "2"}), "invalid mmap.enabled value"),
    ] {
        let message = build_error("HNSW", params);
        assert!(message.contains(text), "{message}");
    }
    assert_eq!(
        build_error("IVF_FOO", json!({})),
        "invalid parameter[expected=valid index][actual=invalid index type: IVF_FOO]"
    );
    assert!(build_error("AUTOINDEX", json!({"M": 4})).contains("only metric type can be passed"));
    assert!(build_error("FLAT", json!({"M": 4})).contains("'M'"));
}

#[test]
fn defaults_apply_when_nothing_is_said() {
    let none = Map::new();
    let hnsw = IndexParams::parse("HNSW", "IP", &none).unwrap();
    assert_eq!((hnsw.m, hnsw.ef_construction), (30, 360));
    let nulls = map(json!({"M": null, "efConstruction": "None"}));
    assert_eq!(IndexParams::parse("HNSW", "IP", &nulls).unwrap(), hnsw);
    assert_eq!(
        IndexParams::from_pairs(&[]).unwrap(),
        IndexParams::auto(MetricType::Cosine)
    );
}

#[test]
fn inverted_indexes_take_their_own_parameters_only() {
    let parse = |name: &str, params: Value| IndexParams::parse(name, "L2", &map(params));
    let pq = parse("IVF_PQ", json!({"nlist": "64", "m": 16, "nbits": 6})).unwrap();
    assert_eq!((pq.nlist, pq.pq_m, pq.nbits), (64, 16, 6));
    assert!(pq.check_dim(64).is_ok());
    let message = pq.check_dim(100).unwrap_err().to_string();
    assert!(message.contains("(m). Dimension: 100, m: 16"), "{message}");
    let scann = parse("SCANN", json!({"with_raw_data": "True"})).unwrap();
    assert_eq!((scann.nlist, scann.sub_dim, scann.parts(64)), (128, 2, 32));
    let message = scann.check_dim(127).unwrap_err().to_string();
    assert!(message.contains("Dimension:127, sub_dim:2"), "{message}");
    for (index_type, params, text) in [
        (
            "IVF_FLAT",
            json!({"nlist": 0}),
            "param 'nlist' (0) should be in range [1, 65536]",
        ),
        (
            "IVF_SQ8",
            json!({"nlist": 65_537}),
            "should be in range [1, 65536]",
        ),
        (
            "IVF_FLAT",
            json!({"nlist": 128.0}),
            "wrong data type in json",
        ),
        (
            "IVF_FLAT",
            json!({"m": 4}),
            "unknown parameter 'm' of index type IVF_FLAT",
        ),
        (
            "IVF_PQ",
            json!({"m": -1}),
            "param 'm' (-1) should be in range [1, 65536]",
        ),
        (
            "IVF_PQ",
            json!({"nbits": 25}),
            "param 'nbits' (25) should be in range [1, 24]",
        ),
        (
            "IVF_PQ",
            json!({"nbits": 17}),
            "nbits (17) of more than 16 is not supported",
        ),
        ("SCANN", json!({"sub_dim": 0}), "param 'sub_dim' (0)"),
        (
            "HNSW_SQ",
            json!({"sq_type": "FP32"}),
            "invalid scalar quantizer type",
        ),
        (
            "HNSW_SQ",
            json!({"sq_type": "SQ6"}),
            "sq_type SQ6 is not supported",
        ),
        (
            "HNSW_SQ",
            json!({"refine": 1}),
            "param 'refine' (1) should be a boolean",
        ),
        (
            "HNSW_SQ",
            json!({"refine_type": "INT8"}),
            "invalid refine type : INT8",
        ),
    ] {
        let message = build_error(index_type, params);
        assert!(message.contains(text), "{message}");
    }
    let sq = parse("HNSW_SQ", json!({"sq_type": "SQ8", "refine": true, "M": 8})).unwrap();
    assert_eq!((sq.m, sq.index_type), (8, IndexType::HnswSq));
    assert!(sq.is_refined && scann.is_refined);
    for (index_type, params, is_refined) in [
        ("HNSW_SQ", json!({"refine": false}), false),
        (
            "HNSW_PQ",
            json!({"refine": "False", "refine_type": "SQ6"}),
            false,
        ),
        ("IVF_RABITQ", json!({"refine": "None"}), true),
        ("IVF_RABITQ", json!({"refine_type": "fp32"}), true),
        ("SCANN", json!({"with_raw_data": "FALSE"}), false),
    ] {
        let parsed = parse(index_type, params).unwrap();
        assert_eq!(parsed.is_refined, is_refined, "{index_type}");
    }
    for (index_type, params, text) in [
        (
            IndexType::IvfFlat,
            json!({"nprobe": -1}),
            "param 'nprobe' (-1) should be in range [1, 65536]",
        ),
        (
            IndexType::IvfPq,
            json!({"nprobe": 65_537}),
            "should be in range [1, 65536]",
        ),
        (
            IndexType::IvfSq8,
            json!({"ef": 10}),
            "unknown parameter 'ef' of index type IVF_SQ8",
        ),
        (
            IndexType::IvfFlat,
            json!({"max_empty_result_buckets": 0}),
            "[1, 65535]",
        ),
        (
            IndexType::Scann,
            json!({"reorder_k": 0}),
            "param 'reorder_k' (0)",
        ),
        (
            IndexType::Hnsw,
            json!({"refine_k": 2}),
            "unknown parameter 'refine_k'",
        ),
        (
            IndexType::IvfRabitq,
            json!({"rbq_bits_query": 9}),
            "param 'rbq_bits_query' (9) should be in range [0, 8]",
        ),
        (
            IndexType::IvfRabitq,
            json!({"rbq_bits_query": 6.0}),
            "param 'rbq_bits_query' (6.0) should be integer",
        ),
        (
            IndexType::HnswSq,
            json!({"refine_k": 0.5}),
            "param 'refine_k' (0.5)",
        ),
    ] {
        let message = search_error(index_type, params);
        assert!(message.contains(text), "{message}");
    }
    let parsed = SearchParams::parse(IndexType::Scann, &map(json!({"reorder_k": 9}))).unwrap();
    assert!(parsed.check_reorder(9).is_ok() && parsed.check_reorder(10).is_err());
}

#[test]
fn pairs_of_the_wire_are_merged_with_nested_params() {
    let pairs = [
        ("index_type", "HNSW"),
        ("metric_type", "IP"),
        ("params", r#"{"M": 12, "efConstruction": "99"}"#),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let parsed = IndexParams::from_pairs(&pairs).unwrap();
    assert_eq!(parsed, IndexParams::hnsw(MetricType::Ip, 12, 99));
}

#[test]
fn search_parameters_are_honoured_or_refused_with_milvus_texts() {
    let hnsw = IndexType::Hnsw;
    let parsed = SearchParams::parse(hnsw, &map(json!({"ef": "32", "radius": 1}))).unwrap();
    assert_eq!(parsed.ef, Some(32));
    assert_eq!(parsed.range.unwrap().radius, 1.0);
    for (params, text) in [
        (
            json!({"ef": -1}),
            "param 'ef' (-1) should be in range [1, 2147483647]",
        ),
        (
            json!({"ef": 32.0}),
            "Type conflict in json: param 'ef' (32.0) should be integer",
        ),
        (
            json!({"ef": true}),
            "Type conflict in json: param 'ef' (true) should be integer",
        ),
        (
            json!({"ef": null}),
            "Type conflict in json: param 'ef' (null) should be integer",
        ),
        (json!({"ef": [32]}), "param 'ef' ([32]) should be integer"),
        (
            json!({"nprobe": 8}),
            "unknown parameter 'nprobe' of index type HNSW",
        ),
        (json!({"range_filter": 8}), "radius"),
    ] {
        let message = search_error(hnsw, params);
        assert!(message.contains(text), "{message}");
    }
    assert!(SearchParams::parse(IndexType::AutoIndex, &map(json!({"nprobe": 8}))).is_ok());
    assert!(search_error(IndexType::AutoIndex, json!({"level": 11})).contains("[1, 10]"));
    let error = SearchParams::with_ef(10).pool_size(11).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("ef(10) should be larger than k(11)")
    );
}

#[test]
fn efforts_of_other_types_raise_that_of_autoindex_up_to_its_highest_level() {
    let pool = |params: Value, k: usize| {
        let parsed = SearchParams::parse(IndexType::AutoIndex, &map(params)).unwrap();
        parsed.pool_size(k).unwrap()
    };
    let highest = pool(json!({"level": 10}), 10);
    for (params, k, expected) in [
        (json!({}), 10, 40),
        (json!({"nprobe": 1}), 10, 40),
        (json!({"nprobe": "16"}), 10, 80),
        (json!({"nprobe": 65_536}), 10, highest),
        (json!({"search_list": 100}), 10, 100),
        (json!({"reorder_k": 120, "search_list": 100}), 10, 120),
        (json!({"reorder_k": 2_147_483_647}), 10, highest),
        (json!({"ef": 60, "nprobe": 8}), 10, 60),
        (json!({"ef": 60, "search_list": 90}), 10, 90),
        (json!({"level": 6, "nprobe": 10}), 10, 113),
        (json!({"nprobe": 8}), 1_000, 1_500),
    ] {
        let what = params.to_string();
        assert_eq!(pool(params, k), expected, "{what}");
    }
    let parsed = SearchParams::parse(IndexType::Flat, &map(json!({"nprobe": 16}))).unwrap();
    assert_eq!(parsed, SearchParams::default());
}

#[test]
fn autoindex_of_other_vectors_is_exact_and_takes_any_effort() {
    let parse = |data_type, params: Value| {
        SearchParams::parse_for(data_type, IndexType::AutoIndex, &map(params))
    };
    let efforts = json!({"ef": 9, "level": 2, "nprobe": 8, "search_list": 20, "reorder_k": 50});
    for data_type in [DataType::BinaryVector, DataType::SparseFloatVector] {
        let parsed = parse(data_type, efforts.clone()).unwrap();
        assert_eq!(parsed, SearchParams::default());
        for bad in [
            json!({"nprobe": 0}),
            json!({"level": 11}),
            json!({"refine_k": 2}),
        ] {
            assert!(parse(data_type, bad).is_err());
        }
    }
    let parsed = parse(
        DataType::SparseFloatVector,
        json!({"drop_ratio_search": 0.5}),
    );
    assert_eq!(parsed.unwrap().drop_ratio, Some(0.5));
}

#[test]
fn ranges_follow_the_metric() {
    let range = RangeBounds {
        radius: 2.0,
        range_filter: Some(1.0),
    };
    assert!(range.validate(MetricType::L2).is_ok());
    assert!(range.validate(MetricType::Ip).is_err());
    assert!(range.contains(MetricType::L2, 1.0) && !range.contains(MetricType::L2, 2.0));
    let range = RangeBounds {
        radius: 1.0,
        range_filter: Some(2.0),
    };
    assert!(range.validate(MetricType::L2).is_err());
    assert!(range.contains(MetricType::Ip, 2.0) && !range.contains(MetricType::Ip, 1.0));
}
