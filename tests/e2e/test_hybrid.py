"""Hybrid search, grouping, search by keys and iterators, against exact answers from numpy."""

import itertools
import math
import os
import random

import numpy as np
import pytest
from harness.data import DIM, entity, index_params, make_vectors, nearest, scores
from harness.errors import fails
from pymilvus import (
    AnnSearchRequest,
    DataType,
    Function,
    FunctionType,
    MilvusClient,
    RRFRanker,
    WeightedRanker,
)
from pymilvus.client.iterator import SearchIterator
from pymilvus.exceptions import ServerVersionIncompatibleException
from pymilvus.milvus_client import milvus_client

N = 240
SEED = int(os.environ.get("REDKITE_TEST_SEED", random.randrange(2**32)))


@pytest.fixture(autouse=True)
def say_seed():
    print(f"seed={SEED}")


# Rows that are asked for by their keys, too.
ASKED = [5, 17, 200]


class Rows:
    """Rows with two vectors and two fields to group by, and exact answers about them."""

    def __init__(self, metrics):
        rng = np.random.default_rng(SEED)
        self.metrics = metrics
        self.ids = list(range(N))
        # A few groups near each other and many small ones; some rows have none.
        self.shelf = [int(shelf) for shelf in rng.integers(0, 40, N)]
        self.color = [
            None if rng.random() < 0.2 else f"color {rng.integers(0, 5)}" for _ in self.ids
        ]
        for seed in itertools.count(SEED + 1, 4):
            self.vectors = [make_vectors(N, seed=seed), make_vectors(N, seed=seed + 1)]
            self.queries = [make_vectors(3, seed=seed + 2), make_vectors(3, seed=seed + 3)]
            if self.are_apart(0) and self.are_apart(1):
                break

    def are_apart(self, which):
        """Whether the server, which computes with 32 bits, tells all scores of a query apart."""
        queries = np.concatenate([self.queries[which], self.vectors[which][ASKED]])
        values = np.sort(scores(self.metrics[which], self.vectors[which], queries), axis=1)
        return np.diff(values, axis=1).min() > 1e-6 * np.abs(values).max()

    def move(self, lengths):
        """Puts the first vectors so far from the origin, in the directions that they have."""
        own = np.linalg.norm(self.vectors[0], axis=1)
        self.vectors[0] *= (lengths / own)[:, None].astype(np.float32)

    def mixed(self):
        """A number of each row, from 0 to 1, each its own and in no order."""
        return np.random.default_rng(SEED).permutation(N) / N

    def records(self):
        return [
            {
                "id": i,
                "a": self.vectors[0][i].tolist(),
                "b": self.vectors[1][i].tolist(),
                "shelf": self.shelf[i],
                "color": self.color[i],
            }
            for i in self.ids
        ]

    def nearest(self, which, query, limit, ids=None):
        ids = self.ids if ids is None else ids
        return nearest(self.metrics[which], ids, self.vectors[which][ids], query, limit)

    def requests(self, limits, exprs=(None, None)):
        return [
            AnnSearchRequest(
                data=self.queries[which].tolist(),
                anns_field="ab"[which],
                param={},
                limit=limits[which],
                expr=exprs[which],
            )
            for which in range(2)
        ]


