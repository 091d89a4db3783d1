"""Three root coordinators as processes: whatever happens to one of them, nothing is lost or half made."""

import shutil
import signal
import threading
import time

import pytest
from harness.data import create_simple, simple_rows
from harness.process import connect
from harness.replicas import run_replicas, until_it_works
from harness.waiting import eventually

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def cluster(tmp_path):
    with run_replicas(tmp_path) as (replicas, uri):
        yield replicas, uri


@pytest.fixture
def steady(tmp_path):
    """A group that does not take its leader for dead at the first pause of a busy machine."""
    with run_replicas(tmp_path, {"metastore.election_timeout": "5s"}) as (replicas, uri):
        yield replicas, uri


def partitions(client):
    return sorted(client.list_partitions("c"))


def test_the_group_survives_every_leader(cluster):
    """kill -9 of the leader again and again while partitions are created and dropped."""
    replicas, uri = cluster
    client = connect(uri)
    create_simple(client, "c")
    client.insert("c", simple_rows(100))
    client.close()
    acknowledged = {"_default"}
    asked = set()
    stop = threading.Event()

    def work():
        number, client = 0, None
        while not stop.is_set():
            name = f"p{number}"
            asked.add(name)
            try:
                # Nor may a connection be to be had while nobody leads.
                client = client or connect(uri, timeout=10)
                client.create_partition("c", name, timeout=5)
            except Exception:
                if client:
                    client.close()
                client = None
                continue
            acknowledged.add(name)
            number += 1
            if number % 3 == 0:
                try:
                    client.drop_partition("c", name, timeout=5)
                    acknowledged.discard(name)
                except Exception:
                    # Dropped or not, nobody was told.
                    acknowledged.discard(name)
        if client:
            client.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(3):
            before = len(asked)
            eventually(lambda: len(asked) > before + 3, "definitions are made", 120)
            leader = replicas.leader()
            replicas.processes[leader].kill9()
            before = len(asked)
            eventually(lambda: len(asked) > before + 3, "definitions are made without it", 120)
            replicas.processes[leader].start()
    finally:
        stop.set()
        worker.join()

    def check(client):
        found = set(partitions(client))
        assert acknowledged <= found, acknowledged - found
        assert found <= asked | {"_default"}
        old = {"filter": "id < 100", "output_fields": ["count(*)"], "timeout": 5}
        assert client.query("c", **old) == [{"count(*)": 100}]
        # Nothing is half made: each can be used and dropped. This may have been tried before.
        for name in found - {"_default"}:
            client.insert("c", simple_rows(1, start=1000), partition_name=name)
            break
        return found

    until_it_works(uri, check, "all that was acknowledged is there")

    def agree():
        statuses = [replicas.status(node_id) for node_id in replicas.running()]
        leaders = {status and status["leader"] for status in statuses}
        return len(leaders) == 1 and None not in leaders

    # Who was started again may not have heard of the leader yet.
    eventually(agree, "all know the same leader")


def test_a_leader_that_was_stopped_serves_nothing_stale(cluster):
    replicas, uri = cluster
    leader = replicas.leader()
    rest = [node_id for node_id in replicas.running() if node_id != leader]
    old = replicas.processes[leader]
    old.child.send_signal(signal.SIGSTOP)
    try:
        replicas.leader(among=rest)
        until_it_works(uri, lambda client: create_simple(client, "c"), "a definition without it")
    finally:
        old.child.send_signal(signal.SIGCONT)
    # What it knew is another's now: it ends by itself, and comes back as one that stands by.
    assert old.wait_exit() != 0
    old.start()

    def has_its_place():
        status = replicas.status(leader)
        if status and status["state"] == "Follower":
            return status["leader"] in rest
        # The others may have elected it since, when the leader had no time.
        return status and status["state"] == "Leader" and status["leader"] == leader

    eventually(has_its_place, "it follows, and knows whom")
    until_it_works(uri, lambda client: client.describe_collection("c"), "the definition is there")


def test_a_lost_replica_is_replaced_by_a_new_one(steady):
    replicas, uri = steady
    until_it_works(uri, lambda client: create_simple(client, "c"), "a definition")
    leader = replicas.leader()
    lost = next(node_id for node_id in replicas.running() if node_id != leader)
    kept = next(node_id for node_id in replicas.running() if node_id not in (leader, lost))

    # Under its old id a replica with an empty disk is not let in again.
    replicas.processes[lost].kill9()
    shutil.rmtree(replicas.data_dir(lost))
    replicas.processes[lost].spawn()
    assert replicas.processes[lost].wait_exit() == 1
    assert "new metastore.node_id" in replicas.processes[lost].log_tail()

    replicas.join(4)
    for asked in (leader, kept):
        code, out = replicas.redkite(asked, "add", lost, "127.0.0.1:1")
        assert code == 1 and "is a member at" in out, out
    # Whichever replica is asked, the leader does it.
    code, out = replicas.redkite(kept, "add", 4, replicas.address(4))
    assert code == 0, out
    replicas.processes[4].wait_ready()
    code, out = replicas.redkite(4, "remove", lost)
    assert code == 0, out

    def voters():
        status = replicas.status(leader)
        return status and sorted(status["voters"])

    # Another one may lead by now, and have told those who asked before it tells this one.
    eventually(lambda: voters() == sorted([leader, kept, 4]), "the change is known")
    code, out = replicas.redkite(leader, "add", lost, replicas.address(lost))
    assert code == 1 and "used before" in out

    # The new one counts: with it and one of the old ones there is a quorum.
    replicas.processes[leader].kill9()
    replicas.leader(among=[kept, 4])
    until_it_works(uri, lambda client: client.create_partition("c", "p"), "a definition")
    until_it_works(uri, lambda client: partitions(client) == ["_default", "p"], "it is there")


def test_timestamps_grow_over_leaders(cluster):
    """Timestamps that a client is given one after the other grow, whoever gives them out."""
    replicas, uri = cluster
    until_it_works(uri, lambda client: create_simple(client, "c"), "a definition")
    last = 0
    deadline = time.monotonic() + 400
    for _ in range(2):
        leader = replicas.leader()
        for kill in (False, True):
            if kill:
                replicas.processes[leader].kill9()
            given = 0
            while given < 20:
                assert time.monotonic() < deadline
                try:
                    client = connect(uri, timeout=10)
                    handler = client._get_connection()
                    now = handler.alloc_timestamp(timeout=5)
                    client.close()
                except Exception:
                    continue
                assert now > last, (now, last)
                last, given = now, given + 1
        replicas.processes[leader].start()
