"""Every field type: what is inserted comes back, from growing and from sealed rows."""

import math

import numpy as np
import pytest
from harness.data import entity, index_params
from harness.errors import fails
from harness.raw import longs, vectors
from pymilvus import DataType, MilvusClient

SCALARS = {
    "int8": (DataType.INT8, [0, 1, -1, 127, -128]),
    "int16": (DataType.INT16, [0, 1, -1, 32767, -32768]),
    "int32": (DataType.INT32, [0, 1, -1, 2**31 - 1, -(2**31)]),
    "int64": (DataType.INT64, [0, 1, -1, 2**63 - 1, -(2**63)]),
    "bool": (DataType.BOOL, [True, False, True, False, True]),
    "float": (DataType.FLOAT, [0.0, 1.5, -1.5, float(np.finfo("f4").max), 2.0**-126]),
    "double": (DataType.DOUBLE, [0.0, 0.1, -0.1, 1.7e308, 5e-324]),
    "varchar": (DataType.VARCHAR, ["", "a", "zwölf Boxkämpfer", "日本語", "x" * 100]),
    "json": (
        DataType.JSON,
        [{}, {"a": 1}, {"a": {"b": [1, "two", None, 2.5, True]}}, {"ü": "日"}, {"big": 2**53}],
    ),
}


def schema_for(fields, **kwargs):
    """`fields`: name -> (DataType, options)."""
    schema = MilvusClient.create_schema(**kwargs)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    for field, (kind, options) in fields.items():
        extra = {"max_length": 400} if kind == DataType.VARCHAR else {}
        schema.add_field(field, kind, **extra, **options)
    return schema


def create(client, name, fields, **kwargs):
    client.create_collection(
        name,
        schema=schema_for(fields, **kwargs),
        index_params=index_params(),
        consistency_level="Strong",
    )


def vector(i):
    return [float(i), 0.0, 1.0, -float(i)]


def read_all(client, name, fields):
    return client.query(name, filter="id >= 0", output_fields=list(fields), limit=1000)


@pytest.mark.parametrize("sealed", [False, True], ids=["growing", "sealed"])
def test_all_types_come_back(client, name, sealed):
    create(client, name, {field: (kind, {}) for field, (kind, _) in SCALARS.items()})
    rows = [
        {
            "id": i,
            "vector": vector(i),
            **{field: values[i] for field, (_, values) in SCALARS.items()},
        }
        for i in range(5)
    ]
    assert client.insert(name, rows)["insert_count"] == 5
    if sealed:
        client.flush(name)
    found = read_all(client, name, [*SCALARS, "vector"])
    for row, back in zip(rows, found, strict=True):
        assert back == row
        for field in SCALARS:
            assert type(back[field]) is type(row[field]), field
    hits = client.search(name, [vector(3)], limit=1, output_fields=["*"])[0]
    assert {"id": hits[0]["id"], **entity(hits[0])} == rows[3]


@pytest.mark.parametrize("sealed", [False, True], ids=["growing", "sealed"])
def test_nullable_fields_come_back_as_none(client, name, sealed):
    create(
        client, name, {field: (kind, {"nullable": True}) for field, (kind, _) in SCALARS.items()}
    )
    full = {field: values[3] for field, (_, values) in SCALARS.items()}
    empty = dict.fromkeys(SCALARS)
    client.insert(
        name,
        [
            {"id": 0, "vector": vector(0), **full},
            {"id": 1, "vector": vector(1), **empty},
            {"id": 2, "vector": vector(2)},
            {"id": 3, "vector": vector(3), **full},
        ],
    )
    if sealed:
        client.flush(name)
    found = read_all(client, name, SCALARS)
    assert found == [
        {"id": 0, **full},
        {"id": 1, **empty},
        {"id": 2, **empty},
        {"id": 3, **full},
    ]
    for field in ("int8", "int64", "bool", "double", "varchar", "json"):
        missing = client.query(name, filter=f"{field} is null", output_fields=["id"])
        assert [row["id"] for row in missing] == [1, 2], field
        present = client.query(name, filter=f"{field} is not null", output_fields=["id"])
        assert [row["id"] for row in present] == [0, 3], field
    hits = client.search(name, [vector(1)], limit=4, output_fields=["int64", "varchar"])[0]
    by_id = {hit["id"]: hit["entity"] for hit in hits}
    assert by_id[1]["int64"] is None and by_id[1]["varchar"] is None
    assert by_id[3]["varchar"] == full["varchar"]


