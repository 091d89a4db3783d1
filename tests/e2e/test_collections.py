"""Collections: create, describe, list, rename, alter, drop, and what is refused."""

import pytest
from harness.data import count, create_simple, index_params, simple_rows, simple_schema
from harness.errors import fails
from harness.raw import failed
from harness.waiting import eventually
from pymilvus import DataType
from pymilvus.client.prepare import Prepare
from pymilvus.client.types import LoadState
from pymilvus.grpc_gen import milvus_pb2, schema_pb2


def test_fast_create_makes_a_loaded_collection_with_an_index(client, name):
    client.create_collection(name, dimension=8)
    info = client.describe_collection(name)
    assert [(field["name"], field["type"]) for field in info["fields"]] == [
        ("id", DataType.INT64),
        ("vector", DataType.FLOAT_VECTOR),
    ]
    assert info["enable_dynamic_field"] is True
    assert info["consistency_level_name"] == "Bounded"
    assert client.get_load_state(name)["state"] == LoadState.Loaded
    assert client.list_indexes(name) == ["vector"]
    index = client.describe_index(name, "vector")
    assert index["metric_type"] == "COSINE"
    assert index["state"] == "Finished"


def test_fast_create_with_a_varchar_key(client, name):
    client.create_collection(name, dimension=4, id_type="string", max_length=32, metric_type="IP")
    client.insert(name, [{"id": "a", "vector": [1, 0, 0, 0]}])
    hits = client.search(name, [[1, 0, 0, 0]], limit=1, consistency_level="Strong")
    assert hits[0][0]["id"] == "a"
    assert hits[0][0]["distance"] == pytest.approx(1.0)


def test_describe_returns_what_was_created(client, name):
    schema = client.create_schema(enable_dynamic_field=False, description="a shelf")
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=40, description="isbn")
    schema.add_field("pages", DataType.INT16, nullable=True)
    schema.add_field("price", DataType.DOUBLE, default_value=9.5)
    schema.add_field("meta", DataType.JSON)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=16)
    client.create_collection(
        name, schema=schema, num_shards=2, consistency_level="Session", properties={"x.y": "z"}
    )
    info = client.describe_collection(name)
    assert info["collection_name"] == name
    assert info["description"] == "a shelf"
    assert info["num_shards"] == 2
    assert info["num_partitions"] == 1
    assert info["aliases"] == []
    assert info["functions"] == []
    assert info["auto_id"] is False
    assert info["enable_dynamic_field"] is False
    assert info["consistency_level_name"] == "Session"
    assert info["properties"]["x.y"] == "z"
    assert info["collection_id"] > 0
    assert info["created_timestamp"] > 0
    assert info["update_timestamp"] > 0
    assert [field["name"] for field in info["fields"]] == [
        "key",
        "pages",
        "price",
        "meta",
        "embedding",
    ]
    assert [field["field_id"] for field in info["fields"]] == [100, 101, 102, 103, 104]
    key, pages, price, meta, embedding = info["fields"]
    assert key["is_primary"] is True and key["params"] == {"max_length": 40}
    assert key["description"] == "isbn"
    assert pages["type"] == DataType.INT16 and pages["nullable"] is True
    assert price["default_value"].double_data == 9.5
    assert meta["type"] == DataType.JSON
    assert embedding["params"] == {"dim": 16}


def test_describe_of_an_absent_collection_answers_100(client):
    text = "collection not found[database=default][collection=nowhere]"
    with fails(100, text):
        client.describe_collection("nowhere")


@pytest.mark.parametrize("operation", ["load_collection", "release_collection", "flush"])
def test_operations_on_an_absent_collection_answer_100(client, operation):
    with fails(100, "collection not found"):
        getattr(client, operation)("nowhere")


def test_data_operations_on_an_absent_collection_answer_100(client):
    row = {"id": 1, "vector": [0.0] * 8}
    for call in (
        lambda: client.insert("nowhere", [row]),
        lambda: client.upsert("nowhere", [row]),
        lambda: client.delete("nowhere", filter="id > 0"),
        lambda: client.query("nowhere", filter="id > 0"),
        lambda: client.search("nowhere", data=[[0.0] * 8]),
        lambda: client.get_collection_stats("nowhere"),
    ):
        with fails(100, "collection not found"):
            call()


def test_has_and_list_follow_create_and_drop(client, name, other_name):
    assert client.has_collection(name) is False
    client.create_collection(name, schema=simple_schema())
    client.create_collection(other_name, schema=simple_schema())
    assert client.has_collection(name) is True
    assert {name, other_name} <= set(client.list_collections())
    client.drop_collection(name)
    assert client.has_collection(name) is False
    assert name not in client.list_collections()
    assert other_name in client.list_collections()


