"""Measures definitions: how long each takes, alone and with 16 clients, and with many collections.

    make bench-ddl
    .venv/bin/python tests/bench/bench_ddl.py --collections 500     # a quick look

The latencies are those of the ordinary client, whose own share is about half a millisecond. Clients
are threads of one Python process, so with 16 of them the client takes a large part of the machine.
"""

import argparse
import contextlib
import os
import pathlib
import platform
import tempfile
import threading
import time

import grpc
from pymilvus.grpc_gen import milvus_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("REDKITE_BIN_DIR", str(ROOT / "target" / "release"))

from measuring import Table, mib, percentiles, timed  # noqa: E402

from harness.cluster import run_cluster  # noqa: E402
from harness.data import create_simple, index_params, simple_schema  # noqa: E402
from harness.process import BIN_DIR, Server, connect  # noqa: E402
from harness.raw import Raw  # noqa: E402
from harness.replicas import run_replicas  # noqa: E402
from harness.waiting import eventually  # noqa: E402

# For so long nothing is asked for.
IDLE_SECONDS = 15

# What is measured, in an order in which each can be done after the one before.
PARTITION = ["create_partition", "has_partition", "list_partitions", "drop_partition"]
COLLECTION = ["create_collection", "load_collection", "release_collection", "drop_collection"]


