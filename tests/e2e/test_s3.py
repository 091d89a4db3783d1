"""Everything but the metadata and the logs lies on S3: quick start, restarts, outages, processes."""

import os
import shutil
import subprocess
import sys

import pytest
from harness import redkite
from harness.data import all_rows, count, create_simple, simple_rows
from harness.faultproxy import FaultProxy
from harness.process import ROOT, Server, connect
from harness.waiting import eventually
from harness.weed import Bucket, Weed
from test_multiprocess import run_cluster
from test_vector_types import wait_indexed

# An outage that is longer than any of the server's own deadlines, which are set to match.
OUTAGE_SECONDS = float(os.environ.get("REDKITE_OUTAGE_SECONDS", "15"))


@pytest.fixture
def s3_server(tmp_path, s3):
    # Files of what is dropped go at once.
    settings = {"datacoord.gc.dropped_grace": "0s"}
    running = Server(tmp_path, env=s3.env, settings=settings).start()
    yield running
    running.stop()


@pytest.fixture
def own_weed(tmp_path):
    """An S3 server of the test's own, which it may stall and stop."""
    running = Weed(tmp_path).start()
    yield running
    running.stop()


def quick_start(uri):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py", uri],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "collection there: False" in done.stdout


def fill(client, name, rows=1_500):
    """An indexed, loaded collection with sealed and growing rows, some deleted; its rows."""
    create_simple(client, name, index="HNSW")
    client.insert(name, simple_rows(rows))
    client.flush(name)
    client.delete(name, ids=list(range(50)))
    client.flush(name)
    client.insert(name, simple_rows(100, start=10_000, seed=1))
    return all_rows(client, name)


def segment_keys(bucket):
    return [key for key in bucket.keys() if key.startswith("segments/")]


@pytest.mark.timeout(300)
def test_the_quick_start_passes(s3_server):
    quick_start(s3_server.uri)


@pytest.mark.timeout(300)
def test_a_new_machine_needs_only_metadata_and_logs(s3_server, s3, tmp_path):
    client = s3_server.client()
    before = fill(client, "c")
    client.release_collection("c")
    client.load_collection("c")
    client.close()
    assert len(before) == 1_550
    assert any(key.endswith(".parquet") for key in segment_keys(s3))
    eventually(lambda: any("/index/" in key for key in segment_keys(s3)), "an index is built", 60)
    assert not (s3_server.data_dir / "objects").exists()
    for moved in (False, True):
        s3_server.kill9()
        if moved:
            rest = tmp_path / "rest"
            s3_server.data_dir.rename(rest)
            s3_server.data_dir.mkdir()
            for kept in ("meta", "wal"):
                if (rest / kept).exists():
                    shutil.copytree(rest / kept, s3_server.data_dir / kept)
            shutil.rmtree(rest)
        s3_server.start()
        client = s3_server.client()
        assert all_rows(client, "c") == before
        hit = client.search("c", [before[200]["vector"]], limit=1)[0][0]
        assert hit["id"] == before[200]["id"]
        client.close()


@pytest.mark.timeout(300)
def test_a_dropped_collection_leaves_no_objects(s3_server, s3):
    client = s3_server.client()
    fill(client, "c")
    # A build that ends later than the drop writes its file behind the round that the drop has asked for.
    wait_indexed(client, "c", "vector")
    assert segment_keys(s3)
    client.drop_collection("c")
    eventually(lambda: not segment_keys(s3), "the objects are gone", 60, 0.5)
    client.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["stalled", "gone"])
