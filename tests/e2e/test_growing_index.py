"""Rows that are not flushed yet are found through indexes in memory, as fresh and as right as others."""

import re

from harness.data import count, create_simple, index_params, make_vectors, nearest, simple_schema
from harness.raw import Raw, longs, strings, vectors
from harness.waiting import eventually

DIM = 16
N = 20_000
LIMIT = 10
# Eight chunks, and what is needed for nothing to be merged with the last of them any more.
MANY = 70_000


def counted(server, what):
    pattern = rf"^redkite_querynode_{what}_total (\d+)"
    found = re.search(pattern, server.admin_get("/metrics")[1], re.MULTILINE)
    return int(found.group(1)) if found else 0


def indexed_rows(server):
    return counted(server, "interim_indexed_rows")


def insert(client, name, base):
    for start in range(0, len(base), 2_500):
        rows = [
            {"id": i, "vector": base[i].tolist(), "number": i, "label": "x"}
            for i in range(start, min(start + 2_500, len(base)))
        ]
        client.insert(name, rows)


def recall(client, name, metric, ids, base, queries, **kwargs):
    found = client.search(name, queries.tolist(), limit=LIMIT, **kwargs)
    hits = 0
    for result, query in zip(found, queries, strict=True):
        assert len(result) == LIMIT
        expected = {i for i, _ in nearest(metric, ids, base[ids], query, LIMIT)}
        hits += len(expected & {hit["id"] for hit in result})
    return hits / (LIMIT * len(queries))


def test_growing_rows_are_indexed_and_stay_as_fresh_as_before(client, name, server):
    before = indexed_rows(server)
    create_simple(client, name, metric="COSINE", index="HNSW", dim=DIM)
    base, queries = make_vectors(N, DIM, seed=5), make_vectors(20, DIM, seed=6)
    insert(client, name, base)
    # Small groups of rows at the end may stay without one.
    eventually(lambda: indexed_rows(server) >= before + N // 2, "indexes over growing rows", 60)
    everything = list(range(N))
    assert recall(client, name, "COSINE", everything, base, queries) >= 0.95

    few = [i for i in everything if i % 200 == 7]
    assert recall(client, name, "COSINE", few, base, queries, filter="number % 200 == 7") == 1

    gone = [i for i in everything if i % 2 == 0]
    client.delete(name, filter="number % 2 == 0")
    left = [i for i in everything if i % 2]
    assert recall(client, name, "COSINE", left, base, queries) >= 0.95
    for hits in client.search(name, base[gone[:50]].tolist(), limit=LIMIT):
        assert all(hit["id"] % 2 for hit in hits)

    new = {"id": N, "vector": queries[0].tolist(), "number": 1, "label": "new"}
    client.insert(name, [new])
    assert client.search(name, [new["vector"]], limit=1)[0][0]["id"] == N

    client.flush(name)
    assert count(client, name) == len(left) + 1
    assert client.search(name, [new["vector"]], limit=1)[0][0]["id"] == N


def test_chunks_of_growing_rows_are_joined_and_nothing_is_lost(client, name, server):
    before = counted(server, "growing_rows_joined")
    create_simple(client, name, metric="L2", index="HNSW", dim=DIM, num_shards=1)
    base, queries = make_vectors(MANY, DIM, seed=15), make_vectors(20, DIM, seed=16)
    raw = Raw(server.address)
    for start in range(0, MANY, 1_000):
        ids = range(start, start + 1_000)
        columns = [
            longs("id", ids),
            vectors("vector", DIM, base[start : start + 1_000].ravel()),
            longs("number", ids),
            strings("label", ["x"] * len(ids)),
        ]
        assert raw.insert(name, columns, len(ids)).status.code == 0
    raw.close()
    indexed = indexed_rows(server)

    def joined():
        nonlocal indexed
        # Without the large graph, which comes later than what is counted next.
        without = indexed_rows(server)
        if counted(server, "growing_rows_joined") >= before + 60_000:
            return True
        indexed = without
        return False

    eventually(joined, "chunks of growing rows are joined", 240)
    eventually(lambda: indexed_rows(server) >= indexed + 60_000, "they have one graph", 240)

    gone = list(range(0, MANY, 2))
    client.delete(name, filter="number % 2 == 0")
    left = [i for i in range(MANY) if i % 2]
    assert count(client, name) == len(left)
    assert recall(client, name, "L2", left, base, queries) >= 0.95
    for hits in client.search(name, base[gone[:50]].tolist(), limit=LIMIT):
        assert all(hit["id"] % 2 for hit in hits)
    client.flush(name)
    assert count(client, name) == len(left)
    assert recall(client, name, "L2", left, base, queries) >= 0.95


def test_who_asks_for_flat_gets_exact_answers(client, name):
    client.create_collection(
        name,
        schema=simple_schema(dim=DIM),
        index_params=index_params("FLAT", "L2"),
        consistency_level="Strong",
    )
    base, queries = make_vectors(10_000, DIM, seed=8), make_vectors(10, DIM, seed=9)
    insert(client, name, base)
    assert recall(client, name, "L2", list(range(len(base))), base, queries) == 1
