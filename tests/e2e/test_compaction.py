"""Compaction as clients see it, and that nobody else sees it at all."""

import os
import random
import threading

import numpy as np
import pytest
from harness import redkite
from harness.data import (
    all_rows,
    count,
    create_simple,
    make_vectors,
    nearest,
    simple_rows,
    simple_schema,
)
from harness.errors import fails
from harness.process import Server
from harness.waiting import eventually
from pymilvus import DataType
from pymilvus.grpc_gen import milvus_pb2

DIM = 8
# Compactions happen when a test asks for them, not before.
BY_HAND = {"REDKITE__DATACOORD__COMPACTION__ENABLED": "false"}
# Compactions happen all the time.
EAGER = {
    "REDKITE__DATACOORD__COMPACTION__INTERVAL": "100ms",
    "REDKITE__DATACOORD__COMPACTION__MIN_SMALL_SEGMENTS": "2",
    "REDKITE__DATACOORD__COMPACTION__RETENTION": "1s",
    "REDKITE__DATACOORD__COMPACTION__DELETE_SHARE": "0.01",
}


# Delete files are merged all the time, segments never written again; garbage goes on demand.
MERGING = {
    "REDKITE__DATACOORD__COMPACTION__INTERVAL": "100ms",
    "REDKITE__DATACOORD__COMPACTION__MIN_SMALL_SEGMENTS": "100",
    "REDKITE__DATACOORD__COMPACTION__DELETE_SHARE": "1.0",
    "REDKITE__DATACOORD__COMPACTION__RETENTION": "0s",
    "REDKITE__DATACOORD__COMPACTION__MIN_DELETE_FILES": "3",
    "REDKITE__DATACOORD__GC__ENABLED": "false",
    "REDKITE__DATACOORD__GC__GRACE": "0s",
    "REDKITE__DATACOORD__GC__DROPPED_GRACE": "0s",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("by_hand"), env=BY_HAND).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server):
    connected = server.client()
    yield connected
    connected.close()


def fill(client, name, flushes, rows_each=50):
    """Segments of `rows_each` rows, one for each flush; the rows."""
    rows = simple_rows(flushes * rows_each)
    for start in range(0, len(rows), rows_each):
        client.insert(name, rows[start : start + rows_each])
        client.flush(name)
    return rows


def wait_completed(client, job):
    eventually(lambda: client.get_compaction_state(job) == "Completed", f"compaction {job}", 60)


def segments(client, name):
    return sorted(client.list_persistent_segments(name), key=lambda one: one.segment_id)


def rows_of(client, name):
    return all_rows(client, name)


def test_small_segments_become_one(client, name):
    create_simple(client, name)
    rows = fill(client, name, 5)
    before = segments(client, name)
    assert len(before) == 5
    job = client.compact(name)
    assert job > 0
    wait_completed(client, job)
    after = segments(client, name)
    assert [one.num_rows for one in after] == [250]
    assert sorted(after[0].compaction_from) == [one.segment_id for one in before]
    assert after[0].is_sorted
    assert [row["id"] for row in rows_of(client, name)] == [row["id"] for row in rows]
    assert count(client, name) == 250
    assert client.get_collection_stats(name)["row_count"] == 250
    # A flushed segment that was compacted is still a flushed one.
    request = milvus_pb2.GetFlushStateRequest(
        segmentIDs=[one.segment_id for one in before], collection_name=name
    )
    state = client._get_connection()._stub.GetFlushState(request)
    assert state.status.code == 0 and state.flushed
    # And nothing is left to do.
    assert client.compact(name) == -1
    assert client.get_compaction_state(-1) == "Completed"


