"""The filter language: each expression against a Python function over the same rows."""

import pytest
from harness.data import index_params, make_vectors
from harness.errors import fails
from pymilvus import DataType, MilvusClient, MilvusException

WORDS = ["alpha", "beta", "gamma", "delta", "Alpha", "al_pha", "100%", 'quo"te', "zwölf", ""]


def make_rows():
    vectors = make_vectors(120, 4)
    rows = []
    for i in range(120):
        meta = {"a": i % 10, "s": WORDS[i % len(WORDS)], "n": {"deep": i / 4}, "l": [i, i % 3]}
        if i % 6 == 0:
            meta = {"a": str(i)}
        row = {
            "id": i,
            "vector": vectors[i].tolist(),
            "i8": i % 100 - 50,
            "i32": i * i - 3000,
            "i64": (i - 60) * 10**12,
            "f": i / 8,
            "d": i / 10,
            "flag": i % 3 == 0,
            "word": WORDS[i % len(WORDS)],
            "maybe": None if i % 4 == 0 else i,
            "meta": meta,
        }
        if i % 5 == 0:
            row["dyn"] = i
        elif i % 5 == 1:
            row["dyn"] = f"text{i}"
        rows.append(row)
    return rows


ROWS = make_rows()


def number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def maybe(test):
    """A comparison with null is never true, also not when it is negated."""
    return lambda r: r["maybe"] is not None and test(r["maybe"])


def a_is(test):
    return lambda r: number(r["meta"].get("a")) and test(r["meta"]["a"])


def dyn(test):
    return lambda r: number(r.get("dyn")) and test(r["dyn"])


