"""Measures searches alone, on data that is prepared once, and prints Markdown tables.

    make bench-search
    .venv/bin/python tests/bench/bench_search.py --prepared /tmp/bench --binary old new
    .venv/bin/python tests/bench/bench_search.py --prepared /tmp/bench --profile docs/search-cpu.svg
    .venv/bin/python tests/bench/bench_search.py --prepared /tmp/bench --profile - --writes 500

With several binaries all of them run at the same time, each on its own copy of the data, and are
asked in turns, so that what else happens on the machine hits all of them. Client threads share one
Python process; `--in-flight` has one client of grpc.aio with several requests on their way, for the
profile too. `--apart` keeps clients off the server's core, as those on other machines are.
`--floor` names the example `floor` of redkite-proxy: a gRPC service that answers with a stored
message of a search's size, so what gRPC costs at least.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

import flamegraph
import numpy as np
from measuring import LIMIT, Data, Table, ms, percentiles, schema, wait_indexed, wait_quiet

from harness.data import index_params
from harness.process import ROOT, Process, Server, free_port
from harness.raw import Raw, longs, vectors
from pymilvus import AsyncMilvusClient

NAME = "bench"
SECONDS_BEFORE_PROFILE = 10
SECONDS_OF_WRITES = 15
# What the CPU is for beside writes: the first pattern that any frame of a sample matches.
PURPOSES = {
    "search: rows that are not flushed": r"SegmentSearcher::without_index",
    "search: the index of the flushed rows": r"SegmentSearcher::by_index",
    "indexes over rows that are not flushed": r"build_interim|Joined::new",
    "search: everything else": r"[:_]search|Search",
    "insert": r"insert|Insert|wal|redkite_segment::growing",
}


def prepare(folder, data, binary):
    """A data directory with the collection, flushed and indexed; made once."""
    ready = folder / "ready"
    if ready.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    server = Server(folder, binary=binary).start()
    try:
        client = server.client()
        client.create_collection(
            NAME,
            schema=schema(data.base.shape[1]),
            index_params=index_params("HNSW", "COSINE", M=16, efConstruction=200),
            consistency_level="Strong",
        )
        for start in range(0, len(data.base), 1000):
            rows = data.base[start : start + 1000].tolist()
            client.insert(NAME, [{"id": start + i, "vector": row} for i, row in enumerate(rows)])
        client.flush(NAME)
        wait_indexed(client, NAME)
        wait_quiet(server)
        client.close()
    finally:
        server.stop()
    ready.touch()


class Copy(Server):
    """A server on a copy of the prepared data; with `apart` it has the first core, others the rest."""

    def __init__(self, folder, prepared, name, binary, apart=False):
        self.label = name
        self.apart = apart
        own = pathlib.Path(folder) / name
        own.mkdir()
        shutil.copytree(prepared / "data", own / "data")
        super().__init__(own, binary=binary)

    def spawn(self):
        cores = sorted(os.sched_getaffinity(0))
        if self.apart:
            os.sched_setaffinity(0, cores[:1])
        try:
            super().spawn()
        finally:
            os.sched_setaffinity(0, cores)


def ask(client, queries, ef):
    """One query a request; returns [(latency, ids)]."""
    results = []
    params = {"params": {"ef": ef}}
    for query in queries:
        start = time.perf_counter()
        found = client.search(
            NAME, [query], limit=LIMIT, search_params=params, consistency_level="Bounded"
        )[0]
        results.append((time.perf_counter() - start, [hit["id"] for hit in found]))
    return results


async def send_together(uri, queries, ef, in_flight, found):
    """One client with so many requests on their way at a time; calls `found(at, latency, hits)`."""
    client = AsyncMilvusClient(uri)
    todo = iter(enumerate(queries))
    params = {"params": {"ef": ef}}

    async def one_after_the_other():
        for at, query in todo:
            start = time.perf_counter()
            hits = await client.search(
                NAME, [query], limit=LIMIT, search_params=params, consistency_level="Bounded"
            )
            found(at, time.perf_counter() - start, hits[0])

    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
    await client.close()


def ask_together(uri, queries, ef, in_flight):
    """As `ask`, by one client with so many requests on their way at a time."""
    results = [None] * len(queries)

    def keep(at, latency, hits):
        results[at] = (latency, [hit["id"] for hit in hits])

    asyncio.run(send_together(uri, queries, ef, in_flight, keep))
    return results


def recall_of(results, truth):
    pairs = zip(results, truth, strict=True)
    return sum(len(set(ids) & set(best.tolist())) for (_, ids), best in pairs) / truth.size


class Round:
    """What one round of all queries has shown."""

    def __init__(self, server, queries, clients, ef):
        share = [queries[i :: len(clients)] for i in range(len(clients))]
        cpu, start = server.cpu_seconds(), time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
            parts = list(pool.map(ask, clients, share, [ef] * len(clients)))
        self.qps = len(queries) / (time.perf_counter() - start)
        self.cpu = (server.cpu_seconds() - cpu) / len(queries) * 1000
        self.latencies = [latency for part in parts for latency, _ in part]
        self.parts = parts


def measure_search(servers, data, efs, concurrencies, rounds):
    queries = [query.tolist() for query in data.queries]
    table = Table(
        "Search, top 10, one query a request",
        *("build", "ef", "clients", "recall@10", "QPS", "server CPU-s per 1,000", "latency"),
        "CPU, of the first build",
    )
    for ef in efs:
        for concurrency in concurrencies:
            seen = {server.label: [] for server in servers}
            with contextlib.ExitStack() as stack:
                clients = {}
                for server in servers:
                    own = [server.client() for _ in range(concurrency)]
                    for client in own:
                        stack.callback(client.close)
                        ask(client, queries[:50], ef)
                    clients[server.label] = own
                for _ in range(rounds):
                    for server in servers:
                        own = clients[server.label]
                        seen[server.label].append(Round(server, queries, own, ef))
            first = seen[servers[0].label]
            for server in servers:
                done = seen[server.label]
                found = [None] * len(queries)
                for i, part in enumerate(done[0].parts):
                    found[i::concurrency] = part
                ratios = [one.cpu / other.cpu for one, other in zip(done, first, strict=True)]
                table.add(
                    server.label,
                    ef,
                    concurrency,
                    f"{recall_of(found, data.truth):.3f}",
                    f"{statistics.median(one.qps for one in done):,.0f}",
                    f"{statistics.median(one.cpu for one in done):.3f}",
                    percentiles([latency for one in done for latency in one.latencies]),
                    f"{statistics.median(ratios):.2f}",
                )
    return table


def measure_in_flight(servers, data, ef, in_flights, rounds):
    """One client of which several requests are on their way at a time, as an application's are."""
    queries = [query.tolist() for query in data.queries]
    table = Table(
        "Search, top 10, one query a request, several requests of one client at a time",
        *("build", "ef", "in flight", "recall@10", "QPS", "server CPU-s per 1,000", "latency"),
    )
    for in_flight in in_flights:
        for server in servers:
            ask_together(server.uri, queries[:200], ef, in_flight)
            found, speed, busy, times = [], [], [], []
            for _ in range(rounds):
                cpu, start = server.cpu_seconds(), time.perf_counter()
                found = ask_together(server.uri, queries, ef, in_flight)
                speed.append(len(queries) / (time.perf_counter() - start))
                busy.append((server.cpu_seconds() - cpu) / len(queries) * 1000)
                times += [latency for latency, _ in found]
            table.add(
                server.label,
                ef,
                in_flight,
                f"{recall_of(found, data.truth):.3f}",
                f"{statistics.median(speed):,.0f}",
                f"{statistics.median(busy):.3f}",
                percentiles(times),
            )
    return table


