"""Indexes: create, describe, list, drop, what is refused, and recall."""

import numpy as np
import pytest
from harness.data import (
    count,
    create_simple,
    index_params,
    make_vectors,
    simple_rows,
    simple_schema,
)
from harness.errors import fails
from pymilvus import DataType


def test_create_describe_list_drop(client, name):
    client.create_collection(name, schema=simple_schema())
    assert client.list_indexes(name) == []
    assert client.describe_index(name, "vector") is None
    client.create_index(name, index_params("HNSW", "COSINE", M=24, efConstruction=120))
    assert client.list_indexes(name) == ["vector"]
    info = client.describe_index(name, "vector")
    assert info["index_type"] == "HNSW"
    assert info["metric_type"] == "COSINE"
    assert str(info["M"]) == "24" and str(info["efConstruction"]) == "120"
    assert info["field_name"] == "vector" and info["index_name"] == "vector"
    assert info["state"] == "Finished"
    assert info["total_rows"] == info["indexed_rows"] == info["pending_index_rows"] == 0
    client.drop_index(name, "vector")
    assert client.list_indexes(name) == []
    assert client.describe_index(name, "vector") is None


def test_a_name_of_ones_own(client, name):
    client.create_collection(name, schema=simple_schema())
    client.create_index(name, index_params("FLAT", "L2", index_name="mine"))
    assert client.list_indexes(name) == ["mine"]
    assert client.list_indexes(name, field_name="vector") == ["mine"]
    assert client.list_indexes(name, field_name="label") == []
    assert client.describe_index(name, "mine")["field_name"] == "vector"
    client.drop_index(name, "mine")
    assert client.list_indexes(name) == []


@pytest.mark.parametrize("index_type", ["AUTOINDEX", "", "HNSW", "FLAT"])
def test_types(client, name, index_type):
    create_simple(client, name, index=index_type, metric="IP")
    client.insert(name, simple_rows(100))
    info = client.describe_index(name, "vector")
    assert info["metric_type"] == "IP"
    assert info["index_type"] == (index_type or "AUTOINDEX")
    vectors = np.array([row["vector"] for row in simple_rows(100)])
    found = client.search(name, [vectors[3].tolist()], limit=1)[0][0]
    assert found["id"] == int(np.argmax(vectors @ vectors[3]))


def test_creating_the_same_index_again_succeeds(client, name):
    client.create_collection(name, schema=simple_schema())
    for _ in range(2):
        client.create_index(name, index_params("HNSW", "L2", M=16, efConstruction=100))
    assert client.list_indexes(name) == ["vector"]


def test_a_second_index_on_a_field_is_refused(client, name):
    client.create_collection(name, schema=simple_schema())
    client.create_index(name, index_params("HNSW", "L2", M=16, efConstruction=100))
    text = "at most one distinct index is allowed per field"
    with fails((1100, 65535), text):
        client.create_index(name, index_params("FLAT", "L2"))
    with fails((1100, 65535), text):
        client.create_index(name, index_params("HNSW", "L2", M=32, efConstruction=100))
    assert client.describe_index(name, "vector")["index_type"] == "HNSW"


