"""Measures a release server through the Milvus client and prints Markdown tables.

    make bench
    .venv/bin/python tests/bench/bench.py --rows 20000       # a quick look

Data: WordNet embeddings (384-d) from ../shared/data/wordnet when that is there, else generated
clusters of the same shape. Server CPU time is read from /proc/PID/stat, so it includes everything
that the server does in the meantime.
"""

import argparse
import concurrent.futures
import os
import platform
import sys
import tempfile
import time

import numpy as np
from measuring import (
    LIMIT,
    Data,
    Table,
    mib,
    ms,
    percentiles,
    schema,
    timed,
    wait_indexed,
    wait_quiet,
)

from harness.data import index_params
from harness.process import ROOT, Server

NAME = "bench"


def measure_ddl(client, table):
    """Small metadata operations, on collections without rows."""
    times = {key: [] for key in ("create_collection", "create_partition", "load", "release")}
    for i in range(20):
        name = f"ddl_{i}"
        times["create_collection"].append(timed(client.create_collection, name, schema=schema(8)))
        client.create_index(name, index_params("HNSW", "COSINE"))
        for j in range(5):
            times["create_partition"].append(timed(client.create_partition, name, f"p{j}"))
        times["load"].append(timed(client.load_collection, name))
        times["release"].append(timed(client.release_collection, name))
        client.drop_collection(name)
    for key, values in times.items():
        table.add(f"{key} of a small collection", percentiles(values))


def measure_insert(server, client, data, table):
    client.create_collection(
        NAME,
        schema=schema(data.base.shape[1]),
        index_params=index_params("HNSW", "COSINE", M=16, efConstruction=200),
        consistency_level="Strong",
    )
    cpu = server.cpu_seconds()
    waited = 0.0
    for start in range(0, len(data.base), 1000):
        vectors = data.base[start : start + 1000].tolist()
        batch = [{"id": start + i, "vector": vector} for i, vector in enumerate(vectors)]
        waited += timed(client.insert, NAME, batch)
    busy = server.cpu_seconds() - cpu
    table.add(
        "insert until acknowledged, batches of 1,000", f"{len(data.base) / waited:,.0f} rows/s"
    )
    table.add("server CPU while inserting", f"{busy:.1f} s")
    cpu = server.cpu_seconds()
    took = timed(client.flush, NAME)
    table.add("flush", f"{took:.1f} s")
    wait_indexed(client, NAME)
    wait_quiet(server)
    table.add(
        "index build: server CPU after the last insert", f"{server.cpu_seconds() - cpu:.1f} s"
    )


def search_all(client, queries, ef):
    """One query a request; returns [(latency, ids)]."""
    results = []
    for query in queries:
        start = time.perf_counter()
        found = client.search(
            NAME,
            [query],
            limit=LIMIT,
            search_params={"params": {"ef": ef}},
            consistency_level="Bounded",
        )[0]
        results.append((time.perf_counter() - start, [hit["id"] for hit in found]))
    return results


def measure_search(server, data, table, efs, rounds):
    queries = [query.tolist() for query in data.queries]
    for ef in efs:
        for concurrency in (1, 2, 4):
            clients = [server.client() for _ in range(concurrency)]
            share = [queries[i::concurrency] for i in range(concurrency)]
            search_all(clients[0], queries[:50], ef)
            cpu = server.cpu_seconds()
            start = time.perf_counter()
            results = [[] for _ in range(concurrency)]
            with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
                for _ in range(rounds):
                    for i, part in enumerate(
                        pool.map(search_all, clients, share, [ef] * concurrency)
                    ):
                        results[i].append(part)
            elapsed = time.perf_counter() - start
            busy = server.cpu_seconds() - cpu
            done = len(queries) * rounds
            shared = 0
            for i, parts in enumerate(results):
                truth = data.truth[i::concurrency]
                for (_, ids), best in zip(parts[0], truth, strict=True):
                    shared += len(set(ids) & set(best.tolist()))
            latencies = [latency for parts in results for part in parts for latency, _ in part]
            table.add(
                ef,
                concurrency,
                f"{shared / (len(queries) * LIMIT):.3f}",
                f"{done / elapsed:,.0f}",
                f"{busy / done * 1000:.2f}",
                percentiles(latencies),
            )
            for client in clients:
                client.close()


def measure_fresh_reads(client, data, table):
    """A Strong search right after an insert, and whether it sees the row."""
    times, missed = [], 0
    rng = np.random.default_rng(3)
    for i in range(200):
        vector = rng.normal(size=data.base.shape[1]).astype(np.float32).tolist()
        key = 10_000_000 + i
        client.insert(NAME, [{"id": key, "vector": vector}])
        start = time.perf_counter()
        found = client.search(NAME, [vector], limit=1, consistency_level="Strong")[0]
        times.append(time.perf_counter() - start)
        missed += found[0]["id"] != key
    client.delete(NAME, ids=[10_000_000 + i for i in range(200)])
    table.add(
        "Strong search right after an insert", f"{percentiles(times)}, {missed} of 200 missed"
    )


def restart(server, table, what):
    server.kill9()
    table.add(f"time to ready after kill -9, {what}", ms(timed(server.start)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ef", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--rounds", type=int, default=2, help="times all queries are sent")
    parser.add_argument("--binary", default=str(ROOT / "target" / "release" / "redkite"))
    args = parser.parse_args()

    data = Data(args.rows)
    life = Table("Life and memory", "what", "measured")
    ddl = Table("Metadata", "what", "measured")
    writes = Table("Writes", "what", "measured")
    search = Table(
        "Search, top 10, one query a request",
        "ef",
        "clients",
        "recall@10",
        "QPS",
        "server CPU-s per 1,000",
        "latency",
    )
    with tempfile.TemporaryDirectory(prefix="redkite-bench-") as folder:
        server = Server(folder, binary=args.binary)
        life.add("time to ready, empty data directory", ms(timed(server.start)))
        try:
            wait_quiet(server)
            life.add("RSS, idle and empty", mib(server.rss_bytes()))
            client = server.client()
            measure_ddl(client, ddl)
            measure_insert(server, client, data, writes)
            life.add("RSS, data loaded and indexed", mib(server.rss_bytes()))
            measure_search(server, data, search, args.ef, args.rounds)
            measure_fresh_reads(client, data, writes)
            ddl.add("release of the full collection", ms(timed(client.release_collection, NAME)))
            ddl.add("load of the full collection", ms(timed(client.load_collection, NAME)))
            client.close()
            restart(server, life, "full data")
            client = server.client()
            first = timed(client.search, NAME, [data.queries[0].tolist()], limit=LIMIT)
            life.add("first search after that", ms(first))
            wait_quiet(server)
            life.add("RSS after the restart, data loaded", mib(server.rss_bytes()))
            client.close()
        except BaseException:
            print(server.log_tail(), file=sys.stderr)
            raise
        finally:
            server.stop()

    print(
        f"{data.name}, {data.shape}, HNSW M=16 efConstruction=200, COSINE; "
        f"{os.cpu_count()} cores, {platform.machine()}\n"
    )
    for table in (life, ddl, writes, search):
        print(table)


if __name__ == "__main__":
    main()
