"""Binary, 16-bit, 8-bit and sparse vectors, against exact answers from numpy."""

import itertools
import os
import random

import numpy as np
import pytest
from harness.data import all_rows, count, index_params
from harness.errors import fails
from harness.waiting import eventually
from pymilvus import AnnSearchRequest, DataType, MilvusClient, RRFRanker, WeightedRanker

N = 400
SEED = int(os.environ.get("REDKITE_TEST_SEED", random.randrange(2**32)))


@pytest.fixture(autouse=True)
def say_seed():
    print(f"seed={SEED}")


class Dense:
    """Vectors of numbers of a type: what a client sends for them, and what they are."""

    def __init__(self, kind, dim=12):
        self.kind, self.dim = kind, dim
        self.metrics = ["L2", "IP", "COSINE"]

    def make(self, rng, n):
        values = rng.normal(size=(n, self.dim)).astype(np.float32)
        if self.kind == DataType.INT8_VECTOR:
            sent = (values * 30).clip(-128, 127).astype(np.int8)
            return list(sent), sent.astype(np.float64)
        if self.kind == DataType.FLOAT16_VECTOR:
            sent = values.astype(np.float16)
            return list(sent), sent.astype(np.float64)
        # numpy has no bfloat16: the upper half of a float32.
        upper = (values.view(np.uint32) >> 16).astype(np.uint16)
        exact = (upper.astype(np.uint32) << 16).view(np.float32)
        return [row.tobytes() for row in upper], exact.astype(np.float64)

    def scores(self, metric, base, query):
        if metric == "L2":
            return ((base - query) ** 2).sum(axis=1)
        dots = base @ query
        if metric == "IP":
            return dots
        return dots / np.linalg.norm(base, axis=1) / np.linalg.norm(query)

    def same(self, got, sent):
        got = got[0] if isinstance(got, list) and len(got) == 1 else got
        return bytes(got) == (sent if isinstance(sent, bytes) else sent.tobytes())


class Binary(Dense):
    def __init__(self, dim=48):
        super().__init__(DataType.BINARY_VECTOR, dim)
        self.metrics = ["HAMMING", "JACCARD"]

    def make(self, rng, n):
        bits = rng.random((n, self.dim)) < 0.4
        return [np.packbits(row, bitorder="little").tobytes() for row in bits], bits

    def scores(self, metric, base, query):
        if metric == "HAMMING":
            return (base != query).sum(axis=1).astype(np.float64)
        return 1 - (base & query).sum(axis=1) / (base | query).sum(axis=1)


class Sparse(Dense):
    DIMS = 150

    def __init__(self):
        super().__init__(DataType.SPARSE_FLOAT_VECTOR, None)
        self.metrics = ["IP"]

    def make(self, rng, n):
        # Quarters, so that sums are exact and often equal.
        values = rng.integers(1, 9, (n, self.DIMS)) / 4 * (rng.random((n, self.DIMS)) < 0.08)
        sent = [{int(i) * 1000: float(row[i]) for i in np.flatnonzero(row)} for row in values]
        return sent, values

    def scores(self, metric, base, query):
        return base @ query

    def same(self, got, sent):
        return {int(key): float(value) for key, value in dict(got).items()} == sent


KINDS = {
    "bits": Binary(),
    "half": Dense(DataType.FLOAT16_VECTOR),
    "brain": Dense(DataType.BFLOAT16_VECTOR),
    "bytes": Dense(DataType.INT8_VECTOR),
    "sparse": Sparse(),
}
SMALLER = ("L2", "HAMMING", "JACCARD")
INDEXES = [
    ("bits", "BIN_FLAT", "HAMMING", {}),
    ("bits", "BIN_IVF_FLAT", "JACCARD", {"nlist": 8}),
    ("bits", "AUTOINDEX", "JACCARD", {}),
    ("half", "FLAT", "L2", {}),
    ("half", "HNSW", "COSINE", {"M": 16, "efConstruction": 100}),
    ("half", "IVF_FLAT", "IP", {"nlist": 8}),
    ("brain", "AUTOINDEX", "IP", {}),
    ("brain", "IVF_SQ8", "L2", {"nlist": 8}),
    ("bytes", "HNSW", "L2", {"M": 16, "efConstruction": 100}),
    ("bytes", "AUTOINDEX", "COSINE", {}),
    ("sparse", "SPARSE_INVERTED_INDEX", "IP", {"inverted_index_algo": "DAAT_MAXSCORE"}),
    ("sparse", "SPARSE_INVERTED_INDEX", "IP", {"inverted_index_algo": "TAAT_NAIVE"}),
    ("sparse", "SPARSE_WAND", "IP", {}),
    ("sparse", "AUTOINDEX", "IP", {}),
]


