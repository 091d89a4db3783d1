"""Snapshots restored into new collections."""

import threading
import time

import pytest
from harness import redkite
from harness.data import DIM, all_rows, count, create_simple, index_params, make_vectors, simple_rows
from harness.waiting import eventually
from pymilvus import DataType, MilvusClient, MilvusException
from test_snapshots import code_of, fill
from test_vector_types import wait_indexed


def finished(client, job):
    """The job's last state, once it has ended; its progress never decreases on the way."""
    seen = [0]

    def has_ended():
        info = client.get_restore_snapshot_state(job)
        assert info.progress >= seen[-1]
        seen.append(info.progress)
        return info if info.state in ("RestoreSnapshotCompleted", "RestoreSnapshotFailed") else None

    return eventually(has_ended, "the restore has ended", 90, 0.05)


def restore(client, snapshot, source, target, **kwargs):
    info = finished(client, client.restore_snapshot(snapshot, source, target, **kwargs))
    assert info.state == "RestoreSnapshotCompleted", info
    assert (info.progress, info.reason) == (100, "")
    assert info.collection_name == target
    assert info.start_time > 0 and info.time_cost > 0
    return info


@pytest.fixture
def targets(client, name):
    """Makes names; their collections are dropped at the end."""
    made = []

    def make():
        made.append(f"restored_{name}_{len(made)}")
        return made[-1]

    yield make
    for target in made:
        client.drop_collection(target)


