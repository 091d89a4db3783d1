"""Counts what a search executes, by `valgrind`, and prints Markdown tables.

    .venv/bin/python tests/bench/count_search.py --prepared /tmp/bench --binary old new

Instructions and cache lines do not depend on what else runs on the machine, as times do. They are of
the code for AVX2, since valgrind knows no AVX-512, and of a first-level cache for instructions of
32 KB in which nobody else's code is. What the kernel does is not counted. Everything is so slow that
each request becomes a task of its own, which costs a few thousand instructions that it does not cost
otherwise.
"""

import argparse
import collections
import pathlib
import re
import subprocess
import tempfile

import flamegraph
from bench_search import Copy, ask, prepare
from measuring import Data, Table

from harness.process import ROOT
from harness.waiting import eventually

READY_SECONDS = 500
WARM_UP = 200
EVENTS = ("Ir", "I1mr")

# A function belongs to the first layer that its own name matches.
LAYERS = [
    ("engine: walk of the graph, distances", flamegraph.ENGINE),
    ("allocator", re.compile(r"^_?mi_|mimalloc|rust_alloc|rust_dealloc|rust_realloc")),
    ("copies and comparisons of bytes", re.compile(r"^_*(mem|str)\w+$|^__mem")),
    ("HTTP/2 and gRPC", re.compile(r"\b(h2|hyper\w*|tonic\w*|tower\w*|http\w*|bytes)::")),
    ("protocol buffers", re.compile(r"\bprost|redkite_proto")),
    ("tokio", re.compile(r"\b(tokio\w*|mio)::")),
    ("metrics and spans", re.compile(r"tracing|opentelemetry|metrics|redkite_telemetry")),
    ("proxy", re.compile(r"redkite_(proxy|catalog)")),
    ("query node and segment", re.compile(r"redkite_(querynode|segment|expr)")),
    ("calls within the process", re.compile(r"redkite_")),
]
OTHER = "the standard library and small parts of others"


class Counted(Copy):
    """A server under valgrind, which counts while it is told to."""

    def __init__(self, folder, prepared, name, binary):
        super().__init__(folder, prepared, name, binary)
        self.counts = pathlib.Path(folder) / f"counts-{name}"
        # Line numbers are not needed, and reading those of a release takes minutes.
        bare = pathlib.Path(folder) / f"redkite-{name}"
        subprocess.run(["objcopy", "--strip-debug", binary, bare], check=True)
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--cache-sim=yes"]
        command += ["--I1=32768,8,64", f"--callgrind-out-file={self.counts}"]
        self.command = [*command, str(bare), *self.command[1:]]

    def tell(self, *command):
        told = ["callgrind_control", *command, str(self.child.pid)]
        subprocess.run(told, check=True, stdout=subprocess.DEVNULL)

    def dump(self):
        """What was counted: {function: [of each event]}."""
        self.tell("-d", "done")
        # valgrind writes a number behind the name.
        written = self.counts.with_name(f"{self.counts.name}.1")

        def is_whole():
            return written.exists() and "totals:" in written.read_text()

        eventually(is_whole, "valgrind's counts are written", 60)
        return costs(written.read_text().splitlines())


def costs(lines):
    """{function: [of each event]} of its own, from a file in callgrind's format."""
    names, sums = {}, collections.defaultdict(lambda: [0] * len(EVENTS))
    places, function, is_call = [], None, False
    for line in lines:
        if line.startswith("events:"):
            events = line.split()[1:]
            places = [events.index(event) for event in EVENTS]
        elif line.startswith(("fn=", "cfn=")):
            kind, _, rest = line.partition("=")
            number, _, name = rest.partition(" ")
            name = names.setdefault(number, name)
            function = name if kind == "fn" else function
        elif line.startswith("calls="):
            # The next line is what was called.
            is_call = True
        elif re.match(r"[-+*0-9]", line):
            found = line.split()[1:]
            if not is_call:
                for at, place in enumerate(places):
                    sums[function][at] += int(found[place]) if place < len(found) else 0
            is_call = False
    return sums


def layer_of(function):
    return next((name for name, pattern in LAYERS if pattern.search(function)), OTHER)


def count(folder, prepared, label, binary, queries, ef):
    server = Counted(folder, prepared, label, binary)
    server.spawn()
    try:
        server.wait_ready(READY_SECONDS)
        client = server.client()
        ask(client, queries[:WARM_UP], ef)
        server.tell("-i", "on")
        ask(client, queries, ef)
        server.tell("-i", "off")
        client.close()
        return server.dump()
    finally:
        server.kill9()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    release = ROOT / "target" / "release"
    parser.add_argument("--prepared", type=pathlib.Path, help="where prepared data is kept")
    parser.add_argument("--binary", nargs="+", default=[str(release / "redkite")])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ef", type=int, default=24)
    parser.add_argument("--searches", type=int, default=400)
    args = parser.parse_args()

    data = Data(args.rows)
    queries = [query.tolist() for query in data.queries[: args.searches]]
    columns = [f"{what}, {i + 1}" for i in range(len(args.binary)) for what in EVENTS]
    table = Table(f"A search, ef {args.ef}", "layer", *columns)
    counted = []
    with tempfile.TemporaryDirectory(prefix="redkite-bench-") as folder:
        prepared = args.prepared or pathlib.Path(folder) / "prepared"
        prepare(prepared, data, args.binary[0])
        for number, binary in enumerate(args.binary):
            sums = collections.defaultdict(lambda: [0] * len(EVENTS))
            found = count(folder, prepared, f"{number + 1}", binary, queries, args.ef)
            for function, parts in found.items():
                for layer in (layer_of(function), "all"):
                    sums[layer] = [a + b for a, b in zip(sums[layer], parts, strict=True)]
            counted.append(sums)
    for layer in sorted(counted[0], key=lambda layer: -counted[0][layer][0]):
        parts = [part for sums in counted for part in sums[layer]]
        table.add(layer, *(f"{part / len(queries):,.0f}" for part in parts))
    print(f"{data.name}, {data.shape}; Ir: instructions, I1mr: lines of code that were not cached\n")
    print(table)


if __name__ == "__main__":
    main()