def schema_of(*names):
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("number", DataType.INT64)
    for name in names:
        kind = KINDS[name]
        extra = {} if kind.dim is None else {"dim": kind.dim}
        schema.add_field(name, kind.kind, **extra)
    return schema


def expected(name, metric, base, query, ids, limit):
    """[(id, score)] of the exact best among some rows; rows that share nothing with a sparse
    query are not found."""
    values = KINDS[name].scores(metric, base, query)
    sign = 1 if metric in SMALLER else -1
    among = [i for i in ids if name != "sparse" or values[i] > 0]
    among.sort(key=lambda i: (sign * values[i], i))
    return [(i, float(values[i])) for i in among[:limit]]


def check(hits, want, some=False):
    """Scores must be exact and in order; with `some`, as an index may miss rows, most of them."""
    assert len(hits) == len(want)
    got = [hit["distance"] for hit in hits]
    scores = [score for _, score in want]
    if some:
        best = max(abs(score) for score in scores)
        close = sum(any(abs(g - s) <= 1e-3 * max(1, best) for s in scores) for g in got)
        assert close >= len(want) * 0.6, (got, scores)
        return
    assert got == pytest.approx(scores, rel=2e-3, abs=2e-3)


def wait_indexed(client, name, index_name):
    def indexed():
        info = client.describe_index(name, index_name)
        return info["state"] == "Finished" and info["pending_index_rows"] == 0

    eventually(indexed, f"the index {index_name}")


@pytest.mark.parametrize("field, index, metric, params", INDEXES)
def test_every_index_finds_the_nearest(client, name, field, index, metric, params):
    kind, rng = KINDS[field], np.random.default_rng(SEED)
    client.create_collection(
        name,
        schema=schema_of(field),
        index_params=index_params(index, metric, field=field, **params),
        consistency_level="Strong",
    )
    sent, base = kind.make(rng, N)
    queries, exact = kind.make(rng, 3)
    rows = [{"id": i, "number": i % 7, field: sent[i]} for i in range(N)]
    client.insert(name, rows)
    everything = list(range(N))

    def search(**options):
        return client.search(name, queries, anns_field=field, limit=10, **options)

    def look(ids, some):
        for hits, query in zip(search(), exact, strict=True):
            check(hits, expected(field, metric, base, query, ids, 10), some)
        kept = [i for i in ids if i % 7 < 3]
        for hits, query in zip(search(filter="number < 3"), exact, strict=True):
            assert all(hit["id"] % 7 < 3 for hit in hits)
            check(hits, expected(field, metric, base, query, kept, 10), some)

    # Growing rows are compared one by one.
    look(everything, some=False)
    client.delete(name, ids=list(range(0, N, 5)))
    left = [i for i in everything if i % 5]
    look(left, some=False)
    client.flush(name)
    wait_indexed(client, name, field)
    client.release_collection(name)
    client.load_collection(name)
    look(left, some=index in ("HNSW", "IVF_FLAT", "IVF_SQ8", "BIN_IVF_FLAT", "AUTOINDEX"))
    found = client.query(name, filter="id in [1, 2, 399]", output_fields=[field])
    assert len(found) == 3
    assert all(kind.same(row[field], sent[row["id"]]) for row in found)
    hits = client.search(name, queries[:1], anns_field=field, limit=3, output_fields=[field])[0]
    assert all(kind.same(hit["entity"][field], sent[hit["id"]]) for hit in hits)