def test_deleted_rows_go_and_the_rest_stays(client, name):
    create_simple(client, name)
    rows = fill(client, name, 2)
    client.delete(name, ids=list(range(0, 100, 3)))
    client.upsert(name, [{**rows[1], "number": -1}])
    client.flush(name)
    assert client.get_collection_stats(name)["row_count"] == 101
    job = client.compact(name)
    wait_completed(client, job)
    assert [one.num_rows for one in segments(client, name)] == [66]
    eventually(
        lambda: client.get_collection_stats(name)["row_count"] == 66, "the owner counts anew"
    )
    expected = [{**row} for row in rows if row["id"] % 3]
    expected[0]["number"] = -1
    found = rows_of(client, name)
    assert [(row["id"], row["number"]) for row in found] == [
        (row["id"], row["number"]) for row in expected
    ]
    # A key that was deleted may come back.
    client.insert(name, [rows[0]])
    assert count(client, name) == 67
    client.release_collection(name)
    client.load_collection(name)
    assert count(client, name) == 67


def test_delete_files_become_one_and_hide_what_they_hid(tmp_path):
    server = Server(tmp_path, env=MERGING).start()
    client = server.client()
    create_simple(client, "merged")
    rows = fill(client, "merged", 2, rows_each=100)
    before = segments(client, "merged")
    expected = {row["id"]: row["number"] for row in rows}
    for turn in range(7):
        gone = list(range(turn, 200, 20))
        client.delete("merged", ids=gone)
        for key in gone:
            expected.pop(key, None)
        # A key that was deleted comes back in between: only what is older stays hidden.
        if turn == 3:
            client.insert("merged", [{**rows[0], "number": -1}])
            expected[0] = -1
        client.flush("merged")

    def delete_files():
        redkite.gc(server)
        return list((server.data_dir / "objects" / "deltas").rglob("*.parquet"))

    eventually(lambda: len(delete_files()) < 3, "delete files are merged and collected")

    def check():
        found = {row["id"]: row["number"] for row in rows_of(client, "merged")}
        assert found == expected

    check()
    # Read anew from the merged file.
    client.release_collection("merged")
    client.load_collection("merged")
    check()
    server.kill9()
    server.start()
    client = server.client()
    check()
    after = {one.segment_id for one in segments(client, "merged")}
    assert after >= {one.segment_id for one in before}, "no segment was written again"
    # What is compacted then has the deletes in it.
    job = client.compact("merged")
    wait_completed(client, job)
    check()
    eventually(lambda: not delete_files(), "delete files that nothing needs are let go")
    check()
    client.close()
    server.stop()


def test_plans_are_told(client, name):
    create_simple(client, name)
    fill(client, name, 2)
    client.create_partition(name, "other")
    for start in (1000, 2000):
        client.insert(name, simple_rows(10, start=start), partition_name="other")
        client.flush(name)
    sources = {one.segment_id for one in segments(client, name)}
    job = client.compact(name)
    wait_completed(client, job)
    plans = client.get_compaction_plans(job).plans
    assert len(plans) == 2
    assert {source for plan in plans for source in plan.sources} == sources
    assert {target for plan in plans for target in plan.targets} == {
        one.segment_id for one in segments(client, name)
    }
    assert all(plan.trigger_id == job and plan.failure_reason == "" for plan in plans)
    listed = client.list_compaction_tasks(name).plans
    assert {plan.plan_id for plan in listed} == {plan.plan_id for plan in plans}
    # Partitions stay what they are.
    assert count(client, name, partition_names=["other"]) == 20


def test_only_deletes_are_applied_where_that_is_asked(client, name):
    create_simple(client, name)
    fill(client, name, 2)
    client.delete(name, ids=[1, 2, 3])
    client.flush(name)
    job = client.compact(name, is_l0=True)
    wait_completed(client, job)
    assert sorted(one.num_rows for one in segments(client, name)) == [47, 50]
    assert count(client, name) == 97


def test_optimize_merges_as_far_as_the_size_allows(client, name):
    create_simple(client, name, index="HNSW", dim=64)
    for flush in range(4):
        client.insert(name, simple_rows(1500, dim=64, start=flush * 1500))
        client.flush(name)
    result = client.optimize(name, target_size="1GB", timeout=120)
    assert result.status == "success"
    assert [one.num_rows for one in segments(client, name)] == [6000]
    eventually(
        lambda: [one.num_rows for one in client.list_loaded_segments(name)] == [6000],
        "the merged segment is served",
    )
    assert count(client, name) == 6000
    # Segments larger than the size are left as they are.
    client.insert(name, simple_rows(1500, dim=64, start=6000))
    client.flush(name)
    assert client.compact(name, target_size=1) == -1
    assert client.optimize(name, timeout=120).compaction_id > 0
    assert count(client, name) == 7500