class Writer:
    """Inserts rows at a steady rate, in batches, until it is left; requests are packed before.

    It is a process of its own: in the searches' process they would wait for Python's lock whenever
    a batch is sent, and the server would be blamed for it.
    """

    def __init__(self, server, data, rate, batch=50, seconds=60):
        context = multiprocessing.get_context("spawn")
        self.ready, self.ends = context.Event(), context.Event()
        self.count = context.Value("l", 0)
        picks = np.random.default_rng(5).integers(0, len(data.base), int(rate * seconds))
        arguments = (server.address, data.base[picks], batch, batch / rate)
        events = (self.ready, self.ends, self.count)
        self.process = context.Process(target=write, args=(*arguments, *events))

    @property
    def written(self):
        return self.count.value

    def __enter__(self):
        self.process.start()
        assert self.ready.wait(60)
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.process.join()
        assert self.process.exitcode == 0


def write(address, rows, batch, period, ready, ends, count):
    """What a writer's process does; `rows` are sent once, `batch` of them each `period` seconds."""
    dim = rows.shape[1]
    batches = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        keys = range(20_000_000 + start, 20_000_000 + start + len(part))
        batches.append(([longs("id", keys), vectors("vector", dim, part.ravel())], len(part)))
    raw = Raw(address)
    ready.set()
    due = time.perf_counter()
    for columns, rows_of_batch in batches:
        if ends.wait(max(0.0, due - time.perf_counter())):
            break
        reply = raw.insert(NAME, columns, rows_of_batch)
        assert reply.status.code == 0, reply.status
        count.value += rows_of_batch
        due += period
    raw.close()