def test_an_outage_of_s3_is_survived(tmp_path, own_weed, how):
    s3 = Bucket(own_weed)
    env = {
        **s3.env,
        "REDKITE__STORAGE__TIMEOUT": "10s",
        "REDKITE__STORAGE__REQUEST_TIMEOUT": "4s",
        # The logs stay at home; how they fare on S3 is seen in test_faults_store.py.
        "REDKITE__WAL__ENGINE": "local",
    }
    server = Server(tmp_path, env=env).start()
    try:
        client = server.client()
        create_simple(client, "c")
        client.insert("c", simple_rows(200))
        client.flush("c")
        if how == "stalled":
            own_weed.stall()
        else:
            own_weed.stop()
        # Writes need the log, searches what is loaded: both go on.
        client.insert("c", simple_rows(100, start=1_000))
        assert count(client, "c") == 300
        assert len(client.search("c", [simple_rows(1)[0]["vector"]], limit=5)[0]) == 5
        raw_flush = subprocess.Popen(
            [sys.executable, "-c", FLUSH, server.uri], stdout=subprocess.PIPE, text=True
        )
        try:
            raw_flush.wait(timeout=OUTAGE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        assert count(client, "c") == 300
        if how == "stalled":
            own_weed.go_on()
        else:
            own_weed.start()
        raw_flush.wait(timeout=120)
        client.insert("c", simple_rows(50, start=2_000))
        eventually(lambda: flushes(client, "c"), "a flush gets through", 120, 0.5)
        assert count(client, "c") == 350
        client.release_collection("c")
        client.load_collection("c")
        assert count(client, "c") == 350
        client.close()
    finally:
        server.stop()


FLUSH = """
import sys
from pymilvus import MilvusClient
MilvusClient(uri=sys.argv[1]).flush("c", timeout=100)
"""


def flushes(client, name):
    try:
        client.flush(name, timeout=60)
        return True
    except Exception:
        return False


def refused_start(folder, env):
    folder.mkdir()
    server = Server(folder, env=env)
    server.spawn()
    try:
        assert server.child.wait(timeout=60) != 0
        return server.log_tail()
    finally:
        server.stop()


def test_wrong_settings_are_a_clear_error_at_the_start(tmp_path, s3):
    wrong = {**s3.env, "REDKITE__STORAGE__SECRET_KEY": "not-the-right-one"}
    log = refused_start(tmp_path / "key", wrong)
    assert "SignatureDoesNotMatch" in log and "not-the-right-one" not in log
    assert "panicked" not in log
    log = refused_start(tmp_path / "bucket", {**s3.env, "REDKITE__STORAGE__URI": "s3://nobody/x"})
    assert "NoSuchBucket" in log and "s3://nobody/x" in log
    away = {
        **s3.env,
        "REDKITE__STORAGE__ENDPOINT": "http://127.0.0.1:9",
        "REDKITE__STORAGE__TIMEOUT": "1s",
        "REDKITE__STORAGE__REQUEST_TIMEOUT": "1s",
    }
    log = refused_start(tmp_path / "away", away)
    assert s3.uri in log and "refused" in log
    log = refused_start(tmp_path / "fs", {"REDKITE__STORAGE__REGION": "eu-central-1"})
    assert "storage.region" in log


@pytest.mark.timeout(300)
def test_six_processes_run_on_s3(tmp_path, s3):
    with run_cluster(tmp_path, s3.env) as cluster:
        proxy = cluster[-1]
        quick_start(proxy.uri)
        client = connect(proxy.uri)
        before = fill(client, "c", rows=300)
        client.close()
        node = next(p for p in cluster if p.name == "querynode")
        node.kill9()
        node.start()
        client = connect(proxy.uri)

        def served():
            try:
                return count(client, "c", timeout=5) == len(before)
            except Exception:
                return False

        eventually(served, "the rows are served after a kill", 60)
        assert all_rows(client, "c") == before
        client.close()
    assert segment_keys(s3)


def test_a_probe_that_a_kill_has_left_is_collected(tmp_path, weed):
    """A process that dies while it tries the store out leaves the object that it tried it with."""
    bucket = Bucket(weed)
    between = FaultProxy(weed.ports["s3.port"])
    env = {**bucket.env, "REDKITE__STORAGE__ENDPOINT": f"http://{between.address}"}
    server = Server(tmp_path, env=env, settings={"datacoord.gc.grace": "0s"})
    try:
        between.swallow = b"DELETE "
        server.spawn()
        eventually(lambda: between.hits, "the start deletes what it has written", 60, 0.005)
        server.kill9()
        between.swallow = None
        left = bucket.keys()
        assert len(left) == 1 and left[0].startswith("probe/"), left
        server.start()
        # Each start has one of its own.
        assert [key for key in bucket.keys() if key.startswith("probe/")] == left

        def is_collected():
            redkite.gc(server)
            return not [key for key in bucket.keys() if key.startswith("probe/")]

        planned = redkite.gc(server, dry_run=True)["garbage"]
        assert left[0] in [item["key"] for item in planned], planned
        eventually(is_collected, "the probe is collected", 60, 0.2)
    finally:
        server.stop()
        between.close()
