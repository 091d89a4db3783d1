"""Requests that must be refused whole, with the documented code and a message that helps.

The client library refuses many of them itself, so most are sent as raw requests. Each test checks
that nothing was inserted.
"""

import json

import pytest
from harness.data import count, create_simple, simple_rows
from harness.errors import fails
from harness.raw import failed, jsons, keys, longs, strings, vectors
from pymilvus import DataType
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

DIM = 8


def columns(n=2, **changes):
    """The columns of `n` good rows; `changes` replaces a column, None leaves it out."""
    good = {
        "id": longs("id", range(n)),
        "vector": vectors("vector", DIM, [0.5] * (DIM * n)),
        "number": longs("number", range(n)),
        "label": strings("label", ["x"] * n),
    }
    good.update(changes)
    return [column for column in good.values() if column is not None]


@pytest.fixture
def loaded(client, name):
    create_simple(client, name)
    client.insert(name, simple_rows(1, start=1_000_000))
    yield name
    assert count(client, name) == 1, "something was half-inserted"


@pytest.fixture(params=["Insert", "Upsert"])
def refused(request, raw, loaded):
    """Sends the columns by insert and by upsert; both must fail."""

    def send(code, texts, n=2, **changes):
        reply = raw.insert(loaded, columns(n, **changes), n, rpc=request.param)
        failed(reply.status, code, *texts)

    return send


def test_good_columns_are_accepted(raw, client, name):
    create_simple(client, name)
    for rpc in ("Insert", "Upsert"):
        reply = raw.insert(name, columns(), 2, rpc=rpc)
        assert reply.status.code == 0, reply.status


def test_wrong_dimension(refused):
    refused(1100, ["vector", "8", "16"], vector=vectors("vector", 16, [0.5] * 32))


def test_vector_values_that_do_not_fill_the_rows(refused):
    refused(1100, ["vector"], vector=vectors("vector", DIM, [0.5] * 15))


def test_too_few_vectors(refused):
    refused(1100, ["vector"], vector=vectors("vector", DIM, [0.5] * DIM))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_a_number(refused, bad):
    values = [0.5] * 16
    values[11] = bad
    refused(1100, ["vector"], vector=vectors("vector", DIM, values))


def test_missing_field(refused):
    refused(1100, ["number"], number=None)


def test_missing_vector(refused):
    refused(1100, ["vector"], vector=None)


def test_missing_primary_key(refused):
    refused(1100, ["id"], id=None)


def test_wrong_type(refused):
    refused(1100, ["number"], number=strings("number", ["a", "b"]))


def test_type_label_and_payload_that_differ(refused):
    column = strings("number", ["a", "b"])
    column.type = schema_pb2.Int64
    refused(1100, ["number"], number=column)


def test_column_of_another_length(refused):
    refused(1100, ["number"], number=longs("number", [1, 2, 3]))
    refused(1100, ["label"], label=strings("label", ["a"]))


def test_too_long_varchar(refused):
    refused(1100, ["label", "64"], label=strings("label", ["ok", "x" * 65]))


def test_length_of_a_varchar_counts_bytes(refused):
    refused(1100, ["label", "64"], label=strings("label", ["ok", "ü" * 33]))


def test_unknown_field(refused):
    refused(1100, ["surprise"], surprise=longs("surprise", [1, 2]))


def test_the_same_field_twice(refused):
    refused(1100, ["number"], again=longs("number", [1, 2]))


def test_dynamic_data_without_a_dynamic_field(refused):
    refused(1100, ["$meta"], meta=jsons("$meta", [b"{}", b"{}"], is_dynamic=True))


def test_nulls_in_a_field_that_takes_none(refused):
    column = longs("number", [1])
    column.valid_data.extend([True, False])
    refused(1100, ["number"], number=column)


def test_no_rows(raw, loaded):
    failed(raw.insert(loaded, columns(0), 0).status, 1100)


def test_a_row_count_that_differs_from_the_columns(raw, loaded):
    failed(raw.insert(loaded, columns(2), 3).status, 1100)


