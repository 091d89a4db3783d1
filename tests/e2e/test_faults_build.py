"""kill -9 in the middle of index builds, in a deployment of separate processes.

A build that was cut off is done again; its rows are there all the time, and what it has left is collected.
"""

import os
import random

import pytest
from harness import faults, redkite
from harness.cluster import frozen, run_cluster
from harness.data import count, index_params, make_vectors
from harness.process import connect
from harness.raw import Raw, longs, vectors
from harness.waiting import eventually
from pymilvus import DataType

NAME = "built"
ROWS, DIM, BATCH = 8_000, 64, 2_000
KILLS = 3
VECTORS = make_vectors(ROWS, DIM, seed=3)
# Rounds of collection on demand only, and nothing is too young for them. Builds are equally long with more processors.
SETTINGS = {
    "datanode.build_threads": 2,
    # A data node gives up what a coordinator asked for that does not answer pings, one that is stopped too.
    "rpc.keepalive_timeout": "300s",
    "datacoord.gc.enabled": "false",
    "datacoord.gc.grace": "0s",
    "datacoord.gc.dropped_grace": "0s",
}


@pytest.fixture
def syncs(tmp_path):
    return faults.FailingSync(tmp_path)


@pytest.fixture
def cluster(tmp_path, syncs):
    with run_cluster(tmp_path, settings=SETTINGS, env=syncs.env) as running:
        yield running


def the(cluster, service):
    (process,) = cluster.services[service]
    return process


def fill(cluster):
    """A client, and a flushed collection that has no index yet."""
    client = connect(the(cluster, "proxy").uri)
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    client.create_collection(NAME, schema=schema, consistency_level="Strong")
    raw = Raw(the(cluster, "proxy").address)
    for start in range(0, ROWS, BATCH):
        values = VECTORS[start : start + BATCH].ravel()
        columns = [longs("id", range(start, start + BATCH)), vectors("vector", DIM, values)]
        assert raw.insert(NAME, columns, BATCH).status.code == 0
    raw.close()
    client.flush(NAME, timeout=120)
    return client


def begin(client, cluster):
    """Asks for an index; returns when the datanode is at it, with the CPU time that it had used before."""
    used = the(cluster, "datanode").cpu_seconds()
    # Takes so many seconds that it is not over when this process gets no time for a while.
    params = index_params("HNSW", M=32, efConstruction=1000)
    client.create_index(NAME, params, sync=False)
    await_work(client, cluster, used + 0.2)
    return used


def await_work(client, cluster, cpu_seconds):
    """Waits until the datanode has used so much CPU time for a build that is not over then."""
    datanode = the(cluster, "datanode")
    eventually(lambda: datanode.cpu_seconds() >= cpu_seconds, "the index is being built", 60)
    index = client.describe_index(NAME, "vector")
    assert index["state"] == "InProgress", f"the build is over too soon: {index}"


def objects(cluster):
    """Keys of all objects on disk."""
    root = cluster.folder / "data" / "objects"
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {str(path) for path in found if path.parts[0] != ".tmp"}


def is_complete(client, cluster):
    """The index is built and finds every row once; returns what was left behind, which is gone then."""
    eventually(
        lambda: client.describe_index(NAME, "vector")["state"] == "Finished",
        "the index is built",
        240,
        0.1,
    )
    index = client.describe_index(NAME, "vector")
    assert (index["indexed_rows"], index["pending_index_rows"]) == (ROWS, 0), index
    client.load_collection(NAME, timeout=120)
    assert count(client, NAME) == ROWS
    found = client.query(NAME, filter="id >= 0", output_fields=["id"], limit=2 * ROWS)
    assert sorted(row["id"] for row in found) == list(range(ROWS))
    asked = list(range(0, ROWS, 400))
    for key, hits in zip(asked, client.search(NAME, VECTORS[asked], limit=50), strict=True):
        keys = [hit["id"] for hit in hits]
        assert keys[0] == key and len(set(keys)) == 50, keys
    datacoord = the(cluster, "datacoord")
    before = objects(cluster)
    plan = redkite.gc(datacoord, dry_run=True)
    garbage = {item["key"] for item in plan["garbage"]}
    assert plan["unknown"] == [] and garbage <= before, plan
    assert plan["named"] == len(before - garbage), plan
    assert redkite.gc(datacoord)["deleted"] == len(garbage)
    assert objects(cluster) == before - garbage
    # One file of the one build that counts is left, and it is sound.
    assert len([key for key in objects(cluster) if "/index/" in key]) == 1
    report = redkite.fsck(admin_port=datacoord.admin_port)
    assert report["problems"] == []
    assert not any("not referenced" in note for note in report["notes"]), report
    return garbage


@pytest.mark.timeout(600)
def test_a_build_goes_on_when_its_datanode_is_back(cluster):
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    rng = random.Random(seed)
    client = fill(cluster)
    datanode, datacoord = the(cluster, "datanode"), the(cluster, "datacoord")
    used = begin(client, cluster)
    for kill in range(KILLS):
        await_work(client, cluster, used + rng.uniform(0.2, 0.6))
        datanode.kill9()
        eventually(
            lambda kill=kill: datacoord.log_path.read_text().count("index build failed") > kill,
            "the coordinator knows",
        )
        # Without anybody who builds it stays as it is, and says so.
        index = client.describe_index(NAME, "vector")
        assert (index["state"], index["pending_index_rows"]) == ("InProgress", ROWS), index
        datanode.start()
        # What a process uses to start is no build.
        used = datanode.cpu_seconds() + 0.1
    is_complete(client, cluster)
    client.close()


@pytest.mark.timeout(600)
def test_a_file_that_was_written_and_not_recorded_is_found(cluster):
    client = fill(cluster)
    datanode, datacoord = the(cluster, "datanode"), the(cluster, "datacoord")
    begin(client, cluster)
    with frozen(datacoord):
        eventually(
            lambda: any("/index/" in key for key in objects(cluster)), "the file is there", 240
        )
        written = {key for key in objects(cluster) if "/index/" in key}
        # It cannot take the answer to anybody any more.
        datanode.kill9()
        datacoord.child.kill()
    datacoord.wait_exit()
    for process in (datacoord, datanode):
        process.start()
    garbage = is_complete(client, cluster)
    # Threads make another graph each time, so the file has another name, or it is the very same.
    assert garbage == written - objects(cluster)
    client.close()


@pytest.mark.timeout(600)
def test_a_file_that_was_half_written_does_not_stay(cluster, syncs):
    client = fill(cluster)
    datanode, datacoord = the(cluster, "datanode"), the(cluster, "datacoord")
    temporary = cluster.folder / "data" / "objects" / ".tmp"

    pid = datanode.child.pid

    def drafts():
        return list(temporary.glob(f"{pid}-*"))

    # It gets its name once it is synced.
    syncs.hold(f"/.tmp/{pid}-")
    client.create_index(NAME, index_params("HNSW", M=32, efConstruction=200), sync=False)
    eventually(drafts, "the file is being written", 120)
    datanode.kill9()
    left = drafts()
    assert left, "nothing was left"
    syncs.stop()
    datanode.start()
    print(f"left: {[path.name for path in left]}")
    is_complete(client, cluster)

    def is_gone():
        redkite.gc(datacoord)
        return not any(path.exists() for path in left)

    eventually(is_gone, f"{left} are collected", 60, 0.2)
    client.close()
