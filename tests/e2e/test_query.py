"""Get and query: order, limit, offset, output fields, count."""

import pytest
from harness.data import all_rows, count, create_simple, simple_rows
from harness.errors import fails
from harness.raw import keys
from pymilvus import DataType
from pymilvus.grpc_gen import milvus_pb2


@pytest.fixture(params=["growing", "sealed", "mixed"])
def hundred(request, client, name):
    """ids 0..99, inserted out of order, in one of three states."""
    create_simple(client, name)
    rows = simple_rows(100)
    client.insert(name, rows[50:][::-1])
    if request.param == "mixed":
        client.flush(name)
    client.insert(name, rows[:50][::-1])
    if request.param == "sealed":
        client.flush(name)
    return name


def ids(rows):
    return [row["id"] for row in rows]


def test_rows_come_in_key_order(client, hundred):
    assert ids(client.query(hundred, filter="id >= 0", limit=100)) == list(range(100))
    assert ids(client.query(hundred, filter="number >= 300", limit=100)) == list(range(30, 100))


def test_limit_and_offset(client, hundred):
    assert ids(client.query(hundred, filter="id >= 0", limit=7)) == list(range(7))
    assert ids(client.query(hundred, filter="id >= 0", limit=7, offset=20)) == list(range(20, 27))
    assert ids(client.query(hundred, filter="id > 90", limit=100, offset=5)) == [96, 97, 98, 99]
    assert client.query(hundred, filter="id > 90", limit=10, offset=50) == []
    assert ids(client.query(hundred, filter="", limit=3)) == [0, 1, 2]


def test_no_filter_needs_a_limit(client, hundred):
    with fails(None, "limit"):
        client.query(hundred, filter="")


def test_the_limit_has_a_limit(client, hundred):
    assert len(client.query(hundred, filter="id >= 0", limit=16384)) == 100
    with fails(None, "16384"):
        client.query(hundred, filter="id >= 0", limit=16385)
    with fails(None, "16384"):
        client.query(hundred, filter="id >= 0", limit=16000, offset=1000)


def test_output_fields(client, hundred):
    expected = simple_rows(100)[5]
    assert client.query(hundred, filter="id == 5", output_fields=["label"]) == [
        {"id": 5, "label": "row 5"}
    ]
    assert client.query(hundred, filter="id == 5", output_fields=["number", "label"]) == [
        {"id": 5, "number": 50, "label": "row 5"}
    ]
    assert client.query(hundred, filter="id == 5", output_fields=["*"]) == [expected]
    assert client.query(hundred, filter="id == 5", output_fields=["vector"]) == [
        {"id": 5, "vector": expected["vector"]}
    ]
    assert client.query(hundred, filter="id == 5", output_fields=["id"]) == [{"id": 5}]


def test_an_unknown_output_field_is_refused(client, hundred):
    with fails(None, "nothing_here"):
        client.query(hundred, filter="id == 5", output_fields=["nothing_here"])
    with fails(None, "nothing_here"):
        client.search(hundred, [[0.0] * 8], output_fields=["nothing_here"])


def test_count(client, hundred):
    assert count(client, hundred) == 100
    for filter, expected in (("id < 30", 30), ('label == "row 7"', 1), ("id < 0", 0)):
        rows = client.query(hundred, filter=filter, output_fields=["count(*)"])
        assert rows == [{"count(*)": expected}]
    client.delete(hundred, ids=[1, 2, 3])
    assert count(client, hundred) == 97


def test_count_takes_no_limit(client, hundred):
    with fails(None, "count"):
        client.query(hundred, filter="id >= 0", output_fields=["count(*)"], limit=5)


def test_get(client, hundred):
    assert client.get(hundred, ids=[7, 3, 3, 555], output_fields=["label"]) == [
        {"id": 3, "label": "row 3"},
        {"id": 7, "label": "row 7"},
    ]
    assert client.get(hundred, ids=42)[0]["vector"] == simple_rows(100)[42]["vector"]
    assert client.get(hundred, ids=[]) == []
    assert client.get(hundred, ids=[1000]) == []
    assert client.query(hundred, ids=[1, 2], output_fields=["number"]) == [
        {"id": 1, "number": 10},
        {"id": 2, "number": 20},
    ]


def test_an_empty_result_still_has_typed_columns(raw, hundred):
    reply = raw.call(
        "Query",
        milvus_pb2.QueryRequest(
            collection_name=hundred,
            expr="id < 0",
            output_fields=["label", "vector"],
            query_params=keys({"limit": 10}),
            guarantee_timestamp=0,
        ),
    )
    assert reply.status.code == 0
    columns = {column.field_name: column.type for column in reply.fields_data}
    assert columns == {
        "id": DataType.INT64,
        "label": DataType.VARCHAR,
        "vector": DataType.FLOAT_VECTOR,
    }
    assert reply.primary_field_name == "id"
    assert reply.session_ts > 0


def test_query_iterator_walks_all_rows_in_order(client, hundred):
    iterator = client.query_iterator(
        hundred, batch_size=7, filter="number >= 100", output_fields=["label"]
    )
    pages = []
    while page := iterator.next():
        pages.append(page)
    iterator.close()
    assert [len(page) for page in pages] == [7] * 12 + [6]
    assert [row["id"] for page in pages for row in page] == list(range(10, 100))
    assert pages[0][0] == {"id": 10, "label": "row 10"}


def test_query_iterator_with_limit_and_without_filter(client, hundred):
    iterator = client.query_iterator(hundred, batch_size=30, limit=70, output_fields=["id"])
    seen = []
    while page := iterator.next():
        seen.extend(ids(page))
    iterator.close()
    assert seen == list(range(70))


def test_query_iterator_sees_the_state_of_its_start(client, hundred):
    iterator = client.query_iterator(
        hundred,
        batch_size=40,
        filter="id >= 0",
        output_fields=["id"],
        consistency_level="Strong",
    )
    seen = ids(iterator.next())
    client.insert(hundred, simple_rows(50, start=50_000))
    client.delete(hundred, ids=[99])
    while page := iterator.next():
        seen.extend(ids(page))
    iterator.close()
    assert seen == list(range(100))
    assert len(all_rows(client, hundred)) == 149


def test_query_iterator_with_varchar_keys(client, name):
    create_simple(client, name, pk=DataType.VARCHAR)
    client.insert(name, [{**row, "id": f"k{row['id']:03}"} for row in simple_rows(50)])
    assert ids(all_rows(client, name, ["id"])) == [f"k{i:03}" for i in range(50)]