def test_creating_the_same_collection_again_succeeds_and_keeps_rows(client, name):
    create_simple(client, name)
    client.insert(name, simple_rows(10))
    before = client.describe_collection(name)["collection_id"]
    client.create_collection(name, schema=simple_schema(), consistency_level="Strong")
    assert client.describe_collection(name)["collection_id"] == before
    assert count(client, name) == 10


def test_creating_a_different_collection_of_the_same_name_is_refused(client, name):
    client.create_collection(name, schema=simple_schema(dim=8))
    text = f"create duplicate collection with different parameters, collection: {name}"
    with fails(65535, text):
        client.create_collection(name, schema=simple_schema(dim=16))
    assert client.describe_collection(name)["fields"][1]["params"] == {"dim": 8}


def test_dropping_an_absent_collection_succeeds(client, name):
    client.drop_collection(name)
    client.create_collection(name, schema=simple_schema())
    client.drop_collection(name)
    client.drop_collection(name)


def test_a_recreated_collection_is_empty(client, name):
    create_simple(client, name)
    first = client.describe_collection(name)["collection_id"]
    client.insert(name, simple_rows(20))
    client.flush(name)
    client.insert(name, simple_rows(20, start=100))
    client.drop_collection(name)
    create_simple(client, name)
    assert client.describe_collection(name)["collection_id"] != first
    assert count(client, name) == 0
    client.insert(name, simple_rows(1, start=5000))
    hits = client.search(name, [simple_rows(1)[0]["vector"]], limit=10)
    assert [hit["id"] for hit in hits[0]] == [5000]


def test_rename_keeps_rows_and_frees_the_name(client, name, other_name):
    create_simple(client, name)
    client.insert(name, simple_rows(10))
    client.rename_collection(name, other_name)
    assert client.has_collection(name) is False
    assert client.describe_collection(other_name)["collection_name"] == other_name
    assert count(client, other_name) == 10
    with fails(100, "collection not found"):
        client.query(name, filter="id > 0")
    create_simple(client, name)
    assert count(client, name) == 0


def test_rename_to_a_taken_name_is_refused(client, name, other_name):
    client.create_collection(name, schema=simple_schema())
    client.create_collection(other_name, schema=simple_schema())
    with fails(None, other_name):
        client.rename_collection(name, other_name)
    assert client.has_collection(name) and client.has_collection(other_name)


def test_rename_of_an_absent_collection_answers_100(client, name, other_name):
    with fails(100, "collection not found"):
        client.rename_collection(name, other_name)


def test_properties_are_altered_and_dropped(client, name):
    client.create_collection(name, schema=simple_schema())
    client.alter_collection_properties(name, {"collection.ttl.seconds": 3600, "note": "kept"})
    properties = client.describe_collection(name)["properties"]
    assert properties["collection.ttl.seconds"] == "3600"
    assert properties["note"] == "kept"
    client.drop_collection_properties(name, ["note"])
    properties = client.describe_collection(name)["properties"]
    assert "note" not in properties
    assert properties["collection.ttl.seconds"] == "3600"


def test_properties_of_an_absent_collection_answer_100(client):
    with fails(100, "collection not found"):
        client.alter_collection_properties("nowhere", {"note": "x"})


@pytest.mark.parametrize("bad", ["1abc", "-abc", "éa", "$a"])
def test_a_name_must_start_with_a_letter_or_underscore(client, bad):
    text = (
        f"Invalid collection name: {bad}. the first character of a collection name "
        "must be an underscore or letter"
    )
    with fails(1100, text):
        client.create_collection(bad, schema=simple_schema())
    assert bad not in client.list_collections()


@pytest.mark.parametrize("bad", ["a b", "a-b", "a.b", "aé", "a/b"])
def test_a_name_holds_letters_digits_and_underscores(client, bad):
    with fails(1100, "Invalid collection name"):
        client.create_collection(bad, schema=simple_schema())


def test_a_name_has_at_most_255_characters(client):
    with fails(1100, "the length of a collection name must be less than 255 characters"):
        client.create_collection("a" * 256, schema=simple_schema())
    longest = "a" * 255
    client.create_collection(longest, schema=simple_schema())
    assert client.has_collection(longest)
    client.drop_collection(longest)