def fill(client, name, rows, shards=2):
    schema = MilvusClient.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("a", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("b", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("shelf", DataType.INT32)
    schema.add_field("color", DataType.VARCHAR, max_length=20, nullable=True)
    params = index_params("FLAT", rows.metrics[0], "a")
    params.add_index("b", index_type="FLAT", metric_type=rows.metrics[1])
    client.create_collection(
        name, schema=schema, index_params=params, num_shards=shards, consistency_level="Strong"
    )
    records = rows.records()
    # Several segments: two sealed ones, and a growing one.
    for part in (records[: N // 3], records[N // 3 : 2 * N // 3]):
        client.insert(name, part)
        client.flush(name)
    client.insert(name, records[2 * N // 3 :])


@pytest.fixture
def filled(client, name, request):
    rows = Rows(getattr(request, "param", ("COSINE", "L2")))
    fill(client, name, rows)
    return name, rows


def hits_of(result):
    return [(hit["id"], hit["distance"]) for hit in result]


def assert_hits(found, expected):
    assert [s for _, s in found] == pytest.approx([s for _, s in expected], rel=1e-4, abs=1e-5)
    assert [i for i, _ in found] == [i for i, _ in expected]


def assert_ranked(found, expected, limit):
    """As `assert_hits`, where different sums may be equal but for rounding: 1/10 + 1/40 and 1/8."""
    own = dict(expected)
    best = [score for _, score in expected[:limit]]
    near = {"rel": 1e-5, "abs": 1e-6}
    assert [score for _, score in found] == pytest.approx(best, **near)
    assert [score for _, score in found] == pytest.approx([own[key] for key, _ in found], **near)
    assert len({key for key, _ in found}) == len(found)


def ranked(points, descending=True):
    sign = -1 if descending else 1
    return sorted(points.items(), key=lambda item: (sign * item[1], item[0]))


def rrf(lists, k=60):
    points = {}
    for hits in lists:
        for rank, (key, _) in enumerate(hits, start=1):
            points[key] = points.get(key, 0) + 1 / (k + rank)
    return ranked(points)


NORMALIZED = {
    "COSINE": lambda score: (1 + score) / 2,
    "IP": lambda score: 0.5 + math.atan(score) / math.pi,
    "L2": lambda score: 1 - 2 * math.atan(score) / math.pi,
}


def weighted(lists, weights, metrics, norm):
    larger = [metric != "L2" for metric in metrics]
    mixed = any(larger) and not all(larger)
    points = {}
    for hits, weight, metric in zip(lists, weights, metrics, strict=True):
        for key, score in hits:
            if norm or (mixed and metric == "L2"):
                score = NORMALIZED[metric](score)
            points[key] = points.get(key, 0) + weight * score
    return ranked(points, norm or any(larger))


@pytest.mark.parametrize("form", ["ranker", "function"])
def test_rrf(client, filled, form):
    name, rows = filled
    ranker = RRFRanker(7)
    if form == "function":
        ranker = Function(
            "rank", FunctionType.RERANK, input_field_names=[], params={"reranker": "rrf", "k": 7}
        )
    found = client.hybrid_search(
        name, rows.requests([30, 20]), ranker, limit=15, output_fields=["shelf", "a"]
    )
    assert len(found) == 3
    for query, result in enumerate(found):
        lists = [rows.nearest(which, rows.queries[which][query], (30, 20)[which]) for which in (0, 1)]
        assert_ranked(hits_of(result), rrf(lists, 7), 15)
        for hit in result:
            fields = entity(hit)
            assert fields["shelf"] == rows.shelf[hit["id"]]
            assert fields["a"] == rows.vectors[0][hit["id"]].tolist()


@pytest.mark.parametrize(
    "filled",
    [("COSINE", "IP"), ("L2", "L2"), ("L2", "IP")],
    indirect=True,
    ids="-".join,
)
def test_weighted(client, filled):
    name, rows = filled
    for norm in (True, False):
        function = Function(
            "rank",
            FunctionType.RERANK,
            input_field_names=[],
            params={"reranker": "weighted", "weights": [0.3, 0.9], "norm_score": norm},
        )
        for ranker in (WeightedRanker(0.3, 0.9, norm_score=norm), function):
            found = client.hybrid_search(name, rows.requests([25, 25]), ranker, limit=20)
            for query, result in enumerate(found):
                lists = [rows.nearest(which, rows.queries[which][query], 25) for which in (0, 1)]
                expected = weighted(lists, (0.3, 0.9), rows.metrics, norm)
                assert_ranked(hits_of(result), expected, 20)


def test_hybrid_windows_filters_and_decimals(client, filled):
    name, rows = filled
    exprs = ("shelf < 20", "shelf >= 10")
    ids = [
        [i for i in rows.ids if rows.shelf[i] < 20],
        [i for i in rows.ids if rows.shelf[i] >= 10],
    ]
    requests = rows.requests([60, 60], exprs)
    found = client.hybrid_search(name, requests, RRFRanker(), limit=10, offset=5, round_decimal=3)
    for query, result in enumerate(found):
        lists = [
            rows.nearest(which, rows.queries[which][query], 60, ids[which]) for which in (0, 1)
        ]
        everything = rrf(lists)
        own, expected = dict(everything), everything[5:15]
        # As in `assert_ranked`, different sums may be equal but for rounding.
        found_scores = [own[hit["id"]] for hit in result]
        assert found_scores == pytest.approx([score for _, score in expected], rel=1e-6)
        assert len({hit["id"] for hit in result}) == len(result)
        for hit, (_, score) in zip(result, expected, strict=True):
            # One that is halfway, as 1/80 + 1/100 is, may be rounded to either side.
            assert hit["distance"] == pytest.approx(score, abs=0.0005 + 1e-6)
            assert hit["distance"] == pytest.approx(round(hit["distance"], 3), abs=1e-6)
    assert [len(hits) for hits in client.hybrid_search(
        name, rows.requests([5, 5]), RRFRanker(), limit=10, offset=100
    )] == [0, 0, 0]


def test_hybrid_refusals(client, filled):
    name, rows = filled
    requests = rows.requests([10, 10])
    with fails(1100, "rank param weight should be in range [0, 1]"):
        client.hybrid_search(name, requests, WeightedRanker(0.2, 1.2), limit=5)
    with fails(1100, "the length of weights param mismatch", "[expected=2][actual=3]"):
        client.hybrid_search(name, requests, WeightedRanker(0.2, 0.4, 0.8), limit=5)
    for k in (0, 16385):
        with fails(1100, "The rank params k should be in range (0, 16384)"):
            client.hybrid_search(name, requests, RRFRanker(k), limit=5)
    with fails(1100, "should be in range [1, 16384], but got 16385"):
        client.hybrid_search(name, requests, RRFRanker(), limit=16385)
    with fails(1100, "(offset+limit) should be in range [1, 16384], but got 16390"):
        client.hybrid_search(name, requests, RRFRanker(), limit=10, offset=16380)
    with fails(1100, "minimum of ann search requests is 1"):
        client.hybrid_search(name, [], RRFRanker(), limit=5)
    with fails(65535, "maximum of ann search requests is 1024"):
        client.hybrid_search(name, requests[:1] * 1025, RRFRanker(), limit=5)
    with fails(1100, "fieldName(none) not found"):
        bad = AnnSearchRequest(rows.queries[0].tolist(), "none", {}, 5)
        client.hybrid_search(name, [bad], RRFRanker(), limit=5)
    with fails(None, "nq"):
        bad = AnnSearchRequest(rows.queries[0][:1].tolist(), "a", {}, 5)
        client.hybrid_search(name, [*requests, bad], RRFRanker(), limit=5)
    with fails(3000, "Unsupported rerank function: [decay]"):
        decay = Function("d", FunctionType.RERANK, input_field_names=["shelf"],
                         params={"reranker": "decay", "function": "gauss"})
        client.hybrid_search(name, requests, decay, limit=5)


def grouped(hits, value_of, limit, size, offset=0):
    """The nearest groups in order, each with its nearest rows."""
    groups = {}
    for key, score in hits:
        groups.setdefault(value_of[key], []).append((key, score))
    return [hit for group in list(groups.values())[offset : offset + limit] for hit in group[:size]]


def grouped_as_found(hits, value_of, limit, size, offset=0):
    """The same, up to the hit that begins the last group."""
    seen = set()
    for end, (key, _) in enumerate(hits):
        seen.add(value_of[key])
        if len(seen) == offset + limit:
            hits = hits[: end + 1]
            break
    return grouped(hits, value_of, limit, size, offset)


@pytest.mark.parametrize("field", ["shelf", "color"])
def test_grouping(client, filled, field):
    name, rows = filled
    values = getattr(rows, field)
    for limit, offset, size, strict in [
        (3, 0, 1, False),
        (4, 2, 3, True),
        (10, 0, 2, False),
        (3, 1, 10, False),
        (100, 1, 4, True),
        (100, 1, 4, False),
    ]:
        expect = grouped if strict else grouped_as_found
        found = client.search(
            name,
            rows.queries[0].tolist(),
            anns_field="a",
            limit=limit,
            offset=offset,
            group_by_field=field,
            group_size=size,
            strict_group_size=strict,
            output_fields=[field],
        )
        for query, result in enumerate(found):
            everything = rows.nearest(0, rows.queries[0][query], N)
            expected = expect(everything, values, limit, size, offset)
            assert_hits(hits_of(result), expected)
            assert [hit["entity"][field] for hit in result] == [values[i] for i, _ in expected]


def test_grouping_goes_on_until_there_are_enough_groups(client, name):
    """One group has all the nearest rows, far more than a search looks at first."""
    rows = Rows(("L2", "L2"))
    rows.shelf = [0 if i < 200 else i for i in rows.ids]
    rows.move(np.where(np.arange(N) < 200, 0.01, 1) * (1 + rows.mixed()))
    fill(client, name, rows)
    found = client.search(
        name,
        [[0.0] * DIM],
        anns_field="a",
        limit=30,
        filter="id < 235",
        group_by_field="shelf",
        output_fields=["shelf"],
    )[0]
    everything = rows.nearest(0, np.zeros(DIM), N, list(range(235)))
    assert_hits(hits_of(found), grouped(everything, rows.shelf, 30, 1))
    assert len(found) == 30


@pytest.mark.parametrize("strict", [False, True])
def test_only_strict_groups_go_on_until_they_are_full(client, name, strict):
    """Each group has one near row, and the others are farther than every near one."""
    rows = Rows(("L2", "L2"))
    rows.shelf = [i % 20 for i in rows.ids]
    rows.move(np.where(np.arange(N) < 20, 1, 100) * (1 + rows.mixed()))
    fill(client, name, rows)
    found = client.search(
        name,
        [[0.0] * DIM],
        anns_field="a",
        limit=20,
        group_by_field="shelf",
        group_size=5,
        strict_group_size=strict,
        output_fields=["shelf"],
    )[0]
    everything = rows.nearest(0, np.zeros(DIM), N)
    assert_hits(hits_of(found), grouped(everything, rows.shelf, 20, 5 if strict else 1))
    assert len(found) == (100 if strict else 20)


def test_grouping_refusals(client, filled):
    name, rows = filled

    def search(**kwargs):
        return client.search(name, rows.queries[0].tolist(), anns_field="a", limit=5, **kwargs)

    with fails(1700, "groupBy field not found in schema"):
        search(group_by_field="none")
    with fails(1100, "unsupported data type"):
        search(group_by_field="b")
    with fails(1100, "input group size:0 is negative"):
        search(group_by_field="shelf", group_size=0)
    with fails(1100, "input group size:11 exceeds configured max group size:10"):
        search(group_by_field="shelf", group_size=11)
    with fails(1100, "Not allowed to do range-search when doing search-group-by"):
        search(group_by_field="shelf", search_params={"params": {"radius": 0.1}})
    with fails(3000):
        search(group_by_fields=["shelf", "color"])
    with fails(1100, "Not allowed to do groupBy when doing iteration"):
        client.search_iterator(
            name, rows.queries[0][:1].tolist(), anns_field="a", group_by_field="shelf"
        )


@pytest.mark.parametrize("scorer", [None, "max", "sum", "avg"])
def test_hybrid_grouping(client, filled, scorer):
    name, rows = filled
    limit, offset, size, each = 6, 1, 2, 12
    extra = {} if scorer is None else {"rank_group_scorer": scorer}
    found = client.hybrid_search(
        name,
        rows.requests([each, each]),
        RRFRanker(),
        limit=limit,
        offset=offset,
        group_by_field="shelf",
        group_size=size,
        strict_group_size=True,
        output_fields=["shelf"],
        **extra,
    )
    score_of = {
        "sum": lambda hits: sum(score for _, score in hits),
        "avg": lambda hits: sum(score for _, score in hits) / len(hits),
    }.get(scorer, lambda hits: hits[0][1])
    for query, result in enumerate(found):
        lists = []
        for which in (0, 1):
            everything = rows.nearest(which, rows.queries[which][query], N)
            hits = grouped(everything, rows.shelf, each, size)
            # A request's ranks follow its groups.
            lists.append(hits)
        groups = {}
        for key, score in rrf(lists):
            group = groups.setdefault(rows.shelf[key], [])
            if len(group) < size:
                group.append((key, score))
        order = sorted(
            groups.values(),
            key=lambda hits: (-np.float32(score_of(hits)), -len(hits), hits[0][0]),
        )
        expected = [hit for hits in order[offset : offset + limit] for hit in hits]
        found_scores = [hit["distance"] for hit in result]
        assert found_scores == pytest.approx([score for _, score in expected], abs=1e-6)
        assert {hit["id"] for hit in result} == {key for key, _ in expected}


def test_search_by_keys(client, filled):
    name, rows = filled
    wanted = [5, 200, 17, 5]
    found = client.search(name, ids=wanted, anns_field="a", limit=4, filter="id != 17")
    allowed = [i for i in rows.ids if i != 17]
    assert len(found) == 4
    for key, result in zip(wanted, found, strict=True):
        assert_hits(hits_of(result), rows.nearest(0, rows.vectors[0][key], 4, allowed))
    with fails(1100, "some of the provided primary key IDs do not exist", "missing IDs = [999]"):
        client.search(name, ids=[5, 999], anns_field="a", limit=4)
    client.delete(name, ids=[200])
    with fails(1100, "missing IDs = [200]"):
        client.search(name, ids=wanted, anns_field="a", limit=4)
    with fails(1100, "does not match the primary key"):
        client.search(name, ids=["5"], anns_field="a", limit=4)


@pytest.mark.parametrize("filled", [("L2", "IP"), ("COSINE", "L2")], indirect=True, ids="-".join)
@pytest.mark.parametrize("field", ["a", "b"])
def test_an_iterator_gives_each_row_once_while_data_changes(client, filled, field):
    name, rows = filled
    which = "ab".index(field)
    query = rows.queries[which][0]
    # Rows with equal vectors have equal scores, across pages and segments.
    twins = [{**row, "id": 1_000 + row["id"]} for row in rows.records()[::3]]
    client.upsert(name, twins)
    iterator = client.search_iterator(
        name, [query.tolist()], anns_field=field, batch_size=13, output_fields=["shelf"]
    )
    seen = [hit["id"] for hit in iterator.next()]
    client.insert(name, [{**row, "id": 5_000 + row["id"]} for row in rows.records()])
    client.delete(name, ids=rows.ids[::2])
    client.flush(name)
    distances = []
    while page := iterator.next():
        seen += [hit["id"] for hit in page]
        distances += [hit["distance"] for hit in page]
        assert all(hit["entity"]["shelf"] == rows.shelf[hit["id"] % 1_000] for hit in page)
    iterator.close()
    assert sorted(seen) == sorted(rows.ids + [row["id"] for row in twins])
    assert distances == sorted(distances, reverse=rows.metrics[which] != "L2")


@pytest.mark.parametrize("filled", [("L2", "IP"), ("COSINE", "L2")], indirect=True, ids="-".join)
@pytest.mark.parametrize("field", ["a", "b"])
def test_the_iterator_of_older_clients(client, filled, field, monkeypatch):
    """Without the server's help it goes from one range of scores to the next (v1)."""

    def is_not_served(*_args, **_kwargs):
        raise ServerVersionIncompatibleException(message="not served")

    monkeypatch.setattr(milvus_client, "SearchIteratorV2", is_not_served)
    name, rows = filled
    which = "ab".index(field)
    query = rows.queries[which][0]
    allowed = [i for i in rows.ids if rows.shelf[i] < 30]
    params = {"metric_type": rows.metrics[which], "params": {"ef": N}}
    iterator = client.search_iterator(
        name,
        [query.tolist()],
        anns_field=field,
        batch_size=13,
        limit=100,
        filter="shelf < 30",
        search_params=params,
    )
    assert isinstance(iterator, SearchIterator)
    seen = [(hit["id"], hit["distance"]) for hit in iterator.next()]
    # It stays at the time of its first page.
    client.delete(name, ids=rows.ids[::2])
    while page := iterator.next():
        seen += [(hit["id"], hit["distance"]) for hit in page]
    iterator.close()
    assert len({key for key, _ in seen}) == 100
    assert_hits(seen, rows.nearest(which, query, 100, allowed))


def test_a_page_ends_where_a_score_ends(client, name):
    rows = Rows(("L2", "L2"))
    rows.vectors[0][:] = rows.vectors[0][np.arange(N) % 4]
    fill(client, name, rows)
    query = rows.queries[0][0]
    iterator = client.search_iterator(name, [query.tolist()], anns_field="a", batch_size=7)
    pages = []
    while page := iterator.next():
        pages.append([hit["id"] for hit in page])
    assert [len(page) for page in pages] == [60] * 4
    assert sorted(key for page in pages for key in page) == rows.ids


def test_more_rows_of_one_score_than_a_search_may_ask_for_stand_on_one_page(client, name):
    rows, near = 20_000, 5
    schema = MilvusClient.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("a", DataType.FLOAT_VECTOR, dim=2)
    params = index_params("FLAT", "L2", "a")
    client.create_collection(
        name, schema=schema, index_params=params, num_shards=2, consistency_level="Strong"
    )
    for start in range(0, rows, 5_000):
        ids = range(start, start + 5_000)
        client.insert(name, [{"id": i, "a": [float(i >= near), 0.0]} for i in ids])
    iterator = client.search_iterator(name, [[0.0, 0.0]], anns_field="a", batch_size=10)
    pages = []
    while page := iterator.next():
        pages.append([hit["id"] for hit in page])
    assert sorted(key for page in pages for key in page) == list(range(rows))
    assert set(pages[0][:near]) == set(range(near))


def test_an_iterator_within_a_range_and_a_filter(client, filled):
    name, rows = filled
    query = rows.queries[1][0]
    allowed = [i for i in rows.ids if rows.shelf[i] < 30]
    everything = rows.nearest(1, query, N, allowed)
    low, high = [(everything[at - 1][1] + everything[at][1]) / 2 for at in (10, 70)]
    iterator = client.search_iterator(
        name,
        [query.tolist()],
        anns_field="b",
        batch_size=9,
        filter="shelf < 30",
        search_params={"params": {"radius": high, "range_filter": low}},
    )
    seen = []
    while page := iterator.next():
        seen += [(hit["id"], hit["distance"]) for hit in page]
    assert_hits(seen, everything[10:70])


def test_many_queries_in_one_search(client, name):
    rows = Rows(("L2", "L2"))
    fill(client, name, rows)
    queries = make_vectors(16_384, seed=SEED)
    found = client.search(name, list(queries), anns_field="a", limit=2)
    assert len(found) == 16_384
    exact = np.sort(scores("L2", rows.vectors[0], queries[::512]), axis=1)[:, :2]
    for result, expected in zip(found[::512], exact, strict=True):
        assert [hit["distance"] for hit in result] == pytest.approx(expected, rel=1e-4)


def test_a_query_in_the_order_of_fields(client, filled):
    name, rows = filled

    def by(field, descending, nulls_first):
        """Stable passes from the last key to the first."""
        values = getattr(rows, field)

        def order(ids):
            present = [i for i in ids if values[i] is not None]
            absent = [i for i in ids if values[i] is None]
            # `reverse` keeps equal rows in their order.
            present.sort(key=lambda i: values[i], reverse=descending)
            return absent + present if nulls_first else present + absent

        return order

    def query(order_by, **kwargs):
        found = client.query(
            name, filter="shelf < 30", order_by_fields=order_by, output_fields=["shelf"], **kwargs
        )
        assert all(set(row) == {"id", "shelf"} for row in found)
        return [row["id"] for row in found]

    ids = [i for i in rows.ids if rows.shelf[i] < 30]
    assert query(["shelf"]) == by("shelf", False, False)(ids)
    expected = by("color", True, True)(by("shelf", False, False)(ids))
    assert query(["color:desc", "shelf:asc"]) == expected
    assert query(["color:desc", "shelf"], limit=20, offset=15) == expected[15:35]
    expected = by("color", False, True)(by("shelf", True, True)(ids))
    assert query("color:asc:nulls_first,shelf:desc", limit=50) == expected[:50]
    with fails(1100, "order_by field 'none' does not exist"):
        query(["none"])
    with fails(1100, "which is not sortable"):
        query(["a"])
    with fails(1100, "invalid order direction 'up'"):
        query(["shelf:up"])
