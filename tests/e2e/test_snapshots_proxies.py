"""Snapshots by way of several proxies: what one has answered, the others show."""

import pytest
from harness.cluster import run_cluster
from harness.data import all_rows
from harness.errors import fails
from harness.process import connect
from test_snapshots import fill
from test_snapshots_restore import finished

ROUNDS = 10


@pytest.fixture
def two(tmp_path):
    """A client of each of two proxies."""
    with run_cluster(tmp_path, {"proxy": 2}) as cluster:
        clients = [connect(process.uri) for process in cluster.services["proxy"]]
        yield clients
        for client in clients:
            client.close()


def test_what_one_proxy_has_answered_the_other_shows(two):
    one, other = two
    fill(one, "films", rows=50)
    rows = all_rows(one, "films")
    for number in range(ROUNDS):
        # Each time the other way round.
        one, other = other, one
        name, copy = f"s{number}", f"copy{number}"
        one.create_snapshot(name, "films", description="seen")
        assert other.list_snapshots("films") == [name]
        assert other.describe_snapshot(name, "films") == one.describe_snapshot(name, "films")
        with fails(1100, "already exists"):
            other.create_snapshot(name, "films")
        job = one.restore_snapshot(name, "films", copy)
        # By whichever its end is seen, the target is there.
        assert finished(other, job).state == "RestoreSnapshotCompleted"
        assert other.has_collection(copy)
        assert [info.job_id for info in other.list_restore_snapshot_jobs(copy)] == [job]
        pin = one.pin_snapshot_data(name, "films")
        with fails(2601):
            other.drop_snapshot(name, "films")
        other.unpin_snapshot_data(pin)
        one.drop_snapshot(name, "films")
        assert other.list_snapshots("films") == []
        with fails(2600):
            other.describe_snapshot(name, "films")
        other.drop_snapshot(name, "films")
    one.load_collection("copy0")
    assert all_rows(other, "copy0") == rows
