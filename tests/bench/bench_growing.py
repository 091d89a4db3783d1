"""Measures searches among rows that are in no segment file yet, and prints Markdown tables.

    make bench-growing
    .venv/bin/python tests/bench/bench_growing.py --rows 500000 --dim 128

The same rows three times: growing with indexes in memory, growing without them (every search
compares with every row), and flushed, compacted and indexed. CPU is the server's.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
from engine_data import clusters
from measuring import LIMIT, Table, mib, percentiles, schema, wait_indexed, wait_quiet

from harness.data import index_params
from harness.process import ROOT, Server
from harness.raw import Raw, longs, vectors

NAME = "growing"
BATCH = 1_000
# So much that nothing is flushed while it is measured.
UNFLUSHED = {
    "querynode.segment_max_rows": 100_000_000,
    "querynode.segment_max_size": "64GiB",
    "querynode.log_max_size": "64GiB",
    "querynode.growing_memory_limit": "64GiB",
}


def exact(base, queries):
    """Row numbers of the nearest by L2, [nq, LIMIT]."""
    norms = np.einsum("ij,ij->i", base, base)
    found = []
    for start in range(0, len(queries), 100):
        far = norms - 2 * queries[start : start + 100] @ base.T
        near = np.argpartition(far, LIMIT, axis=1)[:, :LIMIT]
        found.append(near)
    return np.concatenate(found)


def insert(server, base):
    raw = Raw(server.address)
    start = time.perf_counter()
    for first in range(0, len(base), BATCH):
        part = base[first : first + BATCH]
        columns = [longs("id", range(first, first + len(part)))]
        columns.append(vectors("vector", base.shape[1], part.ravel()))
        reply = raw.insert(NAME, columns, len(part))
        assert reply.status.code == 0, reply.status
    raw.close()
    return len(base) / (time.perf_counter() - start)


def search(server, queries, truth, ef, rounds):
    """(recall, CPU seconds per 1,000, latencies) of one client's searches."""
    client = server.client()
    params = {"params": {"ef": ef}}
    busy, times, found = [], [], []
    for _ in range(rounds):
        cpu, found = server.cpu_seconds(), []
        for query in queries:
            start = time.perf_counter()
            hits = client.search(NAME, [query], limit=LIMIT, search_params=params)[0]
            times.append(time.perf_counter() - start)
            found.append({hit["id"] for hit in hits})
        busy.append((server.cpu_seconds() - cpu) / len(queries) * 1000)
    client.close()
    right = sum(len(ids & set(best.tolist())) for ids, best in zip(found, truth, strict=True))
    return right / truth.size, statistics.median(busy), times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=str(ROOT / "target" / "release" / "redkite"))
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--ef", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    base, queries = clusters(args.rows, args.dim)
    truth = exact(base, queries)
    texts = [query.tolist() for query in queries]
    table = Table(
        f"{args.rows:,} × {args.dim} rows, L2, ef {args.ef}, one client",
        *("rows", "inserted a second", "settled after", "RSS"),
        *("recall@10", "server CPU-s per 1,000", "latency"),
    )
    for label, indexed in [("growing, indexes in memory", True), ("growing, compared", False)]:
        with tempfile.TemporaryDirectory(prefix="redkite-bench-") as folder:
            settings = UNFLUSHED | {"querynode.interim_index": json.dumps(indexed)}
            server = Server(pathlib.Path(folder), binary=args.binary, settings=settings).start()
            try:
                client = server.client()
                index = index_params("HNSW", "L2", M=16, efConstruction=200)
                client.create_collection(NAME, schema=schema(args.dim), index_params=index)
                speed = insert(server, base)
                start = time.perf_counter()
                wait_quiet(server)
                settled = time.perf_counter() - start - 1
                few = slice(None) if indexed else slice(100)
                measure = (texts[few], truth[few], args.ef, args.rounds)
                add(table, label, f"{speed:,.0f}", settled, server, search(server, *measure))
                if indexed:
                    start = time.perf_counter()
                    client.flush(NAME)
                    wait_indexed(client, NAME)
                    wait_quiet(server)
                    settled = time.perf_counter() - start - 1
                    add(table, "flushed, indexed", "", settled, server, search(server, *measure))
                client.close()
            finally:
                server.stop()
    print(table)


def add(table, label, speed, settled, server, measured):
    recall, busy, times = measured
    rss = mib(server.rss_bytes())
    shown = (f"{recall:.3f}", f"{busy:.2f}", percentiles(times))
    table.add(label, speed, f"{settled:.0f} s", rss, *shown)


if __name__ == "__main__":
    main()
