"""A full disk: writes are refused with code 7, everything else goes on, and space is all it takes.

The data directory is a small file system of its own, so that full means full.
"""

import itertools
import math
import random
import re
import threading

import pytest
from harness import faults
from harness.data import count, create_simple, simple_rows, simple_schema
from harness.errors import fails
from harness.process import Server
from harness.waiting import eventually
from harness.workload import Definer, Load, Writer, check_everything
from pymilvus import MilvusException
from pymilvus.client.types import LoadState

MIB = 1 << 20
NAME = "cramped"
DISK_LIMIT = 7
IO_FAILED = 1001


@pytest.fixture
def disk():
    with faults.small_disk(160 * MIB) as place:
        yield place


def start(tmp_path, disk, **settings):
    # Files of what is dropped go at once.
    settings = {"common.min_free_space": "48MiB", "datacoord.gc.dropped_grace": "0s", **settings}
    return Server(tmp_path, data_dir=disk / "data", settings=settings).start()


def insert_until_refused(client, name, first=0):
    """Inserts until the server refuses; returns the error and how many rows are there."""
    rows = first
    while True:
        try:
            client.insert(name, simple_rows(500, dim=256, start=rows, seed=rows))
        except MilvusException as error:
            return error, rows
        rows += 500
        assert rows < 1_000_000, "the disk is never full"


def accepts_writes(client, name, key):
    try:
        client.insert(name, simple_rows(1, dim=256, start=key, seed=key))
    except MilvusException as error:
        assert error.code in (DISK_LIMIT, IO_FAILED), error
        return False
    return True


@pytest.mark.timeout(300)
def test_a_disk_that_users_fill_refuses_their_writes_and_nothing_else(disk, tmp_path):
    server = start(tmp_path, disk)
    try:
        client = server.client()
        create_simple(client, NAME, dim=256)
        create_simple(client, "served")
        client.insert("served", simple_rows(100))
        client.flush("served")
        # Most of it is full already, for the test's own speed.
        faults.fill(disk, leave=60 * MIB)
        error, rows = insert_until_refused(client, NAME)
        assert error.code == DISK_LIMIT, error
        assert str(disk) in error.message, "the error does not say what is full"
        # What makes something new is refused likewise, and leaves nothing behind.
        with fails(DISK_LIMIT, str(disk)):
            client.create_collection("more", schema=simple_schema())
        with fails(DISK_LIMIT, str(disk)):
            client.create_partition("served", "more")
        assert not client.has_collection("more")
        # Reads, deletes, changes and removals go on.
        assert count(client, NAME) == rows
        assert count(client, "served") == 100
        client.delete("served", ids=list(range(10)))
        assert count(client, "served") == 90
        client.alter_collection_properties("served", {"note": "still"})
        client.release_collection("served")
        client.load_collection("served")
        assert client.get_load_state("served")["state"] == LoadState.Loaded
        assert count(client, "served") == 90
        # Dropping is what makes space, and space is all it takes.
        client.drop_collection(NAME)
        eventually(lambda: not client.has_collection(NAME), "the collection is dropped", 120)
        create_after = eventually(lambda: try_create(client), "definitions are taken again", 120)
        assert create_after
        eventually(lambda: accepts_writes(client, "again", 1), "writes are taken again", 120)
        assert count(client, "again") == 1
        client.close()
        server.kill9()
        server.start()
        client = server.client()
        assert sorted(client.list_collections()) == ["again", "served"]
        assert count(client, "served") == 90
        client.close()
    finally:
        server.stop()


def try_create(client):
    try:
        create_simple(client, "again", dim=256)
    except MilvusException as error:
        assert error.code == DISK_LIMIT, error
        return False
    return True


