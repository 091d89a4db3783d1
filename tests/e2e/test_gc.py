"""Garbage collection: exactly what a crash or a drop has left behind goes."""

import os
import random
import threading
import time

import grpc
import pytest
from harness import redkite
from harness.data import DIM, all_rows, count, create_simple, make_vectors, simple_rows
from harness.process import Server
from harness.raw import Raw, longs, strings, vectors
from harness.waiting import eventually
from pymilvus.grpc_gen import milvus_pb2

NAME = "collected"
MIN_KILLS, MAX_KILLS = 5, 40
# Enough for an index of a segment's own.
BATCH = 1100
# Rounds on demand only, and nothing is too young for them.
ON_DEMAND = {
    "datacoord.gc.enabled": "false",
    "datacoord.gc.grace": "0s",
    "datacoord.gc.dropped_grace": "0s",
}


@pytest.fixture
def collecting_server(tmp_path):
    # Nor does anything else write files or give them up of itself, however long a test takes.
    settings = {**ON_DEMAND, "datacoord.compaction.enabled": "false"}
    running = Server(tmp_path, settings=settings).start()
    yield running
    running.stop()


def objects(server):
    """Keys of all objects on disk."""
    root = server.data_dir / "objects"
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {str(path) for path in found if not str(path).startswith(".")}


def insert(client, name, rows):
    # The client limits a message to 4 MiB or so.
    for start in range(0, len(rows), 1000):
        client.insert(name, rows[start : start + 1000])


def keys(garbage):
    return {item["key"] for item in garbage}


def settle(client, server):
    """Waits until no flush or index build is under way: indexes are built, and nothing changes."""
    last = None

    def is_still():
        nonlocal last
        if client.describe_index(NAME, "vector")["state"] != "Finished":
            return False
        now = (objects(server), keys(redkite.gc(server, dry_run=True)["garbage"]))
        before, last = last, now
        return before == now

    eventually(is_still, "the data directory is still", 120, 0.3)


def test_what_is_named_is_never_deleted(collecting_server):
    server = collecting_server
    client = server.client()
    create_simple(client, NAME, index="HNSW")
    rows = simple_rows(1500)
    insert(client, NAME, rows)
    client.flush(NAME)
    client.delete(NAME, ids=list(range(100)))
    client.flush(NAME)
    settle(client, server)
    before = objects(server)
    assert any("index" in key for key in before)
    assert any(key.startswith("deltas/") for key in before)
    plan = redkite.gc(server, dry_run=True)
    assert plan["garbage"] == [] and plan["unknown"] == [], plan
    assert plan["named"] == len(before)
    assert redkite.gc(server)["deleted"] == 0
    assert objects(server) == before
    client.close()
    server.stop()
    server.start()
    client = server.client()
    assert count(client, NAME) == 1400
    client.close()


def test_a_file_that_nobody_named_goes_and_an_unknown_one_stays(collecting_server):
    server = collecting_server
    client = server.client()
    create_simple(client, NAME)
    insert(client, NAME, simple_rows(50))
    client.flush(NAME)
    named = objects(server)
    data = next(key for key in named if key.endswith(".parquet"))
    collection, partition = data.split("/")[1:3]
    root = server.data_dir / "objects"
    orphans = {
        f"segments/{collection}/{partition}/999999999/data.v1.parquet",
        f"segments/{collection}/{partition}/999999999/index/5/index.bin",
        f"deltas/{collection}v0/999999998.parquet",
    }
    stranger = f"segments/{collection}/{partition}/notes.txt"
    for key in {*orphans, stranger}:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(b"x" * 7)
    plan = redkite.gc(server, dry_run=True)
    assert keys(plan["garbage"]) == orphans
    assert all(item["size_bytes"] == 7 and item["why"] for item in plan["garbage"])
    assert plan["unknown"] == [stranger]
    code, out, err = redkite.run("gc", "--dry-run", "--admin", f"127.0.0.1:{server.admin_port}")
    assert code == 0, err
    assert all(key in out for key in orphans), out
    assert "3 objects with 21 bytes would be deleted" in out
    assert objects(server) == named | orphans | {stranger}
    round_ = redkite.gc(server)
    assert (round_["deleted"], round_["deleted_bytes"], round_["failed"]) == (3, 21, 0)
    assert objects(server) == named | {stranger}
    assert len(all_rows(client, NAME)) == 50
    client.close()


def test_a_young_file_stays_until_it_is_old(tmp_path):
    settings = {"datacoord.gc.interval": "200ms", "datacoord.gc.grace": "3s"}
    server = Server(tmp_path, settings=settings).start()
    try:
        client = server.client()
        create_simple(client, NAME)
        insert(client, NAME, simple_rows(10))
        client.flush(NAME)
        named = objects(server)
        data = next(key for key in named if key.endswith(".parquet"))
        orphan = server.data_dir / "objects" / data.replace("data.", "other.")
        started = time.time()
        orphan.write_bytes(b"x")
        eventually(lambda: not orphan.exists(), "the orphan is collected")
        # The disk's clock counts in steps that are a little coarse.
        assert time.time() - started >= 2.9
        assert objects(server) == named
        client.close()
    finally:
        server.stop()