def test_time_to_live_is_carried_out(client, name):
    create_simple(client, name)
    fill(client, name, 2)
    client.alter_collection_properties(name, {"collection.ttl.seconds": 1})
    eventually(lambda: count(client, name) == 0, "everything has expired", 120)
    job = client.compact(name)
    wait_completed(client, job)
    assert segments(client, name) == []
    client.alter_collection_properties(name, {"collection.ttl.seconds": 0})
    assert count(client, name) == 0


def test_clustering_needs_a_key_and_is_not_served_with_one(client, name, other_name):
    create_simple(client, name)
    fill(client, name, 2)
    assert client.compact(name, is_clustering=True) == -1
    schema = simple_schema()
    schema.add_field("place", DataType.INT64, is_clustering_key=True)
    client.create_collection(other_name, schema=schema)
    with fails(3000, "clustering"):
        client.compact(other_name, is_clustering=True)
    with fails(100):
        client.compact("absent_" + name)


def test_what_a_request_names_must_be_there(client, raw, name):
    create_simple(client, name)
    fill(client, name, 3)
    ids = [one.segment_id for one in segments(client, name)]

    def ask(**kwargs):
        request = milvus_pb2.ManualCompactionRequest(collection_name=name, **kwargs)
        return raw.call("ManualCompaction", request)

    assert ask(partition_id=5).status.code == 200
    assert ask(channel="nowhere").status.code == 500
    assert ask(segment_ids=[7]).status.code == 600
    assert ask(timetravel=9).status.code == 3000
    assert ask(target_size=-4).status.code == 1100
    reply = ask(segment_ids=ids[:2])
    assert (reply.status.code, reply.compactionPlanCount) == (0, 1)
    wait_completed(client, reply.compactionID)
    assert sorted(one.num_rows for one in segments(client, name)) == [50, 100]


class Watcher(threading.Thread):
    """Counts and searches without a pause; remembers the first thing that was wrong."""

    def __init__(self, server, name, keys, vectors):
        super().__init__()
        self.server, self.collection, self.keys, self.vectors = server, name, keys, vectors
        self.stopped = threading.Event()
        self.rounds = 0
        self.failure = None

    def run(self):
        client = self.server.client()
        rng = random.Random(1)
        try:
            while not self.stopped.is_set():
                self.round(client, rng)
                self.rounds += 1
        except BaseException as error:
            self.failure = error
        finally:
            client.close()

    def round(self, client, rng):
        stable = f"id < {len(self.keys)}"
        found = client.query(
            self.collection,
            filter=stable,
            output_fields=["count(*)"],
            consistency_level="Strong",
        )
        assert found == [{"count(*)": len(self.keys)}], "rows are missing or there twice"
        some = rng.sample(self.keys, 5)
        rows = client.get(self.collection, ids=some, output_fields=["id"])
        assert [row["id"] for row in rows] == sorted(some)
        hits = client.search(
            self.collection,
            [self.vectors[key].tolist() for key in some],
            limit=3,
            filter=stable,
            consistency_level="Strong",
        )
        for key, result in zip(some, hits, strict=True):
            ids = [hit["id"] for hit in result]
            assert len(set(ids)) == len(ids), "a row was found twice"
            assert ids and result[0]["id"] == key, f"row {key} is not its own nearest: {ids}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("index", ["FLAT", "HNSW"])
