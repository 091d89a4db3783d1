"""Collections whose files are mapped: the same answers, less memory."""

import pathlib
import time

import numpy as np
import pytest
from harness import faults
from harness.data import all_rows, count, create_simple, index_params, simple_rows, simple_schema
from harness.errors import fails
from harness.process import Server
from harness.waiting import eventually
from pymilvus import DataType

MMAP = {"mmap.enabled": "true"}


def indexed_everywhere(client, name):
    def done():
        state = client.describe_index(name, "vector")
        return state["pending_index_rows"] == 0 and state["state"] == "Finished"

    eventually(done, f"{name} is indexed", 120)


def answers(client, name):
    """What reads with every kind of access say: vectors, filters, output fields, keys."""
    queries = [row["vector"] for row in simple_rows(5, seed=7)]
    # Threads make another graph each time: as wide as there are rows, so that each leads to all of them.
    wide = {"limit": 20, "search_params": {"params": {"ef": 2_000}}}
    hits = client.search(name, queries, output_fields=["label", "vector", "grade"], **wide)
    filtered = client.search(name, queries, filter='grade > 100 and label != "row 9"', **wide)
    return (
        [[(hit["id"], hit["distance"], dict(hit["entity"])) for hit in of] for of in hits],
        [[(hit["id"], hit["distance"]) for hit in of] for of in filtered],
        all_rows(client, name),
        client.query(name, filter="id in [3, 5, 700]", output_fields=["*"]),
    )


def make(client, name, properties=None):
    schema = simple_schema()
    schema.add_field("grade", DataType.INT32, nullable=True)
    client.create_collection(
        name,
        schema=schema,
        index_params=index_params("HNSW", M=8, efConstruction=64),
        properties=properties or {},
        consistency_level="Strong",
    )
    rows = [
        {**row, "grade": None if row["id"] % 7 == 0 else row["id"] % 500}
        for row in simple_rows(1_500)
    ]
    client.insert(name, rows)
    client.flush(name)
    client.delete(name, ids=list(range(0, 40)))
    client.upsert(name, rows[100:110])
    client.flush(name)
    client.insert(name, [{**row, "grade": 1} for row in simple_rows(20, start=5_000)])


def test_mapped_collections_answer_like_others_also_after_a_restart(restartable_server):
    server = restartable_server
    client = server.client()
    make(client, "memory")
    make(client, "mapped", MMAP)
    for name in ("memory", "mapped"):
        indexed_everywhere(client, name)
    expected = answers(client, "memory")
    assert answers(client, "mapped") == expected
    client.close()
    server.kill9()
    server.start()
    client = server.client()
    assert answers(client, "memory") == expected
    assert answers(client, "mapped") == expected
    # Switched off and on again, which counts with the next load.
    for value in ("false", "true"):
        client.release_collection("mapped")
        client.alter_collection_properties("mapped", {"mmap.enabled": value})
        client.load_collection("mapped")
        assert answers(client, "mapped") == expected
    client.close()


def test_a_loaded_collection_refuses_the_property(client, name):
    create_simple(client, name)
    text = f"can not alter mmap properties if collection loaded[collection={name}]"
    with fails(104, text):
        client.alter_collection_properties(name, MMAP)
    client.release_collection(name)
    client.alter_collection_properties(name, MMAP)
    assert client.describe_collection(name)["properties"]["mmap.enabled"] == "true"
    client.load_collection(name)
    with fails(104, text):
        client.drop_collection_properties(name, ["mmap.enabled"])


def test_values_that_are_no_boolean_are_refused(client, name):
    with fails(1100, "invalid mmap.enabled value: maybe, expected: true, false"):
        client.create_collection(
            name, schema=simple_schema(), properties={"mmap.enabled": "maybe"}
        )
    client.create_collection(name, schema=simple_schema())
    with fails(1100, "invalid mmap.enabled value"):
        client.alter_collection_properties(name, {"mmap.enabled": "2"})
    with fails(1100, "invalid mmap.enabled value"):
        client.create_index(name, index_params("HNSW", **{"mmap.enabled": "2"}))
    client.create_index(name, index_params("HNSW", **{"mmap.enabled": "true"}))
    client.load_collection(name)
    client.insert(name, simple_rows(300))
    client.flush(name)
    indexed_everywhere(client, name)
    assert client.search(name, [simple_rows(10)[9]["vector"]], limit=1)[0][0]["id"] == 9


ARENA_BYTES = 1 << 30


