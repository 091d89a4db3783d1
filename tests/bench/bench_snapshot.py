"""Measures snapshots: taking, restoring and dropping one, the space it takes, and search on the copy.

    make bench-snapshot
    .venv/bin/python tests/bench/bench_snapshot.py --shape 20000x64     # a quick look
"""

import argparse
import os
import pathlib
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("REDKITE_BIN_DIR", str(ROOT / "target" / "release"))

import numpy as np  # noqa: E402
from measuring import Table, percentiles, timed  # noqa: E402

from harness.data import create_simple, simple_rows  # noqa: E402
from harness.process import BIN_DIR, Server  # noqa: E402
from harness.waiting import eventually  # noqa: E402
from pymilvus import MilvusException  # noqa: E402

SOURCE = "source"
ROUNDS = 11
SEARCHES = 2_000


def stored(server):
    root = server.data_dir / "objects"
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def fill(client, rows, dim, index):
    create_simple(client, SOURCE, index=index, dim=dim)
    draw = np.random.default_rng(0)
    batch = max(1, (3 << 20) // (4 * dim))
    for start in range(0, rows, batch):
        count = min(batch, rows - start)
        vectors = draw.normal(size=(count, dim)).astype(np.float32)
        client.insert(
            SOURCE,
            [
                {"id": start + i, "vector": vectors[i], "number": i, "label": f"row {start + i}"}
                for i in range(count)
            ],
        )
    def is_flushed():
        try:
            client.flush(SOURCE)
        except MilvusException:
            # A machine that has much to do with the rows does not answer it in time.
            return False
        return True

    eventually(is_flushed, "every row is flushed", seconds=1_800)

    def is_indexed():
        return client.describe_index(SOURCE, "vector")["pending_index_rows"] == 0

    eventually(is_indexed, "every row is indexed", seconds=3_600, interval=1)


def restore(client, target):
    """Seconds until the job was done, and until the first search was answered."""
    start = time.perf_counter()
    job = client.restore_snapshot("s", SOURCE, target)

    def is_done():
        state = client.get_restore_snapshot_state(job).state
        assert state != "RestoreSnapshotFailed"
        return state == "RestoreSnapshotCompleted"

    eventually(is_done, "the restore is done", seconds=600, interval=0.002)
    return time.perf_counter() - start


def searches(client, names, dim, count):
    """Searches a second in each collection, which take turns so that both meet the same machine."""
    queries = np.random.default_rng(1).normal(size=(count, dim)).astype(np.float32)
    params, warm = {"params": {"ef": 64}}, count // 10
    seconds = dict.fromkeys(names, 0.0)
    for number, query in enumerate(queries):
        for name in names if number % 2 else reversed(names):
            took = timed(client.search, name, [query], limit=10, search_params=params)
            # The first ones warm up.
            if number >= warm:
                seconds[name] += took
    return [(count - warm) / seconds[name] for name in names]


def create_segments(count, table):
    """Snapshots of a collection with many segments."""
    settings = {"datacoord.compaction.enabled": "false"}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(pathlib.Path(folder), binary=BIN_DIR / "redkite", settings=settings).start()
        try:
            client = server.client()
            create_simple(client, SOURCE)
            for number in range(count):
                client.insert(SOURCE, simple_rows(10, start=number * 10))
                client.flush(SOURCE)
            shape = f"{count:,} segments"
            taken, dropped, restored = [], [], []
            for _ in range(ROUNDS):
                taken.append(timed(client.create_snapshot, "s", SOURCE))
                dropped.append(timed(client.drop_snapshot, "s", SOURCE))
            client.create_snapshot("s", SOURCE)
            for number in range(ROUNDS):
                restored.append(restore(client, f"copy{number}"))
            table.add(shape, "create", percentiles(taken))
            table.add(shape, "drop", percentiles(dropped))
            table.add(shape, "restore to complete", percentiles(restored))
            client.close()
        finally:
            server.stop()


def measure(rows, dim, options, table):
    with tempfile.TemporaryDirectory() as folder:
        server = Server(pathlib.Path(folder), binary=BIN_DIR / "redkite").start()
        try:
            client = server.client()
            fill(client, rows, dim, options.index)
            shape, before = f"{rows:,} × {dim}, {options.index}", stored(server)
            taken, dropped = [], []
            for _ in range(ROUNDS):
                taken.append(timed(client.create_snapshot, "s", SOURCE))
                dropped.append(timed(client.drop_snapshot, "s", SOURCE))
            table.add(shape, "create", percentiles(taken))
            table.add(shape, "drop", percentiles(dropped))
            clean = stored(server)
            client.create_snapshot("s", SOURCE)
            with_one = stored(server)
            restored = []
            for number in range(ROUNDS):
                restored.append(restore(client, f"copy{number}"))
            table.add(shape, "restore to complete", percentiles(restored))
            with_copies = (stored(server) - with_one) / ROUNDS
            query = np.zeros(dim, dtype=np.float32)
            start = time.perf_counter()
            restore(client, "copy")
            client.load_collection("copy")
            client.search("copy", [query], limit=10)
            table.add(shape, "restore to first search", f"{time.perf_counter() - start:.2f} s")
            share = f"{100 * (with_one - clean) / before:.4f} %"
            size = f"{with_one - clean:,} of {before:,}"
            table.add(shape, "bytes of a snapshot", f"{size}, {share}")
            share = f"{100 * with_copies / before:.4f} %"
            table.add(shape, "bytes of a restored copy", f"{with_copies:,.0f}, {share}")
            source, copy = searches(client, [SOURCE, "copy"], dim, options.searches)
            speeds = f"{source:,.0f} and {copy:,.0f} a second, {copy / source:.2f}"
            table.add(shape, "search, source and copy", speeds)
            client.close()
        finally:
            server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", action="append", help="rows x dimensions, such as 100000x384")
    parser.add_argument("--index", default="HNSW")
    parser.add_argument("--searches", type=int, default=SEARCHES)
    parser.add_argument("--segments", type=int, default=1_000)
    options = parser.parse_args()
    shapes = options.shape or ["100000x384", "1000000x128"]
    table = Table("Snapshots", "data", "what", "measured")
    for shape in shapes:
        rows, dim = shape.split("x")
        measure(int(rows), int(dim), options, table)
    if options.segments:
        create_segments(options.segments, table)
    print(table)


if __name__ == "__main__":
    main()
