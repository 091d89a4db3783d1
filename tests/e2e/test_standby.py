"""Two data coordinators and two query coordinators: one of each acts, the other takes over."""

import pytest
from harness.cluster import frozen, run_cluster
from harness.data import count, create_simple, simple_rows
from harness.process import connect
from harness.replicas import until_it_works

pytestmark = pytest.mark.timeout(180)

TTL = 2
# The lease runs out, the standby sees it and takes over; the machine may be busy.
WITHIN = TTL + 8


@pytest.fixture
def cluster(tmp_path):
    counts = {"datacoord": 2, "querycoord": 2}
    with run_cluster(tmp_path, counts, {"common.session_ttl": f"{TTL}s"}) as cluster:
        yield cluster


def use(cluster, role, number):
    """Something that only works with the coordinator of a role."""
    uri = cluster.services["proxy"][0].uri

    def work(client):
        if role == "datacoord":
            # The rows are committed to segments by it.
            client.upsert("c", simple_rows(10, start=number * 10), timeout=5)
            client.flush("c", timeout=10)
            stats = client.get_collection_stats("c", timeout=5)
            assert int(stats["row_count"]) >= 10
        else:
            # The channel of a new collection is given its owner by it.
            create_simple(client, f"d{number}", timeout=10)

    until_it_works(uri, work, f"{role} is used", WITHIN + 20)


@pytest.mark.parametrize("role", ["datacoord", "querycoord"])
def test_the_other_one_takes_over(cluster, role):
    client = connect(cluster.services["proxy"][0].uri)
    create_simple(client, "c")
    client.insert("c", simple_rows(100))
    client.close()
    first, epoch = cluster.holder(role)
    assert epoch == 1
    use(cluster, role, 1)

    # Killed: the lease runs out, and the other one acts.
    first.kill9()
    second, epoch = cluster.successor(role, epoch, WITHIN)
    assert second is not first
    use(cluster, role, 2)
    first.start()
    assert cluster.holder(role) == (second, epoch), "whoever comes back stands by"

    # Frozen: the same. When it goes on it is somebody whom nobody asks and whose writes are refused.
    with frozen(second):
        third, later = cluster.successor(role, epoch, WITHIN)
        assert third is first and later == epoch + 1
        use(cluster, role, 3)
    assert second.wait_exit() != 0
    second.start()
    use(cluster, role, 4)
    assert cluster.holder(role) == (third, later)

    # Stopped in order: there is nothing to wait for.
    assert third.stop() == 0
    assert cluster.successor(role, later, WITHIN)[0] is second
    use(cluster, role, 5)
    until_it_works(
        cluster.services["proxy"][0].uri,
        lambda client: count(client, "c", timeout=5) == 100,
        "all rows are there, once",
    )