def buffers_in_memory(server):
    """Bytes of the large buffers that the process keeps in memory, which are mappings of their own.

    The allocator's arenas are not counted: what idle threads have freed of those, and the allocator
    has not given back, is as much as the vectors here, in one run and not in the next.
    """
    total = 0
    for line in pathlib.Path(f"/proc/{server.child.pid}/smaps").read_text().splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            start, end = (int(address, 16) for address in word.split("-"))
        elif word == "Anonymous:" and end - start < ARENA_BYTES:
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.timeout(600)
def test_vectors_that_an_index_finds_by_its_codes_stay_in_the_file(restartable_server):
    server = restartable_server
    rows, dim = 40_000, 256
    raw = rows * dim * 4
    random = np.random.default_rng(11)
    # Of few directions, so that a graph of few links finds its way.
    directions = random.standard_normal((12, dim), dtype=np.float32)
    vectors = random.standard_normal((rows, 12), dtype=np.float32) @ directions
    client = server.client()
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    kept = {"in_file": {}, "in_memory": {"mmap.enabled": "false"}}
    for name, properties in kept.items():
        client.create_collection(name, schema=schema, properties=properties)
        client.create_index(name, index_params("HNSW", "L2", M=8, efConstruction=40))
        for start in range(0, rows, 5_000):
            part = enumerate(vectors[start : start + 5_000], start)
            client.insert(name, [{"id": at, "vector": vector} for at, vector in part])
        client.flush(name, timeout=120)
        client.load_collection(name, timeout=120)
        indexed_everywhere(client, name)
        client.release_collection(name)
    client.close()
    took = {}
    for name in kept:
        server.kill9()
        server.start()
        client = server.client()
        client.load_collection(name, timeout=120)
        found = client.search(
            name,
            vectors[::400],
            limit=3,
            output_fields=["vector"],
            # Threads make another graph each time: wide enough that each of them leads to every row.
            search_params={"params": {"ef": 256}},
        )
        for at, hits in zip(range(0, rows, 400), found, strict=True):
            assert (hits[0]["id"], hits[0]["distance"]) == (at, 0)
            for hit in hits:
                np.testing.assert_array_equal(hit["entity"]["vector"], vectors[hit["id"]])
                expected = ((vectors[hit["id"]] - vectors[at]) ** 2).sum()
                assert hit["distance"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        took[name] = buffers_in_memory(server)
        client.release_collection(name)
        client.close()
    print(f"of {raw} bytes of vectors: {took}")
    assert took["in_memory"] - took["in_file"] > raw * 0.8


@pytest.fixture
def memory_group():
    with faults.memory_group() as group:
        yield group
        eventually(lambda: not group.processes(), "the group is empty")


@pytest.mark.timeout(900)
def test_a_collection_larger_than_memory_is_searched(tmp_path, memory_group):
    dim, rows, batch = 128, 300_000, 10_000
    raw = rows * dim * 4
    limit = raw * 85 // 100
    server = Server(tmp_path, wrapper=memory_group.wrapper).start()
    try:
        client = server.client()
        schema = client.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        client.create_collection("big", schema=schema, properties=MMAP)
        client.create_index("big", index_params("FLAT", "L2"))
        random = np.random.default_rng(5)
        probes = {}
        for start in range(0, rows, batch):
            vectors = random.standard_normal((batch, dim), dtype=np.float32)
            probes[start + 17] = vectors[17]
            client.insert(
                "big",
                [{"id": start + at, "vector": vector} for at, vector in enumerate(vectors)],
            )
            if start % 100_000 == 90_000:
                client.flush("big", timeout=120)
        client.flush("big", timeout=120)
        client.load_collection("big", timeout=120)
        assert count(client, "big") == rows
        client.close()
        server.kill9()

        # What the first process left in the page cache counts for the group, and goes.
        memory_group.forget_files()
        memory_group.limit(limit)
        server.start()
        client = server.client()
        assert count(client, "big") == rows
        started = time.monotonic()
        found = client.search(
            "big", list(probes.values()), limit=1, consistency_level="Strong", timeout=120
        )
        print(f"searched {rows} rows in {time.monotonic() - started:.1f} s below {limit} bytes")
        assert [hits[0]["id"] for hits in found] == list(probes)
        assert all(hits[0]["distance"] == 0 for hits in found)
        assert server.child.pid in memory_group.processes()
        # The limit was felt, and what was beyond it came from the files.
        assert memory_group.hits() > 0 and memory_group.kills() == 0
        client.close()
    finally:
        server.stop()