def test_a_column_that_is_all_null(client, name):
    create(client, name, {"maybe": (DataType.INT64, {"nullable": True})})
    client.insert(name, [{"id": i, "vector": vector(i), "maybe": None} for i in range(3)])
    assert [row["maybe"] for row in read_all(client, name, ["maybe"])] == [None] * 3
    client.flush(name)
    assert [row["maybe"] for row in read_all(client, name, ["maybe"])] == [None] * 3


DEFAULTS = {
    "d_int8": (DataType.INT8, 8),
    "d_int32": (DataType.INT32, -32),
    "d_int64": (DataType.INT64, 64),
    "d_bool": (DataType.BOOL, True),
    "d_float": (DataType.FLOAT, 0.5),
    "d_double": (DataType.DOUBLE, 0.25),
    "d_varchar": (DataType.VARCHAR, "none given"),
}


def test_default_values_fill_in(client, name):
    create(client, name, {f: (kind, {"default_value": v}) for f, (kind, v) in DEFAULTS.items()})
    defaults = {field: value for field, (_, value) in DEFAULTS.items()}
    given = {
        "d_int8": 1,
        "d_int32": 2,
        "d_int64": 3,
        "d_bool": False,
        "d_float": 4.0,
        "d_double": 5.0,
        "d_varchar": "given",
    }
    client.insert(
        name,
        [
            {"id": 0, "vector": vector(0)},
            {"id": 1, "vector": vector(1), **dict.fromkeys(DEFAULTS)},
            {"id": 2, "vector": vector(2), **given},
        ],
    )
    expected = [{"id": 0, **defaults}, {"id": 1, **defaults}, {"id": 2, **given}]
    assert read_all(client, name, DEFAULTS) == expected
    client.flush(name)
    assert read_all(client, name, DEFAULTS) == expected
    found = client.query(name, filter='d_varchar == "none given"', output_fields=["id"])
    assert [row["id"] for row in found] == [0, 1]


def test_a_nullable_field_with_a_default_takes_the_default(client, name):
    create(client, name, {"both": (DataType.INT64, {"nullable": True, "default_value": 7})})
    client.insert(name, [{"id": 0, "vector": vector(0), "both": None}])
    client.insert(name, [{"id": 1, "vector": vector(1)}])
    assert [row["both"] for row in read_all(client, name, ["both"])] == [7, 7]


def test_columns_that_may_be_absent_are_filled(raw, client, name):
    """A client may leave a nullable or defaulted column out of the request altogether."""
    create(
        client,
        name,
        {
            "maybe": (DataType.INT64, {"nullable": True}),
            "level": (DataType.INT64, {"default_value": 3}),
        },
    )
    reply = raw.insert(name, [longs("id", [1, 2]), vectors("vector", 4, [0.5] * 8)], 2)
    assert reply.status.code == 0, reply.status
    assert read_all(client, name, ["maybe", "level"]) == [
        {"id": 1, "maybe": None, "level": 3},
        {"id": 2, "maybe": None, "level": 3},
    ]


# Dynamic fields


def test_dynamic_fields_come_back_by_name(client, name):
    create(client, name, {}, enable_dynamic_field=True)
    client.insert(
        name,
        [
            {"id": 0, "vector": vector(0), "colour": "red", "size": 3},
            {"id": 1, "vector": vector(1), "colour": "blue", "nested": {"a": [1, 2]}},
            {"id": 2, "vector": vector(2)},
        ],
    )
    for _ in range(2):
        found = client.query(name, filter='colour == "red"', output_fields=["colour", "size"])
        assert found == [{"id": 0, "colour": "red", "size": 3}]
        found = client.query(name, filter='nested["a"][1] == 2', output_fields=["nested"])
        assert found == [{"id": 1, "nested": {"a": [1, 2]}}]
        found = client.query(name, filter='$meta["size"] > 2', output_fields=["id"])
        assert found == [{"id": 0}]
        rows = client.query(name, filter="id >= 0", output_fields=["*"], limit=10)
        assert rows[0] == {"id": 0, "vector": vector(0), "colour": "red", "size": 3}
        assert rows[2] == {"id": 2, "vector": vector(2)}
        hit = client.search(name, [vector(1)], limit=1, output_fields=["colour"])[0][0]
        assert hit["id"] == 1 and entity(hit) == {"colour": "blue"}
        client.flush(name)


