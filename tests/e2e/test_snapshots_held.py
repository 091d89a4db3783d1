"""What holds a snapshot and its files: pins, with and without an end, and protection from compaction."""

import json

import pytest
from harness import redkite
from harness.data import all_rows, count, create_simple, simple_rows
from harness.errors import fails
from harness.process import Server
from harness.raw import failed
from harness.waiting import eventually
from pymilvus import DataType, MilvusException
from pymilvus.grpc_gen import milvus_pb2
from test_snapshots import fill
from test_snapshots_restore import ON_DEMAND, restore
from test_vector_types import wait_indexed

MAX_PIN = 2_592_000
MAX_PROTECTION = 604_800


def pins(server, name):
    _, body = server.admin_get("/admin/snapshots")
    found = [one for one in json.loads(body)["snapshots"] if one["name"] == name]
    return [one["pins"] for one in found]


def test_pins_end_by_themselves_where_that_was_said(client, raw, name):
    fill(client, name, rows=5)
    client.create_snapshot("s1", name)
    with fails(1100, "ttl_seconds exceeds maximum of 2592000 (30 days)"):
        client.pin_snapshot_data("s1", name, ttl_seconds=MAX_PIN + 1)
    request = milvus_pb2.PinSnapshotDataRequest(name="s1", collection_name=name, ttl_seconds=-1)
    failed(raw.call("PinSnapshotData", request).status, 1100, "ttl_seconds must be non-negative")
    with fails(2600, "snapshot not found[snapshot=s2]"):
        client.pin_snapshot_data("s2", name)
    with fails(100, "collection not found"):
        client.pin_snapshot_data("s1", "absent")
    longest = client.pin_snapshot_data("s1", name, ttl_seconds=MAX_PIN)
    shortest = client.pin_snapshot_data("s1", name, ttl_seconds=1)
    assert longest > 0 and shortest > 0 and longest != shortest
    # Nobody's pin is nobody's error, and the others hold.
    client.unpin_snapshot_data(2**62)
    client.unpin_snapshot_data(longest)
    client.unpin_snapshot_data(longest)

    def is_dropped():
        try:
            client.drop_snapshot("s1", name)
        except MilvusException as error:
            assert error.code == 2601, error
            return False
        return True

    eventually(is_dropped, "the last pin has ended by itself")
    assert client.list_snapshots(name) == []
    # It was never more than the snapshot's.
    client.create_snapshot("s1", name)
    client.unpin_snapshot_data(shortest)
    client.drop_snapshot("s1", name)


def test_a_pin_holds_the_files_of_a_collection_that_is_gone(tmp_path):
    server = Server(tmp_path, settings=ON_DEMAND).start()
    try:
        client = server.client()
        fill(client, "films", rows=100)
        client.create_snapshot("held", "films")
        client.create_snapshot("free", "films")
        pin = client.pin_snapshot_data("held", "films")
        root = server.data_dir / "objects"

        def files():
            return sorted(p.name for p in root.rglob("*") if p.is_file() and p.suffix != "")

        data = [one for one in files() if one.startswith("data.v")]
        assert data
        client.drop_collection("films")
        redkite.gc(server)
        # The pinned one and its data are there, the other one has gone with the collection.
        assert [one for one in files() if one.startswith("data.v")] == data
        assert len(pins(server, "held")) == 1 and pins(server, "free") == []
        # Another collection of the name has neither.
        fill(client, "films", rows=3)
        assert client.list_snapshots("films") == []
        with fails(2600, "snapshot not found[snapshot=held]"):
            client.describe_snapshot("held", "films")
        with fails(2600):
            client.restore_snapshot("held", "films", "copy")
        client.create_snapshot("held", "films")
        restore(client, "held", "films", "copy")
        client.load_collection("copy")
        assert count(client, "copy") == 3
        client.drop_snapshot("held", "films")
        # A kill lets nothing go.
        server.kill9()
        server.start()
        redkite.gc(server)
        assert set(data) <= set(files())
        client = server.client()
        client.drop_collection("copy")
        client.drop_collection("films")
        client.unpin_snapshot_data(pin)
        assert pins(server, "held") == []

        def is_empty():
            redkite.gc(server)
            return files() == []

        eventually(is_empty, "every file is gone", interval=0.3)
    finally:
        server.stop()


def test_protection_ends_with_its_time_or_its_snapshot(client, raw, name):
    create_simple(client, name)
    for part in range(2):
        client.insert(name, simple_rows(50, start=part * 50))
        client.flush(name)
    request = milvus_pb2.CreateSnapshotRequest(
        name="s1", collection_name=name, compaction_protection_seconds=-1
    )
    text = "compaction_protection_seconds must be non-negative"
    failed(raw.call("CreateSnapshot", request), 1100, text)
    with fails(1100, "compaction_protection_seconds must not exceed 604800"):
        client.create_snapshot("s1", name, compaction_protection_seconds=MAX_PROTECTION + 1)
    assert client.list_snapshots(name) == []
    client.create_snapshot("week", name, compaction_protection_seconds=MAX_PROTECTION)
    client.create_snapshot("none", name)
    with fails(2317, "week"):
        client.compact(name)
    # What is not in it is compacted all the same.
    for part in range(2):
        client.insert(name, simple_rows(50, start=100 + part * 50))
        client.flush(name)
    job = client.compact(name)
    assert job > 0
    eventually(lambda: client.get_compaction_state(job) == "Completed", "the rest is merged")
    sizes = sorted(one.num_rows for one in client.list_persistent_segments(name))
    assert sizes == [50, 50, 100]
    rows = all_rows(client, name)
    client.create_snapshot("second", name, compaction_protection_seconds=1)
    client.drop_snapshot("week", name)

    def is_compacted():
        try:
            return client.compact(name) > 0
        except MilvusException as error:
            assert error.code == 2317 and "second" in error.message, error
            return False

    eventually(is_compacted, "nothing is protected any more")

    def merged():
        return [one.num_rows for one in client.list_persistent_segments(name)] == [200]

    eventually(merged, "all is one segment")
    # The snapshot has what it had.
    try:
        restore(client, "second", name, f"copy_{name}")
        client.load_collection(f"copy_{name}")
        assert all_rows(client, f"copy_{name}") == rows
    finally:
        client.drop_collection(f"copy_{name}")


@pytest.mark.parametrize("what", ["index", "field", "rows"])
def test_what_becomes_of_the_collection_s_parts_is_not_the_snapshot_s(client, name, what):
    fill(client, name, rows=1200)
    wait_indexed(client, name, "vector")
    before, index = all_rows(client, name), client.describe_index(name, "vector")
    client.create_snapshot("s1", name)
    described = client.describe_snapshot("s1", name)
    if what == "index":
        client.release_collection(name)
        client.drop_index(name, "vector")
    elif what == "field":
        client.add_collection_field(name, "late", DataType.INT64, nullable=True)
    else:
        client.delete(name, filter="id >= 0")
        client.flush(name)
        client.compact(name)
    assert client.describe_snapshot("s1", name) == described
    try:
        restore(client, "s1", name, f"copy_{name}")
        assert client.describe_index(f"copy_{name}", "vector") == index
        client.load_collection(f"copy_{name}")
        assert all_rows(client, f"copy_{name}") == before
    finally:
        client.drop_collection(f"copy_{name}")
