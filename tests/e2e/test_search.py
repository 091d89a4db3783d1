"""Search against exact answers computed with numpy."""

import numpy as np
import pytest
from harness.data import (
    create_simple,
    entity,
    index_params,
    make_vectors,
    nearest,
    simple_rows,
    simple_schema,
)
from harness.errors import fails

METRICS = ["L2", "IP", "COSINE"]
N = 300


def hits_of(result):
    return [(hit["id"], hit["distance"]) for hit in result]


def assert_hits(found, expected):
    """Same ids in the same order; scores to float32 accuracy."""
    assert [i for i, _ in found] == [i for i, _ in expected]
    assert [s for _, s in found] == pytest.approx([s for _, s in expected], rel=1e-4, abs=1e-5)


def fill(client, name, state, count=N):
    """Rows 0..count in one of three states; returns their vectors."""
    rows = simple_rows(count)
    half = count // 2
    client.insert(name, rows[:half])
    if state == "mixed":
        client.flush(name)
    client.insert(name, rows[half:])
    if state == "sealed":
        client.flush(name)
    return np.array([row["vector"] for row in rows], dtype=np.float32)


@pytest.mark.parametrize("state", ["growing", "sealed", "mixed"])
@pytest.mark.parametrize("metric", METRICS)
def test_exact_neighbours(client, name, metric, state):
    create_simple(client, name, metric=metric)
    base = fill(client, name, state)
    queries = make_vectors(5, seed=99)
    found = client.search(name, queries.tolist(), limit=10)
    assert len(found) == 5
    for result, query in zip(found, queries, strict=True):
        assert_hits(hits_of(result), nearest(metric, list(range(N)), base, query, 10))


def test_more_wanted_than_there_is(client, name):
    create_simple(client, name)
    base = fill(client, name, "growing", 20)
    found = client.search(name, [[0.0] * 8], limit=100)[0]
    assert_hits(hits_of(found), nearest("L2", list(range(20)), base, np.zeros(8), 20))


def test_an_empty_collection(client, name):
    create_simple(client, name)
    assert list(map(list, client.search(name, [[0.0] * 8] * 3, limit=5))) == [[], [], []]


def test_ties_are_ordered_by_key(client, name):
    create_simple(client, name)
    rows = [{**row, "vector": [1.0] * 8} for row in simple_rows(20)]
    client.insert(name, rows[::-1])
    # Which of equally near rows are left out is nobody's promise; the order of those that come is.
    found = client.search(name, [[1.0] * 8], limit=20)[0]
    assert hits_of(found) == [(i, 0.0) for i in range(20)]
    client.flush(name)
    found = client.search(name, [[1.0] * 8], limit=20)[0]
    assert hits_of(found) == [(i, 0.0) for i in range(20)]


@pytest.mark.parametrize("state", ["growing", "mixed"])
def test_offset_pages_through(client, name, state):
    create_simple(client, name)
    base = fill(client, name, state)
    query = make_vectors(1, seed=5)[0]
    expected = nearest("L2", list(range(N)), base, query, 50)
    pages = []
    for offset in range(0, 50, 10):
        page = client.search(name, [query.tolist()], limit=10, offset=offset)[0]
        pages.extend(hits_of(page))
    assert_hits(pages, expected)
    assert len(client.search(name, [query.tolist()], limit=10, offset=N - 3)[0]) == 3
    assert len(client.search(name, [query.tolist()], limit=10, offset=N)[0]) == 0
    as_param = client.search(name, [query.tolist()], limit=5, search_params={"offset": 5})[0]
    assert_hits(hits_of(as_param), expected[5:10])


@pytest.mark.parametrize("state", ["growing", "sealed"])
def test_filter(client, name, state):
    create_simple(client, name)
    base = fill(client, name, state)
    query = make_vectors(1, seed=6)[0]
    chosen = [i for i in range(N) if 200 <= i * 10 < 900 and i % 2 == 0]
    found = client.search(
        name,
        [query.tolist()],
        limit=100,
        filter="200 <= number < 900 and number % 20 == 0",
    )[0]
    assert_hits(hits_of(found), nearest("L2", chosen, base[chosen], query, 100))
    assert client.search(name, [query.tolist()], filter="id < 0")[0] == []


