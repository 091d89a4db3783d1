"""The examples run unchanged and print what a reader expects."""

import subprocess
import sys

from harness.data import all_rows, create_simple, simple_rows
from harness.process import ROOT, Server


def run(*command):
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=240, cwd=ROOT
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


def test_backup(tmp_path):
    """A schedule with retention, and a restore on another server."""
    backups = tmp_path / "backups"
    allowed = {"datanode.bundle.local_dirs": f'["{backups}"]'}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    server = Server(tmp_path / "first", settings=allowed).start()
    try:
        client = server.client()
        for name in ("films", "books"):
            create_simple(client, name)
        # Nobody flushes.
        client.insert("films", simple_rows(120))
        before = all_rows(client, "films")
        for _ in range(3):
            out = run("examples/backup.py", server.uri, f"fs://{backups}", "--keep", "2")
        assert out.count("metadata.json") == 2 and out.count("dropped") == 2
        kept = sorted(client.list_snapshots("films"))
        assert len(kept) == 2 and len(client.list_snapshots("books")) == 2
        assert len(list((backups / "films").iterdir())) == 3
    finally:
        server.stop()
    server = Server(tmp_path / "second", settings=allowed).start()
    try:
        command = ["--restore", "films", kept[-1], "copy"]
        out = run("examples/backup.py", server.uri, f"fs://{backups}", *command)
        assert "copy restored" in out
        client = server.client()
        client.load_collection("copy")
        assert all_rows(client, "copy") == before
    finally:
        server.stop()
