"""Consistency levels: what a read must see, and that none of them waits without need."""

import itertools
import threading
import time

import pytest
from harness.data import create_simple, simple_rows
from harness.raw import keys
from pymilvus.grpc_gen import milvus_pb2

LEVELS = ["Strong", "Session", "Bounded", "Eventually"]


@pytest.mark.parametrize("level", LEVELS)
def test_levels_of_a_collection_are_kept(client, name, level):
    create_simple(client, name, consistency=level)
    assert client.describe_collection(name)["consistency_level_name"] == level


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_answers_and_strong_sees_all(client, name, level):
    create_simple(client, name, consistency=level)
    client.insert(name, simple_rows(10))
    hits = client.search(name, [simple_rows(1)[0]["vector"]], limit=10, consistency_level="Strong")
    assert len(hits[0]) == 10
    for read in LEVELS:
        rows = client.query(name, filter="id >= 0", limit=10, consistency_level=read)
        assert len(rows) <= 10


@pytest.mark.parametrize("level", ["Strong", "Session"])
def test_a_client_reads_its_own_writes(client, name, level):
    create_simple(client, name, consistency="Bounded")
    for i in range(30):
        client.insert(name, simple_rows(1, start=i))
        rows = client.query(name, filter=f"id == {i}", consistency_level=level)
        assert len(rows) == 1, f"row {i} is missing under {level}"
        client.delete(name, ids=[i])
        rows = client.query(name, filter=f"id == {i}", consistency_level=level)
        assert rows == []


def test_strong_sees_the_writes_of_others(client, new_client, name):
    create_simple(client, name, consistency="Eventually")
    other = new_client()
    for i in range(30):
        other.insert(name, simple_rows(1, start=i))
        assert len(client.query(name, filter=f"id == {i}", consistency_level="Strong")) == 1


def test_strong_reads_while_others_write(client, new_client, name):
    """A strong read started after n acknowledged inserts sees at least n rows."""
    create_simple(client, name)
    written = [0]
    stop = threading.Event()
    failures = []

    def write():
        mine = new_client()
        try:
            while not stop.is_set() and written[0] < 3000:
                mine.insert(name, simple_rows(10, start=written[0]))
                written[0] += 10
        except Exception as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(30):
            before = written[0]
            rows = client.query(name, filter="", output_fields=["count(*)"])
            assert rows[0]["count(*)"] >= before
            assert rows[0]["count(*)"] % 10 == 0, "a batch was seen in part"
    finally:
        stop.set()
        writer.join()
    assert failures == []


def test_a_read_in_the_past_does_not_see_later_rows(client, raw, name):
    create_simple(client, name)
    client.insert(name, simple_rows(5))
    stamp = raw.call("AllocTimestamp", milvus_pb2.AllocTimestampRequest()).timestamp
    client.insert(name, simple_rows(5, start=100))
    reply = raw.call(
        "Query",
        milvus_pb2.QueryRequest(
            collection_name=name,
            expr="id >= 0",
            output_fields=["id"],
            query_params=keys({"limit": 100, "iterator": "True"}),
            guarantee_timestamp=stamp,
        ),
    )
    assert reply.status.code == 0
    assert reply.session_ts > 0


def test_strong_reads_are_quick_after_a_write(client, name):
    """Nothing waits for a tick: the promise is a few milliseconds, asserted with much slack, and against
    reads that wait for nothing, as a machine may be slow at all of them."""
    create_simple(client, name)
    client.insert(name, simple_rows(100))
    vector = simple_rows(1)[0]["vector"]
    number = itertools.count(1000)

    def seconds(level):
        client.insert(name, simple_rows(1, start=next(number)))
        start = time.perf_counter()
        client.search(name, [vector], limit=3, consistency_level=level)
        return time.perf_counter() - start

    more = [seconds("Strong") - seconds("Eventually") for _ in range(31)]
    assert sorted(more)[15] < 0.15
