"""Indexes: create, describe, list, drop, what is refused, and recall."""

import numpy as np
import pytest
from harness.data import (
    count,
    create_simple,
    index_params,
    make_vectors,
    nearest,
    simple_rows,
    simple_schema,
)
from harness.errors import fails
from harness.waiting import eventually
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


BUILT = {
    "HNSW_SQ": ({"M": 16, "efConstruction": 100, "sq_type": "SQ8", "refine": True}, {"ef": 64}),
    "HNSW_PQ": (
        {"M": 16, "efConstruction": 100, "m": 8, "nbits": 8, "refine": True, "refine_type": "FP16"},
        {"ef": 64, "refine_k": 6},
    ),
    "DISKANN": ({"max_degree": 24, "search_list_size": 60}, {"search_list": 60}),
    "IVF_FLAT": ({"nlist": 32}, {"nprobe": 16}),
    "IVF_SQ8": ({"nlist": 32}, {"nprobe": 16}),
    "IVF_PQ": ({"nlist": 32, "m": 8, "nbits": 8}, {"nprobe": 16}),
    "SCANN": ({"nlist": 32, "with_raw_data": True}, {"nprobe": 16, "reorder_k": 100}),
    "IVF_RABITQ": (
        {"nlist": 32, "refine": True, "refine_type": "SQ8"},
        {"nprobe": 16, "rbq_bits_query": 6, "refine_k": 20},
    ),
}


@pytest.mark.parametrize("metric", ["L2", "COSINE"])
@pytest.mark.parametrize("index_type", BUILT)
def test_built_indexes_find_what_exact_search_finds(client, name, index_type, metric):
    build, search = BUILT[index_type]
    dim, count = 16, 3000
    rows = simple_rows(count, dim=dim)
    base = np.array([row["vector"] for row in rows], dtype=np.float32)
    client.create_collection(
        name,
        schema=simple_schema(dim=dim),
        index_params=index_params(index_type, metric, **build),
        consistency_level="Strong",
    )
    client.insert(name, rows)
    client.flush(name)

    def is_built():
        state = client.describe_index(name, "vector")
        return state["pending_index_rows"] == 0 and state["indexed_rows"] == count

    eventually(is_built, "the index is built", 60)
    info = client.describe_index(name, "vector")
    assert info["index_type"] == index_type
    client.release_collection(name)
    client.load_collection(name)
    queries = make_vectors(20, dim, seed=5)
    for expression, allowed in [("", range(count)), ("number < 300", range(30))]:
        ids = list(allowed)
        found = client.search(
            name, queries.tolist(), filter=expression, limit=10, search_params={"params": search}
        )
        hits = 0
        for result, query in zip(found, queries, strict=True):
            expected = dict(nearest(metric, ids, base[ids], query, 10))
            assert len(result) == 10
            assert all(hit["id"] in allowed for hit in result)
            for hit in result:
                if hit["id"] in expected:
                    hits += 1
                    assert hit["distance"] == pytest.approx(
                        expected[hit["id"]], rel=1e-4, abs=1e-5
                    )
        # A filter that leaves few rows is answered exactly.
        assert hits / 200 >= (1.0 if expression else 0.9)


UNREFINED = {
    "HNSW_SQ": ({"M": 16, "efConstruction": 100, "sq_type": "SQ8", "refine": False}, {"ef": 200}),
    "HNSW_PQ": (
        {"M": 16, "efConstruction": 100, "m": 8, "nbits": 8, "refine": False},
        {"ef": 200, "refine_k": 2},
    ),
    "SCANN": ({"nlist": 32, "with_raw_data": False}, {"nprobe": 32, "reorder_k": 100}),
    "IVF_RABITQ": ({"nlist": 32, "refine": False}, {"nprobe": 32, "refine_k": 2}),
}