def test_readers_see_every_row_once_while_everything_goes_on(tmp_path, index):
    """Stable rows are upserted with the same vector, others come and go, segments are flushed,
    indexed and compacted, all at once: every Strong read sees each stable row exactly once."""
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    rng = random.Random(seed)
    server = Server(tmp_path, env=EAGER).start()
    name, stable = "watched", 2000
    vectors = make_vectors(stable, DIM, seed=3)
    try:
        client = server.client()
        create_simple(client, name, index=index)

        def row(key, number):
            vector = vectors[key % stable].tolist()
            return {"id": key, "vector": vector, "number": number, "label": f"row {key}"}

        client.insert(name, [row(key, 0) for key in range(stable)])
        versions = dict.fromkeys(range(stable), 0)
        watcher = Watcher(server, name, list(range(stable)), vectors)
        watcher.start()
        others, next_key = [], 10_000
        for step in range(1, 41):
            keys = rng.sample(range(stable), 150)
            client.upsert(name, [row(key, step) for key in keys])
            versions.update(dict.fromkeys(keys, step))
            fresh = list(range(next_key, next_key + 60))
            next_key += 60
            client.insert(name, [row(key, step) for key in fresh])
            others += fresh
            gone = rng.sample(others, 30)
            client.delete(name, ids=gone)
            others = [key for key in others if key not in set(gone)]
            raw_flush(client, name)
            if step % 5 == 0:
                client.compact(name)
            assert watcher.failure is None, watcher.failure
            assert watcher.is_alive()
        eventually(
            lambda: [p for p in client.list_compaction_tasks(name).plans if p.state == 3],
            "something was compacted",
            60,
        )
        seen = watcher.rounds
        eventually(lambda: watcher.rounds > seen + 3 or watcher.failure, "reads go on", 60)
        watcher.stopped.set()
        watcher.join()
        assert watcher.failure is None, watcher.failure
        check(client, name, versions, others)
        # The same after everything is read from files.
        client.close()
        server.kill9()
        server.start()
        client = server.client()
        check(client, name, versions, others)
        client.close()
    finally:
        server.stop()


def raw_flush(client, name):
    """A flush without the client's wait for its state."""
    request = milvus_pb2.FlushRequest(collection_names=[name])
    reply = client._get_connection()._stub.Flush(request)
    assert reply.status.code == 0, reply.status


def check(client, name, versions, others):
    found = {row["id"]: row["number"] for row in all_rows(client, name, ["number"])}
    assert {key: found.get(key) for key in versions} == versions
    assert sorted(key for key in found if key not in versions) == sorted(others)


@pytest.mark.timeout(600)
def test_kills_while_compactions_run(tmp_path):
    """kill -9 at random moments; whatever was under way, no row is lost, back or there twice."""
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    rng = random.Random(seed)
    server = Server(tmp_path, env=EAGER).start()
    name, rows, next_key = "killed", {}, 0
    kills = int(os.environ.get("REDKITE_KILLS", "20"))
    try:
        client = server.client()
        create_simple(client, name, index="HNSW")
        for kill in range(kills):
            for step in range(rng.randrange(2, 6)):
                fresh = list(range(next_key, next_key + 40))
                next_key += 40
                old = rng.sample(sorted(rows), min(len(rows), 30))
                batch = simple_rows(len(fresh) + len(old), seed=kill * 10 + step)
                for one, key in zip(batch, fresh + old, strict=True):
                    one["id"] = key
                client.upsert(name, batch)
                rows.update((one["id"], one) for one in batch)
                gone = rng.sample(sorted(rows), min(len(rows) // 4, 25))
                client.delete(name, ids=gone)
                for key in gone:
                    del rows[key]
                raw_flush(client, name)
            client.compact(name)
            pause = threading.Event()
            pause.wait(rng.uniform(0, 0.3))
            client.close()
            server.kill9()
            server.start()
            client = server.client()
            found = {row["id"]: row for row in all_rows(client, name)}
            assert count(client, name) == len(rows)
            assert sorted(found) == sorted(rows)
            for key, row in rows.items():
                assert found[key]["label"] == row["label"]
            if rows:
                ids = sorted(rows)
                base = np.array([rows[key]["vector"] for key in ids])
                query = rows[rng.choice(ids)]["vector"]
                hits = client.search(name, [query], limit=1)[0]
                best = nearest("L2", ids, base, query, 1)[0]
                assert hits[0]["distance"] == pytest.approx(best[1], abs=1e-5)
        # What was under way ends, one way or the other, and leaves no plan behind.
        eventually(
            lambda: all(plan.state != 1 for plan in client.list_compaction_tasks(name).plans),
            "no plan is left",
            60,
            0.1,
        )
        client.close()
    finally:
        server.stop()