FILTERS = [
    # comparisons
    ("id == 5", lambda r: r["id"] == 5),
    ("id != 5", lambda r: r["id"] != 5),
    ("i8 < -45", lambda r: r["i8"] < -45),
    ("i8 <= -45", lambda r: r["i8"] <= -45),
    ("i32 > 1000", lambda r: r["i32"] > 1000),
    ("i32 >= 1225", lambda r: r["i32"] >= 1225),
    ("i64 > 50000000000000", lambda r: r["i64"] > 50 * 10**12),
    ("i64 == -60000000000000", lambda r: r["i64"] == -60 * 10**12),
    ("f > 14.5", lambda r: r["f"] > 14.5),
    ("f == 0.125", lambda r: r["f"] == 0.125),
    ("d >= 11.5", lambda r: r["d"] >= 11.5),
    ("d < 1e0", lambda r: r["d"] < 1),
    ("5 > id", lambda r: r["id"] < 5),
    ("i8 > 300", lambda r: False),
    ("i8 < 300", lambda r: True),
    ("id > 0x70", lambda r: r["id"] > 0x70),
    ("i32 > f", lambda r: r["i32"] > r["f"]),
    # chained ranges
    ("10 < id < 13", lambda r: 10 < r["id"] < 13),
    ("1 < id <= 5", lambda r: 1 < r["id"] <= 5),
    ("5 >= id > 1", lambda r: 5 >= r["id"] > 1),
    ("0.5 <= f < 1.0", lambda r: 0.5 <= r["f"] < 1.0),
    # strings
    ('word == "alpha"', lambda r: r["word"] == "alpha"),
    ("word == 'alpha'", lambda r: r["word"] == "alpha"),
    ('word != "alpha"', lambda r: r["word"] != "alpha"),
    ('word == ""', lambda r: r["word"] == ""),
    ('word == "zwölf"', lambda r: r["word"] == "zwölf"),
    ('word == "quo\\"te"', lambda r: r["word"] == 'quo"te'),
    ('word < "b"', lambda r: r["word"] < "b"),
    ('"b" < word < "gb"', lambda r: "b" < r["word"] < "gb"),
    # like
    ('word like "al%"', lambda r: r["word"].startswith("al")),
    ('word like "%ta"', lambda r: r["word"].endswith("ta")),
    ('word like "%et%"', lambda r: "et" in r["word"]),
    ('word like "al_ha"', lambda r: r["word"] == "alpha"),
    ('word like "a%a"', lambda r: r["word"].startswith("a") and r["word"].endswith("a")),
    ('word like "gamma"', lambda r: r["word"] == "gamma"),
    ('word like "100\\\\%"', lambda r: r["word"] == "100%"),
    ('not (word like "a%")', lambda r: not r["word"].startswith("a")),
    # in
    ("id in [1, 2, 3, 500]", lambda r: r["id"] in (1, 2, 3)),
    ("id not in [1, 2, 3]", lambda r: r["id"] not in (1, 2, 3)),
    ("id in []", lambda r: False),
    ('word in ["alpha", "beta"]', lambda r: r["word"] in ("alpha", "beta")),
    ('word not in ["alpha", ""]', lambda r: r["word"] not in ("alpha", "")),
    # logic
    ("id < 10 and flag == true", lambda r: r["id"] < 10 and r["flag"]),
    ("id < 10 && flag == false", lambda r: r["id"] < 10 and not r["flag"]),
    ("id < 3 or id > 117", lambda r: r["id"] < 3 or r["id"] > 117),
    ("id < 3 || id > 117", lambda r: r["id"] < 3 or r["id"] > 117),
    ("not (id < 100)", lambda r: r["id"] >= 100),
    ("!(id < 100)", lambda r: r["id"] >= 100),
    ("id < 3 or id > 100 and flag == true", lambda r: r["id"] < 3 or (r["id"] > 100 and r["flag"])),
    (
        "(id < 3 or id > 100) and flag == true",
        lambda r: (r["id"] < 3 or r["id"] > 100) and r["flag"],
    ),
    ("not (id > 3 and id < 117)", lambda r: not 3 < r["id"] < 117),
    ("id < 3 AND flag == true", lambda r: r["id"] < 3 and r["flag"]),
    # arithmetic
    ("id + 5 == 10", lambda r: r["id"] == 5),
    ("id * 2 > 230", lambda r: r["id"] * 2 > 230),
    ("id % 7 == 3", lambda r: r["id"] % 7 == 3),
    ("id - 10 < 0", lambda r: r["id"] < 10),
    ("d / 2 > 5.5", lambda r: r["d"] / 2 > 5.5),
    ("i8 == -(50)", lambda r: r["i8"] == -50),
    ("id == 2 * 3 + 4", lambda r: r["id"] == 10),
    ("id == 2 ** 5", lambda r: r["id"] == 32),
    # null
    ("maybe is null", lambda r: r["maybe"] is None),
    ("maybe is not null", lambda r: r["maybe"] is not None),
    ("maybe > 100", maybe(lambda v: v > 100)),
    ("not (maybe > 100)", maybe(lambda v: not v > 100)),
    ("maybe in [1, 2, 4]", maybe(lambda v: v in (1, 2))),
    ("maybe == 5 or maybe is null", lambda r: r["maybe"] in (5, None)),
    # json
    ('meta["a"] > 7', a_is(lambda a: a > 7)),
    ('meta["a"] == 3', a_is(lambda a: a == 3)),
    ('meta["a"] == "6"', lambda r: r["meta"].get("a") == "6"),
    ('meta["a"] in [1, 2]', a_is(lambda a: a in (1, 2))),
    ('meta["s"] == "gamma"', lambda r: r["meta"].get("s") == "gamma"),
    ('meta["s"] like "g%"', lambda r: r["meta"].get("s", "").startswith("g")),
    ('meta["n"]["deep"] > 28.5', lambda r: r["meta"].get("n", {}).get("deep", 0) > 28.5),
    ('meta["l"][1] == 2', lambda r: "l" in r["meta"] and r["meta"]["l"][1] == 2),
    (
        'meta["a"] < 2 and meta["s"] == "alpha"',
        lambda r: a_is(lambda a: a < 2)(r) and r["meta"].get("s") == "alpha",
    ),
    ('2 < meta["a"] < 5', a_is(lambda a: 2 < a < 5)),
    ('meta["a"] + 1 == 9', a_is(lambda a: a + 1 == 9)),
    ('exists meta["s"]', lambda r: "s" in r["meta"]),
    ('not exists meta["s"]', lambda r: "s" not in r["meta"]),
    # dynamic keys by bare name
    ("dyn > 100", dyn(lambda v: v > 100)),
    ("dyn in [5, 10, 11]", dyn(lambda v: v in (5, 10))),
    ('dyn == "text6"', lambda r: r.get("dyn") == "text6"),
    ('$meta["dyn"] == 10', dyn(lambda v: v == 10)),
    ("exists dyn", lambda r: "dyn" in r),
]

BAD = [
    ("id >", "cannot parse expression"),
    ("id > > 3", "cannot parse expression"),
    ("(id > 3", "cannot parse expression"),
    ("id == 'abc", "cannot parse expression"),
    ("id ~ 3", "cannot parse expression"),
    ("id in [1, 2", "cannot parse expression"),
    ("id == 99999999999999999999999", None),
    ("id == 'text'", "id"),
    ("word > 3", "word"),
    ("word in [1, 2]", "word"),
    ("id in ['a']", "id"),
    ('flag > "x"', "flag"),
    ("id like 'a%'", "id"),
    ("id + 'a' == 3", None),
    ("vector == 3", "vector"),
    ("id == {missing}", "missing"),
    ("id", None),
    ("id % 0 == 1", "by zero"),
    ("f[0] == 1", "f"),
]


