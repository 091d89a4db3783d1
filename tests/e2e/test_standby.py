"""Two data coordinators and two query coordinators: one of each acts, the other takes over."""

import pytest
from harness.cluster import frozen, run_cluster
from harness.data import count, create_simple, simple_rows
from harness.process import connect
from harness.replicas import until_it_works

pytestmark = pytest.mark.timeout(900)

ROLES = ("datacoord", "querycoord")

# A process that gets no time for as long as this loses its office, though nobody has stopped it.
TTL = 20
# The lease runs out, the standby sees it and takes over; the machine may be busy.
WITHIN = TTL + 60


@pytest.fixture
def cluster(tmp_path):
    lease = {"common.session_ttl": f"{TTL}s"}
    with run_cluster(tmp_path, dict.fromkeys(ROLES, 2), own=dict.fromkeys(ROLES, lease)) as cluster:
        yield cluster


def use(cluster, number):
    """What only works with both coordinators."""

    def work(client):
        # The channel of a new collection is given its owner by querycoord.
        create_simple(client, f"d{number}", timeout=20)
        # The rows are committed to segments by datacoord.
        client.upsert("c", simple_rows(10, start=number * 10), timeout=20)
        client.flush("c", timeout=20)

    uri = cluster.services["proxy"][0].uri
    until_it_works(uri, work, f"the coordinators are used, time {number}", WITHIN + 20)


def holders(cluster):
    return {role: cluster.holder(role) for role in ROLES}


def successors(cluster, former):
    """Waits until both offices have changed hands."""
    found = {role: cluster.successor(role, former[role][1], WITHIN) for role in ROLES}
    for role in ROLES:
        assert found[role][0] is not former[role][0]
        assert found[role][1] == former[role][1] + 1
    return found


def all_are_there(client):
    assert count(client, "c", timeout=20) == 100


def test_the_other_one_takes_over(cluster):
    uri = cluster.services["proxy"][0].uri
    client = connect(uri)
    create_simple(client, "c")
    client.insert("c", simple_rows(100))
    client.close()
    first = holders(cluster)
    assert [first[role][1] for role in ROLES] == [1, 1]
    use(cluster, 1)

    # Killed: the lease runs out, and the other one acts.
    for process, _ in first.values():
        process.kill9()
    second = successors(cluster, first)
    use(cluster, 2)
    for process, _ in first.values():
        process.start()
    assert holders(cluster) == second, "whoever comes back stands by"

    # Frozen: the same. When it goes on it is somebody whom nobody asks and whose writes are refused.
    with frozen(second["datacoord"][0]), frozen(second["querycoord"][0]):
        third = successors(cluster, second)
        use(cluster, 3)
    for process, _ in second.values():
        assert process.wait_exit() != 0
        process.start()
    use(cluster, 4)
    assert holders(cluster) == third

    # Stopped in order: there is nothing to wait for.
    for process, _ in third.values():
        assert process.stop() == 0
    successors(cluster, third)
    use(cluster, 5)
    until_it_works(uri, all_are_there, "all rows are there, once")