def test_a_huge_row_count(raw, loaded):
    failed(raw.insert(loaded, columns(2), 2**32 - 1).status, 1100)


def test_int8_out_of_range(raw, client, name):
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("tiny", DataType.INT8)
    schema.add_field("small", DataType.INT16)
    client.create_collection(name, schema=schema)
    for field, bad in (("tiny", 128), ("tiny", -129), ("small", 32768)):
        values = {"tiny": 0, "small": 0, field: bad}
        reply = raw.insert(
            name,
            [
                longs("id", [1]),
                vectors("vector", 2, [0.0, 0.0]),
                longs("tiny", [values["tiny"]], schema_pb2.Int8),
                longs("small", [values["small"]], schema_pb2.Int16),
            ],
            1,
        )
        failed(reply.status, 1100, field)


def test_a_key_given_though_it_is_automatic(raw, client, name):
    create_simple(client, name, auto_id=True)
    failed(raw.insert(name, columns(), 2).status, 1100, "id")
    assert count(client, name) == 0


def test_json_that_is_no_json(raw, client, name):
    schema = client.create_schema(enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("meta", DataType.JSON)
    client.create_collection(name, schema=schema)

    def send(meta, dynamic):
        return raw.insert(
            name,
            [
                longs("id", [1]),
                vectors("vector", 2, [0.0, 0.0]),
                jsons("meta", [meta]),
                jsons("$meta", [dynamic], is_dynamic=True),
            ],
            1,
        ).status

    failed(send(b"{not json", b"{}"), 1100, "meta")
    failed(send(b"{}", b"[1, 2]"), 1100, "$meta")
    failed(send(b"{}", b"\xff\xfe"), 1100)
    failed(send(json.dumps({"x": "y" * 70_000}).encode(), b"{}"), 1100, "meta", "65536")
    assert send(b'{"a": 1}', b'{"b": 2}').code == 0


def test_an_old_schema_timestamp_asks_for_a_refresh(raw, client, name):
    create_simple(client, name)
    reply = raw.insert(name, columns(), 2, schema_timestamp=1)
    assert reply.status.code in (0, 109)
    if reply.status.code == 109:
        assert reply.status.error_code == 62


# Deletes and reads


def test_a_delete_of_an_unknown_partition(raw, loaded):
    request = milvus_pb2.DeleteRequest(
        collection_name=loaded, partition_name="no", expr="id in [1000000]"
    )
    reply = raw.call("Delete", request)
    assert reply.status.code in (200, 65535)


@pytest.mark.parametrize("metric", ["L2", "IP", "COSINE"])
def test_search_vectors_are_checked(client, name, metric):
    create_simple(client, name, metric=metric)
    client.insert(name, simple_rows(5))
    with fails((1100, 65535), "8", "4"):
        client.search(name, [[0.0] * 4])
    with fails((1100, 65535)):
        client.search(name, [[float("nan")] * 8])


def test_search_with_garbage_for_a_placeholder(raw, loaded):
    request = milvus_pb2.SearchRequest(
        collection_name=loaded,
        dsl_type=1,
        nq=1,
        placeholder_group=b"\xff\xff\xff",
        search_params=keys({"anns_field": "vector", "topk": 1, "params": "{}"}),
    )
    reply = raw.call("Search", request)
    assert reply.status.code != 0 and reply.status.error_code != 0


@pytest.mark.parametrize("topk", ["", "abc", "-1", "0", "99999999999999999999"])
def test_search_with_a_bad_topk(raw, loaded, topk):
    request = milvus_pb2.SearchRequest(
        collection_name=loaded,
        dsl_type=1,
        nq=1,
        search_params=keys({"anns_field": "vector", "topk": topk, "params": "{}"}),
    )
    reply = raw.call("Search", request)
    assert reply.status.code != 0 and reply.status.error_code != 0


def test_the_server_is_well_after_all_that(client):
    assert client.get_server_version()