@pytest.mark.parametrize("dim", [1, 32769])
def test_a_dimension_out_of_range_is_refused(client, name, dim):
    with fails((1100, 65535), "vector", "32768"):
        client.create_collection(name, schema=simple_schema(dim=dim))
    assert not client.has_collection(name)


@pytest.mark.parametrize("length", [0, 65536])
def test_a_varchar_length_out_of_range_is_refused(client, name, length):
    schema = simple_schema()
    schema.add_field("text", DataType.VARCHAR, max_length=length)
    with fails((1100, 65535), "text", "65535"):
        client.create_collection(name, schema=schema)
    assert not client.has_collection(name)


@pytest.mark.parametrize("bad", ["1st", "a b", "a-b"])
def test_a_bad_field_name_is_refused(client, name, bad):
    schema = simple_schema()
    schema.add_field(bad, DataType.INT64)
    with fails(1701, f"Invalid field name: {bad}"):
        client.create_collection(name, schema=schema)
    assert not client.has_collection(name)


def test_duplicate_field_names_are_refused(client, name):
    schema = simple_schema()
    schema.add_field("number", DataType.INT32)
    with fails((1100, 65535), "number"):
        client.create_collection(name, schema=schema)


def test_at_most_64_fields(client, name):
    schema = simple_schema()
    for i in range(61):
        schema.add_field(f"extra{i}", DataType.INT8)
    with fails((1100, 65535), "64"):
        client.create_collection(name, schema=schema)
    assert not client.has_collection(name)


def test_a_default_value_must_have_the_fields_type(raw, client, name):
    """The client checks this too, so the request is made by hand."""
    request = Prepare.create_collection_request(name, simple_schema())
    schema = schema_pb2.CollectionSchema.FromString(request.schema)
    level = schema.fields.add(name="level", data_type=schema_pb2.Int64)
    level.default_value.string_data = "five"
    request.schema = schema.SerializeToString()
    reply = raw.call("CreateCollection", request)
    failed(reply, 1100, "level", "is not equal to the type")
    assert not client.has_collection(name)


def test_a_schema_that_is_no_protobuf_is_refused(raw):
    request = milvus_pb2.CreateCollectionRequest(
        collection_name="garbage", schema=b"\xff\xff\xff\xff"
    )
    reply = raw.call("CreateCollection", request)
    assert reply.code != 0 and reply.error_code != 0


def test_a_schema_without_primary_key_is_refused(raw, client):
    schema = schema_pb2.CollectionSchema(
        name="nokey", fields=[schema_pb2.FieldSchema(name="a", data_type=schema_pb2.Int64)]
    )
    reply = raw.call(
        "CreateCollection",
        milvus_pb2.CreateCollectionRequest(
            collection_name="nokey", schema=schema.SerializeToString()
        ),
    )
    assert reply.code in (1100, 65535, 105)
    assert "primary key" in reply.reason
    assert not client.has_collection("nokey")


def test_a_failed_request_sets_the_old_error_code_too(raw):
    reply = raw.call(
        "DescribeCollection", milvus_pb2.DescribeCollectionRequest(collection_name="nowhere")
    )
    failed(reply.status, 100, "collection not found")
    assert reply.status.error_code == 4
    assert reply.status.detail


def test_stats_count_the_rows(client, name):
    create_simple(client, name)
    assert client.get_collection_stats(name)["row_count"] == 0
    client.insert(name, simple_rows(300))
    client.flush(name)
    assert client.get_collection_stats(name)["row_count"] == 300


def test_create_with_index_parameters_loads(client, name):
    client.create_collection(name, schema=simple_schema(), index_params=index_params())
    assert client.get_load_state(name)["state"] == LoadState.Loaded


def test_create_without_index_parameters_does_not_load(client, name):
    client.create_collection(name, schema=simple_schema())
    assert client.get_load_state(name)["state"] == LoadState.NotLoad


def test_rows_outlive_a_long_ttl_and_not_a_short_one(client, name):
    create_simple(client, name)
    client.insert(name, simple_rows(5))
    client.alter_collection_properties(name, {"collection.ttl.seconds": 3600})
    assert client.query(name, output_fields=["count(*)"]) == [{"count(*)": 5}]
    client.alter_collection_properties(name, {"collection.ttl.seconds": 1})
    eventually(lambda: count(client, name) == 0, "all rows expire")
    assert len(client.search(name, [[0.0] * 8], limit=5)[0]) == 0
    client.drop_collection_properties(name, ["collection.ttl.seconds"])
    assert client.query(name, output_fields=["count(*)"]) == [{"count(*)": 5}]