@pytest.mark.parametrize("metric", ["L2", "IP", "COSINE"])
@pytest.mark.parametrize("index_type", UNREFINED)
def test_hits_have_the_scores_of_the_codes_without_refinement(client, name, index_type, metric):
    """Near the exact scores but not those, and the same in searches, ranges, filters, iterators and groups."""
    build, search = UNREFINED[index_type]
    dim, count = 32, 3000
    rows = simple_rows(count, dim=dim)
    base = np.array([row["vector"] for row in rows], dtype=np.float32)
    client.create_collection(
        name,
        schema=simple_schema(dim=dim),
        index_params=index_params(index_type, metric, **build),
        consistency_level="Strong",
    )
    client.insert(name, rows)
    client.flush(name)

    def is_built():
        state = client.describe_index(name, "vector")
        return state["pending_index_rows"] == 0 and state["indexed_rows"] == count

    eventually(is_built, "the index is built", 60)
    # As a node does that did not build it: the file says how hits are scored.
    client.release_collection(name)
    client.load_collection(name)
    query = make_vectors(1, dim, seed=6)[0]
    exact = dict(nearest(metric, list(range(count)), base, query, count))
    spread = max(exact.values()) - min(exact.values())

    def find(limit, more=None, **options):
        params = {"params": {**search, **(more or {})}}
        hits = client.search(name, [query.tolist()], limit=limit, search_params=params, **options)
        return [(hit["id"], hit["distance"]) for hit in hits[0]]

    found = find(50)
    assert found == find(50)
    errors = [abs(score - exact[key]) / spread for key, score in found]
    assert len(found) == 50 and 1e-6 < max(errors) < 0.5
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=metric != "L2")
    # A filter leaves rows the scores that they have.
    all_candidates = {"reorder_k": count} if index_type == "SCANN" else None
    of_all = dict(find(count if index_type in ("SCANN", "IVF_RABITQ") else 150, all_candidates))
    for key, score in find(10, filter="number < 900"):
        assert key < 90
        if key in of_all:
            assert score == of_all[key]
    # A range is one of the same scores.
    near, far = scores[5], scores[40]
    ranged = find(100, {"radius": far, "range_filter": near})
    assert ranged
    for key, score in ranged:
        assert (near <= score < far) if metric == "L2" else (far < score <= near)
        assert score == of_all.get(key, score)
    # Groups of one row each are the rows themselves.
    grouped = find(10, group_by_field="label")
    assert all(score == of_all[key] for key, score in grouped if key in of_all)
    iterator = client.search_iterator(
        name, [query.tolist()], batch_size=10, limit=40, search_params={"params": search}
    )
    pages = []
    while page := iterator.next():
        pages.extend((hit["id"], hit["distance"]) for hit in page)
    iterator.close()
    assert len(pages) == len({key for key, _ in pages}) == 40
    assert all(score == of_all[key] for key, score in pages if key in of_all)


def test_autoindex_and_flat_take_the_effort_of_other_types(client, name):
    efforts = {"ef": 64, "nprobe": 16, "search_list": 50, "reorder_k": 60}
    for index in ("AUTOINDEX", "FLAT"):
        one = f"{name}_{index}"
        create_simple(client, one, index=index, metric="L2")
        client.insert(one, simple_rows(200))
        wanted = simple_rows(200)[7]
        for key, value in efforts.items():
            hits = client.search(
                one, [wanted["vector"]], limit=3, search_params={"params": {key: value}}
            )
            assert hits[0][0]["id"] == 7
            with fails((1100, 65535), key):
                client.search(one, [wanted["vector"]], limit=3, search_params={"params": {key: 0}})
        client.drop_collection(one)


@pytest.mark.parametrize(
    "index_type, build, search, text",
    [
        ("IVF_FLAT", {"nlist": 0}, None, "param 'nlist' (0) should be in range [1, 65536]"),
        ("IVF_PQ", {"nlist": 8, "m": 3}, None, "should be a multiple of the number of subq"),
        ("SCANN", {"nlist": 8, "sub_dim": 3}, None, "Dimension:8, sub_dim:3"),
        ("HNSW_SQ", {"sq_type": "FP32"}, None, "invalid scalar quantizer type"),
        ("HNSW_SQ", {"sq_type": "BF16"}, None, "sq_type BF16 is not supported"),
        ("HNSW_PQ", {"m": 3}, None, "of subquantizers (m). Dimension:8, m:3"),
        ("HNSW_PQ", {"m": 4, "nbits": 25}, None, "param 'nbits' (25) should be in range [1, 24]"),
        ("HNSW_PQ", {"m": 4, "refine": 1}, None, "should be a boolean"),
        ("HNSW_PQ", {"m": 4, "refine_type": "INT8"}, None, "invalid refine type : INT8"),
        ("DISKANN", {"max_degree": 0}, None, "param 'max_degree' (0) should be in range [1, 2048]"),
        ("DISKANN", {"beamwidth": 8}, None, "unknown parameter 'beamwidth' of index type DISKANN"),
        ("DISKANN", {}, {"search_list": -1}, "param 'search_list_size' (-1) should be in range"),
        ("DISKANN", {}, {"ef": 9}, "unknown parameter 'ef' of index type DISKANN"),
        ("IVF_SQ8", {"nlist": 8}, {"nprobe": 0}, "param 'nprobe' (0) should be in range"),
        ("IVF_SQ8", {"nlist": 8}, {"ef": 10}, "unknown parameter 'ef' of index type IVF_SQ8"),
    ],
)
def test_parameters_of_inverted_indexes(client, name, index_type, build, search, text):
    client.create_collection(name, schema=simple_schema())
    index = index_params(index_type, "L2", **build)
    if search is None:
        with fails((1100, 65535), text):
            client.create_index(name, index)
        return
    client.create_index(name, index)
    client.load_collection(name)
    with fails((1100, 65535), text):
        client.search(name, [[0.0] * 8], limit=3, search_params={"params": search})
