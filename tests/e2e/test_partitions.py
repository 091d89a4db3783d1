"""Partitions: by name, by key, their limits, and their loading."""

import concurrent.futures

import pytest
from harness.data import count, create_simple, index_params, simple_rows, simple_schema
from harness.errors import fails
from harness.metrics import counter
from pymilvus import DataType, MilvusClient
from pymilvus.client.types import LoadState


def state(client, name, partition=""):
    return client.get_load_state(name, partition_name=partition)["state"]


def ids(rows):
    return [row["id"] for row in rows]


@pytest.fixture
def two_partitions(client, name):
    """A collection with `a` (ids 100..109) and `b` (200..204), nothing loaded."""
    client.create_collection(name, schema=simple_schema(), consistency_level="Strong")
    client.create_index(name, index_params())
    client.create_partition(name, "a")
    client.create_partition(name, "b")
    client.insert(name, simple_rows(10, start=100), partition_name="a")
    client.insert(name, simple_rows(5, start=200), partition_name="b")
    return name


def test_list_is_in_creation_order_with_default_first(client, name):
    client.create_collection(name, schema=simple_schema())
    for partition in ("zebra", "apple", "_m", "9lives", "with-dash"):
        client.create_partition(name, partition)
    assert client.list_partitions(name) == [
        "_default",
        "zebra",
        "apple",
        "_m",
        "9lives",
        "with-dash",
    ]


def test_has_partition(client, name):
    client.create_collection(name, schema=simple_schema())
    assert client.has_partition(name, "_default") is True
    assert client.has_partition(name, "a") is False
    client.create_partition(name, "a")
    assert client.has_partition(name, "a") is True
    with fails(100, "collection not found"):
        client.has_partition("nowhere", "a")


def test_create_and_drop_are_idempotent(client, name):
    client.create_collection(name, schema=simple_schema())
    client.create_partition(name, "a")
    client.create_partition(name, "a")
    assert client.list_partitions(name) == ["_default", "a"]
    client.drop_partition(name, "a")
    client.drop_partition(name, "a")
    assert client.list_partitions(name) == ["_default"]


def test_absent_collection_answers_100(client):
    for call in (client.create_partition, client.drop_partition):
        with fails(100, "collection not found"):
            call("nowhere", "a")
    with fails(100, "collection not found"):
        client.list_partitions("nowhere")


@pytest.mark.parametrize("bad", ["a b", "a.b", "-a", "é"])
def test_bad_names_are_refused(client, name, bad):
    client.create_collection(name, schema=simple_schema())
    with fails(65535, f"Invalid partition name: {bad}"):
        client.create_partition(name, bad)
    assert client.list_partitions(name) == ["_default"]


def test_a_name_has_at_most_255_characters(client, name):
    client.create_collection(name, schema=simple_schema())
    with fails(65535, "Invalid partition name"):
        client.create_partition(name, "a" * 256)
    client.create_partition(name, "a" * 255)
    assert client.has_partition(name, "a" * 255)


def test_default_cannot_be_dropped(client, name):
    client.create_collection(name, schema=simple_schema())
    with fails(None, "default partition cannot be deleted"):
        client.drop_partition(name, "_default")
    assert client.has_partition(name, "_default")


def test_rows_stay_in_their_partition(client, name):
    create_simple(client, name)
    client.create_partition(name, "a")
    client.load_partitions(name, ["a"])
    client.insert(name, simple_rows(4))
    client.insert(name, simple_rows(6, start=100), partition_name="a")
    assert count(client, name) == 10
    assert count(client, name, partition_names=["a"]) == 6
    assert count(client, name, partition_names=["_default"]) == 4
    assert count(client, name, partition_names=["_default", "a"]) == 10
    vector = simple_rows(1)[0]["vector"]
    hits = client.search(name, [vector], limit=20, partition_names=["a"])[0]
    assert sorted(hit["id"] for hit in hits) == list(range(100, 106))
    client.delete(name, filter="number >= 0", partition_name="a")
    assert count(client, name) == 4


def test_a_row_of_the_same_key_may_be_upserted_into_its_partition(client, name):
    create_simple(client, name)
    client.create_partition(name, "a")
    client.load_partitions(name, ["a"])
    client.insert(name, simple_rows(3), partition_name="a")
    client.upsert(name, [{**simple_rows(1)[0], "label": "new"}], partition_name="a")
    rows = client.query(name, filter="id == 0", output_fields=["label"], partition_names=["a"])
    assert rows == [{"id": 0, "label": "new"}]
    assert count(client, name) == 3


