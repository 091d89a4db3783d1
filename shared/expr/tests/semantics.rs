//! What filters mean, what they refuse, and what a plan tells about itself.

mod common;

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use common::{id, schema};
use redkite_expr::{Error, Plan, Templates, compile, eval};
use redkite_types::{BitSet, Coded, Column, ColumnData, ErrorCode, PrimaryKeys, RowBatch, Value};

fn plan(text: &str) -> Plan {
    compile(text, &Templates::new(), &schema()).unwrap_or_else(|error| panic!("{error}"))
}

/// Four rows; the last has no value where there can be none.
fn batch() -> RowBatch {
    let json = |texts: [&'static str; 4]| ColumnData::Json(texts.map(Bytes::from).into());
    let texts = |texts: [&str; 4]| ColumnData::VarChar(texts.map(str::to_owned).into());
    let column = |name: &str, data| Column {
        valid: name
            .starts_with('n')
            .then(|| BitSet::from_fn(4, |row| row < 3)),
        field: id(name),
        data,
    };
    let columns = vec![
        column("id", ColumnData::Int64(vec![1, 2, 3, 4])),
        column("flag", ColumnData::Bool(vec![true, false, true, false])),
        column("i8", ColumnData::Int8(vec![-128, 0, 5, 127])),
        column("f32", ColumnData::Float(vec![0.1, 0.5, -1.5, 16_777_216.0])),
        column("f64", ColumnData::Double(vec![0.1, 0.5, -1.5, 1e300])),
        column("text", texts(["apple", "100%", "café", "it's"])),
        column("n64", ColumnData::Int64(vec![1, 2, 3, 0])),
        column("ntext", texts(["a", "b", "c", ""])),
        column(
            "meta",
            json([
                r#"{"a": {"b": 5}, "list": [1, "x", [1, 2]], "v": 3}"#,
                r#"{"a": {"b": 2.5}, "list": [2], "v": "3"}"#,
                r#"{"a": null, "list": [], "v": true}"#,
                r#"{"list": "x", "v": 9007199254740993}"#,
            ]),
        ),
        column("njson", json(["{}", "null", r#"{"k": 1}"#, "{}"])),
        column(
            "$meta",
            json([
                r#"{"color": "red"}"#,
                r#"{"color": "blue"}"#,
                r#"{"color": 5}"#,
                "{}",
            ]),
        ),
    ];
    RowBatch::new(4, columns).expect("every column has four rows")
}

fn ids(text: &str) -> Vec<usize> {
    let found = eval(&plan(text), &batch(), 4).expect("the columns fit the schema");
    found.iter().map(|row| row + 1).collect()
}

#[track_caller]
fn expect(cases: &[(&str, &[usize])]) {
    for (text, want) in cases {
        assert_eq!(ids(text), *want, "{text}");
    }
}

#[test]
fn fields_compare_with_constants_of_any_size() {
    expect(&[
        ("", &[1, 2, 3, 4]),
        ("id == 2", &[2]),
        ("2 != id", &[1, 3, 4]),
        ("1 < id <= 3", &[2, 3]),
        ("3 > id >= 1.5", &[2]),
        ("id > 1 and id < 4", &[2, 3]),
        ("i8 < 1000", &[1, 2, 3, 4]),
        ("i8 > 1000", &[]),
        ("i8 != 1000", &[1, 2, 3, 4]),
        ("i8 >= -128.5", &[1, 2, 3, 4]),
        ("i8 == 0x7F", &[4]),
        ("f32 == 0.1", &[1]),
        ("f32 > 0.1", &[2, 4]),
        ("f64 == 0.1", &[1]),
        ("f64 > 10", &[4]),
        ("f32 == f64", &[2, 3]),
        ("text == 'apple'", &[1]),
        ("text >= \"b\"", &[3, 4]),
        ("text == 'it\\'s'", &[4]),
        ("flag", &[1, 3]),
        ("not flag", &[2, 4]),
        ("flag == False", &[2, 4]),
        ("FLAG_missing == true", &[]),
        ("true", &[1, 2, 3, 4]),
        ("1 > 2 or id == 3", &[3]),
    ]);
}

#[test]
fn lists_patterns_and_arithmetic() {
    expect(&[
        ("id in [1, 3, 9]", &[1, 3]),
        ("id not in [1, 3, 9]", &[2, 4]),
        ("id in []", &[]),
        ("id in [1.0, 2.5]", &[1]),
        ("text IN ['apple', \"it's\"]", &[1, 4]),
        ("text like 'a%'", &[1]),
        ("text like '%\\%'", &[2]),
        ("text like '%f_'", &[3]),
        ("text not like '%p%'", &[2, 3, 4]),
        ("text like 'apple'", &[1]),
        ("id + 1 == 3", &[2]),
        ("id % 2 == 0", &[2, 4]),
        ("2 * id - 1 >= 5", &[3, 4]),
        ("id ** 2 == 9", &[3]),
        ("-id < -3", &[4]),
        ("10 / i8 == 2", &[3]),
        ("id + 9223372036854775807 > 0", &[]),
        ("not (id + 9223372036854775807 > 0)", &[]),
        ("id == 2 ** 2", &[4]),
        ("id < i8", &[3, 4]),
    ]);
}

#[test]
fn a_missing_value_matches_neither_a_condition_nor_its_opposite() {
    expect(&[
        ("n64 > 1", &[2, 3]),
        ("not (n64 > 1)", &[1]),
        ("n64 != 1", &[2, 3]),
        ("n64 is null", &[4]),
        ("n64 is not null", &[1, 2, 3]),
        ("n64 > 1 or id == 4", &[2, 3, 4]),
        ("not (n64 > 1 and id == 1)", &[1, 2, 3, 4]),
        ("not (n64 > 1 or id == 1)", &[]),
        ("n64 not in [1]", &[2, 3]),
        ("n64 < 1000000000000000000000.0", &[1, 2, 3]),
        ("ntext not like 'a%'", &[2, 3]),
        ("n64 + 1 < 3", &[1]),
        ("nf is null", &[1, 2, 3, 4]),
        ("nf > 0 or not (nf > 0)", &[]),
        ("id is null", &[]),
    ]);
}

#[test]
fn json_values_are_compared_by_what_each_row_holds() {
    expect(&[
        ("meta['a']['b'] > 3", &[1]),
        ("meta[\"a\"][\"b\"] == 2.5", &[2]),
        ("not (meta['a']['b'] > 3)", &[2]),
        ("meta['a']['b'] != 5", &[2]),
        ("meta['list'][0] == 2", &[2]),
        ("meta['v'] == 3", &[1]),
        ("meta['v'] == '3'", &[2]),
        ("meta['v'] == true", &[3]),
        ("meta['v'] != '3'", &[1, 3, 4]),
        ("meta['v'] == 9007199254740993", &[4]),
        ("meta['v'] > 9007199254740992.0", &[4]),
        ("meta['v'] in [3, '3']", &[1, 2]),
        ("meta['v'] not in [3, '3']", &[3, 4]),
        ("meta['v'] like '3%'", &[2]),
        ("meta['v'] + 1 == 4", &[1]),
        ("meta['list'] == [2]", &[2]),
        ("exists meta['a']", &[1, 2]),
        ("not exists meta['a']", &[3, 4]),
        ("meta['a'] is null", &[3, 4]),
        ("json_contains(meta['list'], 1)", &[1]),
        ("json_contains(meta['list'], [1, 2])", &[1]),
        ("not json_contains(meta['list'], 1)", &[2, 3, 4]),
        ("JSON_CONTAINS_ALL(meta['list'], [1, 'x'])", &[1]),
        ("json_contains_any(meta['list'], [2, 'x'])", &[1, 2]),
        ("njson is null", &[4]),
        ("njson['k'] is null", &[1, 2, 4]),
        ("color == 'red'", &[1]),
        ("$meta['color'] != \"red\"", &[2, 3]),
        ("exists color", &[1, 2, 3]),
        ("color > 'a'", &[1, 2]),
        ("unheard_of == 1", &[]),
    ]);
}

#[test]
fn templates_stand_for_values_and_lists() {
    let templates: Templates = HashMap::from([
        ("low".to_owned(), Value::Int(2)),
        ("word".to_owned(), Value::Str("a%".to_owned())),
        (
            "ids".to_owned(),
            Value::List(vec![Value::Int(4), Value::Int(1)]),
        ),
        ("nothing".to_owned(), Value::Null),
        ("nan".to_owned(), Value::Double(f64::NAN)),
    ]);
    let ids = |text| {
        let plan = compile(text, &templates, &schema()).unwrap();
        eval(&plan, &batch(), 4)
            .unwrap()
            .iter()
            .map(|row| row + 1)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids("id >= {low}"), [2, 3, 4]);
    assert_eq!(ids("id in {ids}"), [1, 4]);
    assert_eq!(ids("text like { word }"), [1]);
    assert_eq!(ids("id in [{low}, 3]"), [2, 3]);
    for (text, problem) in [
        (
            "id > {high}",
            "the value of expression template variable name {high} is not found",
        ),
        ("id in {low}", "template variable {low} is no list"),
        ("id == {nothing}", "null, use 'is null'"),
        ("f64 == {nan}", "not a finite number"),
    ] {
        let message = compile(text, &templates, &schema())
            .unwrap_err()
            .to_string();
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn mistakes_answer_code_1100_with_their_place() {
    let mut strict = schema();
    strict.fields.retain(|field| !field.is_dynamic);
    for (text, problem) in [
        (
            "unheard_of == 1",
            "field unheard_of not exist at position 0",
        ),
        ("$meta['k'] == 1", "field $meta not exist at position 0"),
        (
            "text > 1",
            "comparisons between VarChar and Int64 with '>' are not supported at position 5",
        ),
        ("id == 'x'", "comparisons between Int64 and VarChar"),
        ("flag > true", "comparisons between Bool and Bool with '>'"),
        ("vector == 1", "comparisons between FloatVector and Int64"),
        ("id", "expected a condition, found Int64 at position 0"),
        (
            "id in ['x']",
            "VarChar in the list cannot be cast to Int64 of field id at position 7",
        ),
        ("id in 3", "expected a list at position 6"),
        (
            "id[0] == 1",
            "field id is Int64, only JSON fields have keys",
        ),
        ("id / 0 == 1", "cannot divide by zero at position 3"),
        ("id % (1 - 1) == 1", "by zero"),
        ("1 / 0 == 1", "by zero"),
        ("f64 % 2 == 1", "modulo can only apply on integer types"),
        ("9223372036854775807 + 1 == id", "integer overflow"),
        ("text + 1 == 2", "arithmetic needs numbers, found VarChar"),
        (
            "id like 'a%'",
            "'like' needs a VarChar or JSON value, found Int64",
        ),
        ("text like 5", "'like' needs a string on its right"),
        (
            "exists id",
            "exists is only supported on JSON and dynamic fields",
        ),
        (
            "json_contains(id, 1)",
            "json_contains needs a JSON value, found Int64",
        ),
        ("id == [1]", "comparisons between Int64 and a list"),
        (
            "(id > 1) + 1 == 2",
            "arithmetic needs numbers, found a condition",
        ),
        ("id == null", "field null not exist"),
        (
            "id > 1 and",
            "expected a value, found the end of the expression at position 10",
        ),
    ] {
        let error = compile(text, &Templates::new(), &strict).unwrap_err();
        let message = error.to_string();
        let start =
            format!("failed to create query plan: cannot parse expression: {text}, error: ");
        assert!(message.starts_with(&start), "{message}");
        assert!(message.contains(problem), "{message}");
        assert_eq!(error.code(), ErrorCode::InvalidParameter);
        let shown = redkite_types::Error::from(error);
        assert!(shown.is_input_error && !shown.retriable);
    }
}

#[test]
fn a_plan_knows_its_primary_keys() {
    let keys = |text| plan(text).primary_key_in();
    assert_eq!(
        keys("id in [3, 1, 3, 2]"),
        Some(PrimaryKeys::Int(vec![1, 2, 3]))
    );
    assert_eq!(keys("id == 7"), Some(PrimaryKeys::Int(vec![7])));
    assert_eq!(
        keys("id == 7 or id in [8]"),
        Some(PrimaryKeys::Int(vec![7, 8]))
    );
    assert_eq!(keys("id == 7.5"), Some(PrimaryKeys::Int(vec![])));
    assert_eq!(keys("id in []"), Some(PrimaryKeys::Int(vec![])));
    for text in [
        "id > 3",
        "id == 1 and flag",
        "i8 == 1",
        "not (id == 1)",
        "",
        "id != 1",
    ] {
        assert_eq!(keys(text), None, "{text}");
    }
}

#[test]
fn a_plan_knows_the_values_of_a_partition_key() {
    let values = |text: &str| plan(text).partition_key_values(id("text"));
    let texts = |texts: &[&str]| -> Option<Vec<Value>> {
        Some(
            texts
                .iter()
                .map(|text| Value::Str((*text).to_owned()))
                .collect(),
        )
    };
    assert_eq!(values("text == 'a' and id > 1"), texts(&["a"]));
    assert_eq!(
        values("text in ['b', 'a'] and text in ['b', 'c']"),
        texts(&["b"])
    );
    assert_eq!(
        values("(text == 'b' and flag) or text == 'a'"),
        texts(&["a", "b"])
    );
    assert_eq!(values("text == 'b' or flag"), None);
    assert_eq!(values("not (text == 'b')"), None);
    assert_eq!(values("text > 'b'"), None);
    let ints = plan("id == 5 and flag").partition_key_values(id("id"));
    assert_eq!(ints, Some(vec![Value::Int(5)]));
}

#[test]
fn a_plan_names_the_fields_it_reads() {
    let plan = plan("id > 1 and (color == 'red' or n64 + i8 > meta['a'])");
    let want: BTreeSet<_> = ["id", "$meta", "n64", "i8", "meta"].map(id).into();
    assert_eq!(plan.fields(), want);
    assert!(
        Plan::all().is_all()
            && compile("  ", &Templates::new(), &schema())
                .unwrap()
                .is_all()
    );
    assert!(self::plan("1 > 2").is_none());
}

#[test]
fn long_lists_are_searched_not_scanned() {
    let list: Vec<String> = (0..100_000).map(|n| (n * 3).to_string()).collect();
    let text = format!(
        "id in [{}] or text in ['x{}']",
        list.join(","),
        list.join("','x")
    );
    let rows = 50_000;
    let columns = vec![
        Column::new(id("id"), ColumnData::Int64((0..rows).collect())),
        Column::new(
            id("text"),
            ColumnData::VarChar((0..rows).map(|n| format!("x{n}")).collect()),
        ),
    ];
    let found = eval(&plan(&text), &columns, rows as usize).unwrap();
    assert_eq!(found.count_ones(), (rows as usize).div_ceil(3));
}

#[test]
fn columns_that_do_not_fit_the_plan_are_an_error_not_a_panic() {
    let wrong = vec![Column::new(
        id("id"),
        ColumnData::VarChar(vec!["x".to_owned(); 3]),
    )];
    let short = vec![Column::new(id("id"), ColumnData::Int64(vec![1]))];
    for text in ["id > 1", "id in [1, 5]", "id == n64"] {
        let plan = plan(text);
        let error = eval(&plan, &short, 3).unwrap_err();
        assert!(
            matches!(error, Error::Column { field, .. } if field == id("id")),
            "{error}"
        );
        if text != "id == n64" {
            let error = eval(&plan, &wrong, 3).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Internal);
        }
    }
}

#[test]
fn the_encoded_form_is_stable() {
    let plan = plan("id in [1, 300] and not (text like 'a%' or meta['k'] == 1.5)");
    let bytes = plan.encode().unwrap();
    assert_eq!(Plan::decode(&bytes).unwrap(), plan);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "0101c801060103c8010202d8040108d601010161010ad80101016b000002000000000000f83f0402020302"
    );
    for broken in [
        &[][..],
        &[9],
        &bytes[..bytes.len() - 1],
        &[&bytes[..], &[0]].concat(),
    ] {
        assert!(matches!(Plan::decode(broken), Err(Error::Corrupt { .. })));
    }
}