def test_filter_templates(client, name):
    create_simple(client, name)
    base = fill(client, name, "growing")
    query = make_vectors(1, seed=6)[0]
    found = client.search(
        name,
        [query.tolist()],
        limit=10,
        filter="id in {wanted} and label != {never}",
        filter_params={"wanted": [3, 30, 200, 9999], "never": "row 30"},
    )[0]
    assert_hits(hits_of(found), nearest("L2", [3, 200], base[[3, 200]], query, 10))


@pytest.mark.parametrize("state", ["growing", "sealed"])
def test_deleted_rows_are_not_found(client, name, state):
    create_simple(client, name)
    base = fill(client, name, state)
    gone = list(range(0, N, 2))
    client.delete(name, ids=gone)
    kept = [i for i in range(N) if i % 2]
    found = client.search(name, [[0.0] * 8], limit=N)[0]
    assert_hits(hits_of(found), nearest("L2", kept, base[kept], np.zeros(8), N))


@pytest.mark.parametrize("state", ["growing", "sealed"])
def test_output_fields(client, name, state):
    create_simple(client, name)
    fill(client, name, state)
    row = simple_rows(N)[17]
    hit = client.search(name, [row["vector"]], limit=1)[0][0]
    assert hit["id"] == 17 and entity(hit) == {}
    hit = client.search(name, [row["vector"]], limit=1, output_fields=["label"])[0][0]
    assert entity(hit) == {"label": "row 17"}
    hit = client.search(name, [row["vector"]], limit=1, output_fields=["number", "vector"])[0][0]
    assert entity(hit) == {"number": 170, "vector": row["vector"]}
    hit = client.search(name, [row["vector"]], limit=1, output_fields=["*"])[0][0]
    assert {"id": 17, **entity(hit)} == row


def test_results_of_many_queries_do_not_mix(client, name):
    create_simple(client, name)
    rows = simple_rows(N)
    client.insert(name, rows)
    found = client.search(
        name, [row["vector"] for row in rows[:100]], limit=3, output_fields=["label"]
    )
    assert len(found) == 100
    for i, result in enumerate(found):
        assert result[0]["id"] == i
        assert [hit["entity"]["label"] for hit in result] == [f"row {hit['id']}" for hit in result]


@pytest.mark.parametrize("decimals", [0, 2, 4])
def test_round_decimal(client, name, decimals):
    create_simple(client, name)
    base = fill(client, name, "growing", 50)
    query = make_vectors(1, seed=8)[0]
    found = client.search(name, [query.tolist()], limit=50, round_decimal=decimals)[0]
    exact = dict(nearest("L2", list(range(50)), base, query, 50))
    for hit in found:
        assert hit["distance"] == pytest.approx(exact[hit["id"]], abs=0.51 * 10**-decimals)
        assert hit["distance"] == pytest.approx(round(hit["distance"], decimals), abs=1e-6)


@pytest.mark.parametrize("state", ["growing", "sealed"])
def test_range_search_l2(client, name, state):
    """radius is the outer border, range_filter the inner: range_filter <= distance < radius."""
    create_simple(client, name)
    base = fill(client, name, state)
    query = make_vectors(1, seed=10)[0]
    everything = nearest("L2", list(range(N)), base, query, N)
    low, high = everything[20][1] - 1e-4, everything[80][1] - 1e-4
    found = client.search(
        name,
        [query.tolist()],
        limit=N,
        search_params={"params": {"radius": high, "range_filter": low}},
    )[0]
    assert_hits(hits_of(found), everything[20:80])
    found = client.search(
        name, [query.tolist()], limit=5, search_params={"params": {"radius": high}}
    )[0]
    assert_hits(hits_of(found), everything[:5])


@pytest.mark.parametrize("metric", ["IP", "COSINE"])
def test_range_search_of_similarities(client, name, metric):
    """For similarities the outer border is the lower one: radius < score <= range_filter."""
    create_simple(client, name, metric=metric)
    base = fill(client, name, "growing")
    query = make_vectors(1, seed=10)[0]
    everything = nearest(metric, list(range(N)), base, query, N)
    high, low = everything[20][1] + 1e-4, everything[80][1] + 1e-4
    found = client.search(
        name,
        [query.tolist()],
        limit=N,
        search_params={"params": {"radius": low, "range_filter": high}},
    )[0]
    assert_hits(hits_of(found), everything[20:80])


