"""Measures how rows become durable and come back, and prints Markdown tables.

    make bench-storage
    .venv/bin/python tests/bench/bench_storage.py --stores fs --rows 200000     # a quick look
    .venv/bin/python tests/bench/bench_storage.py --cases memory mapped-sq8 --only-recovery

Requests are packed before the clock starts, so latencies are those of the server and of gRPC.
Bytes written are the kernel's count for the server's process (/proc/PID/io), so they are what
reached the file system; on S3 they are the log of the metadata only, and the object store's own
process is counted beside it. On S3 the objects in the bucket are counted, not the object store's own
files, in which deleted ones lie for a while.
"""

import argparse
import contextlib
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import threading
import time

import numpy as np
from measuring import Data, Table, mib, percentiles, schema, timed, wait_indexed, wait_quiet

from harness.data import index_params
from harness.process import ROOT, Server
from harness.raw import Raw, longs, vectors
from harness.waiting import eventually
from harness.weed import Bucket, Weed

DIM = 128
NAME = "bench"

HNSW = {"index_type": "HNSW", "M": 16, "efConstruction": 200}
# What a case is called in the table, its index, and whether the collection is mapped.
CASES = {
    "memory": ("HNSW in memory", HNSW, False),
    "mapped": ("HNSW, mmap", HNSW, True),
    "mapped-sq8": ("IVF_SQ8, mmap", {"index_type": "IVF_SQ8", "nlist": 1024}, True),
}


def pack(keys, rows):
    return [longs("id", keys), vectors("vector", rows.shape[1], rows.ravel())]


def written_bytes(pid):
    lines = pathlib.Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def disk_bytes(folder):
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return sum(path.stat().st_blocks * 512 for path in files)


def inserter(server, batches, latencies):
    """Sends each batch of packed columns once; appends how long each acknowledgement took."""
    raw = Raw(server.address, [("grpc.use_local_subchannel_pool", 1)])
    try:
        for columns, count in batches:
            start = time.perf_counter()
            reply = raw.insert(NAME, columns, count)
            latencies.append(time.perf_counter() - start)
            assert reply.status.code == 0, reply.status
    finally:
        raw.close()


