"""What the benchmarks share: data, tables, and waiting for the server to be done."""

import os
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness.process import ROOT  # noqa: E402
from harness.waiting import eventually  # noqa: E402
from pymilvus import DataType, MilvusClient  # noqa: E402

WORDNET = pathlib.Path(
    os.environ.get("REDKITE_WORDNET", ROOT.parent / "shared" / "data" / "wordnet")
)
LIMIT = 10


class Data:
    """base [n, dim] and queries [nq, dim] float32, truth [nq, >=10] row numbers by cosine."""

    def __init__(self, rows):
        if (WORDNET / "base.f16.npy").exists():
            base = np.load(WORDNET / "base.f16.npy", mmap_mode="r")
            self.name = "WordNet glosses"
            self.base = np.asarray(base[:rows], dtype=np.float32)
            self.queries = np.load(WORDNET / "query.f16.npy").astype(np.float32)
        else:
            rng = np.random.default_rng(0)
            centres = rng.normal(size=(1000, 384)).astype(np.float32)
            draw = centres[rng.integers(0, 1000, rows + 1000)]
            draw = draw + rng.normal(scale=0.7, size=draw.shape).astype(np.float32)
            self.name = "generated clusters"
            self.base, self.queries = draw[:rows], draw[rows:]
        self.truth = exact(self.base, self.queries)

    @property
    def shape(self):
        return f"{len(self.base):,} × {self.base.shape[1]}"


def exact(base, queries):
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    return np.argsort(-(queries @ unit.T), axis=1)[:, :LIMIT]


class Table:
    def __init__(self, title, *columns):
        self.title = title
        self.columns = columns
        self.rows = []

    def add(self, *values):
        self.rows.append([str(value) for value in values])
        print("  " + " | ".join(self.rows[-1]), file=sys.stderr, flush=True)

    def __str__(self):
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("| " + " | ".join("---" for _ in self.columns) + " |")
        lines.extend("| " + " | ".join(row) + " |" for row in self.rows)
        return "\n".join(lines) + "\n"


def ms(seconds):
    return f"{seconds * 1000:.1f} ms"


def mib(size):
    return f"{size / 2**20:.0f} MB"


def percentiles(times):
    ordered = np.sort(np.asarray(times))
    return (
        f"p50 {ms(ordered[len(ordered) // 2])}, "
        f"p99 {ms(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))])}"
    )


def timed(function, *args, **kwargs):
    start = time.perf_counter()
    function(*args, **kwargs)
    return time.perf_counter() - start


def wait_quiet(server, quiet_seconds=1.0, limit=900.0):
    """Until the server has used almost no CPU for a while; returns the CPU seconds it took."""
    first = server.cpu_seconds()
    state = {"cpu": first, "since": time.monotonic()}

    def quiet():
        now = server.cpu_seconds()
        if now - state["cpu"] > 0.05:
            state.update(cpu=now, since=time.monotonic())
        return time.monotonic() - state["since"] > quiet_seconds

    eventually(quiet, "background work ends", limit, 0.1)
    return server.cpu_seconds() - first


def schema(dim):
    result = MilvusClient.create_schema()
    result.add_field("id", DataType.INT64, is_primary=True)
    result.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    return result


def wait_indexed(client, name):
    def done():
        info = client.describe_index(name, "vector")
        return info["state"] == "Finished" and info["pending_index_rows"] == 0

    eventually(done, "the index is built", 1800, 0.2)
