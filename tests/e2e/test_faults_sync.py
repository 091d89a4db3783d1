"""A sync that fails: what it was for is not acknowledged, and never half there.

The kernel reports a lost page once; the next sync of the same file succeeds and the data is gone. So
after a failed sync a file is not trusted: a log is read again, an object is written again, and the
metastore's process ends.
"""

import itertools
import random
import re
from datetime import datetime

import grpc
import pytest
from harness import faults
from harness.data import count, create_simple, simple_rows
from harness.errors import fails
from harness.process import Server
from harness.raw import Raw
from harness.waiting import eventually
from harness.workload import Load, Writer, check_everything
from pymilvus import MilvusException
from pymilvus.client.types import IndexState, LoadState
from pymilvus.grpc_gen import milvus_pb2

NAME = "unsynced"
IO_FAILED = 1001


@pytest.fixture
def failing(tmp_path):
    return faults.FailingSync(tmp_path)


@pytest.fixture
def server(tmp_path, failing):
    running = Server(tmp_path, env=failing.env).start()
    yield running
    running.stop()


def channel_of(server, client, name):
    """The folder of a collection's log."""
    collection = client.describe_collection(name)["collection_id"]
    folders = list((server.data_dir / "wal").glob(f"*{collection}v0"))
    assert len(folders) == 1, folders
    return folders[0]


def test_a_log_that_cannot_be_synced_acknowledges_nothing(server, failing):
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed={seed}")
    client = server.client()
    create_simple(client, NAME)
    create_simple(client, "other")
    broken = channel_of(server, client, NAME)
    # The code of a log that has failed, and of one that cannot be opened again.
    workers = [Writer(number, seed, NAME, tolerated={IO_FAILED}) for number in range(2)]
    others = [Writer(7, seed, "other")]
    with Load(server.address, workers) as load, Load(server.address, others) as healthy:
        for _ in range(3):
            progresses(load)
            refused = load.refusals()
            failing.start(f"/{broken.name}/")
            eventually(
                lambda refused=refused: load.is_refused_since(refused) or load.failed(),
                "writes fail",
                120,
            )
            before = load.acknowledged()
            # Nothing was acknowledged since, whatever is tried; other channels go on.
            progresses(healthy)
            assert load.acknowledged() == before
            with fails(IO_FAILED):
                client.insert(NAME, simple_rows(1, start=99_000_000))
            assert count(client, "other") > 0
            failing.stop()
            progresses(load)
    load.check()
    healthy.check()
    found = check_everything(client, NAME, workers)
    check_everything(client, "other", others)
    client.close()
    server.kill9()
    server.start()
    client = server.client()
    # The row that was refused above may have turned up, once.
    assert check_everything(client, NAME, workers) == found
    check_everything(client, "other", others)
    client.close()


def progresses(load, more=20):
    wanted = load.acknowledged() + more
    eventually(
        lambda: load.acknowledged() >= wanted or load.failed(), "writes are acknowledged", 60
    )
    assert not load.failed(), [worker.failure for worker in load.workers]


def test_objects_that_cannot_be_synced_are_written_again(server, failing):
    client = server.client()
    create_simple(client, NAME, index="HNSW")
    client.insert(NAME, simple_rows(3000))
    client.delete(NAME, ids=list(range(100)))
    failing.start("/objects")
    with fails(IO_FAILED):
        client.flush(NAME)
    # Rows stay in memory and in the log, and are served and written as before.
    assert count(client, NAME) == 2900
    client.insert(NAME, simple_rows(100, start=10_000))
    assert count(client, NAME) == 3000
    failing.stop()
    eventually(lambda: flushes(client, NAME), "the flush goes through", 120)
    assert count(client, NAME) == 3000
    # An index build that fails for the same reason is not given up.
    client.insert(NAME, simple_rows(2000, start=20_000))
    client.close()
    server.kill9()
    server.start()
    client = server.client()
    assert count(client, NAME) == 5000
    client.flush(NAME)
    eventually(
        lambda: client.describe_index(NAME, "vector")["pending_index_rows"] == 0,
        "the index is built",
        60,
    )
    client.close()