@pytest.mark.parametrize(
    "metric, radius, range_filter", [("L2", 0.1, 0.5), ("IP", 0.5, 0.1), ("COSINE", 0.5, 0.1)]
)
def test_a_range_that_is_the_wrong_way_round_is_refused(client, name, metric, radius, range_filter):
    create_simple(client, name, metric=metric)
    fill(client, name, "growing", 10)
    with fails(None, "range_filter"):
        client.search(
            name,
            [[0.1] * 8],
            search_params={"params": {"radius": radius, "range_filter": range_filter}},
        )


def test_limits(client, name):
    create_simple(client, name)
    fill(client, name, "growing", 10)
    vector = [0.0] * 8
    assert len(client.search(name, [vector], limit=16384)[0]) == 10
    with fails(None, "it should be in range [1, 16384], but got 16385"):
        client.search(name, [vector], limit=16385)
    with fails(None, "(offset+limit) should be in range [1, 16384], but got 16390"):
        client.search(name, [vector], limit=10, offset=16380)
    text = "nq (number of search vector per search request) should be in range [1, 16384]"
    with fails(None, text, "but got 16385"):
        client.search(name, [vector] * 16385, limit=1)


def test_wrong_metric_is_refused(client, name):
    create_simple(client, name, metric="L2")
    fill(client, name, "growing", 10)
    with fails(None, "metric type not match"):
        client.search(name, [[0.0] * 8], search_params={"metric_type": "COSINE"})
    found = client.search(name, [[0.0] * 8], limit=3, search_params={"metric_type": "L2"})[0]
    assert len(found) == 3


def test_unknown_anns_field_is_refused(client, name):
    create_simple(client, name)
    with fails(None, "nothing_here"):
        client.search(name, [[0.0] * 8], anns_field="nothing_here")
    with fails(None, "label"):
        client.search(name, [[0.0] * 8], anns_field="label")


def test_bad_filters_are_refused(client, name):
    create_simple(client, name)
    with fails(1100, "failed to create query plan: cannot parse expression"):
        client.search(name, [[0.0] * 8], filter="number >")
    with fails(1100, "nothing_here"):
        client.search(name, [[0.0] * 8], filter="nothing_here == 1")


def test_numpy_vectors_are_taken(client, name):
    create_simple(client, name)
    base = fill(client, name, "growing", 50)
    found = client.search(name, [base[7]], limit=1)[0]
    assert hits_of(found) == [(7, 0.0)]


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_do_not_change_the_answer(client, name, shards):
    client.create_collection(
        name,
        schema=simple_schema(),
        index_params=index_params(),
        num_shards=shards,
        consistency_level="Strong",
    )
    base = fill(client, name, "mixed")
    query = make_vectors(1, seed=3)[0]
    found = client.search(name, [query.tolist()], limit=25, output_fields=["number"])[0]
    assert_hits(hits_of(found), nearest("L2", list(range(N)), base, query, 25))
    assert all(hit["entity"]["number"] == hit["id"] * 10 for hit in found)


def test_cosine_of_a_zero_vector_is_finite(client, name):
    create_simple(client, name, metric="COSINE")
    rows = simple_rows(3)
    rows[1]["vector"] = [0.0] * 8
    client.insert(name, rows)
    found = client.search(name, [[1.0] * 8], limit=3)[0]
    assert len(found) == 3
    assert all(abs(hit["distance"]) <= 1 + 1e-6 for hit in found)


def test_search_iterator(client, name):
    """Pages through the neighbours without repeating one."""
    create_simple(client, name)
    base = fill(client, name, "growing")
    query = make_vectors(1, seed=4)[0]
    iterator = client.search_iterator(name, [query.tolist()], batch_size=20, limit=100)
    seen = []
    while page := iterator.next():
        seen.extend((hit["id"], hit["distance"]) for hit in page)
    iterator.close()
    assert_hits(seen, nearest("L2", list(range(N)), base, query, 100))
