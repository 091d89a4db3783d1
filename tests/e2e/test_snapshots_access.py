"""Who may do what with snapshots, where authorization is on."""

import base64
import itertools

import pytest
from harness.access import PASSWORD, GuardedServer, denied
from harness.data import count, create_simple, simple_rows
from harness.raw import Raw
from harness.waiting import eventually
from pymilvus.grpc_gen import milvus_pb2
from test_authorization import Actor
from test_snapshots_restore import finished

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    running = GuardedServer(tmp_path_factory.mktemp("guarded")).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def root(guarded):
    connected = guarded.client()
    for name in ("books", "films"):
        create_simple(connected, name)
        connected.insert(name, simple_rows(20))
        connected.flush(name)
    connected.create_alias("books", "library")
    connected.create_snapshot("s1", "books")
    connected.create_snapshot("s1", "films")
    connected.create_database("shop")
    yield connected
    connected.close()


@pytest.fixture
def actor(guarded, root):
    made = Actor(guarded, root, f"user{next(_numbers)}")
    yield made
    made.end()


CALLS = {
    "CreateSnapshot": lambda client, name: client.create_snapshot("mine", name),
    "ListSnapshots": lambda client, name: client.list_snapshots(name),
    "DescribeSnapshot": lambda client, name: client.describe_snapshot("s1", name),
    "DropSnapshot": lambda client, name: client.drop_snapshot("mine", name),
}


@pytest.mark.parametrize("privilege", CALLS)
def test_a_grant_counts_for_its_collection_and_its_alias(actor, root, privilege):
    call = CALLS[privilege]
    for name in ("books", "films", "library"):
        with denied(privilege, actor.name):
            call(actor.client, name)
    actor.grant(privilege, "books")
    call(actor.client, "books")
    root.drop_snapshot("mine", "books")
    call(actor.client, "library")
    with denied(privilege, actor.name):
        call(actor.client, "films")
    for other in set(CALLS) - {privilege}:
        with denied(other, actor.name):
            CALLS[other](actor.client, "books")
    actor.revoke(privilege, "books")
    with denied(privilege, actor.name):
        call(actor.client, "books")
    root.drop_snapshot("mine", "books")


def test_restoring_needs_the_source_s_privilege_and_room_elsewhere(actor, root):
    client = actor.client
    with denied("RestoreSnapshot", actor.name):
        client.restore_snapshot("s1", "books", "copy")
    actor.grant("RestoreSnapshot", "books")
    job = client.restore_snapshot("s1", "books", "copy")
    # Whoever has a job's id may ask for its state.
    assert finished(client, job).state == "RestoreSnapshotCompleted"
    root.load_collection("copy")
    assert count(root, "copy") == 20
    root.drop_collection("copy")
    with denied("RestoreSnapshot", actor.name):
        client.restore_snapshot("s1", "films", "copy")
    with denied("RestoreSnapshot", actor.name):
        client.list_restore_snapshot_jobs("films")
    # In another database that takes leave to make a collection there.
    with denied("CreateCollection", actor.name, "shop"):
        client.restore_snapshot("s1", "books", "copy", target_db_name="shop")
    actor.grant("CreateCollection", database="shop")
    job = client.restore_snapshot("s1", "books", "copy", target_db_name="shop")
    assert finished(client, job).db_name == "shop"
    there = actor.server.client(db_name="shop")
    there.drop_collection("copy")
    there.close()


def test_pins_and_bundles_are_not_any_one_collection_s(actor, root):
    """They are privileges of the whole database: one collection's name does not do."""
    client, raw = actor.client, Raw(actor.server.address)
    token = base64.b64encode(f"{actor.name}:{PASSWORD}".encode()).decode()

    def call(rpc, request):
        return getattr(raw.stub, rpc)(request, metadata=[("authorization", token)], timeout=60)

    export = milvus_pb2.ExportSnapshotRequest(
        name="s1", collection_name="books", target_s3_path=f"backups/{actor.name}"
    )
    unpack = milvus_pb2.RestoreExternalSnapshotRequest(
        target_collection_name="unpacked",
        snapshot_metadata_uri=f"backups/{actor.name}/metadata.json",
    )
    try:
        with denied("PinSnapshotData", actor.name):
            client.pin_snapshot_data("s1", "books")
        with denied("UnpinSnapshotData", actor.name):
            client.unpin_snapshot_data(1)
        with denied("ExportSnapshot", actor.name):
            call("ExportSnapshot", export)
        with denied("RestoreExternalSnapshot", actor.name):
            call("RestoreExternalSnapshot", unpack)
        with denied("ExportSnapshot", actor.name):
            call("GetExportSnapshotState", milvus_pb2.GetExportSnapshotStateRequest(job_id=1))
        for privilege in (
            "PinSnapshotData",
            "UnpinSnapshotData",
            "ExportSnapshot",
            "RestoreExternalSnapshot",
        ):
            actor.grant(privilege)
        for name in ("books", "films"):
            client.unpin_snapshot_data(client.pin_snapshot_data("s1", name))
        begun = call("ExportSnapshot", export)
        assert begun.status.code == 0, begun.status
        asked = milvus_pb2.GetExportSnapshotStateRequest(job_id=begun.job_id)

        def exported():
            answer = call("GetExportSnapshotState", asked)
            assert answer.status.code == 0, answer.status
            assert answer.info.state != milvus_pb2.ExportSnapshotFailed, answer.info
            return answer.info.state == milvus_pb2.ExportSnapshotCompleted

        eventually(exported, "the bundle is written")
        begun = call("RestoreExternalSnapshot", unpack)
        assert begun.status.code == 0, begun.status
        assert finished(client, begun.job_id).state == "RestoreSnapshotCompleted"
        root.drop_collection("unpacked")
        # What is granted for all is not what is granted for one.
        with denied("DropSnapshot", actor.name):
            client.drop_snapshot("s1", "books")
    finally:
        raw.close()
