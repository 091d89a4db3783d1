"""Measures the vector engine against hnswlib, faiss, usearch and Intel SVS, all in one run.

    make bench-engine
    .venv-bench/bin/python tests/bench/bench_engine.py --sets wordnet --rows 20000     # a quick look

Every engine runs on one thread pinned to one core. All indexes of a set are built first; then rounds
go through all engines and all their settings, and the fastest pass of each counts, so that a noisy
machine is noisy for all. Recall is counted against exact search. Prints Markdown tables and writes
curves to docs/.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDNET = ROOT.parent / "shared" / "data" / "wordnet"
ENGINE = ROOT / "target" / "release" / "examples" / "bench_engine"
K = 10
EFS = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384]
PROBES = [2, 4, 8, 16, 32, 64, 128]
TARGETS = [0.90, 0.95, 0.99]
FILTERS = [0.10, 0.01]


def cpu():
    return time.process_time()


def rss():
    """Resident megabytes of this process, now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


# ---- data


def clusters(rows, dim, queries=1000):
    """Many overlapping clusters on a space of fewer dimensions, like embeddings have."""
    rng = np.random.default_rng(0)
    inner = dim // 4
    spread = rng.normal(size=(inner, dim)).astype(np.float32) / math.sqrt(inner)
    centres = rng.normal(size=(2000, inner)).astype(np.float32)
    points = centres[rng.integers(0, len(centres), rows + queries)]
    points = points + rng.normal(scale=0.6, size=points.shape).astype(np.float32)
    values = points @ spread
    values += rng.normal(scale=0.05, size=values.shape).astype(np.float32)
    return values[:rows], values[rows:]


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


class Set:
    """base [n, dim] and queries [nq, dim] float32; cosine sets are normalised for everyone."""

    def __init__(self, name, rows, wordnet):
        if name == "wordnet":
            base = np.load(wordnet / "base.f16.npy").astype(np.float32)[: rows or None]
            queries = np.load(wordnet / "query.f16.npy").astype(np.float32)
            self.metric, base, queries = "COSINE", unit(base), unit(queries)
        else:
            count, dim = {"million": (1_000_000, 128), "wide": (200_000, 768)}[name]
            base, queries = clusters(rows or count, dim)
            self.metric = "L2"
        self.name = name
        self.base, self.queries = np.ascontiguousarray(base), np.ascontiguousarray(queries)
        self.dim = base.shape[1]
        self.truth = self.exact(None)
        rng = np.random.default_rng(1)
        self.filters = {share: rng.random(len(base)) < share for share in FILTERS}
        self.filtered_truth = {share: self.exact(mask) for share, mask in self.filters.items()}

    def exact(self, mask):
        """[nq, K] row numbers."""
        rows = np.arange(len(self.base)) if mask is None else np.flatnonzero(mask)
        base = self.base[rows]
        norms = (base**2).sum(axis=1)
        found = []
        for block in np.array_split(self.queries, max(1, len(self.queries) // 100)):
            keys = norms - 2 * (block @ base.T)
            near = np.argpartition(keys, K, axis=1)[:, : K + 5]
            order = np.take_along_axis(keys, near, axis=1).argsort(axis=1)[:, :K]
            found.append(rows[np.take_along_axis(near, order, axis=1)])
        return np.concatenate(found)


def recall(found, truth):
    return np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)])


# ---- engines: each builds itself and offers settings; search returns (seconds, [nq, K] rows)