def test_partition_stats(client, two_partitions):
    client.flush(two_partitions)
    assert client.get_partition_stats(two_partitions, "a")["row_count"] == 10
    assert client.get_partition_stats(two_partitions, "b")["row_count"] == 5
    assert client.get_partition_stats(two_partitions, "_default")["row_count"] == 0
    with fails(200, "partition not found[partition=c]"):
        client.get_partition_stats(two_partitions, "c")


def test_an_unknown_partition_is_refused_everywhere(client, name):
    create_simple(client, name)
    vector = simple_rows(1)[0]["vector"]
    for call in (
        lambda: client.insert(name, simple_rows(1), partition_name="no"),
        lambda: client.search(name, [vector], partition_names=["no"]),
        lambda: client.query(name, filter="id > 0", partition_names=["no"]),
        lambda: client.delete(name, filter="id > 0", partition_name="no"),
        lambda: client.load_partitions(name, ["no"]),
    ):
        with fails((200, 65535), "partition"):
            call()
    assert count(client, name) == 0


def test_a_dropped_partition_takes_its_rows_along(client, two_partitions):
    name = two_partitions
    client.drop_partition(name, "a")
    client.load_collection(name)
    assert count(client, name) == 5
    client.create_partition(name, "a")
    client.load_partitions(name, ["a"])
    assert count(client, name, partition_names=["a"]) == 0


def test_drop_is_refused_while_loaded(client, two_partitions):
    name = two_partitions
    client.load_partitions(name, ["a"])
    text = "partition cannot be dropped, partition is loaded, please release it first"
    with fails(1100, text):
        client.drop_partition(name, "a")
    assert client.has_partition(name, "a")
    client.drop_partition(name, "b")
    client.release_partitions(name, ["a"])
    client.drop_partition(name, "a")
    assert client.list_partitions(name) == ["_default"]


def test_loading_one_partition_loads_only_that(client, two_partitions):
    name = two_partitions
    assert state(client, name) == LoadState.NotLoad
    assert state(client, name, "a") == LoadState.NotLoad
    client.load_partitions(name, ["a"])
    assert state(client, name) == LoadState.Loaded
    assert state(client, name, "a") == LoadState.Loaded
    assert state(client, name, "b") == LoadState.NotLoad
    assert state(client, name, "_default") == LoadState.NotLoad
    assert count(client, name, partition_names=["a"]) == 10
    with fails(201, "partition not loaded"):
        client.query(name, filter="id > 0", partition_names=["b"])
    with fails(201, "partition not loaded"):
        client.search(name, [[0.0] * 8], partition_names=["b"])


def test_loading_adds_up(client, two_partitions):
    name = two_partitions
    client.load_partitions(name, ["a"])
    client.load_partitions(name, ["b"])
    assert state(client, name, "a") == LoadState.Loaded
    assert state(client, name, "b") == LoadState.Loaded
    assert state(client, name, "_default") == LoadState.NotLoad
    client.load_collection(name)
    for partition in ("_default", "a", "b"):
        assert state(client, name, partition) == LoadState.Loaded
    assert count(client, name) == 15


def test_releasing_the_last_partition_releases_the_collection(client, two_partitions):
    name = two_partitions
    client.load_partitions(name, ["a", "b"])
    client.release_partitions(name, ["a"])
    assert state(client, name) == LoadState.Loaded
    assert state(client, name, "a") == LoadState.NotLoad
    client.release_partitions(name, ["b"])
    assert state(client, name) == LoadState.NotLoad
    with fails(101, f"collection not loaded[collection={name}]"):
        client.query(name, filter="id > 0")


def test_releasing_a_partition_of_a_loaded_collection(client, two_partitions):
    name = two_partitions
    client.load_collection(name)
    client.release_partitions(name, ["a"])
    assert state(client, name) == LoadState.Loaded
    assert state(client, name, "a") == LoadState.NotLoad
    assert count(client, name, partition_names=["b"]) == 5
    client.load_partitions(name, ["a"])
    assert count(client, name) == 15


def test_releasing_what_is_not_loaded_succeeds(client, two_partitions):
    name = two_partitions
    client.release_partitions(name, ["a"])
    client.release_collection(name)
    client.load_partitions(name, ["a"])
    client.release_partitions(name, ["b"])
    assert state(client, name, "a") == LoadState.Loaded