def rounds(client, mine, count, times):
    """One client's work on a collection of its own, and on collections that it makes."""
    create_simple(client, mine)
    client.release_collection(mine)
    for number in range(count):
        name = f"p{number}"
        for what in PARTITION:
            arguments = (mine,) if what == "list_partitions" else (mine, name)
            times[what].append(timed(getattr(client, what), *arguments))
    for number in range(max(count // 10, 3)):
        name = f"{mine}_{number}"
        times["create_collection"].append(
            timed(client.create_collection, name, schema=simple_schema())
        )
        client.create_index(name, index_params())
        for what in COLLECTION[1:]:
            times[what].append(timed(getattr(client, what), name))
    client.drop_collection(mine)


def measure(uri, clients, count, where, table):
    times = {what: [] for what in PARTITION + COLLECTION}
    connected = [connect(uri) for _ in range(clients)]
    workers = [
        threading.Thread(target=rounds, args=(client, f"mine{at}", count, times))
        for at, client in enumerate(connected)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for client in connected:
        client.close()
    for what, taken in times.items():
        table.add(where, clients, what, percentiles(taken))
    rate_of_creates(uri, clients, count, where, table)


def rate_of_creates(uri, clients, count, where, table):
    """create_partition alone, each client in a collection of its own: definitions a second."""
    connected = [connect(uri) for _ in range(clients)]
    for at, client in enumerate(connected):
        client.create_collection(f"rate{at}", schema=simple_schema())

    def create(client, at):
        for number in range(count):
            client.create_partition(f"rate{at}", f"p{number}")

    workers = [
        threading.Thread(target=create, args=(client, at)) for at, client in enumerate(connected)
    ]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rate = clients * count / (time.perf_counter() - start)
    table.add(where, clients, "create_partition, a second", f"{rate:,.0f}")
    for at, client in enumerate(connected):
        client.drop_collection(f"rate{at}")
        client.close()


def make_many(uri, collections, partitions, clients=16):
    """Seconds for so many collections of so many partitions each, made by some clients."""

    def make(first):
        client = connect(uri)
        for number in range(first, collections, clients):
            client.create_collection(f"c{number}", schema=simple_schema())
            for partition in range(partitions - 1):
                client.create_partition(f"c{number}", f"p{partition}")
        client.close()

    workers = [threading.Thread(target=make, args=(first,)) for first in range(clients)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


def measure_alone(client, where, prefix, table):
    """What one client waits for in an otherwise idle system, under names that begin with `prefix`."""
    names = [f"{prefix}{number}" for number in range(100)]
    made = names[:20]
    what = {
        "create_partition": [timed(client.create_partition, "alone", name) for name in names],
        "drop_partition": [timed(client.drop_partition, "alone", name) for name in names],
        "create_collection": [
            timed(client.create_collection, name, schema=simple_schema()) for name in made
        ],
        "drop_collection": [timed(client.drop_collection, name) for name in made],
    }
    for name, taken in what.items():
        table.add(f"{name}, {where}", percentiles(taken))


def measure_many(folder, collections, partitions, table):
    """The same beside many collections, and a restart with them."""
    with running(Server(folder, binary=BIN_DIR / "redkite")) as server:
        client = server.client()
        client.create_collection("alone", schema=simple_schema())
        measure_alone(client, "empty system", "before", table)
        took = make_many(server.uri, collections, partitions)
        what = f"{collections:,} collections × {partitions} partitions made, 16 clients"
        table.add(what, f"{took:.0f} s, {collections * partitions / took:,.0f} a second")
        measure_alone(client, "beside them", "beside", table)
        lists = [timed(client.list_partitions, f"c{n % collections}") for n in range(100)]
        table.add("list_partitions of one of them", percentiles(lists))
        table.add("RSS of the whole process", mib(server.rss_bytes()))
        before = server.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        idle = (server.cpu_seconds() - before) / IDLE_SECONDS
        table.add("processor while nothing is asked for", f"{idle:.1%} of a core")
        client.close()
        server.kill9()
        table.add("kill -9 to ready", f"{timed(server.start):.2f} s")


def measure_root(folder, collections, partitions, table):
    """The root coordinator as a process of its own, with many collections."""
    with run_cluster(folder) as cluster:
        (root,) = cluster.services["rootcoord"]
        (proxy,) = cluster.services["proxy"]
        make_many(proxy.uri, collections, partitions)
        table.add("RSS of rootcoord", mib(root.rss_bytes()))
        root.kill9()
        table.add("kill -9 of rootcoord to ready", f"{timed(root.start):.2f} s")
        table.add("RSS of rootcoord after that", mib(root.rss_bytes()))
        for service, (process, *_) in cluster.services.items():
            if service != "rootcoord":
                table.add(f"RSS of {service}", mib(process.rss_bytes()))


def measure_failover(replicas, uri, table):
    """The client waits longer with each try, up to 3 s, and so for longer than the servers need: asked
    for is every 20 ms, with requests of its own."""
    taken = []
    client = connect(uri)
    create_simple(client, "failover")
    client.close()
    raw = Raw(uri.removeprefix("http://"))
    for number in range(5):
        leader = replicas.leader()
        replicas.processes[leader].kill9()
        start = time.perf_counter()
        request = milvus_pb2.CreatePartitionRequest(
            collection_name="failover", partition_name=f"p{number}"
        )

        def is_made(request=request):
            try:
                return raw.call("CreatePartition", request, timeout=1).code == 0
            except grpc.RpcError:
                return False

        eventually(is_made, "a definition", 60, 0.02)
        taken.append(time.perf_counter() - start)
        replicas.processes[leader].start()
    raw.close()
    taken.sort()
    seconds = ", ".join(f"{one:.2f}" for one in taken)
    table.add("three replicas", 1, "kill -9 of the leader to the next definition", f"{seconds} s")


@contextlib.contextmanager
def running(server):
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def scratch():
    with tempfile.TemporaryDirectory(prefix="redkite-bench-") as folder:
        yield pathlib.Path(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="definitions of a kind and client")
    parser.add_argument("--collections", type=int, default=10_000)
    parser.add_argument("--partitions", type=int, default=10, help="of each of them")
    args = parser.parse_args()

    each = Table("Definitions", "where", "clients", "what", "latency")
    many = Table("Many collections", "what", "measured")
    with scratch() as folder, running(Server(folder, binary=BIN_DIR / "redkite")) as server:
        for clients in (1, 16):
            measure(server.uri, clients, args.count, "standalone", each)
    with scratch() as folder, run_replicas(folder) as (replicas, uri):
        for clients in (1, 16):
            measure(uri, clients, args.count, "three replicas", each)
        measure_failover(replicas, uri, each)
    if args.collections:
        with scratch() as folder:
            measure_many(folder, args.collections, args.partitions, many)
        with scratch() as folder:
            measure_root(folder, args.collections, args.partitions, many)

    print(f"{os.cpu_count()} cores, {platform.machine()}, client and servers on the same ones\n")
    print(each)
    print(many)


if __name__ == "__main__":
    main()