class Redkite:
    name = "Redkite"

    def __init__(self, data, folder, index_type, params, settings):
        self.name = f"Redkite {index_type}"
        if params.get("nbits") == 4:
            self.name += " 4 bits"
        self.settings, self.folder = settings, folder
        paths = [folder / "base.f32", folder / "queries.f32"]
        for path, values in zip(paths, (data.base, data.queries), strict=True):
            if not path.exists():
                values.tofile(path)
        self.process = subprocess.Popen(
            [ENGINE, *paths, str(data.dim), data.metric],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.kernels = json.loads(self.process.stdout.readline())["kernels"]
        start = self.cpu()
        built = self.ask(do="build", index_type=index_type, params=params)
        self.build_seconds, self.megabytes = self.cpu() - start, built["bytes"] / 1e6

    def cpu(self):
        """CPU seconds of the engine's process, as for the libraries in this one."""
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def ask(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def search(self, setting, mask=None):
        out, filter = self.folder / "found.u32", ""
        if mask is not None:
            filter = str(self.folder / "filter")
            mask.astype(np.uint8).tofile(filter)
        answer = self.ask(do="search", params=setting, k=K, out=str(out), filter=filter)
        return answer["seconds"], np.fromfile(out, dtype=np.uint32).reshape(-1, K)

    def load(self):
        return self.ask(do="load", file=str(self.folder / "index"))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Library:
    """Builds in this process; its memory is the growth of the resident size."""

    settings = EFS

    def __init__(self, data):
        self.data = data
        before, start = rss(), cpu()
        self.build(data)
        self.build_seconds, self.megabytes = cpu() - start, rss() - before

    def search(self, setting, mask=None):
        self.set(setting)
        start = time.perf_counter()
        found = self.run(mask)
        return time.perf_counter() - start, found

    def close(self):
        pass


class Hnswlib(Library):
    name = "hnswlib M 16"

    def build(self, data):
        import hnswlib

        self.index = hnswlib.Index("l2", data.dim)
        self.index.init_index(len(data.base), ef_construction=200, M=16)
        self.index.add_items(data.base, num_threads=1)

    def set(self, setting):
        self.index.set_ef(setting)

    def run(self, mask):
        if mask is None:
            return self.index.knn_query(self.data.queries, K, num_threads=1)[0]
        return self.index.knn_query(
            self.data.queries, K, num_threads=1, filter=lambda row: bool(mask[row])
        )[0]


class Faiss(Library):
    factory = ""

    def build(self, data):
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(1)
        self.index = faiss.index_factory(data.dim, self.factory, faiss.METRIC_L2)
        if "HNSW" in self.factory:
            self.index.hnsw.efConstruction = 200
        self.index.train(data.base)
        self.index.add(data.base)

    def set(self, setting):
        self.setting = setting

    def run(self, mask):
        faiss = self.faiss
        selector = None
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        given = {"sel": selector} if selector is not None else {}
        return self.index.search(self.data.queries, K, params=self.params(given))[1]


class FaissHnsw(Faiss):
    name = "faiss HNSW M 16"
    factory = "HNSW16"

    def params(self, given):
        return self.faiss.SearchParametersHNSW(efSearch=self.setting, **given)


class FaissRefined(Faiss):
    settings = PROBES

    def params(self, given):
        inner = self.faiss.SearchParametersIVF(nprobe=self.setting, **given)
        return self.faiss.IndexRefineSearchParameters(k_factor=10, base_index_params=inner)


class FaissPq(FaissRefined):
    name = "faiss IVF-PQ fast scan + refine"

    def build(self, data):
        self.factory = f"IVF1024,PQ{data.dim // 4}x4fs,RFlat"
        super().build(data)


class FaissRabitq(FaissRefined):
    name = "faiss IVF-RaBitQ + refine"
    factory = "IVF1024,RaBitQ,RFlat"


class Usearch(Library):
    dtype = "f32"
    name = "usearch f32"

    def build(self, data):
        from usearch.index import Index

        self.index = Index(
            ndim=data.dim,
            metric="cos" if data.metric == "COSINE" else "l2sq",
            dtype=self.dtype,
            connectivity=16,
            expansion_add=200,
        )
        self.index.add(np.arange(len(data.base)), data.base, threads=1)

    def set(self, setting):
        self.index.expansion_search = setting

    def run(self, mask):
        return self.index.search(self.data.queries, K, threads=1).keys.astype(np.int64)


class UsearchI8(Usearch):
    dtype = "i8"
    name = "usearch i8"


class Svs(Library):
    """LVQ8 where its library allows it, which is on Intel's own processors; else f32."""

    is_intel = "GenuineIntel" in pathlib.Path("/proc/cpuinfo").read_text()
    name = "Intel SVS Vamana " + ("LVQ8" if is_intel else "f32")

    def build(self, data):
        import svs

        params = svs.VamanaBuildParameters(graph_max_degree=64, window_size=128, alpha=1.2)
        rows = data.base
        if self.is_intel:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "base.fvecs")
                svs.write_vecs(rows, path)
                loader = svs.VectorDataLoader(path, svs.DataType.float32, dims=data.dim)
                rows = svs.LVQLoader(loader, primary=8, residual=0)
                self.index = svs.Vamana.build(params, rows, svs.DistanceType.L2, num_threads=1)
        else:
            self.index = svs.Vamana.build(params, rows, svs.DistanceType.L2, num_threads=1)

    def set(self, setting):
        self.index.search_window_size = setting

    def run(self, mask):
        return self.index.search(self.data.queries, K)[0]


LIBRARIES = [Hnswlib, FaissHnsw, FaissPq, FaissRabitq, UsearchI8, Usearch, Svs]
CAN_FILTER = ("Redkite", "hnswlib", "faiss HNSW", "faiss IVF")


# ---- measuring


def curve(engines, data, rounds, mask=None, truth=None):
    """{engine: [(setting, recall, qps)]}; rounds go through all engines and settings."""
    truth = data.truth if truth is None else truth
    best, recalls = {}, {}
    for _ in range(rounds):
        for engine in engines:
            for setting in engine.settings:
                key = (engine.name, json.dumps(setting))
                seconds, found = engine.search(setting, mask)
                best[key] = min(best.get(key, math.inf), seconds)
                if key not in recalls:
                    recalls[key] = recall(found, truth)
    count = len(data.queries)
    return {
        engine.name: [
            (setting, recalls[key], count / best[key])
            for setting in engine.settings
            for key in [(engine.name, json.dumps(setting))]
        ]
        for engine in engines
    }


def qps_at(points, target):
    """Queries a second on the curve's upper edge at a recall; None if it never gets there."""
    reached = sorted((r, q) for _, r, q in points)
    above = [(r, q) for r, q in reached if r >= target]
    if not above:
        return None
    r1, q1 = max(above, key=lambda point: point[1])
    below = [(r, q) for r, q in reached if r < target and q > q1]
    if not below:
        return q1
    r0, q0 = max(below)
    part = (target - r0) / (r1 - r0)
    return math.exp(math.log(q0) + part * (math.log(q1) - math.log(q0)))


def show(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines.extend("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join(lines) + "\n"


def draw(title, curves, path):
    """Recall against queries a second, the latter on a logarithmic scale, as SVG."""
    width, height, left, top, right, bottom = 760, 420, 70, 40, 220, 50
    colours = ["#c0392b", "#e67e22", "#f1c40f", "#2980b9", "#16a085", "#8e44ad", "#7f8c8d", "#2c3e50", "#27ae60", "#d35400"]
    points = [p for of in curves.values() for p in of if p[1] >= 0.8]
    low = 10 ** math.floor(math.log10(min(q for _, _, q in points)))
    high = 10 ** math.ceil(math.log10(max(q for _, _, q in points)))

    def x(value):
        return left + (value - 0.8) / 0.2 * (width - left - right)

    def y(value):
        share = math.log(value / low) / math.log(high / low)
        return height - bottom - share * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="22" font-size="15">{title}</text>',
    ]
    for value in [0.8, 0.85, 0.9, 0.95, 0.99, 1.0]:
        parts.append(
            f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top}" y2="{height - bottom}" '
            f'stroke="#ddd"/><text x="{x(value):.1f}" y="{height - bottom + 18}" '
            f'text-anchor="middle">{value:g}</text>'
        )
    value = low
    while value <= high:
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#ddd"/><text x="{left - 8}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end">{value:,.0f}</text>'
        )
        value *= 10
    middle = (left + width - right) / 2
    parts.append(
        f'<text x="{middle}" y="{height - 12}" text-anchor="middle">recall@10</text>'
        f'<text x="16" y="{height / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {height / 2})">queries a second, one core</text>'
    )
    for number, (name, of) in enumerate(curves.items()):
        colour = colours[number % len(colours)]
        seen = sorted((r, q) for _, r, q in of if r >= 0.8)
        line = " ".join(f"{x(r):.1f},{y(q):.1f}" for r, q in seen)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.extend(
            f'<circle cx="{x(r):.1f}" cy="{y(q):.1f}" r="2.5" fill="{colour}"/>' for r, q in seen
        )
        row = top + 10 + number * 20
        parts.append(
            f'<rect x="{width - right + 14}" y="{row - 9}" width="12" height="12" fill="{colour}"/>'
            f'<text x="{width - right + 32}" y="{row + 2}">{name}</text>'
        )
    parts.append("</svg>")
    path.write_text("\n".join(parts) + "\n")