def test_a_new_partition_of_a_loaded_collection_can_be_used(client, name):
    create_simple(client, name)
    client.create_partition(name, "late")
    client.load_partitions(name, ["late"])
    client.insert(name, simple_rows(3), partition_name="late")
    assert count(client, name, partition_names=["late"]) == 3


# Partition keys


def key_collection(client, name, partitions=4, kind=DataType.VARCHAR):
    schema = MilvusClient.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=8)
    extra = {"max_length": 64} if kind == DataType.VARCHAR else {}
    schema.add_field("tenant", kind, is_partition_key=True, **extra)
    client.create_collection(
        name,
        schema=schema,
        index_params=index_params(),
        num_partitions=partitions,
        consistency_level="Strong",
    )


def key_rows(n, key):
    return [{"id": r["id"], "vector": r["vector"], "tenant": key(r["id"])} for r in simple_rows(n)]


def test_a_partition_key_makes_its_partitions(client, name):
    key_collection(client, name, partitions=4)
    assert client.list_partitions(name) == [f"_default_{i}" for i in range(4)]
    info = client.describe_collection(name)
    assert info["num_partitions"] == 4
    assert [f["name"] for f in info["fields"] if f.get("is_partition_key")] == ["tenant"]


def test_sixteen_partitions_when_nothing_is_said(client, name):
    schema = simple_schema()
    schema.add_field("tenant", DataType.INT64, is_partition_key=True)
    client.create_collection(name, schema=schema)
    assert len(client.list_partitions(name)) == 16


@pytest.mark.parametrize("kind", [DataType.VARCHAR, DataType.INT64], ids=["varchar", "int64"])
def test_rows_are_spread_and_found_by_key(client, name, kind):
    def key(i):
        return f"tenant{i % 20}" if kind == DataType.VARCHAR else i % 20

    key_collection(client, name, partitions=4, kind=kind)
    rows = key_rows(200, key)
    client.insert(name, rows)
    client.flush(name)
    sizes = [client.get_partition_stats(name, f"_default_{i}")["row_count"] for i in range(4)]
    assert sum(sizes) == 200
    assert sum(size > 0 for size in sizes) >= 2
    for wanted in (key(3), key(17)):
        literal = f'"{wanted}"' if kind == DataType.VARCHAR else str(wanted)
        expected = [row["id"] for row in rows if row["tenant"] == wanted]
        found = client.query(name, filter=f"tenant == {literal}", output_fields=["id"])
        assert ids(found) == expected
        found = client.query(name, filter=f"tenant in [{literal}]", output_fields=["id"])
        assert ids(found) == expected
        hits = client.search(name, [rows[0]["vector"]], filter=f"tenant == {literal}", limit=100)[0]
        assert sorted(hit["id"] for hit in hits) == expected
    low, high = (f'"{key(3)}"', f'"{key(4)}"') if kind == DataType.VARCHAR else ("3", "4")
    found = client.query(name, filter=f"tenant == {low} or tenant == {high}", limit=1000)
    assert ids(found) == [row["id"] for row in rows if row["tenant"] in (key(3), key(4))]
    assert count(client, name) == 200


def test_partitions_are_not_named_with_a_partition_key(client, name):
    key_collection(client, name)
    with fails(1100, "disable create partition if partition key mode is used"):
        client.create_partition(name, "a")
    with fails(1100, "disable drop partition if partition key mode is used"):
        client.drop_partition(name, "_default_0")
    with fails(None, "partition"):
        client.insert(name, key_rows(1, str), partition_name="_default_0")
    assert count(client, name) == 0


def test_an_upsert_with_a_new_key_moves_the_row(client, name):
    key_collection(client, name)
    client.insert(name, key_rows(50, lambda i: "old"))
    moved = key_rows(50, lambda i: f"new{i}")
    client.upsert(name, moved)
    assert count(client, name) == 50
    assert client.query(name, filter='tenant == "old"') == []
    for row in moved[::10]:
        found = client.query(name, filter=f'tenant == "{row["tenant"]}"', output_fields=["id"])
        assert ids(found) == [row["id"]]


# Limits


