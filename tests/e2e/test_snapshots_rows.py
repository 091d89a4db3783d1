"""What a restored collection is: each value of each row, and all that the collection was set to.

Set REDKITE_TEST_SEED to run with the same vectors again.
"""

import os
import random

import numpy as np
import pytest
from harness.data import all_rows, count, index_params, simple_rows, simple_schema
from harness.errors import fails
from harness.metrics import counter
from harness.waiting import eventually
from pymilvus import DataType, MilvusClient
from test_partitions import key_collection, key_rows
from test_schema_types import SCALARS
from test_snapshots_restore import restore, targets  # noqa: F401: a fixture
from test_vector_types import KINDS, wait_indexed

SEED = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))


@pytest.fixture(autouse=True)
def say_seed():
    print(f"seed={SEED}")


def exact(value):
    """A value that is equal to another only if all its bits are."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, list):
        return [exact(one) for one in value]
    if isinstance(value, dict):
        return {key: exact(one) for key, one in value.items()}
    return type(value), value


def content(client, name):
    """Every row of a loaded collection by its key, comparable."""
    return {row["id"]: exact(row) for row in all_rows(client, name)}


def found(client, name, queries):
    """What the index of each field finds."""
    return {
        field: [
            (hit["id"], hit["distance"])
            for hit in client.search(name, [query], anns_field=field, limit=10)[0]
        ]
        for field, query in queries.items()
    }


SHARDS = 2
# Enough that a segment of each shard gets index files.
LARGE = 2800
BUILT = "redkite_datanode_build_seconds_count"
INDEXES = {
    "vector": ("HNSW", "COSINE", {"M": 8, "efConstruction": 64}),
    "bits": ("BIN_IVF_FLAT", "HAMMING", {"nlist": 4}),
    "half": ("IVF_FLAT", "L2", {"nlist": 4}),
    "brain": ("AUTOINDEX", "IP", {}),
    "bytes": ("HNSW", "L2", {"M": 12, "efConstruction": 80}),
    "sparse": ("SPARSE_INVERTED_INDEX", "IP", {"inverted_index_algo": "DAAT_WAND"}),
}


def create_full(client, name):
    """A collection with each type of field, nullable and not, with defaults, and an index of each."""
    schema = MilvusClient.create_schema(enable_dynamic_field=True, description="all there is")
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=12)
    for field, kind in KINDS.items():
        extra = {} if kind.dim is None else {"dim": kind.dim}
        schema.add_field(field, kind.kind, **extra)
    for field, (kind, _) in SCALARS.items():
        extra = {"max_length": 400} if kind == DataType.VARCHAR else {}
        schema.add_field(field, kind, nullable=True, **extra)
    schema.add_field("level", DataType.INT32, default_value=7)
    schema.add_field("note", DataType.VARCHAR, max_length=20, nullable=True, default_value="none")
    params = MilvusClient.prepare_index_params()
    for field, (index, metric, extra) in INDEXES.items():
        params.add_index(
            field, index_name=f"{field}_of_mine", index_type=index, metric_type=metric, params=extra
        )
    client.create_collection(
        name,
        schema=schema,
        index_params=params,
        num_shards=SHARDS,
        consistency_level="Strong",
        properties={"owner": "archive", "collection.ttl.seconds": "86400"},
    )


def full_rows(n):
    rng = np.random.default_rng(SEED)
    made = {field: kind.make(rng, n)[0] for field, kind in KINDS.items()}
    vectors = rng.normal(size=(n, 12)).astype(np.float32)
    rows = []
    for i in range(n):
        row = {"id": i, "vector": vectors[i].tolist(), "colour": f"c{i % 3}", f"only{i % 2}": [i]}
        row.update({field: made[field][i] for field in KINDS})
        row.update(
            {
                field: None if (i + k) % 4 == 0 else values[i % len(values)]
                for k, (field, (_, values)) in enumerate(SCALARS.items())
            }
        )
        if i % 2:
            row.update(level=i, note=f"note {i}")
        rows.append(row)
    return rows


def test_every_value_of_every_type_is_as_it_was(server, client, name, targets):  # noqa: F811
    create_full(client, name)
    client.release_collection(name)
    client.alter_collection_field(name, "varchar", {"max_length": 500})
    client.alter_collection_field(name, "vector", {"mmap.enabled": "true"})
    client.alter_index_properties(name, "vector_of_mine", {"mmap.enabled": "true"})
    client.load_collection(name)
    client.create_partition(name, "p1")
    rows = full_rows(LARGE + 240)
    built = counter(server, BUILT)
    # Segments of each shard that are large enough to be indexed, and some that are not.
    client.insert(name, rows[240:], partition_name="p1")
    client.flush(name)
    for part in (rows[:80], rows[80:240]):
        client.insert(name, part)
        client.flush(name)
    client.upsert(name, [{**rows[3], "note": "changed"}])
    client.delete(name, ids=[5, 50, 90, 170, 1000])
    client.flush(name)
    for field in INDEXES:
        wait_indexed(client, name, f"{field}_of_mine")
    # So that it is searched by its index files from here on, as the copy is.
    client.release_collection(name)
    client.load_collection(name)
    assert counter(server, BUILT) - built >= SHARDS * len(INDEXES)
    queries = {"vector": rows[7]["vector"], **{field: rows[7][field] for field in KINDS}}
    before, hits = content(client, name), found(client, name, queries)
    assert len(before) == len(rows) - 5
    described = client.describe_collection(name)
    indexes = {index: client.describe_index(name, index) for index in client.list_indexes(name)}
    assert len(indexes) == 6
    client.create_snapshot("s1", name)
    # What becomes of the source is not the copy's.
    client.upsert(name, [{**rows[i], "note": "later"} for i in range(100, 120)])
    client.delete(name, ids=list(range(20)))
    client.add_collection_field(name, "late", DataType.INT64, nullable=True)
    client.alter_collection_properties(name, {"owner": "nobody", "more": "yes"})
    client.flush(name)

    copy = targets()
    built = counter(server, BUILT)
    restore(client, "s1", name, copy)
    shown = client.describe_collection(copy)
    own = ("collection_name", "collection_id", "created_timestamp", "update_timestamp", "aliases")
    for key in set(described) - set(own):
        assert shown[key] == described[key], key
    assert shown["collection_id"] != described["collection_id"]
    assert client.list_partitions(copy) == client.list_partitions(name)
    for index, was in indexes.items():
        now = client.describe_index(copy, index)
        assert now == {**was, "pending_index_rows": 0}, index
    client.load_collection(copy)
    assert content(client, copy) == before
    assert found(client, copy, queries) == hits
    assert count(client, copy, partition_names=["p1"]) == LARGE - 1
    for field in ("int64", "varchar", "json"):
        empty = client.query(copy, filter=f"{field} is null", output_fields=["id"])
        assert {row["id"] for row in empty} == {
            row["id"] for row in rows if row[field] is None and row["id"] in before
        }
    # No index was built for it.
    assert counter(server, BUILT) == built
    # It works on by itself, with the same defaults and dynamic fields.
    new = {**rows[1], "id": 100_000, "flavour": "sweet"}
    del new["level"], new["note"]
    client.insert(copy, [new])
    (back,) = client.get(copy, ids=[100_000])
    assert (back["level"], back["note"], back["flavour"]) == (7, "none", "sweet")
    assert client.get(name, ids=[100_000]) == []


def test_partitions_of_a_key_come_back_with_their_rows(client, name, targets):  # noqa: F811
    key_collection(client, name, partitions=5)
    rows = key_rows(200, lambda i: f"tenant{i % 20}")
    client.insert(name, rows)
    client.flush(name)
    client.create_snapshot("s1", name)
    names = [f"_default_{i}" for i in range(5)]
    assert sorted(client.describe_snapshot("s1", name).partition_names) == names
    sizes = [client.get_partition_stats(name, one)["row_count"] for one in names]
    copy = targets()
    restore(client, "s1", name, copy)
    assert client.list_partitions(copy) == names
    assert [client.get_partition_stats(copy, one)["row_count"] for one in names] == sizes
    assert client.describe_collection(copy)["num_partitions"] == 5
    client.load_collection(copy)
    assert content(client, copy) == content(client, name)
    # A new row of a key goes where the old ones are, so a search by key finds both.
    client.insert(copy, [{**rows[3], "id": 1003}])
    client.flush(copy)
    found_rows = client.query(copy, filter='tenant == "tenant3"', output_fields=["id"])
    mine = [row["id"] for row in rows if row["tenant"] == "tenant3"]
    assert sorted(row["id"] for row in found_rows) == [*mine, 1003]
    with fails(1100, "disable create partition if partition key mode is used"):
        client.create_partition(copy, "own")


@pytest.mark.parametrize("kind", [DataType.INT64, DataType.VARCHAR], ids=["int64", "varchar"])
def test_automatic_keys_are_kept_and_go_on(client, name, targets, kind):  # noqa: F811
    client.create_collection(
        name,
        schema=simple_schema(pk=kind, auto_id=True),
        index_params=index_params(),
        consistency_level="Strong",
    )

    def keyless(n):
        return [{k: v for k, v in row.items() if k != "id"} for row in simple_rows(n)]

    keys = list(client.insert(name, keyless(50))["ids"])
    client.flush(name)
    client.create_snapshot("s1", name)
    copy = targets()
    restore(client, "s1", name, copy)
    client.load_collection(copy)
    assert sorted(row["id"] for row in all_rows(client, copy)) == sorted(keys)
    assert content(client, copy) == content(client, name)
    more = list(client.insert(copy, keyless(10))["ids"])
    assert not set(more) & set(keys)
    assert count(client, copy) == 60


def test_rows_keep_the_times_at_which_they_were_written(client, name, targets):  # noqa: F811
    client.create_collection(
        name, schema=simple_schema(), index_params=index_params(), consistency_level="Strong"
    )
    client.insert(name, simple_rows(30))
    client.flush(name)
    client.alter_collection_properties(name, {"collection.ttl.seconds": "3"})
    eventually(lambda: count(client, name) == 0, "all rows expire")
    client.create_snapshot("s1", name)
    copy = targets()
    restore(client, "s1", name, copy)
    assert client.describe_collection(copy)["properties"]["collection.ttl.seconds"] == "3"
    client.load_collection(copy)
    # They are as old as they were, and not as old as the copy.
    assert count(client, copy) == 0
    client.drop_collection_properties(copy, ["collection.ttl.seconds"])
    assert count(client, copy) == 30


@pytest.mark.parametrize("level", ["Strong", "Bounded", "Session", "Eventually"])
def test_the_level_of_consistency_is_kept(client, name, targets, level):  # noqa: F811
    client.create_collection(name, schema=simple_schema(), consistency_level=level)
    client.create_snapshot("s1", name)
    copy = targets()
    restore(client, "s1", name, copy)
    was = client.describe_collection(name)["consistency_level"]
    assert client.describe_collection(copy)["consistency_level"] == was
    assert client.list_indexes(copy) == []


def test_rows_of_a_partition_that_was_dropped_are_back_in_it(client, name, targets):  # noqa: F811
    client.create_collection(
        name, schema=simple_schema(), index_params=index_params(), consistency_level="Strong"
    )
    for part in range(3):
        client.create_partition(name, f"p{part}")
        client.insert(name, simple_rows(20, start=part * 20), partition_name=f"p{part}")
    client.flush(name)
    client.create_snapshot("s1", name)
    before = content(client, name)
    client.release_collection(name)
    client.drop_partition(name, "p0")
    # Another one of the old name is another partition.
    client.drop_partition(name, "p1")
    client.create_partition(name, "p1")
    client.create_partition(name, "p9")
    client.insert(name, simple_rows(5, start=900), partition_name="p1")
    client.flush(name)
    names = client.describe_snapshot("s1", name).partition_names
    assert sorted(names) == ["_default", "p0", "p1", "p2"]
    copy = targets()
    restore(client, "s1", name, copy)
    assert sorted(client.list_partitions(copy)) == ["_default", "p0", "p1", "p2"]
    client.load_collection(copy)
    assert content(client, copy) == before
    for part in range(3):
        mine = client.query(
            copy, filter="id >= 0", partition_names=[f"p{part}"], output_fields=["id"]
        )
        assert sorted(row["id"] for row in mine) == list(range(part * 20, part * 20 + 20))
    # It may be loaded in part, as any other.
    client.release_collection(copy)
    client.load_partitions(copy, ["p1"])
    assert count(client, copy, partition_names=["p1"]) == 20


def test_rows_deleted_and_written_again_around_it(client, name, targets):  # noqa: F811
    """Deletes count in it exactly when they were flushed with it, whatever compaction makes of them."""
    client.create_collection(
        name,
        schema=simple_schema(),
        index_params=index_params(),
        num_shards=2,
        consistency_level="Strong",
    )
    wanted = {}

    def take(snapshot):
        client.flush(name)
        wanted[snapshot] = content(client, name)
        client.create_snapshot(snapshot, name)

    client.insert(name, simple_rows(100))
    take("first")
    client.delete(name, ids=list(range(0, 100, 2)))
    take("halved")
    client.insert(name, [row for row in simple_rows(10, seed=3) if row["id"] % 2 == 0])
    take("again")
    client.upsert(name, simple_rows(60, start=50, seed=4))
    client.compact(name)
    take("replaced")
    client.delete(name, filter="id >= 0")
    client.compact(name)
    take("empty")
    assert [len(rows) for rows in wanted.values()] == [100, 50, 55, 90, 0]
    for snapshot, rows in wanted.items():
        copy = targets()
        restore(client, snapshot, name, copy)
        client.load_collection(copy)
        assert content(client, copy) == rows, snapshot
