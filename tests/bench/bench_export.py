"""Measures exports, and prints a Markdown table.

    make bench-export
    .venv/bin/python tests/bench/bench_export.py --rows 100000 --store files   # a quick look

A million rows of 128 dimensions with five scalar columns, in a deployment of separate processes: once with
its objects in local files, once on S3 (SeaweedFS on the same machine) with no disk cache, so that whatever a data node
reads comes over the network. The memory is the largest that the data node had while it wrote, mapped
files left out, and the same less what it had before. The floor is arrow-rs writing such rows from memory in the same run, on one
core: into a file of the same disk that is synced at the end, and without a file.
"""

import argparse
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("REDKITE_BIN_DIR", str(ROOT / "target" / "release"))

import numpy as np  # noqa: E402
from measuring import Table  # noqa: E402
from pymilvus import DataType  # noqa: E402

from harness.cluster import run_cluster  # noqa: E402
from harness.process import BIN_DIR, connect  # noqa: E402
from harness.weed import Bucket, Weed  # noqa: E402

DIM = 128
STEP = 20_000
CASES = [("100 %", ""), ("10 %", "a == 3"), ("0.1 %", "b == 3")]


def fill(client, rows):
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    for name in ["a", "b", "c"]:
        schema.add_field(name, DataType.INT64)
    schema.add_field("price", DataType.FLOAT)
    schema.add_field("city", DataType.VARCHAR, max_length=64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    client.create_collection("bench", schema=schema)
    rng = np.random.default_rng(1)
    for first in range(0, rows, STEP):
        count = min(STEP, rows - first)
        vectors = rng.random((count, DIM), dtype=np.float32)
        scalars = zip(
            range(first, first + count),
            *(rng.integers(0, limit, count).tolist() for limit in [10, 1_000, 1_000_000]),
            rng.random(count).tolist(),
            rng.integers(0, 100, count).tolist(),
            vectors,
            strict=True,
        )
        client.insert(
            "bench",
            [
                {"id": k, "a": a, "b": b, "c": c, "price": p, "city": f"city{n}", "vector": v}
                for k, a, b, c, p, n, v in scalars
            ],
        )
    client.flush("bench")


class Peak:
    """The largest anonymous memory of a process while it is watched."""

    def __init__(self, process):
        self.process, self.stop = process, threading.Event()
        self.before = self.largest = process.anonymous_bytes()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.stop.wait(0.02):
            self.largest = max(self.largest, self.process.anonymous_bytes())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def export(cluster, number, kind, text):
    coordinator = cluster.services["datacoord"][0]
    command = [BIN_DIR / "redkite", "export", "--collection", "bench", "--format", kind]
    command += ["--to", f"s3://bench/{number}", "--admin", f"127.0.0.1:{coordinator.admin_port}"]
    if text:
        command += ["--filter", text]
    with Peak(cluster.services["datanode"][0]) as peak:
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
    rows, _, _, size = map(int, re.findall(r"\d+", done.stdout.split(" at ")[0]))
    return rows, size, seconds, peak


def pair(cluster, number, kind):
    """Two exports of everything at once; rows, bytes, seconds and memory of both together."""
    coordinator = cluster.services["datacoord"][0]
    command = [BIN_DIR / "redkite", "export", "--collection", "bench", "--format", kind]
    command += ["--admin", f"127.0.0.1:{coordinator.admin_port}"]
    with Peak(cluster.services["datanode"][0]) as peak:
        start = time.perf_counter()
        both = [
            subprocess.Popen(
                [*command, "--to", f"s3://bench/{number}-{one}"], stdout=subprocess.PIPE, text=True
            )
            for one in range(2)
        ]
        outputs = [one.communicate()[0] for one in both]
        seconds = time.perf_counter() - start
    if any(one.returncode for one in both):
        raise SystemExit(f"an export failed: {outputs}")
    found = [list(map(int, re.findall(r"\d+", text.split(" at ")[0]))) for text in outputs]
    return sum(one[0] for one in found), sum(one[3] for one in found), seconds, peak


def floor(rows, *file):
    command = [BIN_DIR / "examples" / "export_floor", str(rows), str(DIM), *file]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(answer[0]), int(answer[1]), float(answer[2])


def measure(store, rows, settings, table):
    with tempfile.TemporaryDirectory() as folder:
        with run_cluster(pathlib.Path(folder), settings=settings) as cluster:
            client = connect(cluster.services["proxy"][0].uri)
            fill(client, rows)
            number = 0
            cases = [*CASES, ("two at once", None)]
            for kind in ["parquet", "json"]:
                for name, text in cases:
                    number += 1
                    looked_at = rows
                    if text is None:
                        looked_at = 2 * rows
                        found, size, seconds, peak = pair(cluster, number, kind)
                    else:
                        found, size, seconds, peak = export(cluster, number, kind, text)
                    memory = f"{peak.largest / 2**20:.0f}, {(peak.largest - peak.before) / 2**20:.0f}"
                    table.add(
                        f"{kind}, {name}, {store}",
                        f"{found:,}",
                        f"{found / seconds:,.0f}",
                        f"{looked_at / seconds:,.0f}",
                        f"{size / seconds / 1e6:,.1f}",
                        f"{seconds:.2f}",
                        memory,
                    )
            client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--store", action="append", choices=["files", "s3"])
    parser.add_argument("--floor", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    table = Table(
        f"Exports of {options.rows:,} × {DIM}",
        *["what", "rows", "rows/s", "rows/s looked at", "MB/s", "seconds", "data node MiB: all, more"],
    )
    for store in options.store or ["files", "s3"]:
        if store == "files":
            measure(store, options.rows, {}, table)
            continue
        with tempfile.TemporaryDirectory() as folder:
            weed = Weed(folder).start()
            try:
                settings = {**Bucket(weed).settings, "storage.cache_size": "0"}
                measure(store, options.rows, settings, table)
            finally:
                weed.stop()
    if options.floor:
        with tempfile.TemporaryDirectory() as folder:
            for where, file in [("into a file", [f"{folder}/floor.parquet"]), ("no file", [])]:
                found, size, seconds = floor(options.rows, *file)
                speeds = [f"{found / seconds:,.0f}"] * 2 + [f"{size / seconds / 1e6:,.1f}"]
                table.add(f"floor: arrow-rs, {where}", f"{found:,}", *speeds, f"{seconds:.2f}", "")
    print(table)


if __name__ == "__main__":
    main()
