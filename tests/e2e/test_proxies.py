"""Three proxies, of which one is stopped or dead: none shows what was there before."""

import concurrent.futures
import time

import pytest
from harness.cluster import frozen, run_cluster
from harness.data import create_simple
from harness.process import connect
from harness.waiting import eventually

pytestmark = pytest.mark.timeout(600)

TTL = 3
# A definition waits for a proxy that does not answer until its lease is over, and does its own work, for
# which the machine may be busy. Without a lease it would wait for as long as the proxy is stopped.
WITHIN = TTL + 60


@pytest.fixture
def proxies(tmp_path):
    """The proxies, and a client of each."""
    # Others would end with a lease that they lose because the machine is busy; a proxy has another.
    own = {"proxy": {"common.session_ttl": f"{TTL}s"}}
    with run_cluster(tmp_path, {"proxy": 3}, own=own) as cluster:
        processes = cluster.services["proxy"]
        clients = [connect(process.uri) for process in processes]
        yield processes, clients
        for client in clients:
            client.close()


def timed(work):
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_no_proxy_shows_what_was_there_before_a_definition(proxies):
    processes, (one, two, three) = proxies
    create_simple(one, "c")
    for client in (two, three):
        assert client.has_collection("c")

    # A proxy that is stopped holds up a definition no longer than its lease.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with frozen(processes[2]):
            assert timed(lambda: one.drop_collection("c")) < WITHIN
            assert not two.has_collection("c"), "it was waited for"
            # These wait before the stopped process, which knows the collection when it goes on.
            asked = [pool.submit(three.has_collection, "c", timeout=120) for _ in range(8)]
            described = pool.submit(three.list_collections, timeout=120)
        assert [answer.result() for answer in asked] == [False] * 8
        assert described.result() == []
    # It goes on as one of three: definitions wait for it again.
    for number in range(5):
        one.create_collection(f"d{number}", dimension=4)
        assert three.has_collection(f"d{number}")

    # One that is dead neither, and those that live show every change at once.
    processes[1].kill9()
    assert timed(lambda: one.drop_collection("d0")) < WITHIN
    assert not three.has_collection("d0")
    assert timed(lambda: one.drop_collection("d1")) < WITHIN, "it is waited for once only"
    assert not three.has_collection("d1")


def test_a_short_pause_ends_with_the_change_seen(proxies):
    processes, (one, two, three) = proxies
    create_simple(one, "c")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with frozen(processes[2]):
            created = pool.submit(one.create_partition, "c", "p")
            # It is on record, and its answer waits for the proxy that is stopped.
            eventually(lambda: two.has_partition("c", "p"), "the others see it")
        created.result(timeout=60)
    assert three.has_partition("c", "p")