@pytest.mark.parametrize("field", KINDS)
def test_ranges_keys_and_iterators(client, name, field):
    kind, rng = KINDS[field], np.random.default_rng(SEED)
    metric = kind.metrics[0]
    client.create_collection(
        name,
        schema=schema_of(field),
        index_params=index_params("AUTOINDEX", metric, field=field),
        consistency_level="Strong",
    )
    sent, base = kind.make(rng, N)
    rows = [{"id": i, "number": i % 7, field: sent[i]} for i in range(N)]
    client.insert(name, rows[: N // 2])
    client.flush(name)
    client.insert(name, rows[N // 2 :])
    ids = list(range(N))
    ordered = expected(field, metric, base, base[7], ids, N)
    # Between the scores of the twentieth and the third row.
    near, far = ordered[2][1], ordered[20][1]
    inside = [
        (i, score)
        for i, score in ordered
        if (near <= score < far if metric in SMALLER else far < score <= near)
    ]
    found = client.search(
        name,
        [sent[7]],
        anns_field=field,
        limit=N,
        search_params={"params": {"radius": far, "range_filter": near}},
    )[0]
    # Scores on the bounds may fall on either side of them by rounding.
    assert abs(len(found) - len(inside)) <= 2
    by_key = client.search(name, ids=[7, 11], anns_field=field, limit=10)
    check(by_key[0], ordered[:10])
    check(by_key[1], expected(field, metric, base, base[11], ids, 10))
    grouped = client.search(
        name, [sent[7]], anns_field=field, limit=7, group_by_field="number", group_size=1
    )[0]
    groups = {}
    for i, score in ordered:
        groups.setdefault(i % 7, score)
    assert [hit["distance"] for hit in grouped] == pytest.approx(
        list(groups.values()), rel=2e-3, abs=2e-3
    )
    iterator = client.search_iterator(
        name, [sent[7]], anns_field=field, batch_size=60, limit=200, search_params={}
    )
    seen = []
    while page := iterator.next():
        seen.extend(page)
    iterator.close()
    assert len({hit["id"] for hit in seen}) == len(seen)
    assert len(seen) >= min(200, len(ordered))
    check(seen[:50], ordered[:50])


def test_all_types_in_one_collection_survive_a_kill_and_a_compaction(restartable_server):
    client = restartable_server.client()
    rng = np.random.default_rng(SEED)
    params = MilvusClient.prepare_index_params()
    made = {}
    for field, kind in KINDS.items():
        params.add_index(field, index_type="AUTOINDEX", metric_type=kind.metrics[0])
        made[field] = kind.make(rng, 120)
    client.create_collection(
        "all", schema=schema_of(*KINDS), index_params=params, consistency_level="Strong"
    )
    rows = [
        {"id": i, "number": i, **{field: made[field][0][i] for field in KINDS}}
        for i in range(120)
    ]
    for part in (rows[:40], rows[40:80]):
        client.insert("all", part)
        client.flush("all")
    client.insert("all", rows[80:])
    client.upsert("all", [{**rows[3], "number": -3}])
    client.delete("all", ids=[5, 50, 90])

    def look(connected):
        found = {row["id"]: row for row in all_rows(connected, "all")}
        assert sorted(found) == [i for i in range(120) if i not in (5, 50, 90)]
        for i, row in found.items():
            for field, kind in KINDS.items():
                assert kind.same(row[field], rows[i][field]), (field, i)
        for field, kind in KINDS.items():
            sent, base = made[field]
            hits = connected.search("all", [sent[7]], anns_field=field, limit=5)[0]
            want = expected(field, kind.metrics[0], base, base[7], sorted(found), 5)
            check(hits, want)

    look(client)
    client.close()
    restartable_server.kill9()
    restartable_server.start()
    client = restartable_server.client()
    eventually(lambda: count(client, "all") == 117, "the rows")
    look(client)
    client.flush("all")
    job = client.compact("all")
    eventually(lambda: client.get_compaction_state(job) == "Completed", "the compaction")
    look(client)
    client.close()


def test_dense_and_sparse_together(client, name):
    params = index_params("HNSW", "COSINE", field="half", M=16, efConstruction=100)
    params.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection(
        name, schema=schema_of("half", "sparse"), index_params=params, consistency_level="Strong"
    )
    ids = list(range(N))
    for seed in itertools.count(SEED):
        rng = np.random.default_rng(seed)
        (half, dense), (sparse, weights) = KINDS["half"].make(rng, N), KINDS["sparse"].make(rng, N)
        everything = expected("sparse", "IP", weights, weights[9], ids, N)
        values = [score for _, score in everything]
        # Which of equally near rows are left out is nobody's promise, so none of them is.
        limits = (n for n in range(30, len(values)) if values[n - 1] > values[n])
        limit = next(limits, None)
        cosines = [score for _, score in expected("half", "COSINE", dense, dense[9], ids, N)]
        is_apart = np.diff(cosines[: (limit or N) + 1]).max() < -1e-6
        # Row 9 is nearest to itself, and the server, which computes with 32 bits, has the same ranks.
        if limit and everything[0][0] == 9 and values[0] > values[1] and is_apart:
            break
    rows = [{"id": i, "number": i, "half": half[i], "sparse": sparse[i]} for i in range(N)]
    client.insert(name, rows)

    def requests():
        return [
            AnnSearchRequest([half[9]], "half", {"metric_type": "COSINE"}, limit),
            AnnSearchRequest([sparse[9]], "sparse", {"metric_type": "IP"}, limit),
        ]

    lists = [
        expected("half", "COSINE", dense, dense[9], ids, limit),
        expected("sparse", "IP", weights, weights[9], ids, limit),
    ]
    fused = {}
    for ranked in lists:
        for rank, (i, _) in enumerate(ranked):
            fused[i] = fused.get(i, 0) + 1 / (60 + rank + 1)
    found = client.hybrid_search(name, requests(), RRFRanker(60), limit=10)[0]
    assert found[0]["id"] == 9
    best = sorted(fused.values(), reverse=True)[:10]
    assert [hit["distance"] for hit in found] == pytest.approx(best, rel=1e-3)
    weighted = client.hybrid_search(name, requests(), WeightedRanker(0.3, 0.7), limit=5)[0]
    assert weighted[0]["id"] == 9 and len(weighted) == 5


def test_dropped_values_still_count_in_scores(client, name):
    rng = np.random.default_rng(SEED)
    params = index_params(
        "SPARSE_INVERTED_INDEX", "IP", field="sparse", drop_ratio_build=0.2
    )
    client.create_collection(
        name, schema=schema_of("sparse"), index_params=params, consistency_level="Strong"
    )
    sent, base = KINDS["sparse"].make(rng, N)
    client.insert(name, [{"id": i, "number": i, "sparse": sent[i]} for i in range(N)])
    client.flush(name)
    wait_indexed(client, name, "sparse")
    client.release_collection(name)
    client.load_collection(name)
    want = expected("sparse", "IP", base, base[3], list(range(N)), N)
    scores = dict(want)
    options = {"params": {"drop_ratio_search": 0.3}}
    hits = client.search(name, [sent[3]], anns_field="sparse", limit=10, search_params=options)[0]
    assert len(hits) == 10 and hits[0]["id"] == want[0][0]
    assert all(hit["distance"] == pytest.approx(scores[hit["id"]], rel=1e-5) for hit in hits)


def test_empty_sparse_vectors_are_kept_and_not_found(client, name):
    client.create_collection(
        name,
        schema=schema_of("sparse"),
        index_params=index_params("SPARSE_INVERTED_INDEX", "IP", field="sparse"),
        consistency_level="Strong",
    )
    rows = [{"id": 1, "number": 1, "sparse": {}}, {"id": 2, "number": 2, "sparse": {5: 1.0}}]
    client.insert(name, rows)
    hits = client.search(name, [{5: 2.0}], anns_field="sparse", limit=10)[0]
    assert [(hit["id"], hit["distance"]) for hit in hits] == [(2, 2.0)]
    assert client.search(name, [{6: 2.0}], anns_field="sparse", limit=10)[0] == []
    rows = client.query(name, filter="id > 0", output_fields=["sparse"])
    assert [dict(row["sparse"]) for row in rows] == [{}, {5: 1.0}]


@pytest.mark.parametrize(
    "field, index, metric, text",
    [
        *(
            ("bytes", index, "L2", f"data type Int8Vector can't build with this index {index}")
            for index in ("FLAT", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "SCANN", "DISKANN")
        ),
        ("bits", "HNSW", "HAMMING", "data type BinaryVector can't build with this index HNSW"),
        ("half", "BIN_FLAT", "L2", "data type Float16Vector can't build with this index BIN_FLAT"),
        ("bits", "BIN_FLAT", "L2", "supported: [HAMMING JACCARD]"),
        ("sparse", "SPARSE_WAND", "COSINE", "only IP&BM25 is the supported metric type"),
        ("half", "HNSW", "JACCARD", "supported: [L2 IP COSINE]"),
    ],
)
def test_indexes_that_do_not_go_with_the_type(client, name, field, index, metric, text):
    client.create_collection(name, schema=schema_of(field))
    with fails((1100, 65535), text):
        client.create_index(name, index_params(index, metric, field=field))
    assert client.list_indexes(name) == []


@pytest.mark.parametrize(
    "params, text",
    [
        ({"inverted_index_algo": "BEST"}, "sparse inverted index algo BEST not found"),
        ({"drop_ratio_build": 1.5}, "drop_ratio_build"),
        ({"M": 16}, "unknown parameter"),
    ],
)
def test_bad_parameters_of_sparse_indexes(client, name, params, text):
    client.create_collection(name, schema=schema_of("sparse"))
    with fails(1100, text):
        client.create_index(
            name, index_params("SPARSE_INVERTED_INDEX", "IP", field="sparse", **params)
        )


def test_defaults_are_those_of_the_type(client, name):
    client.create_collection(name, schema=schema_of(*KINDS))
    params = MilvusClient.prepare_index_params()
    for field in KINDS:
        params.add_index(field)
    client.create_index(name, params)
    metrics = {field: client.describe_index(name, field)["metric_type"] for field in KINDS}
    assert metrics == {
        "bits": "HAMMING",
        "half": "COSINE",
        "brain": "COSINE",
        "bytes": "COSINE",
        "sparse": "IP",
    }


def test_dimensions_are_checked(client, name):
    for dim, text in ((12, "multiple of 8"), (0, "dimension")):
        schema = MilvusClient.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("bits", DataType.BINARY_VECTOR, dim=dim)
        with fails(None, text):
            client.create_collection(name, schema=schema)
    client.create_collection(name, schema=schema_of(*KINDS))
    described = {field["name"]: field for field in client.describe_collection(name)["fields"]}
    assert described["sparse"]["params"] == {}
    assert described["bits"]["params"]["dim"] == 48
    assert described["bytes"]["type"] == DataType.INT8_VECTOR


def test_vectors_that_do_not_fit_are_refused(client, name):
    params = index_params("FLAT", "L2", field="half")
    params.add_index("sparse", index_type="SPARSE_WAND", metric_type="IP")
    client.create_collection(name, schema=schema_of("half", "sparse"), index_params=params)
    good = {"id": 1, "number": 1, "half": np.zeros(12, np.float16), "sparse": {1: 1.0}}
    bad = [
        ({"half": np.zeros(11, np.float16)}, "dim"),
        ({"half": np.full(12, np.inf, np.float16)}, "number or infinity"),
        ({"sparse": {1: -1.0}}, "negative value"),
    ]
    for change, text in bad:
        with fails(1100, text):
            client.insert(name, [{**good, **change}])
    client.insert(name, [good])
    with fails(1100, "vector type must be the same"):
        client.search(name, [[0.0] * 12], anns_field="half", limit=1)
    with fails(1100, "vector dimension mismatch"):
        client.search(name, [np.zeros(8, np.float16)], anns_field="half", limit=1)
    with fails(1100, "unknown parameter"):
        options = {"params": {"ef": 10}}
        client.search(name, [{1: 1.0}], anns_field="sparse", limit=1, search_params=options)
    with fails(None, "metric type not match"):
        client.search(
            name, [{1: 1.0}], anns_field="sparse", limit=1, search_params={"metric_type": "L2"}
        )
