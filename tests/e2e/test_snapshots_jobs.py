"""Restores as jobs: what is said of them on the way, and what goes on beside them."""

import json
import threading
import time

import pytest
from harness import redkite
from harness.bundles import Bundles
from harness.data import all_rows, count, create_simple, simple_rows
from harness.errors import fails
from harness.holding import Holding
from harness.metrics import counter
from harness.process import Server
from harness.waiting import eventually
from pymilvus import MilvusException
from pymilvus.grpc_gen import milvus_pb2
from test_snapshots import fill
from test_snapshots_restore import ON_DEMAND, finished, restore, targets  # noqa: F401: a fixture

ATTACH = "saga.restore_snapshot.attach_data"
COMMIT = "saga.restore_snapshot.commit"


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A server whose restores can be held at a step: (server, holding, client)."""
    folder = tmp_path_factory.mktemp("held")
    holding = Holding(folder / "holding")
    server = Server(folder, env=holding.env, settings=ON_DEMAND).start()
    client = server.client()
    fill(client, "source", rows=300)
    client.create_snapshot("s1", "source")
    yield server, holding, client
    server.stop()


class Background:
    """A call in a thread of its own."""

    def __init__(self, use):
        self.answer = None

        def call():
            try:
                self.answer = use()
            except MilvusException as error:
                self.answer = error

        self.thread = threading.Thread(target=call)
        self.thread.start()

    def result(self, seconds=60):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the call is never answered"
        return self.answer


def jobs_of(client, target):
    return [job for job in client.list_restore_snapshot_jobs() if job.collection_name == target]


def test_a_job_is_told_while_it_runs_and_its_target_is_not_seen(held):
    server, holding, client = held
    began = time.time() * 1000
    holding.arm(COMMIT)
    asked = Background(lambda: server.client().restore_snapshot("s1", "source", "shown"))
    try:
        holding.await_held(COMMIT)
        # The id comes before the end.
        job = asked.result()
        assert isinstance(job, int) and job > 0
        info = client.get_restore_snapshot_state(job)
        assert info.state == "RestoreSnapshotExecuting", info
        assert (info.snapshot_name, info.db_name, info.collection_name) == ("s1", "default", "shown")
        assert 0 <= info.progress < 100 and info.time_cost == 0 and info.reason == "", info
        assert began - 1000 <= info.start_time <= time.time() * 1000 + 1000
        assert jobs_of(client, "shown") == [info]
        # Nobody sees the target, however it is asked for.
        assert not client.has_collection("shown")
        assert "shown" not in client.list_collections()
        for call in (
            lambda: client.query("shown", filter="id >= 0"),
            lambda: client.search("shown", [[0.0] * 8]),
            lambda: client.insert("shown", simple_rows(1)),
            lambda: client.load_collection("shown"),
            lambda: client.describe_collection("shown"),
            # What is not there yet has no snapshot.
            lambda: client.create_snapshot("early", "shown"),
            lambda: client.list_restore_snapshot_jobs("shown"),
        ):
            with fails(100):
                call()
        # The job holds the snapshot, and nobody else can let go of it.
        client.unpin_snapshot_data(job)
        with fails(2601, "snapshot is pinned[snapshot=s1]", "unpin before dropping"):
            client.drop_snapshot("s1", "source")
        # Other restores of it go on.
        assert restore(client, "s1", "source", "meanwhile").job_id != job
    finally:
        holding.release(COMMIT)
    done = finished(client, job)
    assert (done.state, done.progress, done.reason) == ("RestoreSnapshotCompleted", 100, "")
    assert done.start_time == info.start_time and done.time_cost > 0
    client.load_collection("shown")
    assert count(client, "shown") == 300
    for name in ("shown", "meanwhile"):
        client.drop_collection(name)


def test_two_restores_into_one_name(held):
    """The second waits for the first; there is one collection, and one job that made it."""
    server, holding, client = held
    holding.arm(ATTACH)
    first = Background(lambda: server.client().restore_snapshot("s1", "source", "twice"))
    try:
        holding.await_held(ATTACH)
        second = Background(lambda: server.client().restore_snapshot("s1", "source", "twice"))
        made = Background(lambda: create_simple(server.client(), "twice", dim=4))
    finally:
        holding.release(ATTACH)
    assert finished(client, first.result()).state == "RestoreSnapshotCompleted"
    for late in (second, made):
        error = late.result()
        assert isinstance(error, MilvusException), error
        assert error.code == 65535 and "duplicate collection" in error.message, error
    assert len(jobs_of(client, "twice")) == 1
    client.load_collection("twice")
    assert count(client, "twice") == 300
    client.drop_collection("twice")


def drops_under_way(server):
    _, body = server.admin_get("/admin/sagas")
    kinds = [saga["kind"] for saga in json.loads(body)["sagas"]]
    return [kind for kind in kinds if kind.startswith("drop")]


@pytest.mark.parametrize("step", [ATTACH, COMMIT])
def test_a_target_that_is_dropped_in_mid_restore(held, step):
    """The job comes to its end, and the drop after it: what was dropped does not come back."""
    server, holding, client = held
    target = f"dropped_at_{step.rsplit('.')[-1]}"
    # So that the drop below is the only one.
    server.await_sagas()
    holding.arm(step)
    asked = Background(lambda: server.client().restore_snapshot("s1", "source", target))
    try:
        holding.await_held(step)
        # Who drops it has been told its job.
        job = asked.result()
        drop = Background(lambda: server.client().drop_collection(target))
        waiting = eventually(lambda: drops_under_way(server), "the drop is on record")
        assert waiting == ["drop_collection"]
    finally:
        holding.release(step)
    info = finished(client, job)
    assert info.state in ("RestoreSnapshotCompleted", "RestoreSnapshotFailed"), info
    assert drop.result() is None
    assert not client.has_collection(target)
    server.await_sagas()
    # Nothing of it holds the snapshot, and what is stored is whole.
    client.create_snapshot("after", "source")
    restore(client, "after", "source", "another")
    client.drop_collection("another")
    client.drop_snapshot("after", "source")
    assert redkite.fsck(admin_port=server.admin_port)["problems"] == []


def test_a_source_that_is_dropped_in_mid_restore_is_still_restored(held):
    server, holding, client = held
    fill(client, "going", rows=150)
    before = all_rows(client, "going")
    client.create_snapshot("last", "going")
    holding.arm(ATTACH)
    asked = Background(lambda: server.client().restore_snapshot("last", "going", "gone"))
    try:
        holding.await_held(ATTACH)
        client.drop_collection("going")
        redkite.gc(server)
    finally:
        holding.release(ATTACH)
    info = finished(client, asked.result())
    assert info.state == "RestoreSnapshotCompleted", info
    redkite.gc(server)
    client.load_collection("gone")
    assert all_rows(client, "gone") == before
    client.drop_collection("gone")

    def is_let_go():
        _, body = server.admin_get("/admin/snapshots")
        return all(one["name"] != "last" for one in json.loads(body)["snapshots"])

    eventually(is_let_go, "the snapshot goes when the job does not hold it any more", 60)


def test_an_export_holds_its_snapshot_and_nobody_lets_go_of_it(held):
    server, holding, client = held
    bundles = Bundles(server)
    client.create_snapshot("exported", "source")
    holding.arm("export_snapshot.begun")
    try:
        job, code, text = bundles.export("exported", "source", "backups/held")
        assert code == 0, text
        holding.await_held("export_snapshot.begun")
        info = bundles.export_state(job).info
        assert (info.snapshot_name, info.db_name, info.collection_name) == (
            "exported",
            "default",
            "source",
        )
        assert info.state == milvus_pb2.ExportSnapshotExecuting, info
        assert info.start_time > 0 and info.time_cost == 0 and info.progress < 100, info
        client.unpin_snapshot_data(job)
        with fails(2601, "snapshot is pinned[snapshot=exported]"):
            client.drop_snapshot("exported", "source")
    finally:
        holding.release("export_snapshot.begun")
    info = bundles.exported(job)
    assert info.state == milvus_pb2.ExportSnapshotCompleted, info
    client.drop_snapshot("exported", "source")
    bundles.close()


def test_a_job_that_is_complete_does_not_hold_its_snapshot(held):
    """Who has seen it complete may drop the snapshot at once."""
    server, holding, client = held
    unpin = "saga.restore_snapshot.unpin_snapshot"
    client.create_snapshot("passing", "source")
    holding.arm(unpin)
    asked = Background(lambda: server.client().restore_snapshot("passing", "source", "passed"))
    job = asked.result()

    def is_complete():
        return client.get_restore_snapshot_state(job).state == "RestoreSnapshotCompleted"

    try:
        is_held = (holding.folder / f"{unpin}.held").exists
        eventually(lambda: is_held() or is_complete(), "the job is about to let go, or has ended")
        if is_complete():
            client.drop_snapshot("passing", "source")
    finally:
        holding.release(unpin)
    assert finished(client, job).state == "RestoreSnapshotCompleted"
    client.drop_snapshot("passing", "source")
    client.drop_collection("passed")


def test_jobs_are_known_after_a_restart(tmp_path):
    server = Server(tmp_path).start()
    try:
        client = server.client()
        fill(client, "source", rows=20)
        client.create_snapshot("s1", "source", description="kept")
        ids = [restore(client, "s1", "source", f"copy{i}").job_id for i in range(3)]
        shown = client.describe_snapshot("s1", "source")
        pin = client.pin_snapshot_data("s1", "source")
        before = [client.get_restore_snapshot_state(job) for job in ids]
        server.kill9()
        server.start()
        client = server.client()
        assert [client.get_restore_snapshot_state(job) for job in ids] == before
        assert [job for job in client.list_restore_snapshot_jobs("copy1")] == before[1:2]
        # Those of a target that is gone are still found by its database.
        client.drop_collection("copy1")
        assert {job.job_id for job in client.list_restore_snapshot_jobs()} == set(ids)
        assert client.describe_snapshot("s1", "source") == shown
        with fails(2601):
            client.drop_snapshot("s1", "source")
        client.unpin_snapshot_data(pin)
        client.drop_snapshot("s1", "source")
        assert client.list_snapshots("source") == []
    finally:
        server.stop()


def test_snapshots_and_restores_are_counted(server, client, name, targets):  # noqa: F811
    fill(client, name, rows=5)
    created = "redkite_datacoord_snapshots_created_total"
    timed = "redkite_datacoord_snapshot_create_seconds_count"
    restores = "redkite_rootcoord_restores_total"
    labels = {"kind": "snapshot", "result": "completed"}
    before = [counter(server, created), counter(server, timed), counter(server, restores, **labels)]
    client.create_snapshot("s1", name)
    restore(client, "s1", name, targets())
    after = [counter(server, created), counter(server, timed), counter(server, restores, **labels)]
    assert after == [one + 1 for one in before]
