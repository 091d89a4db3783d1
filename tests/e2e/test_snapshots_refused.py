"""Restores that cannot be: the first thing that is wrong is said, at once, and nothing is left."""

import json

import pytest
from harness.data import create_simple, simple_rows
from harness.errors import fails
from harness.raw import failed
from pymilvus import MilvusException
from pymilvus.grpc_gen import milvus_pb2
from test_snapshots import fill
from test_snapshots_restore import restore

# Each names what is wrong and all that is checked later besides. `{x}` stands for a name of the test's.
ORDER = [
    ("", "", "", "", 1100, "snapshot name should be not empty"),
    ("9s", "", "", "", 1100, "the first character of snapshot name"),
    ("absent", "", "", "", 1101, "collection_name is required for restore snapshot"),
    ("absent", "{source}", "", "", 1101, "target_collection_name is required for restore snapshot"),
    ("absent", "nothing", "", "", 1101, "target_collection_name is required for restore snapshot"),
    ("absent", "nothing", "9bad", "", 1100, "9bad"),
    ("absent", "nothing", "{taken}", "", 100, "collection not found"),
    ("absent", "{source}", "{taken}", "", 2600, "snapshot not found[snapshot=absent]"),
    ("absent", "{source}", "{alias}", "", 2600, "snapshot not found[snapshot=absent]"),
    ("s1", "{source}", "{taken}", "", 65535, "duplicate collection"),
    ("s1", "{source}", "{source}", "", 65535, "duplicate collection"),
    ("s1", "{source}", "{same}", "", 65535, "duplicate collection"),
    ("s1", "{source}", "{alias}", "", 1601, "alias and collection name conflict"),
    ("s1", "{source}", "copy", "nowhere", 800, "nowhere"),
]


def state(server, client):
    """All that a restore could leave behind."""
    _, body = server.admin_get("/admin/snapshots")
    snapshots = json.loads(body)["snapshots"]
    _, body = server.admin_get("/admin/sagas")
    return (
        sorted(client.list_collections()),
        sorted(job.job_id for job in client.list_restore_snapshot_jobs()),
        sorted((one["collection_id"], one["name"], str(one["pins"])) for one in snapshots),
        json.loads(body)["sagas"],
    )


def test_what_is_wrong_first_is_said_and_nothing_is_left(server, client, raw, name, other_name):
    fill(client, name, rows=10)
    # Not even one of the same schema is taken for the target.
    create_simple(client, other_name, dim=4)
    same, alias = f"same_{name}", f"alias_{name}"
    create_simple(client, same)
    client.create_alias(name, alias)
    client.create_snapshot("s1", name)
    names = {"source": name, "taken": other_name, "same": same, "alias": alias}
    server.await_sagas()
    before = state(server, client)
    try:
        for snapshot, source, target, database, code, text in ORDER:
            request = milvus_pb2.RestoreSnapshotRequest(
                name=snapshot,
                collection_name=source.format(**names),
                target_collection_name=target.format(**names),
                target_db_name=database,
            )
            answer = raw.call("RestoreSnapshot", request)
            failed(answer.status, code, text)
            assert answer.job_id == 0
            server.await_sagas()
            assert state(server, client) == before, (snapshot, source, target)
    finally:
        client.drop_alias(alias)
        client.drop_collection(same)
    # Nothing holds the snapshot, and the names are free.
    client.drop_snapshot("s1", name)


def test_a_job_that_fails_leaves_only_its_record(tmp_path):
    from harness.process import Server

    server = Server(tmp_path).start()
    try:
        client = server.client()
        fill(client, "source")
        client.create_snapshot("s1", "source")
        root = server.data_dir / "objects"
        victim = next(root.rglob("data.v*.parquet"))
        kept = victim.read_bytes()
        victim.unlink()
        server.await_sagas()
        collections, _, snapshots, _ = state(server, client)
        job = client.restore_snapshot("s1", "source", "copy")
        info = client.get_restore_snapshot_state(job)
        assert (info.state, info.collection_name) == ("RestoreSnapshotFailed", "copy")
        assert victim.name in info.reason and info.time_cost > 0 and info.progress < 100
        server.await_sagas()
        assert state(server, client) == (collections, [job], snapshots, [])
        # The name is free, and what was missing is all that was wrong.
        victim.write_bytes(kept)
        restore(client, "s1", "source", "copy")
        assert [one.state for one in client.list_restore_snapshot_jobs("copy")] == [
            "RestoreSnapshotCompleted"
        ]
    finally:
        server.stop()


def test_the_client_does_not_send_what_cannot_be(client, name):
    create_simple(client, name)
    client.insert(name, simple_rows(1))
    snapshot = "snapshot_name must be a non-empty string"
    collection = "collection_name must be a non-empty string"
    for text, call in [
        (snapshot, lambda: client.create_snapshot("", name)),
        (collection, lambda: client.create_snapshot("s1", "")),
        (snapshot, lambda: client.drop_snapshot("", name)),
        (collection, lambda: client.drop_snapshot("s1", "")),
        (snapshot, lambda: client.describe_snapshot("", name)),
        (collection, lambda: client.describe_snapshot("s1", "")),
        (snapshot, lambda: client.restore_snapshot("", name, "copy")),
        (f"source_{collection}", lambda: client.restore_snapshot("s1", "", "copy")),
        (f"target_{collection}", lambda: client.restore_snapshot("s1", name, "")),
        (snapshot, lambda: client.pin_snapshot_data("", name)),
        (collection, lambda: client.pin_snapshot_data("s1", "")),
        (
            "compaction_protection_seconds must be a non-negative integer",
            lambda: client.create_snapshot("s1", name, compaction_protection_seconds=-1),
        ),
        (
            "ttl_seconds must be a non-negative integer",
            lambda: client.pin_snapshot_data("s1", name, ttl_seconds=-1),
        ),
        ("job_id must be a positive integer", lambda: client.get_restore_snapshot_state(0)),
        ("pin_id must be a positive integer", lambda: client.unpin_snapshot_data(0)),
    ]:
        with pytest.raises(MilvusException) as caught:
            call()
        assert (caught.value.code, caught.value.message) == (1, text)
    # The server says what the client leaves to it.
    with fails(1101, "collection_name is required for ListSnapshots"):
        client.list_snapshots()
    with fails(2101, "restore job not found: jobID=9223372036854775807"):
        client.get_restore_snapshot_state(2**63 - 1)
    assert client.list_snapshots(name) == []