def flushes(client, name):
    try:
        client.flush(name)
    except MilvusException as error:
        assert error.code in (IO_FAILED, 8), error
        return False
    return True


def test_an_index_build_outlives_a_store_that_fails(server, failing):
    client = server.client()
    client.create_collection("c", dimension=8, metric_type="L2", auto_id=False)
    client.insert("c", [{"id": i, "vector": [float(i)] * 8} for i in range(2000)])
    client.flush("c")
    client.release_collection("c")
    client.drop_index("c", "vector")
    failing.start("/objects")
    params = client.prepare_index_params()
    params.add_index("vector", index_type="HNSW", metric_type="L2", M=8, efConstruction=40)
    client.create_index("c", params, sync=False)

    # More often than a build may fail for reasons of its own. A store in trouble is left alone for longer and
    # longer: at last pauses are longer than builds are on a slow machine.
    def left_alone():
        times = tries(server, 8)
        gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(times or [])]
        return times and min(gaps[-2:]) > 2 * min(gaps[:2]) and gaps

    gaps = eventually(left_alone, "the build is tried again and again", 300, interval=0.2)
    print(f"seconds between tries: {gaps}")
    # Whoever asks is told why it takes so long, and how much is not done.
    index = described(server, "c")
    assert index.state == IndexState.InProgress, index
    assert "os error 5" in index.index_state_fail_reason, index
    assert (index.total_rows, index.pending_index_rows) == (2000, 2000), index
    failing.stop()
    index = eventually(
        lambda: (now := described(server, "c")).state == IndexState.Finished and now,
        "the index is built",
        120,
    )
    assert (index.index_state_fail_reason, index.pending_index_rows) == ("", 0), index
    client.close()


def tries(server, least):
    """When the build that has failed most often failed, if that is `least` times; no build is given up."""
    index = described(server, "c")
    assert index.state != IndexState.Failed, index
    times = {}
    for line in server.log_path.read_text().splitlines():
        if found := re.match(r"(\S+)Z .* index build failed build=(\d+) ", line):
            times.setdefault(found[2], []).append(datetime.fromisoformat(found[1]))
    most = max(times.values(), key=len, default=[])
    return most if len(most) >= least else None


def described(server, name):
    """The only index of a collection, as the server describes it."""
    raw = Raw(server.address)
    reply = raw.call("DescribeIndex", milvus_pb2.DescribeIndexRequest(collection_name=name))
    raw.close()
    assert reply.status.code == 0, reply
    (index,) = reply.index_descriptions
    return index


def test_a_metastore_that_cannot_be_synced_ends_the_process(server, failing):
    client = server.client()
    create_simple(client, NAME)
    client.insert(NAME, simple_rows(500))
    names = [f"sure{number}" for number in range(5)]
    for name in names:
        client.create_partition(NAME, name)
    failing.start("/meta/")
    # Timestamps alone need the metastore every few seconds; a definition needs it now, if it is not over before:
    # that the last one is done is written behind its answer. A client that is answered late, or whose
    # connection ends first, has an error of gRPC's.
    with pytest.raises((MilvusException, grpc.RpcError)):
        client.create_partition(NAME, "unsure", timeout=30)
    client.close()
    assert server.wait_exit(60) != 0
    log = server.log_tail()
    assert "raft log" in log and "panicked" not in log, log
    # It does not start on it either, as long as it lasts.
    server.spawn()
    assert server.wait_exit(60) != 0
    failing.stop()
    server.start()
    client = server.client()
    listed = set(client.list_partitions(NAME)) - {"_default"}
    assert set(names) <= listed <= {*names, "unsure"}
    assert client.get_load_state(NAME)["state"] == LoadState.Loaded
    assert count(client, NAME) == 500
    client.create_partition(NAME, "afterwards")
    client.close()
