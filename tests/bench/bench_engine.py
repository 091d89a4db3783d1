"""Measures the vector engine against hnswlib, faiss, usearch and Intel SVS, all in one run.

    make bench-engine
    .venv-bench/bin/python tests/bench/bench_engine.py --sets wordnet --rows 20000     # a quick look
    .venv-bench/bin/python tests/bench/bench_engine.py --keep FOLDER --libraries hnswlib faiss

Every engine runs on one thread pinned to one core. All indexes of a set are built first; then rounds
go through all engines and all their settings, and the fastest pass of each counts, in CPU time, so
that a noisy machine is noisy for all. Recall is counted against exact search. With `--keep` the
libraries' indexes are built once and loaded from then on, with the figures of their builds. Prints
Markdown tables and writes curves to docs/.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import numpy as np
from engine_data import FILTERS, K, Set
from engine_libraries import EFS, LIBRARIES, PROBES, Hnswlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDNET = ROOT.parent / "shared" / "data" / "wordnet"
ENGINE = ROOT / "target" / "release" / "examples" / "bench_engine"
TARGETS = [0.90, 0.95, 0.99]
# Of a filtered search that calls back into Python for every row, more would take hours.
FILTERED_QUERIES = 200
FILTERED_TARGET = 0.95
# Loads of each index, of which the fastest counts.
LOADS = 3


def recall(found, truth):
    return np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)])


# ---- the engine


class Redkite:
    """A process of its own that maps the set's vectors; its memory leaves those out."""

    can_filter = True

    def __init__(self, data, index_type, params, settings, is_kept):
        self.name = f"Redkite {index_type}"
        if params.get("nbits") == 4:
            self.name += " 4 bits"
        self.settings, self.folder = settings, data.folder
        self.process = subprocess.Popen(
            [ENGINE, *data.paths, str(data.dim), data.metric],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.kernels = json.loads(self.process.stdout.readline())["kernels"]
        kept = data.folder / self.name.replace(" ", "-")
        file, figures = str(kept / "index"), kept / "built.json"
        if is_kept and figures.exists():
            self.ask(do="open", file=file)
            known = json.loads(figures.read_text())
            self.build_seconds, self.megabytes = known["cpu_seconds"], known["megabytes"]
            return
        start = self.cpu()
        built = self.ask(do="build", index_type=index_type, params=params)
        self.build_seconds, self.megabytes = self.cpu() - start, built["bytes"] / 1e6
        if is_kept:
            kept.mkdir(exist_ok=True)
            self.ask(do="load", file=file)
            known = {"cpu_seconds": self.build_seconds, "megabytes": self.megabytes}
            figures.write_text(json.dumps(known))

    def cpu(self):
        """CPU seconds of the engine's process, as for the libraries in this one."""
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def ask(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def search(self, setting, count, mask=None):
        out, filter = self.folder / f"found-{self.process.pid}", ""
        if mask is not None:
            filter = str(self.folder / f"filter-{self.process.pid}")
            mask.astype(np.uint8).tofile(filter)
        given = {"params": setting, "k": K, "count": count, "out": str(out), "filter": filter}
        answer = self.ask(do="search", **given)
        found = np.fromfile(out, dtype=np.uint32).reshape(-1, K)
        out.unlink()
        return answer["seconds"], found

    def load_ms(self):
        """Milliseconds to read the index from a file that the system has in memory, and to map it."""
        file = self.folder / f"index-{self.process.pid}"
        times = self.ask(do="load", file=str(file))
        file.unlink()
        return times["load_ms"], times["map_ms"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- measuring


def curve(engines, data, rounds, share=None):
    """{engine: [(setting, recall, qps)]}; rounds go through all engines and settings.

    With a filter, an engine's settings end with the first that finds more than is asked for.
    """
    mask = None if share is None else data.filters[share]
    count = len(data.queries) if share is None else FILTERED_QUERIES
    truth = data.truth(share)[:count]
    settings = {engine.name: list(engine.settings) for engine in engines}
    best, recalls = {}, {}
    for _ in range(rounds):
        for engine in engines:
            for number, setting in enumerate(settings[engine.name]):
                key = (engine.name, json.dumps(setting))
                seconds, found = engine.search(setting, count, mask)
                best[key] = min(best.get(key, math.inf), seconds)
                if key not in recalls:
                    recalls[key] = recall(found, truth)
                if share is not None and recalls[key] > FILTERED_TARGET + 0.02:
                    settings[engine.name] = settings[engine.name][: number + 1]
                    break
    return {
        engine.name: [
            (setting, recalls[key], count / best[key])
            for setting in settings[engine.name]
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


def own(data, is_kept):
    nlist = {"nlist": 1024}
    probes = [{"nprobe": n} for n in PROBES]
    efs = [{"ef": ef} for ef in EFS]
    built = [
        ("HNSW", {"M": 16, "efConstruction": 128}, efs),
        ("HNSW_PQ", {"M": 16, "efConstruction": 128, "m": data.dim // 4}, efs),
        ("DISKANN", {}, [{"search_list": size} for size in EFS]),
        ("IVF_FLAT", nlist, probes),
        ("IVF_SQ8", nlist, probes),
        ("IVF_PQ", {**nlist, "m": data.dim // 4, "nbits": 8}, probes),
        ("IVF_PQ", {**nlist, "m": data.dim // 4, "nbits": 4}, probes),
        ("SCANN", nlist, probes),
        ("IVF_RABITQ", nlist, probes),
    ]
    for index_type, params, settings in built:
        yield index_type, functools.partial(
            Redkite, data, index_type, params, settings, is_kept
        )


def build_all(data, args):
    """The engines that were asked for, each with its index."""
    makers = [make for name, make in own(data, args.keep_own) if not args.own or name in args.own]
    for library in LIBRARIES:
        if not args.libraries or library.name.startswith(tuple(args.libraries)):
            makers.append(functools.partial(library, data))
    engines = []
    for make in makers:
        try:
            engine = make()
        except Exception as error:  # noqa: BLE001
            print(f"  left out: {error}", file=sys.stderr)
            continue
        engines.append(engine)
        print(f"  {engine.name}: {engine.build_seconds:.1f} s", file=sys.stderr, flush=True)
    return engines


def ratio(value, reference, digits):
    return show(value / reference if value and reference else None, digits)


def unfiltered(engines, data, args, title):
    curves = curve(engines, data, args.rounds)
    reference = {t: qps_at(curves.get(Hnswlib.name, []), t) for t in TARGETS}
    rows = []
    for engine in engines:
        cells = [engine.name, f"{engine.build_seconds:.0f}", f"{engine.megabytes:,.0f}"]
        for target in TARGETS:
            qps = qps_at(curves[engine.name], target)
            cells += [show(qps), ratio(qps, reference[target], 2)]
        rows.append(cells)
    columns = ["engine", "build, CPU s", "memory, MB"]
    for target in TARGETS:
        columns += [f"QPS at {target:.2f}", "× hnswlib"]
    print(table(columns, rows), flush=True)
    draw(f"{data.name}: {title}", curves, args.docs / f"bench-{data.name}.svg")
    if args.points:
        for name, points in curves.items():
            for setting, r, q in points:
                print(f"  {name} {setting}: {r:.4f} {q:,.0f}", file=sys.stderr)


def filtered(engines, data, args):
    engines = [engine for engine in engines if engine.can_filter]
    rows = []
    for share in FILTERS:
        found = curve(engines, data, args.rounds, share)
        qps = {name: qps_at(points, FILTERED_TARGET) for name, points in found.items()}
        fastest = max((q for name, q in qps.items() if q and name.startswith("faiss")), default=None)
        for engine in engines:
            name = engine.name
            best = max(r for _, r, _ in found[name])
            ratios = [ratio(qps[name], other, 2) for other in (qps.get(Hnswlib.name), fastest)]
            rows.append([f"{share:.0%}", name, show(qps[name]), *ratios, f"{best:.3f}"])
    columns = ["rows that pass", "engine", f"QPS at {FILTERED_TARGET:.2f}", "× hnswlib"]
    print(table([*columns, "× the fastest faiss", "best recall"], rows), flush=True)


def loading(engines):
    rows = []
    for engine in engines:
        times = [engine.load_ms() for _ in range(LOADS)]
        if isinstance(engine, Redkite):
            load, mapped = (min(each) for each in zip(*times, strict=True))
        else:
            load, mapped = min(times, default=None, key=lambda time: time or 0), None
        rows.append([engine.name, show(load), show(mapped)])
    print(table(["index", "read into memory, ms", "mapped, ms"], rows), flush=True)


def measure(name, args, folder):
    data = Set(name, args.rows, args.wordnet, folder)
    title = f"{len(data.base):,} × {data.dim}, {data.metric}"
    print(f"### {name}: {title}\n", flush=True)
    engines = build_all(data, args)
    unfiltered(engines, data, args, title)
    if not args.no_filters:
        filtered(engines, data, args)
    loading(engines)
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
    parser.add_argument("--keep", type=pathlib.Path, help="folder of the libraries' indexes")
    parser.add_argument("--keep-own", action="store_true", help="keep the engine's indexes too")
    parser.add_argument("--own", nargs="+", help="index types to measure, all by default")
    parser.add_argument("--libraries", nargs="+", help="beginnings of names, all by default")
    parser.add_argument("--no-filters", action="store_true", help="leave out filtered searches")
    parser.add_argument("--points", action="store_true", help="print every point of the curves")
    args = parser.parse_args()
    if args.keep_own and not args.keep:
        parser.error("--keep-own needs --keep")
    os.sched_setaffinity(0, {args.core})
    print(f"{platform.machine()}, one core; numpy {np.__version__}\n", flush=True)
    for name in args.sets:
        if name == "wordnet" and not args.wordnet.exists():
            print(f"{args.wordnet} is not there\n", file=sys.stderr)
            continue
        if args.keep:
            folder = args.keep / f"{name}-{args.rows or 'all'}"
            folder.mkdir(parents=True, exist_ok=True)
            measure(name, args, folder)
        else:
            with tempfile.TemporaryDirectory() as folder:
                measure(name, args, pathlib.Path(folder))


if __name__ == "__main__":
    main()