@pytest.mark.timeout(300)
def test_at_most_1024_partitions(client, name):
    client.create_collection(name, schema=simple_schema())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: client.create_partition(name, f"p{i}"), range(1023)))
    assert len(client.list_partitions(name)) == 1024
    with fails(1100, "partition number (", f"exceeds max configuration (1024), collection: {name}"):
        client.create_partition(name, "one_more")
    client.create_partition(name, "p7")
    assert len(client.list_partitions(name)) == 1024
    client.drop_partition(name, "p7")
    client.create_partition(name, "one_more")
    assert client.list_partitions(name)[0] == "_default"
    assert client.list_partitions(name)[-1] == "one_more"


@pytest.fixture
def by_tenant(client, name):
    """A loaded collection with the partition key `tenant` in 8 partitions, 20 rows of 10 tenants."""
    return make_by_tenant(client, name)


def make_by_tenant(client, name, **options):
    schema = simple_schema()
    schema.add_field("tenant", DataType.VARCHAR, max_length=16, is_partition_key=True)
    client.create_collection(
        name,
        schema=schema,
        index_params=index_params(),
        num_partitions=8,
        consistency_level="Strong",
        **options,
    )
    rows = [{**row, "tenant": f"t{row['id'] % 10}"} for row in simple_rows(20)]
    client.insert(name, rows)
    return name


def test_a_filter_on_the_key_looks_at_the_partitions_of_its_values_only(server, client, by_tenant):
    vector = simple_rows(1)[0]["vector"]

    def looked_at(kind, work):
        """What comes back, and how many partitions were looked at for it and left out."""
        names = ("redkite_querynode_read_partitions_total", {"kind": kind})
        left_out = "redkite_proxy_partitions_left_out_total"
        before = counter(server, names[0], **names[1]), counter(server, left_out)
        found = work()
        after = counter(server, names[0], **names[1]), counter(server, left_out)
        return found, after[0] - before[0], after[1] - before[1]

    def search(text):
        hits = client.search(by_tenant, [vector], limit=20, filter=text, output_fields=["tenant"])
        return sorted(hit["id"] for hit in hits[0])

    def query(text):
        return sorted(ids(client.query(by_tenant, filter=text, output_fields=["id"])))

    for kind, read in (("search", search), ("query", query)):
        found, partitions, left_out = looked_at(kind, lambda: read("number >= 0"))  # noqa: B023
        assert found == list(range(20))
        assert (partitions, left_out) == (8, 0)
        found, partitions, left_out = looked_at(kind, lambda: read("tenant == 't3'"))  # noqa: B023
        assert found == [3, 13]
        assert (partitions, left_out) == (1, 7)
        both = "tenant in ['t3', 't4'] and number > 30"
        found, partitions, left_out = looked_at(kind, lambda: read(both))  # noqa: B023
        assert found == [4, 13, 14]
        assert partitions in (1, 2) and partitions + left_out == 8


def test_an_isolated_collection_wants_one_key_with_each_search(client, name):
    make_by_tenant(client, name, properties={"partitionkey.isolation": True})
    vector = simple_rows(1)[0]["vector"]

    def search(text):
        return client.search(name, [vector], limit=5, filter=text)[0]

    assert sorted(hit["id"] for hit in search("tenant == 't3'")) == [3, 13]
    assert sorted(hit["id"] for hit in search("number > 50 and tenant == 't3'")) == [13]
    for text, wrong in (
        ("", "partition key not found in expr or the expr is invalid"),
        ("number > 50", "partition key not found in expr or the expr is invalid"),
        ("tenant in ['t3']", "partition key isolation does not support IN"),
        ("tenant == 't3' or number > 5", "partition key isolation does not support OR"),
        ("not (tenant == 't3')", "partition key isolation does not support NOT"),
        ("tenant > 't3'", "partition key isolation does not support GreaterThan"),
    ):
        with fails(65535, wrong):
            search(text)
    # Queries are not concerned, as in Milvus.
    assert len(client.query(name, filter="number > 50", output_fields=["id"])) == 14
    # It is not changed under an index.
    with fails(702, "can not alter partition key isolation mode"):
        client.alter_collection_properties(name, {"partitionkey.isolation": False})
    client.release_collection(name)
    client.drop_index(name, "vector")
    client.alter_collection_properties(name, {"partitionkey.isolation": False})
    client.create_index(name, index_params())
    client.load_collection(name)
    assert len(search("")) == 5


def test_isolation_needs_a_partition_key(client, name):
    with fails(105, "no partition key field is set"):
        client.create_collection(
            name, schema=simple_schema(), properties={"partitionkey.isolation": True}
        )