@pytest.fixture(scope="module", params=["growing", "sealed"])
def collection(request, client):
    name = f"filters_{request.param}"
    schema = MilvusClient.create_schema(enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    schema.add_field("i8", DataType.INT8)
    schema.add_field("i32", DataType.INT32)
    schema.add_field("i64", DataType.INT64)
    schema.add_field("f", DataType.FLOAT)
    schema.add_field("d", DataType.DOUBLE)
    schema.add_field("flag", DataType.BOOL)
    schema.add_field("word", DataType.VARCHAR, max_length=32)
    schema.add_field("maybe", DataType.INT64, nullable=True)
    schema.add_field("meta", DataType.JSON)
    client.create_collection(
        name, schema=schema, index_params=index_params(), consistency_level="Strong"
    )
    client.insert(name, ROWS)
    if request.param == "sealed":
        client.flush(name)
    yield name
    client.drop_collection(name)


@pytest.mark.parametrize("filter, test", FILTERS, ids=[text for text, _ in FILTERS])
def test_filter(client, collection, filter, test):
    expected = [row["id"] for row in ROWS if test(row)]
    found = client.query(collection, filter=filter, output_fields=["id"], limit=1000)
    assert [row["id"] for row in found] == expected
    hits = client.search(collection, [[0.0] * 4], filter=filter, limit=200)[0]
    assert sorted(hit["id"] for hit in hits) == expected


TEMPLATES = [
    ("id == {v}", {"v": 5}, lambda r: r["id"] == 5),
    ("id in {v}", {"v": [1, 2, 900]}, lambda r: r["id"] in (1, 2)),
    ("word == {v}", {"v": 'quo"te'}, lambda r: r["word"] == 'quo"te'),
    ("word in {v}", {"v": ["beta", "zwölf"]}, lambda r: r["word"] in ("beta", "zwölf")),
    ("flag == {v}", {"v": True}, lambda r: r["flag"]),
    ("d > {v}", {"v": 11.5}, lambda r: r["d"] > 11.5),
    ("{low} < id < {high}", {"low": 3, "high": 6}, lambda r: 3 < r["id"] < 6),
    ('meta["a"] == {v}', {"v": 4}, lambda r: r["meta"].get("a") == 4),
    ("id + {v} == 10", {"v": 4}, lambda r: r["id"] == 6),
    ("dyn == {v}", {"v": "text11"}, lambda r: r.get("dyn") == "text11"),
]


@pytest.mark.parametrize("filter, values, test", TEMPLATES, ids=[t[0] for t in TEMPLATES])
def test_template(client, collection, filter, values, test):
    expected = [row["id"] for row in ROWS if test(row)]
    found = client.query(collection, filter=filter, filter_params=values, limit=1000)
    assert [row["id"] for row in found] == expected


@pytest.mark.parametrize("filter, text", BAD, ids=[text[:30] for text, _ in BAD])
def test_a_mistake_answers_1100(client, collection, filter, text):
    texts = ["failed to create query plan"] + ([text] if text else [])
    with fails(1100, *texts):
        client.query(collection, filter=filter, limit=10)


def test_a_parse_error_tells_the_position_and_what_was_expected(client, collection):
    with fails(1100, "expected") as caught:
        client.query(collection, filter="id > 3 and word ==", limit=10)
    assert any(text in caught.value.message for text in ("18", "19", "1:18", "1:19"))


@pytest.mark.parametrize("depth", [50, 20_000])
def test_deep_nesting_is_answered_or_refused(client, collection, depth):
    filter = "(" * depth + "id < 3" + ")" * depth
    try:
        found = client.query(collection, filter=filter, output_fields=["id"], limit=10)
        assert [row["id"] for row in found] == [0, 1, 2]
    except MilvusException as error:
        assert depth > 50 and error.code == 1100
    assert client.query(collection, filter="id == 1", output_fields=["id"]) == [{"id": 1}]


def test_a_wrong_template_type_is_refused(client, collection):
    with fails(1100, "id"):
        client.query(collection, filter="id == {v}", filter_params={"v": "five"}, limit=10)


def test_an_unknown_field_without_dynamic_field_is_refused(client, name):
    schema = MilvusClient.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    client.create_collection(name, schema=schema, index_params=index_params())
    with fails(1100, "failed to create query plan", "colour"):
        client.query(name, filter='colour == "red"', limit=10)