def own(data, folder):
    nlist = {"nlist": 1024}
    probes = [{"nprobe": n} for n in PROBES]
    built = [
        ("HNSW", {"M": 16, "efConstruction": 128}, [{"ef": ef} for ef in EFS]),
        (
            "HNSW_PQ",
            {"M": 16, "efConstruction": 128, "m": data.dim // 4},
            [{"ef": ef} for ef in EFS],
        ),
        ("DISKANN", {}, [{"search_list": size} for size in EFS]),
        ("IVF_FLAT", nlist, probes),
        ("IVF_SQ8", nlist, probes),
        ("IVF_PQ", {**nlist, "m": data.dim // 4, "nbits": 8}, probes),
        ("IVF_PQ", {**nlist, "m": data.dim // 4, "nbits": 4}, probes),
        ("SCANN", nlist, probes),
        ("IVF_RABITQ", nlist, probes),
    ]
    for index_type, params, settings in built:
        yield functools.partial(Redkite, data, folder, index_type, params, settings)


def measure(name, args, folder):
    data = Set(name, args.rows, args.wordnet)
    title = f"{len(data.base):,} × {data.dim}, {data.metric}"
    print(f"### {name}: {title}\n", flush=True)
    engines = []
    for make in [*own(data, folder), *(functools.partial(of, data) for of in LIBRARIES)]:
        try:
            engine = make()
        except Exception as error:  # noqa: BLE001
            print(f"  left out: {error}", file=sys.stderr)
            continue
        engines.append(engine)
        print(f"  {engine.name}: {engine.build_seconds:.1f} s", file=sys.stderr, flush=True)
    curves = curve(engines, data, args.rounds)
    reference = {t: qps_at(curves.get(Hnswlib.name, []), t) for t in TARGETS}
    rows = []
    for engine in engines:
        cells = [engine.name, f"{engine.build_seconds:.0f}", f"{engine.megabytes:,.0f}"]
        for target in TARGETS:
            qps = qps_at(curves[engine.name], target)
            ratio = qps / reference[target] if qps and reference[target] else None
            cells += [show(qps), show(ratio, 2)]
        rows.append(cells)
    columns = ["engine", "build, CPU s", "memory, MB"]
    for target in TARGETS:
        columns += [f"QPS at {target:.2f}", "× hnswlib"]
    print(table(columns, rows), flush=True)
    draw(f"{name}: {title}", curves, args.docs / f"bench-{name}.svg")

    filtering = [engine for engine in engines if engine.name.startswith(CAN_FILTER)]
    rows = []
    for share in FILTERS:
        truth = data.filtered_truth[share]
        found = curve(filtering, data, args.rounds, data.filters[share], truth)
        reference = qps_at(found.get(Hnswlib.name, []), 0.95)
        for engine in filtering:
            qps = qps_at(found[engine.name], 0.95)
            ratio = qps / reference if qps and reference else None
            best = max(r for _, r, _ in found[engine.name])
            rows.append([f"{share:.0%}", engine.name, show(qps), show(ratio, 1), f"{best:.3f}"])
    columns = ["rows that pass", "engine", "QPS at 0.95", "× hnswlib", "best recall"]
    print(table(columns, rows), flush=True)

    rows = []
    for engine in engines:
        if isinstance(engine, Redkite):
            times = engine.load()
            rows.append([engine.name, f"{times['load_ms']:.0f}", f"{times['map_ms']:.0f}"])
    print(table(["index", "read into memory, ms", "mapped, ms"], rows), flush=True)
    if args.points:
        for engine_name, points in curves.items():
            for setting, r, q in points:
                print(f"  {engine_name} {setting}: {r:.4f} {q:,.0f}", file=sys.stderr)
    for engine in engines:
        engine.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sets", nargs="+", default=["wordnet", "million", "wide"])
    parser.add_argument("--rows", type=int, default=0, help="rows of each set, all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--docs", type=pathlib.Path, default=ROOT / "docs")
    parser.add_argument("--wordnet", type=pathlib.Path, default=WORDNET, help="its folder")
    parser.add_argument("--points", action="store_true", help="print every point of the curves")
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    print(f"{platform.machine()}, one core; numpy {np.__version__}\n", flush=True)
    for name in args.sets:
        if name == "wordnet" and not args.wordnet.exists():
            print(f"{args.wordnet} is not there\n", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            measure(name, args, pathlib.Path(folder))


if __name__ == "__main__":
    main()