def measure_acknowledgement(server, client, store, table):
    rng = np.random.default_rng(1)
    pool = rng.normal(size=(1000, DIM)).astype(np.float32)
    key = 0
    for clients in (1, 8):
        for batch, requests in ((1, 800), (100, 400), (1000, 80)):
            client.create_collection(NAME, schema=schema(DIM))
            shares = []
            for _ in range(clients):
                share = []
                for _ in range(requests // clients):
                    share.append((pack(range(key, key + batch), pool[:batch]), batch))
                    key += batch
                shares.append(share)
            latencies = []
            threads = [
                threading.Thread(target=inserter, args=(server, share, latencies))
                for share in shares
            ]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            elapsed = time.perf_counter() - start
            rows = sum(len(share) for share in shares) * batch
            assert len(latencies) * batch == rows, "an inserter has failed"
            table.add(store, clients, batch, f"{rows / elapsed:,.0f}", percentiles(latencies))
            client.drop_collection(NAME)


def insert_all(server, client, base, first_key=0, batch=5000):
    raw = Raw(server.address)
    try:
        for start in range(0, len(base), batch):
            rows = base[start : start + batch]
            keys = range(first_key + start, first_key + start + len(rows))
            while True:
                reply = raw.insert(NAME, pack(keys, rows), len(rows))
                if reply.status.code != 8:
                    break
                time.sleep(0.05)
            assert reply.status.code == 0, reply.status
    finally:
        raw.close()


def build(server, client, base, index, mmap):
    client.create_collection(
        NAME,
        schema=schema(base.shape[1]),
        index_params=index_params(metric_type="COSINE", **index),
        consistency_level="Strong",
        properties={"mmap.enabled": mmap} if mmap else None,
    )
    insert_all(server, client, base)


def measure_flush(folder, store, make_server, table):
    """Flush, and what is written for each byte inserted."""
    base = Data(100_000).base
    raw_bytes = base.nbytes + 8 * len(base)
    with make_server(folder) as server:
        client = server.client()
        writers = [server.child.pid, *server.store_pids]
        before = sum(map(written_bytes, writers))
        build(server, client, base, HNSW, mmap=False)
        logged = sum(map(written_bytes, writers))
        table.add(store, f"flush of {len(base):,} × {base.shape[1]}", f"{timed(client.flush, NAME):.2f} s")
        wait_indexed(client, NAME)
        wait_quiet(server)
        after = sum(map(written_bytes, writers))
        table.add(
            store,
            "bytes written for each byte inserted: log / log, flush and index",
            f"{(logged - before) / raw_bytes:.2f} / {(after - before) / raw_bytes:.2f}",
        )
        # A fifth of the rows goes, so that there is something to do; what is left is written once more.
        for start in range(0, len(base), 5_000):
            client.delete(NAME, ids=list(range(start, min(start + 5_000, len(base)), 5)))
        client.flush(NAME)
        job = client.compact(NAME)
        assert job > 0, "there was nothing to compact"
        eventually(
            lambda: client.get_compaction_state(job) == "Completed", "it is compacted", 120, 0.2
        )
        wait_indexed(client, NAME)
        wait_quiet(server)
        compacted = sum(map(written_bytes, writers))
        table.add(
            store,
            "the same with a fifth deleted, compaction and its index",
            f"{(compacted - before) / raw_bytes:.2f}",
        )
        client.close()


def measure_recovery(folder, store, make_server, rows, case, table):
    """Kill -9 with a full collection and a log behind the checkpoint."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(1000, DIM)).astype(np.float32)
    base = centres[rng.integers(0, 1000, rows)]
    base += rng.normal(scale=0.5, size=base.shape).astype(np.float32)
    raw_bytes = base.nbytes
    what, index, mmap = CASES[case]
    shape = f"{rows:,} × {DIM}, {what}"
    with make_server(folder) as server:
        client = server.client()
        build(server, client, base, index, mmap)
        client.flush(NAME)
        wait_indexed(client, NAME)
        wait_quiet(server)
        client.release_collection(NAME)
        took = timed(client.load_collection, NAME)
        table.add(store, f"load, {shape}", f"{took:.2f} s")
        tail = rows // 20
        insert_all(server, client, base[:tail], first_key=rows)
        client.close()
        server.kill9()
        start = time.perf_counter()
        server.start()
        ready = time.perf_counter() - start
        client = server.client()
        found = client.search(NAME, [base[7].tolist()], limit=2, consistency_level="Strong")[0]
        first = time.perf_counter() - start
        assert {hit["id"] for hit in found} == {7, rows + 7}, found
        table.add(
            store,
            f"kill -9 to ready / first answer, {shape}, {tail:,} rows in the log",
            f"{ready:.2f} s / {first:.2f} s",
        )
        client.flush(NAME)
        wait_indexed(client, NAME)
        wait_quiet(server)
        for query in base[:200]:
            client.search(NAME, [query.tolist()], limit=10)
        rss = server.rss_bytes()
        table.add(
            store,
            f"RSS, {shape}",
            f"{mib(rss)} = {rss / raw_bytes:.2f} × the raw vectors "
            f"(of it not mapped from files: {mib(server.anonymous_bytes())})",
        )
        for what, measured in server.homes.items():
            disk = measured()
            size = f"{mib(disk)} = {disk / raw_bytes:.2f} × the raw vectors"
            table.add(store, f"{what}, {shape}", size)
        client.close()


@contextlib.contextmanager
def fs_server(folder, binary):
    server = Server(folder, binary=binary)
    server.store_pids = []
    server.homes = {"disk": lambda: disk_bytes(folder)}
    with running(server):
        yield server


@contextlib.contextmanager
def s3_server(folder, binary):
    weed = Weed(folder).start()
    try:
        bucket, own = Bucket(weed), pathlib.Path(folder) / "server"
        own.mkdir()
        server = Server(own, binary=binary, settings=bucket.settings)
        server.store_pids = [weed.pid]
        server.homes = {
            "objects in the bucket": bucket.bytes,
            "local disk, mostly the cache of objects": lambda: disk_bytes(own),
        }
        with running(server):
            yield server
    finally:
        weed.stop()


@contextlib.contextmanager
def running(server):
    server.start()
    try:
        yield server
    except BaseException:
        print(server.log_tail(), file=sys.stderr)
        raise
    finally:
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the recovery")
    parser.add_argument("--stores", nargs="+", default=["fs", "s3"], choices=["fs", "s3"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--only-recovery", action="store_true", help="loading, kill -9 and sizes")
    parser.add_argument("--only-flush", action="store_true", help="a flush, and bytes written")
    parser.add_argument("--binary", default=str(ROOT / "target" / "release" / "redkite"))
    args = parser.parse_args()
    servers = {"fs": fs_server, "s3": s3_server}

    acknowledged = Table(
        "Insert until acknowledged, 128-d", "store", "clients", "batch", "rows/s", "latency"
    )
    files = Table("Files, loading and recovery", "store", "what", "measured")
    for store in args.stores:

        def make_server(folder, store=store):
            return servers[store](folder, args.binary)

        @contextlib.contextmanager
        def scratch():
            folder = tempfile.mkdtemp(prefix="redkite-bench-")
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        if not (args.only_recovery or args.only_flush):
            with scratch() as folder, make_server(folder) as server:
                client = server.client()
                measure_acknowledgement(server, client, store, acknowledged)
                client.close()
        if not args.only_recovery:
            with scratch() as folder:
                measure_flush(folder, store, make_server, files)
        for case in [] if args.only_flush else args.cases:
            with scratch() as folder:
                measure_recovery(folder, store, make_server, args.rows, case, files)

    print(f"{os.cpu_count()} cores, {platform.machine()}, client and server on the same ones\n")
    for table in (acknowledged, files):
        print(table)


if __name__ == "__main__":
    main()
