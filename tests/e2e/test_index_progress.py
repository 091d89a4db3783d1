"""How far an index is shows while it is built, within one segment too."""

import pytest
from harness.cluster import frozen, run_cluster
from harness.data import index_params, make_vectors, simple_schema
from harness.process import Server, connect
from harness.raw import Raw, longs, strings, vectors
from harness.waiting import eventually
from pymilvus.grpc_gen import common_pb2, milvus_pb2

NAME = "built"
ROWS, DIM, BATCH = 20_000, 64, 4_000
# A build takes many seconds then, with any number of processors.
SETTINGS = {"datanode.build_threads": 1}
SLOW = index_params("HNSW", M=32, efConstruction=300)


@pytest.fixture(params=["standalone", "cluster"])
def processes(request, tmp_path):
    """The process that clients talk to, and the one that builds."""
    if request.param == "standalone":
        running = Server(tmp_path, settings=SETTINGS).start()
        yield [running, running]
        running.stop()
        return
    with run_cluster(tmp_path, settings=SETTINGS) as cluster:
        yield [cluster.services["proxy"][0], cluster.services["datanode"][0]]


def fill(client, address):
    """One segment without an index."""
    client.create_collection(NAME, schema=simple_schema(dim=DIM), num_shards=1)
    raw = Raw(address)
    values = make_vectors(ROWS, DIM, seed=5)
    for start in range(0, ROWS, BATCH):
        ids = range(start, start + BATCH)
        columns = [
            longs("id", ids),
            vectors("vector", DIM, values[start : start + BATCH].ravel()),
            longs("number", ids),
            strings("label", [str(i) for i in ids]),
        ]
        assert raw.insert(NAME, columns, BATCH).status.code == 0
    raw.close()
    client.flush(NAME, timeout=120)


def described(client):
    """What describe_index says. All rows are indexed at the end only, and none is counted twice."""
    index = client.describe_index(NAME, "vector")
    assert index["state"] in ("InProgress", "Finished"), index
    assert index["total_rows"] == ROWS, index
    assert index["indexed_rows"] + index["pending_index_rows"] == ROWS, index
    assert (index["pending_index_rows"] == 0) == (index["state"] == "Finished"), index
    return index


def rows_in_progress(client):
    index = described(client)
    assert index["state"] == "InProgress", f"the build is over too soon: {index}"
    return index["indexed_rows"]


@pytest.mark.timeout(600)
def test_rows_are_counted_while_a_segment_is_built(processes):
    front, builder = processes
    client = connect(front.uri)
    fill(client, front.address)
    client.create_index(NAME, SLOW, sync=False)
    first = eventually(lambda: rows_in_progress(client), "some rows are indexed", 120)
    eventually(lambda: rows_in_progress(client) > first, "more rows are indexed", 120)

    raw = Raw(front.address)
    request = milvus_pb2.GetIndexBuildProgressRequest(collection_name=NAME, index_name="vector")
    progress = raw.call("GetIndexBuildProgress", request)
    assert progress.status.code == 0 and progress.total_rows == ROWS, progress
    assert first < progress.indexed_rows < ROWS, progress
    request = milvus_pb2.GetIndexStateRequest(collection_name=NAME, index_name="vector")
    assert raw.call("GetIndexState", request).state == common_pb2.InProgress
    raw.close()

    if builder is not front:
        with frozen(builder):
            # Who builds does not say anything, and clients are answered nevertheless.
            assert rows_in_progress(client) == 0
        eventually(lambda: rows_in_progress(client) > first, "the build has gone on", 60)

    eventually(lambda: described(client)["state"] == "Finished", "the index is built", 450, 0.1)
    client.close()