@pytest.mark.timeout(300)
@pytest.mark.parametrize("min_free_space", ["48MiB", "0"])
def test_a_disk_that_somebody_else_fills_to_the_last_byte(disk, tmp_path, min_free_space):
    """The process lives on without a byte of space, and goes on by itself when there is some."""
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed={seed}")
    server = start(tmp_path, disk, **{"common.min_free_space": min_free_space})
    try:
        client = server.client()
        create_simple(client, NAME, index="HNSW")
        refusals = {DISK_LIMIT, IO_FAILED}
        workers = [Writer(number, seed, NAME, tolerated=refusals) for number in range(2)]
        # Without a reserve of its own, what is defined on a full disk is the last thing that it does.
        kinds = ["flush"] if min_free_space == "0" else ["flush", "create", "drop"]
        workers.append(Definer(seed, NAME, kinds=kinds, tolerated=refusals))
        with Load(server.address, workers) as load:
            for _ in range(3):
                progresses(load)
                refused = load.refusals()
                filler = faults.fill(disk)
                eventually(
                    lambda refused=refused: load.is_refused_since(refused, 10) or load.failed(),
                    "writes are refused",
                    120,
                )
                assert not load.failed(), [worker.failure for worker in workers]
                assert server.child.poll() is None, server.log_tail()
                # Reads go on all the same.
                assert count(client, NAME) >= 0
                threading.Event().wait(1.5)
                assert server.child.poll() is None, server.log_tail()
                filler.unlink(missing_ok=True)
                progresses(load)
        load.check()
        assert server.child.poll() is None, server.log_tail()
        found = check_everything(client, NAME, workers)
        client.flush(NAME)
        assert check_everything(client, NAME, workers) == found
        client.close()
        server.kill9()
        server.start()
        client = server.client()
        assert check_everything(client, NAME, workers) == found
        client.close()
    finally:
        server.stop()


def progresses(load, more=30):
    wanted = load.acknowledged() + more
    eventually(
        lambda: load.acknowledged() >= wanted or load.failed(), "writes are acknowledged", 60
    )
    assert not load.failed(), [worker.failure for worker in load.workers]


@pytest.mark.timeout(300)
def test_flushes_and_index_builds_wait_for_space(disk, tmp_path):
    server = start(tmp_path, disk, **{"common.min_free_space": "40MiB"})
    try:
        client = server.client()
        create_simple(client, NAME, index="HNSW", dim=64)
        client.insert(NAME, simple_rows(2000, dim=64))
        # Below the half of what is kept free nothing but the metastore writes.
        filler = faults.fill(disk, leave=10 * MIB)
        # The disk is looked at from time to time, maybe before it was as full as that. Rows that are
        # refused then would have what is there flushed at once, while there is still room for it.
        names = (f"probe_{number}" for number in itertools.count())
        eventually(
            lambda: free_when_refused(client, next(names)) <= 10 * MIB, "the full disk is noticed", 120
        )
        with fails(DISK_LIMIT, str(disk)):
            client.flush(NAME)
        assert count(client, NAME) == 2000
        filler.unlink(missing_ok=True)
        eventually(lambda: flushes(client), "the flush goes through", 60)
        eventually(
            lambda: client.describe_index(NAME, "vector")["pending_index_rows"] == 0,
            "the index is built",
            60,
        )
        assert client.describe_index(NAME, "vector")["state"] == "Finished"
        assert count(client, NAME) == 2000
        client.close()
    finally:
        server.stop()


def free_when_refused(client, partition):
    """Free bytes as the server sees them where it refuses a partition; endless where it does not."""
    try:
        client.create_partition(NAME, partition)
    except MilvusException as error:
        assert error.code == DISK_LIMIT, error
        return int(re.search(r"\[(\d+) bytes free", error.message)[1])
    return math.inf


def flushes(client):
    try:
        client.flush(NAME)
    except MilvusException as error:
        assert error.code in (DISK_LIMIT, 8), error
        return False
    return True


def test_a_server_that_cannot_start_on_a_full_disk_says_so_and_starts_later(disk, tmp_path):
    server = start(tmp_path, disk)
    client = server.client()
    try:
        create_simple(client, NAME)
        client.insert(NAME, simple_rows(300))
        client.close()
        server.kill9()
        filler = faults.fill(disk)
        server.spawn()
        # Either it serves what is there, or it ends and says why; it never hangs half-way.
        state = eventually(
            lambda: (server.child.poll() is not None and "ended")
            or (server.admin_status("/readyz") == 200 and "serves"),
            "the server decides",
            60,
        )
        if state == "ended":
            assert "space" in server.log_tail().lower(), server.log_tail()
            assert server.wait_exit() != 0
        else:
            client = server.client()
            assert count(client, NAME) == 300
            client.close()
            server.kill9()
        filler.unlink(missing_ok=True)
        server.start()
        client = server.client()
        assert count(client, NAME) == 300
        client.close()
    finally:
        server.stop()