def test_drops_free_their_space_soon(tmp_path):
    server = Server(tmp_path, settings={"datacoord.gc.dropped_grace": "0s"}).start()
    try:
        client = server.client()
        create_simple(client, NAME)
        create_simple(client, "kept")
        client.create_partition(NAME, "part")
        for name in (NAME, "kept"):
            insert(client, name, simple_rows(50))
        client.insert(NAME, simple_rows(50, start=100), partition_name="part")
        client.flush(NAME)
        client.flush("kept")
        client.delete(NAME, ids=[1])
        client.flush(NAME)
        ids = {name: client.describe_collection(name)["collection_id"] for name in (NAME, "kept")}
        prefix = f"segments/{ids[NAME]}/"
        partitions = {key.split("/")[2] for key in objects(server) if key.startswith(prefix)}
        assert len(partitions) == 2
        client.release_partitions(NAME, ["part"])
        client.drop_partition(NAME, "part")
        eventually(
            lambda: len({k.split("/")[2] for k in objects(server) if k.startswith(prefix)}) == 1,
            "the partition's files are gone",
        )
        assert count(client, NAME) == 49
        client.drop_collection(NAME)
        eventually(
            lambda: all(str(ids["kept"]) in key for key in objects(server)),
            "the collection's files are gone",
        )
        assert count(client, "kept") == 50
        client.close()
    finally:
        server.stop()


def test_a_log_of_a_dropped_collection_is_removed_at_start(tmp_path):
    server = Server(tmp_path).start()
    try:
        client = server.client()
        create_simple(client, NAME)
        insert(client, NAME, simple_rows(10))
        client.close()
        server.stop()
        wal = server.data_dir / "wal"
        (wal / "999999999v0").mkdir()
        living = {path.name for path in wal.iterdir()} - {"999999999v0"}
        assert living
        server.start()
        eventually(lambda: not (wal / "999999999v0").exists(), "the orphan log is removed")
        assert {path.name for path in wal.iterdir()} == living
        client = server.client()
        assert count(client, NAME) == 10
        client.close()
    finally:
        server.stop()


def keep_writing(server, first, killed, written, failures):
    """Inserts and flushes until the server is killed; `written` counts what was acknowledged."""
    raw = Raw(server.address, [("grpc.use_local_subchannel_pool", 1)])
    try:
        while not killed.is_set():
            keys_ = list(range(first + written[0], first + written[0] + BATCH))
            columns = [
                longs("id", keys_),
                vectors("vector", DIM, make_vectors(BATCH, DIM, seed=keys_[0]).ravel()),
                longs("number", keys_),
                strings("label", [str(key) for key in keys_]),
            ]
            reply = raw.insert(NAME, columns, BATCH)
            assert reply.status.code == 0, reply.status
            written[0] += BATCH
            raw.call("Flush", milvus_pb2.FlushRequest(collection_names=[NAME]))
    except grpc.RpcError as error:
        if not killed.is_set():
            failures.append(error)
    except Exception as error:
        failures.append(error)
    finally:
        raw.close()


@pytest.mark.timeout(600)
def test_orphans_of_kills_are_found_and_nothing_else(collecting_server):
    """What a kill -9 during flushes and builds leaves is listed, deleted, and missed by nobody."""
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    rng = random.Random(seed)
    server = collecting_server
    client = server.client()
    create_simple(client, NAME, index="HNSW")
    client.close()
    found, present = 0, 0
    for kill in range(MAX_KILLS):
        if kill >= MIN_KILLS and found >= 2:
            break
        killed, written, failures = threading.Event(), [0], []
        known = objects(server)
        thread = threading.Thread(
            target=keep_writing, args=(server, kill * 1_000_000, killed, written, failures)
        )
        thread.start()
        wanted = rng.randrange(1, 5)
        # The commit of what appears may be on its way, or a build of what was committed.
        eventually(
            lambda known=known, wanted=wanted: len(objects(server) - known) >= wanted or failures,
            "files appear",
            60,
            0.0005,
        )
        killed.set()
        server.kill9()
        thread.join()
        assert failures == []
        server.start()
        client = server.client()
        settle(client, server)
        before = objects(server)
        planned = keys(redkite.gc(server, dry_run=True)["garbage"])
        assert planned <= before
        assert objects(server) == before
        redkite.gc(server)
        settle(client, server)
        assert objects(server) == before - planned
        found += len(planned)
        before_kill, present = present, count(client, NAME)
        # The request that was cut off may be there, as a whole.
        assert present - before_kill in (written[0], written[0] + BATCH)
        client.close()
        # Everything that is left is named, and everything that is named is left.
        report = redkite.fsck(admin_port=server.admin_port)
        assert report["problems"] == []
        assert not any("not referenced" in note for note in report["notes"])
    print(f"{found} orphans in all")
    assert found, "no kill has left anything behind"
    client = server.client()
    client.release_collection(NAME)
    client.load_collection(NAME)
    assert count(client, NAME) == present
    client.close()