@pytest.mark.parametrize(
    "params, texts",
    [
        ({"index_type": "NOSUCH", "metric_type": "L2"}, ["NOSUCH"]),
        ({"index_type": "HNSW", "metric_type": "NOSUCH"}, ["NOSUCH"]),
        ({"index_type": "HNSW", "metric_type": "JACCARD"}, ["JACCARD"]),
        ({"index_type": "HNSW", "metric_type": "L2", "M": 0, "efConstruction": 100}, ["M"]),
        ({"index_type": "HNSW", "metric_type": "L2", "M": 5000, "efConstruction": 100}, ["M"]),
        ({"index_type": "HNSW", "metric_type": "L2", "M": "x", "efConstruction": 100}, ["M"]),
        (
            {"index_type": "HNSW", "metric_type": "L2", "M": 16, "efConstruction": 0},
            ["efConstruction"],
        ),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_bad_parameters_are_refused(client, name, params, texts):
    client.create_collection(name, schema=simple_schema())
    with fails(None, *texts):
        client.create_index(name, index_params(**params))
    assert client.list_indexes(name) == []


def test_absent_things(client, name):
    with fails(100, "collection not found"):
        client.create_index("nowhere", index_params())
    client.create_collection(name, schema=simple_schema())
    with fails(None, "nothing_here"):
        client.create_index(name, index_params(field="nothing_here"))
    client.drop_index(name, "nothing_here")


def test_a_vector_index_is_not_dropped_while_loaded(client, name):
    create_simple(client, name)
    with fails(None):
        client.drop_index(name, "vector")
    assert client.list_indexes(name) == ["vector"]
    client.release_collection(name)
    client.drop_index(name, "vector")
    assert client.list_indexes(name) == []


def test_another_index_after_dropping_one(client, name):
    create_simple(client, name, metric="L2")
    client.insert(name, simple_rows(200))
    client.flush(name)
    client.release_collection(name)
    client.drop_index(name, "vector")
    client.create_index(name, index_params("HNSW", "COSINE", M=16, efConstruction=100))
    client.load_collection(name)
    assert count(client, name) == 200
    hit = client.search(name, [simple_rows(10)[9]["vector"]], limit=1)[0][0]
    assert hit["id"] == 9 and hit["distance"] == pytest.approx(1.0, abs=1e-5)


def test_rows_are_counted(client, name):
    create_simple(client, name, index="HNSW")
    client.insert(name, simple_rows(3000))
    client.flush(name)
    client.release_collection(name)
    client.load_collection(name)
    info = client.describe_index(name, "vector")
    assert info["state"] in ("Finished", "InProgress")
    assert info["total_rows"] == 3000
    assert info["indexed_rows"] + info["pending_index_rows"] == 3000


@pytest.mark.parametrize("state", ["growing", "sealed", "mixed"])
@pytest.mark.parametrize("metric", ["L2", "IP", "COSINE"])
def test_recall_of_hnsw(client, name, metric, state):
    """recall@10 against the exact answer on 5,000 random 32-d vectors, hard for a graph."""
    n, dim, nq, limit = 5000, 32, 50, 10
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    client.create_collection(
        name,
        schema=schema,
        index_params=index_params("HNSW", metric, M=16, efConstruction=200),
        consistency_level="Strong",
    )
    base = make_vectors(n, dim, seed=1)
    cut = {"growing": 0, "sealed": n, "mixed": n // 2}[state]
    for start in range(0, n, 1000):
        if start == cut and start:
            client.flush(name)
        rows = [{"id": i, "vector": base[i]} for i in range(start, start + 1000)]
        client.insert(name, rows)
    if cut == n:
        client.flush(name)
        client.create_index(name, index_params("HNSW", metric, M=16, efConstruction=200))
    queries = make_vectors(nq, dim, seed=2)
    if metric == "L2":
        exact = -((queries[:, None, :] - base[None, :, :]) ** 2).sum(axis=2)
    else:
        exact = queries @ base.T
        if metric == "COSINE":
            exact = exact / np.linalg.norm(base, axis=1)[None, :]
    truth = np.argsort(-exact, axis=1)[:, :limit]
    found = client.search(
        name, queries.tolist(), limit=limit, search_params={"params": {"ef": 128}}
    )
    shared = sum(
        len({hit["id"] for hit in f} & set(t.tolist())) for f, t in zip(found, truth, strict=True)
    )
    assert shared / (nq * limit) >= 0.95
    for result in found:
        distances = [hit["distance"] for hit in result]
        assert distances == sorted(distances, reverse=metric != "L2")


def test_a_filter_does_not_cost_recall(client, name):
    """A selective filter on a graph index still finds all that there is."""
    create_simple(client, name, index="HNSW", metric="L2", dim=16)
    base = make_vectors(5000, 16, seed=3)
    rows = [
        {"id": i, "vector": base[i].tolist(), "number": i % 100, "label": ""} for i in range(5000)
    ]
    client.insert(name, rows)
    client.flush(name)
    chosen = np.arange(7, 5000, 100)
    queries = make_vectors(20, 16, seed=4)
    found = client.search(name, queries.tolist(), filter="number == 7", limit=10)
    shared = 0
    for query, result in zip(queries, found, strict=True):
        order = np.argsort(((base[chosen] - query) ** 2).sum(axis=1))[:10]
        assert len(result) == 10
        shared += len({hit["id"] for hit in result} & set(chosen[order].tolist()))
    assert shared / 200 >= 0.95
