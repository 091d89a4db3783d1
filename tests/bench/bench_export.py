"""Measures exports, and prints a Markdown table.

    make bench-export
    .venv/bin/python tests/bench/bench_export.py --rows 100000      # a quick look

A million rows of 128 dimensions with five scalar columns, to the deployment's own store on local disk. The memory
is the largest that the process used beyond what it had before, mapped files left out. The floor is arrow-rs
writing such rows from memory in the same run, on one core.
"""

import argparse
import pathlib
import re
import subprocess
import tempfile
import threading
import time

import numpy as np
from pymilvus import DataType

from harness.process import ROOT, Server

DIM = 128
STEP = 20_000
CASES = [("100 %", ""), ("10 %", "a == 3"), ("0.1 %", "b == 3")]
RELEASE = ROOT / "target" / "release"


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

    def __init__(self, server):
        self.server, self.stop = server, threading.Event()
        self.before = self.largest = server.anonymous_bytes()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.stop.wait(0.02):
            self.largest = max(self.largest, self.server.anonymous_bytes())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def export(server, number, kind, text):
    command = [RELEASE / "redkite", "export", "--collection", "bench", "--format", kind]
    command += ["--to", f"s3://bench/{number}", "--admin", f"127.0.0.1:{server.admin_port}"]
    if text:
        command += ["--filter", text]
    with Peak(server) as peak:
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
    rows, _, _, size = map(int, re.findall(r"\d+", done.stdout.split(" at ")[0]))
    return rows, size, seconds, (peak.largest - peak.before) / (1 << 20)


def floor(rows):
    command = [RELEASE / "examples" / "export_floor", str(rows), str(DIM)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(answer[0]), int(answer[1]), float(answer[2])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    lines = ["| what | rows | rows/s | MB/s | seconds | memory MiB |", "| --- | --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(pathlib.Path(folder), binary=RELEASE / "redkite").start()
        try:
            client = server.client()
            fill(client, rows)
            number = 0
            for kind in ["parquet", "json"]:
                for name, text in CASES:
                    number += 1
                    found, size, seconds, memory = export(server, number, kind, text)
                    lines.append(
                        f"| {kind}, {name} | {found} | {rows / seconds:,.0f} | "
                        f"{size / seconds / 1e6:,.1f} | {seconds:.2f} | {memory:.0f} |"
                    )
            client.close()
        finally:
            server.stop()
    found, size, seconds = floor(rows)
    lines.append(
        f"| floor: arrow-rs | {found} | {found / seconds:,.0f} | {size / seconds / 1e6:,.1f} | {seconds:.2f} | |"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