def measure_under_writes(servers, data, ef, rate, seconds):
    """Latencies of one client's searches, idle and while another one inserts."""
    queries = [query.tolist() for query in data.queries]
    table = Table(
        f"Search by one client while {rate} rows a second are inserted, ef {ef}",
        *("build", "idle", "under writes", "p99, of idle", "rows a second"),
    )

    def latencies(client, seconds):
        until, found = time.perf_counter() + seconds, []
        while time.perf_counter() < until:
            found.extend(latency for latency, _ in ask(client, queries[:200], ef))
        return found

    for server in servers:
        client = server.client()
        latencies(client, 1)
        idle = latencies(client, seconds)
        writer = Writer(server, data, rate, seconds=seconds + 30)
        with writer:
            started = time.perf_counter()
            loaded = latencies(client, seconds)
            speed = writer.written / (time.perf_counter() - started)
        client.close()
        ratio = np.percentile(loaded, 99) / np.percentile(idle, 99)
        table.add(
            server.label, percentiles(idle), percentiles(loaded), f"{ratio:.2f}", f"{speed:.0f}"
        )
    return table


def measure_floor(server, binary, folder, data, concurrencies, rounds):
    """The CPU of a gRPC service that only answers, for requests and answers of a search's size."""
    log = pathlib.Path(folder) / "floor.log"
    port = free_port()
    floor = Process("floor", [binary, port], None, log)
    floor.spawn()
    raw = Raw(server.address)
    queries = [query.astype("<f4").tobytes() for query in data.queries]
    requests = [search_request(query) for query in queries]
    assert raw.stub.Search(requests[0]).status.code == 0
    raw.close()
    table = Table(
        "The floor: a gRPC service that answers with a stored message",
        *("clients", "requests a second", "CPU-s per 1,000", "latency"),
    )
    try:
        for concurrency in concurrencies:
            options = [("grpc.use_local_subchannel_pool", 1)]
            raws = [Raw(f"127.0.0.1:{port}", options) for _ in range(concurrency)]
            for one in raws:
                one.stub.Search(requests[0], wait_for_ready=True, timeout=20)
            busy, speed, times = [], [], []
            for _ in range(rounds):
                cpu, start = floor.cpu_seconds(), time.perf_counter()
                with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
                    share = [requests[i::concurrency] for i in range(concurrency)]
                    times += [t for part in pool.map(send_all, raws, share) for t in part]
                speed.append(len(requests) / (time.perf_counter() - start))
                busy.append((floor.cpu_seconds() - cpu) / len(requests) * 1000)
            table.add(
                concurrency,
                f"{statistics.median(speed):,.0f}",
                f"{statistics.median(busy):.3f}",
                percentiles(times),
            )
            for one in raws:
                one.close()
    finally:
        floor.kill9()
    return table


