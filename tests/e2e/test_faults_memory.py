"""Little memory: writes are slowed down or refused in time, and the kernel never kills the server."""

import threading
import time

import pytest
from harness import faults
from harness.data import count, create_simple, index_params, make_vectors
from harness.process import Server
from harness.raw import Raw, longs, vectors
from harness.waiting import eventually
from pymilvus import DataType, MilvusClient, MilvusException

MIB = 1 << 20
DIM = 256
ROWS = 2_000
SECONDS = 20
SLOW_SECONDS = 180


@pytest.fixture
def group():
    with faults.memory_group(500 * MIB) as made:
        yield made


class Feeder(threading.Thread):
    """Inserts as fast as it is answered, while `goes_on`; comes back later when it is told to."""

    def __init__(self, server, name, number, goes_on):
        super().__init__(daemon=True)
        self.server, self.collection, self.number, self.goes_on = server, name, number, goes_on
        self.acknowledged = []
        self.refused = {}
        self.reasons = {}
        self.last_accepted = time.monotonic()
        self.failure = None

    def run(self):
        raw = Raw(self.server.address, [("grpc.use_local_subchannel_pool", 1)])
        try:
            batch = 0
            # Always the same vectors: to make new ones would take longer than to write them.
            same = vectors("vector", DIM, vectors_of(self.number).ravel())
            while self.goes_on():
                first = self.number * 100_000_000 + batch * ROWS
                columns = [longs("id", range(first, first + ROWS)), same]
                status = raw.insert(self.collection, columns, ROWS).status
                if status.code == 0:
                    self.acknowledged.append(first)
                    self.last_accepted = time.monotonic()
                    batch += 1
                    continue
                # Nothing else is an honest answer to too much: retry (8), or not at all (3).
                assert status.code in (3, 8), status
                assert status.retriable == (status.code == 8), status
                self.refused[status.code] = self.refused.get(status.code, 0) + 1
                self.reasons[status.code] = status.reason
                threading.Event().wait(0.02)
        except Exception as error:
            self.failure = error
        finally:
            raw.close()


def vectors_of(number):
    return make_vectors(ROWS, DIM, seed=number)


def vector_schema():
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    return schema


def feed(server, name, refusal, least=0, feeders=4):
    """For some seconds, and on a slow machine until somebody was refused with a code and at least
    so many batches were taken."""
    started, threads = time.monotonic(), []

    def goes_on():
        passed = time.monotonic() - started
        is_refused = any(refusal in thread.refused for thread in threads)
        is_enough = sum(len(thread.acknowledged) for thread in threads) >= least
        return passed < SECONDS or (passed < SLOW_SECONDS and not (is_refused and is_enough))

    threads += [Feeder(server, name, number, goes_on) for number in range(feeders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=SLOW_SECONDS + 90)
        assert not thread.is_alive(), "an insert is never answered"
        assert thread.failure is None, thread.failure
    return threads


@pytest.mark.timeout(600)
def test_a_client_that_is_faster_than_flushes_is_slowed_down(group, tmp_path):
    """Rows in no file are bounded: the client hears code 8 and goes on, and nothing is lost."""
    settings = {
        "querynode.growing_memory_limit": "12MiB",
        "querynode.segment_max_size": "4MiB",
        "common.memory_limit": "400MiB",
    }
    server = Server(tmp_path, settings=settings, wrapper=group.wrapper).start()
    try:
        client = server.client()
        # Not loaded: rows leave memory once they are in files.
        client.create_collection("fed", schema=vector_schema())
        started = time.monotonic()
        # More than memory holds at a time.
        least = 2 * 12 * MIB // (ROWS * DIM * 4) + 1
        threads = feed(server, "fed", 8, least)
        batches = sum(len(thread.acknowledged) for thread in threads)
        refused = sum(thread.refused.get(8, 0) for thread in threads)
        print(f"{batches} batches of {ROWS} x {DIM}, {refused} refusals")
        assert refused > 0, "the client was never slowed down, so the test shows nothing"
        for thread in threads:
            assert 3 not in thread.refused, (thread.refused, thread.reasons)
        # To the end of the time.
        assert batches >= least
        last = max(thread.last_accepted for thread in threads)
        assert last > started + SECONDS / 2, "writes came to a stand"
        assert server.child.poll() is None and group.kills() == 0
        client.flush("fed")
        client.close()
        assert group.kills() == 0
        server.stop()
        # To look at all of it at once takes more memory than the group has.
        server = Server(tmp_path).start()
        client = server.client()
        client.create_index("fed", index_params("FLAT", "L2"))
        client.load_collection("fed")
        assert count(client, "fed") == batches * ROWS
        client.close()
    finally:
        server.stop()


def takes_a_row(client, name):
    try:
        client.insert(name, [{"id": 1, "vector": [0.0] * 8, "number": 1, "label": "x"}])
    except MilvusException as error:
        assert error.code == 3, error
        return False
    return True


@pytest.mark.timeout(600)
def test_loaded_rows_never_exceed_the_memory(group, tmp_path):
    """With rows that stay in memory the limit is reached: refused with code 3, reads go on."""
    settings = {
        "querynode.growing_memory_limit": "12MiB",
        "querynode.segment_max_size": "4MiB",
        "common.memory_limit": "160MiB",
    }
    server = Server(tmp_path, settings=settings, wrapper=group.wrapper).start()
    try:
        client = server.client()
        client.create_collection(
            "kept",
            schema=vector_schema(),
            index_params=index_params("FLAT", "L2"),
            consistency_level="Strong",
        )
        threads = feed(server, "kept", 3)
        refused = sum(thread.refused.get(3, 0) for thread in threads)
        batches = sum(len(thread.acknowledged) for thread in threads)
        print(f"{batches} batches of {ROWS} x {DIM}, {refused} refusals for memory")
        assert refused > 0, "the limit was never reached, so the test shows nothing"
        assert server.child.poll() is None and group.kills() == 0
        assert count(client, "kept") == batches * ROWS
        query = vectors_of(0)[7].tolist()
        found = client.search("kept", [query], limit=len(threads[0].acknowledged))[0]
        assert {hit["id"] for hit in found} == {first + 7 for first in threads[0].acknowledged}
        # What is released makes room.
        client.release_collection("kept")
        create_simple(client, "next")
        eventually(lambda: takes_a_row(client, "next"), "there is room again", 120)
        assert count(client, "next") == 1
        assert group.kills() == 0
        client.close()
    finally:
        server.stop()