def test_what_comes_back_is_what_was_flushed(client, name, targets):
    schema = MilvusClient.create_schema(enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("doc", DataType.JSON, nullable=True)
    schema.add_field("label", DataType.VARCHAR, max_length=64, nullable=True)
    indexes = index_params("HNSW", "COSINE", M=8, efConstruction=64)
    client.create_collection(
        name, schema=schema, index_params=indexes, num_shards=2, consistency_level="Strong"
    )
    client.create_partition(name, "p1")
    # A segment of each shard is large enough to get index files.
    vectors = make_vectors(3500)

    def row(i):
        return {
            "id": i,
            "vector": vectors[i].tolist(),
            "doc": None if i % 3 == 0 else {"n": i, "deep": {"x": [i, "y"]}},
            "label": None if i % 5 == 0 else f"row {i}",
            "extra": i * 1.5,
        }

    client.insert(name, [row(i) for i in range(3000)])
    client.insert(name, [row(i) for i in range(3000, 3500)], partition_name="p1")
    client.flush(name)
    client.delete(name, ids=list(range(0, 100)))
    client.flush(name)
    wait_indexed(client, name, "vector")
    # So that it is searched by its index files from here on, as the copy is.
    client.release_collection(name)
    client.load_collection(name)
    before = all_rows(client, name)
    query = vectors[700].tolist()
    params = {"limit": 10, "output_fields": ["label"], "search_params": {"params": {"ef": 200}}}
    found = client.search(name, [query], **params)
    client.create_snapshot("s1", name)
    # None of this is in it.
    client.insert(name, [row(i) for i in range(50)])
    client.flush(name)
    client.delete(name, ids=list(range(500, 600)))
    client.release_collection(name)
    client.drop_partition(name, "p1")
    client.drop_index(name, "vector")
    target = targets()
    restore(client, "s1", name, target)
    shown = client.describe_collection(target)
    kept = client.describe_collection(name)
    assert shown["fields"] == kept["fields"]
    assert (shown["num_shards"], shown["enable_dynamic_field"]) == (2, True)
    assert sorted(client.list_partitions(target)) == ["_default", "p1"]
    described = client.describe_index(target, "vector")
    assert (described["index_type"], described["metric_type"]) == ("HNSW", "COSINE")
    assert (described["M"], described["efConstruction"]) == ("8", "64")
    # It is not loaded, and needs no new index.
    assert described["indexed_rows"] == described["total_rows"] == 3500
    assert code_of(client.query, target, filter="id > 0")[0] == 101
    client.load_collection(target)
    assert all_rows(client, target) == before
    assert client.search(target, [query], **params) == found
    # Both live on by themselves.
    client.upsert(target, [row(200) | {"label": "new"}])
    client.delete(target, ids=[300])
    client.flush(target)
    client.compact(target)
    assert count(client, target) == len(before) - 1
    assert client.get(target, ids=[200])[0]["label"] == "new"


def test_rows_that_were_not_flushed_are_left_out(client, name, targets):
    create_simple(client, name)
    client.insert(name, simple_rows(100))
    client.flush(name)
    client.insert(name, simple_rows(50, start=100))
    client.create_snapshot("s1", name)
    target = targets()
    restore(client, "s1", name, target)
    client.load_collection(target)
    assert [row["id"] for row in all_rows(client, target)] == list(range(100))


def test_an_empty_collection_is_restored_empty(client, name, targets):
    create_simple(client, name)
    client.create_snapshot("s1", name)
    assert client.describe_snapshot("s1", name).create_ts > 0
    target = targets()
    restore(client, "s1", name, target)
    client.load_collection(target)
    client.insert(target, simple_rows(3))
    assert count(client, target) == 3


def test_what_is_wrong_is_said_at_once_and_leaves_nothing(client, name, other_name):
    fill(client, name)
    fill(client, other_name)
    client.create_snapshot("s1", name)
    code, text = code_of(client.restore_snapshot, "s2", name, f"{name}_new")
    assert code == 2600 and "not found" in text
    assert code_of(client.restore_snapshot, "s1", "absent", f"{name}_new")[0] == 100
    assert code_of(client.restore_snapshot, "s1", name, "9bad")[0] == 1100
    code, text = code_of(client.restore_snapshot, "s1", name, other_name)
    assert code == 65535 and "duplicate collection" in text
    alias = f"alias_{name}"
    client.create_alias(name, alias)
    code, text = code_of(client.restore_snapshot, "s1", name, alias)
    assert code == 1601 and "alias and collection name conflict" in text
    client.drop_alias(alias)
    assert not client.has_collection(f"{name}_new")
    code, text = code_of(client.get_restore_snapshot_state, 1)
    assert code == 2101 and "restore job not found: jobID=1" in text
    # Nothing holds it.
    client.drop_snapshot("s1", name)


def test_jobs_are_listed_by_target(client, name, targets):
    fill(client, name)
    client.create_snapshot("s1", name)
    first, second = targets(), targets()
    jobs = [restore(client, "s1", name, target).job_id for target in (first, second)]
    assert [job.job_id for job in client.list_restore_snapshot_jobs(first)] == jobs[:1]
    assert set(jobs) <= {job.job_id for job in client.list_restore_snapshot_jobs()}
    assert code_of(client.list_restore_snapshot_jobs, "absent")[0] == 100


def test_a_snapshot_is_restored_across_databases(client, new_client, name):
    fill(client, name)
    client.create_snapshot("s1", name)
    database = f"db_{name}"[:60]
    client.create_database(database)
    there = new_client(db_name=database)
    restore(client, "s1", name, "copy", target_db_name=database)
    there.load_collection("copy")
    assert count(there, "copy") == 200
    there.drop_collection("copy")
    client.drop_database(database)


def test_many_restores_at_a_time(client, name, targets):
    fill(client, name)
    client.create_snapshot("s1", name)
    names = [targets() for _ in range(8)]
    jobs = [None] * len(names)

    def begin(i):
        jobs[i] = client.restore_snapshot("s1", name, names[i])

    threads = [threading.Thread(target=begin, args=(i,)) for i in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for target, job in zip(names, jobs):
        assert finished(client, job).state == "RestoreSnapshotCompleted"
        client.load_collection(target)
        assert count(client, target) == 200
    client.drop_snapshot("s1", name)


def test_a_snapshot_taken_among_writes_is_a_moment(client, name, targets):
    """Content of a snapshot is exactly the writes up to its timestamp, in order of one writer."""
    create_simple(client, name)
    stop = threading.Event()
    written = []

    def write():
        i = 0
        while not stop.is_set():
            # Each step replaces a row and removes the one before: a moment has exactly two.
            client.upsert(name, simple_rows(1, start=i))
            client.delete(name, ids=[i - 1])
            written.append(i)
            i += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        snapshots = []
        for i in range(4):
            reached = len(written) + 10
            eventually(lambda: len(written) >= reached, "rows are written")
            client.flush(name)
            client.create_snapshot(f"s{i}", name)
            snapshots.append((f"s{i}", reached))
    finally:
        stop.set()
        writer.join()
    for snapshot, reached in snapshots:
        target = targets()
        restore(client, snapshot, name, target)
        client.load_collection(target)
        ids = [row["id"] for row in all_rows(client, target)]
        # The last row, and the one before while it is not removed yet.
        assert len(ids) in (1, 2) and ids == list(range(ids[0], ids[0] + len(ids))), ids
        assert ids[-1] >= reached - 1


ON_DEMAND = {
    "datacoord.gc.enabled": "false",
    "datacoord.gc.grace": "0s",
    "datacoord.gc.dropped_grace": "0s",
}


def test_restored_rows_outlive_source_and_snapshot(tmp_path):
    from harness.process import Server

    server = Server(tmp_path, settings=ON_DEMAND).start()
    try:
        client = server.client()
        fill(client, "source", rows=300)
        before = all_rows(client, "source")
        client.create_snapshot("s1", "source")
        pin = client.pin_snapshot_data("s1", "source")
        restore(client, "s1", "source", "copy")
        client.drop_collection("source")
        redkite.gc(server)
        # The copy's own snapshot, of files that still lie in the source's folder.
        client.create_snapshot("s2", "copy")
        restore(client, "s2", "copy", "copy2")
        client.unpin_snapshot_data(pin)
        client.drop_collection("copy")
        redkite.gc(server)
        client.load_collection("copy2")
        assert all_rows(client, "copy2") == before
        server.kill9()
        server.start()
        client = server.client()
        eventually(lambda: count(client, "copy2") == 300, "the copy is served again")
        assert all_rows(client, "copy2") == before
        client.drop_collection("copy2")

        def is_empty():
            redkite.gc(server)
            root = server.data_dir / "objects"
            return not [p for p in root.rglob("*") if p.is_file() and p.suffix != ""]

        eventually(is_empty, "every file is gone", interval=0.3)
    finally:
        server.stop()


def test_a_missing_file_fails_the_job_and_is_named(tmp_path):
    from harness.process import Server

    server = Server(tmp_path, settings=ON_DEMAND).start()
    try:
        client = server.client()
        fill(client, "source")
        client.create_snapshot("s1", "source")
        root = server.data_dir / "objects"
        victim = next(root.rglob("data.v*.parquet"))
        victim.unlink()
        info = finished(client, client.restore_snapshot("s1", "source", "copy"))
        assert info.state == "RestoreSnapshotFailed"
        assert str(victim.relative_to(root)) in info.reason
        assert info.time_cost > 0
        assert not client.has_collection("copy")
        client.drop_snapshot("s1", "source")
    finally:
        server.stop()


def test_restores_survive_kills(tmp_path):
    """Killed at any moment, a restore ends completely or not at all."""
    from harness.process import Server

    server = Server(tmp_path).start()
    try:
        client = server.client()
        fill(client, "source")
        client.create_snapshot("s1", "source")
        for i, pause in enumerate((0.0, 0.005, 0.02, 0.05)):
            target = f"copy{i}"

            def begin():
                try:
                    client.restore_snapshot("s1", "source", target, timeout=5)
                except Exception:  # noqa: BLE001: the server is being killed
                    pass

            thread = threading.Thread(target=begin)
            thread.start()
            time.sleep(pause)
            server.kill9()
            thread.join()
            server.start()
            # One that was cut off before it had a job is in no list of jobs, and may get one yet.
            server.await_sagas()
            client = server.client()

            def has_ended():
                jobs = client.list_restore_snapshot_jobs()
                return all(job.state.endswith(("Completed", "Failed")) for job in jobs)

            eventually(has_ended, "every job has ended")
            jobs = [job for job in client.list_restore_snapshot_jobs() if job.collection_name == target]
            done = any(job.state.endswith("Completed") for job in jobs)
            assert client.has_collection(target) == done
            if done:
                client.load_collection(target)
                assert count(client, target) == 200

        # No pin is left behind.
        def drops():
            try:
                client.drop_snapshot("s1", "source")
            except MilvusException as error:
                assert error.code == 2601, error
                return False
            return True

        eventually(drops, "nothing pins the snapshot any more")
    finally:
        server.stop()