def search_request(query):
    from pymilvus.grpc_gen import common_pb2, milvus_pb2

    value = common_pb2.PlaceholderValue(
        tag="$0", type=common_pb2.PlaceholderType.FloatVector, values=[query]
    )
    group = common_pb2.PlaceholderGroup(placeholders=[value])
    params = {"topk": str(LIMIT), "params": '{"ef": 24}', "round_decimal": "-1"}
    return milvus_pb2.SearchRequest(
        collection_name=NAME,
        placeholder_group=group.SerializeToString(),
        dsl_type=common_pb2.DslType.BoolExprV1,
        search_params=[common_pb2.KeyValuePair(key=k, value=v) for k, v in params.items()],
        consistency_level=common_pb2.ConsistencyLevel.Bounded,
        guarantee_timestamp=2,
        nq=1,
    )


def send_all(raw, requests):
    times = []
    for request in requests:
        start = time.perf_counter()
        raw.stub.Search(request)
        times.append(time.perf_counter() - start)
    return times


@contextlib.contextmanager
def searches_by_clients(server, queries, ef, clients):
    """Searches of so many clients, each a thread and one request at a time, until it is left."""
    own = [server.client() for _ in range(clients)]
    for client in own:
        ask(client, queries[:200], ef)
    ends = threading.Event()

    def load(client):
        while not ends.is_set():
            ask(client, queries[:100], ef)

    threads = [threading.Thread(target=load, args=(client,)) for client in own]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in threads:
            thread.join()
        for client in own:
            client.close()


@contextlib.contextmanager
def searches_in_flight(server, queries, ef, in_flight):
    """Searches of one client, so many at a time, until it is left."""
    ends = threading.Event()

    def until_it_ends():
        while not ends.is_set():
            yield from queries

    def load():
        asyncio.run(send_together(server.uri, until_it_ends(), ef, in_flight, lambda *_: None))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def profile(server, load, what, seconds, picture, purposes=None):
    """Where the CPU goes beside `load`, by `perf`: tables, of layers first, and a flame graph."""
    recorded = pathlib.Path(server.data_dir).parent / "perf.data"
    # Stacks of asynchronous code are deep.
    command = ["perf", "record", "-q", "-F", "999", "-e", "cpu-clock"]
    command += ["--call-graph", "dwarf,32768"]
    command += ["-p", str(server.child.pid), "-o", recorded, "--", "sleep", str(seconds)]
    with load:
        # Not of the first searches, which nothing is in any cache for.
        time.sleep(1)
        subprocess.run(command, check=True)
    script = subprocess.run(
        ["perf", "script", "--no-inline", "-F", "comm,ip,sym,event", "-i", recorded],
        check=True,
        capture_output=True,
        text=True,
    )
    stacks = flamegraph.fold(script.stdout.splitlines())
    if picture:
        pathlib.Path(picture).write_text(flamegraph.draw(stacks, f"Server CPU of searches, {what}"))
    table = Table(f"Where the CPU goes, {what}", "layer", "share")
    for layer, share in flamegraph.layers(stacks):
        table.add(layer, f"{share * 100:.1f} %")
    names = Table("Threads", "threads", "share")
    for name, share in flamegraph.threads(stacks):
        names.add(name, f"{share * 100:.1f} %")
    what_for = Table("What it is for", "purpose", "share")
    for purpose, share in flamegraph.purposes(stacks, purposes or {}):
        what_for.add(purpose, f"{share * 100:.1f} %")
    functions = Table("Functions that take the most themselves", "function", "share")
    for function, share in flamegraph.own(stacks)[:40]:
        functions.add(function, f"{share * 100:.1f} %")
    return [table, *([what_for] if purposes else []), names, functions]