def test_describe_hides_the_dynamic_column(client, name):
    create(client, name, {}, enable_dynamic_field=True)
    info = client.describe_collection(name)
    assert info["enable_dynamic_field"] is True
    assert [field["name"] for field in info["fields"]] == ["id", "vector"]


# Primary keys


def test_auto_id_gives_growing_keys_in_row_order(client, name):
    schema = MilvusClient.create_schema(auto_id=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    schema.add_field("n", DataType.INT64)
    client.create_collection(
        name, schema=schema, index_params=index_params(), consistency_level="Strong"
    )
    keys = []
    for start in (0, 100):
        reply = client.insert(name, [{"vector": vector(i), "n": start + i} for i in range(100)])
        assert reply["insert_count"] == 100
        keys.extend(reply["ids"])
    assert len(set(keys)) == 200
    assert keys == sorted(keys)
    for n in (0, 57, 199):
        row = client.query(name, filter=f"n == {n}", output_fields=["id"])
        assert row == [{"id": keys[n]}]
    assert client.describe_collection(name)["auto_id"] is True


def test_varchar_auto_id_is_a_decimal_text(client, name):
    schema = MilvusClient.create_schema(auto_id=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    client.create_collection(
        name, schema=schema, index_params=index_params(), consistency_level="Strong"
    )
    keys = client.insert(name, [{"vector": vector(i)} for i in range(10)])["ids"]
    assert len(set(keys)) == 10
    assert all(isinstance(key, str) and int(key) > 0 for key in keys)
    rows = client.get(name, ids=[keys[4]], output_fields=["vector"])
    assert rows == [{"id": keys[4], "vector": vector(4)}]


def test_varchar_keys(client, name):
    schema = MilvusClient.create_schema()
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=20)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    client.create_collection(
        name, schema=schema, index_params=index_params(), consistency_level="Strong"
    )
    keys = ["b", "a", "zwölf", "10", "9", "x y"]
    reply = client.insert(name, [{"key": k, "vector": vector(i)} for i, k in enumerate(keys)])
    assert list(reply["ids"]) == keys
    rows = client.query(name, filter='key != ""', output_fields=["key"], limit=10)
    assert [row["key"] for row in rows] == sorted(keys)
    assert client.search(name, [vector(2)], limit=1)[0][0]["key"] == "zwölf"
    client.delete(name, ids=["a", "x y"])
    client.upsert(name, [{"key": "b", "vector": vector(9)}])
    rows = client.query(name, filter='key >= "a"', output_fields=["vector"], limit=10)
    assert rows == [{"key": "b", "vector": vector(9)}, {"key": "zwölf", "vector": vector(2)}]


def test_vectors_come_back_bit_for_bit(client, name):
    create(client, name, {})
    values = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    values[0] = [1e-38, -0.0, np.finfo("f4").max, np.finfo("f4").smallest_subnormal]
    client.insert(name, [{"id": i, "vector": values[i]} for i in range(50)])
    for _ in range(2):
        rows = client.query(name, filter="id >= 0", output_fields=["vector"], limit=100)
        back = np.array([row["vector"] for row in rows], dtype=np.float32)
        assert np.array_equal(back.view(np.uint32), values.view(np.uint32))
        client.flush(name)
    assert all(math.isfinite(x) for row in rows for x in row["vector"])


def test_two_vector_fields(client, name):
    schema = schema_for({})
    schema.add_field("second", DataType.FLOAT_VECTOR, dim=2)
    params = index_params()
    params.add_index("second", index_type="FLAT", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=params, consistency_level="Strong")
    client.insert(
        name, [{"id": i, "vector": vector(i), "second": [float(-i), 1.0]} for i in range(10)]
    )
    first = client.search(name, [vector(7)], limit=1, anns_field="vector")[0]
    assert first[0]["id"] == 7 and first[0]["distance"] == 0
    second = client.search(name, [[1.0, 0.0]], limit=2, anns_field="second")[0]
    assert [(hit["id"], hit["distance"]) for hit in second] == [(0, 0.0), (1, -1.0)]
    with fails(None, "vector"):
        client.search(name, [vector(7)], limit=1)
