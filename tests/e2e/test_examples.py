"""The examples run unchanged and print what a reader expects."""

import subprocess
import sys

from harness.process import ROOT


def run(*command):
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=150, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_quickstart(server):
    out = run("examples/quickstart.py", server.uri)
    assert "1000 rows inserted" in out
    assert "1.0000  Book number 42 (1992)" in out
    assert "get 7: Book number 7, second edition" in out
    assert "deleted by ids: 3" in out
    assert "deleted by filter: 15" in out
    assert "rows left: 982" in out
    assert "partitions: ['_default', 'archive']" in out
    assert "collection there: False" in out


def test_semantic_search(server):
    out = run("examples/semantic_search.py", "--uri", server.uri)
    assert "2000 entries loaded" in out
    blocks = {block.split("\n")[0]: block for block in out.split("\nlike  ")}
    granite = next(block for first, block in blocks.items() if first.startswith("granite"))
    assert "peridotite" in granite.split("\n")[1]
    orion = next(block for first, block in blocks.items() if first.startswith("Orion"))
    assert orion.count("constellation") == 4
    salmon = next(block for first, block in blocks.items() if first.startswith("salmon"))
    assert "fish" in salmon.split("\n")[1]