@contextlib.contextmanager
def searches_beside_writes(server, data, ef, rate):
    """Searches of one client while another one inserts, until it is left."""
    queries = [query.tolist() for query in data.queries]
    writer = Writer(server, data, rate, seconds=60)
    with writer, searches_by_clients(server, queries, ef, 1):
        # Until rows are growing as they do from then on.
        time.sleep(SECONDS_BEFORE_PROFILE)
        yield


def profiles(server, data, args):
    """A profile for each number of clients, and of requests in flight; a picture of the last one.

    With a rate of writes, of one client beside those instead.
    """
    ef, queries = args.ef[0], [query.tolist() for query in data.queries]
    if args.writes:
        what = f"{data.shape}, ef {ef}, 1 client beside {args.writes} rows a second"
        running = searches_beside_writes(server, data, ef, args.writes)
        picture = args.profile if args.profile != "-" else None
        return profile(server, running, what, SECONDS_OF_WRITES, picture, PURPOSES)
    kinds = [(searches_by_clients, count, f"{count} clients") for count in args.clients]
    kinds += [
        (searches_in_flight, count, f"{count} requests of one client at a time")
        for count in args.in_flight
    ]
    tables = []
    for load, count, by in kinds:
        is_last = (load, count) == kinds[-1][:2]
        picture = args.profile if is_last and args.profile != "-" else None
        running = load(server, queries, ef, count)
        tables += profile(server, running, f"{data.shape}, ef {ef}, {by}", 8, picture)
    return tables


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    release = ROOT / "target" / "release"
    parser.add_argument(
        "--prepared",
        type=pathlib.Path,
        nargs="+",
        help="where prepared data is kept; one for each binary where one cannot read another's",
    )
    parser.add_argument("--binary", nargs="+", default=[str(release / "redkite")])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ef", type=int, nargs="+", default=[24])
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--in-flight", type=int, nargs="*", default=[], help="requests at a time")
    parser.add_argument(
        "--apart", action="store_true", help="servers have a core, clients and `perf` the others"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times all queries are sent")
    parser.add_argument("--writes", type=int, help="rows inserted a second beside searches")
    parser.add_argument("--seconds", type=int, default=20, help="of each part under writes")
    parser.add_argument("--floor", help="binary of the example `floor`")
    parser.add_argument("--profile", help="where to draw a flame graph; `-` for tables only")
    args = parser.parse_args()

    data = Data(args.rows)
    tables = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="redkite-bench-"))
        prepared = args.prepared or [pathlib.Path(folder) / "prepared"]
        if len(prepared) == 1:
            prepared *= len(args.binary)
        servers = []
        for number, (binary, prepared) in enumerate(zip(args.binary, prepared, strict=True)):
            prepare(prepared, data, binary)
            server = Copy(folder, prepared, f"{number + 1}", binary, args.apart)
            stack.callback(server.stop)
            took = time.perf_counter()
            server.start()
            took = time.perf_counter() - took
            wait_quiet(server)
            rss = server.rss_bytes() / 2**20
            print(f"build {server.label}: {binary}, ready in {ms(took)}, RSS {rss:.0f} MB")
            servers.append(server)
        if args.apart:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[1:])
        if args.profile:
            tables += profiles(servers[0], data, args)
        else:
            tables.append(measure_search(servers, data, args.ef, args.clients, args.rounds))
        if args.in_flight and not args.profile:
            flights = args.in_flight
            tables.append(measure_in_flight(servers, data, args.ef[0], flights, args.rounds))
        if args.floor:
            measured = measure_floor(
                servers[0], args.floor, folder, data, args.clients, args.rounds
            )
            tables.append(measured)
        if args.writes and not args.profile:
            order = random.Random(1).sample(servers, len(servers))
            measured = measure_under_writes(order, data, args.ef[0], args.writes, args.seconds)
            tables.append(measured)
    print(f"{data.name}, {data.shape}, HNSW M=16 efConstruction=200, COSINE\n")
    for table in tables:
        print(table)


if __name__ == "__main__":
    main()
