"""`redkite fsck`: a healthy deployment is clean, and every flipped bit is reported with its file."""

import os
import pathlib
import random
import shutil
import struct

import pytest
from harness import redkite
from harness.data import count, create_simple, simple_rows
from harness.process import Server
from harness.waiting import eventually
from pymilvus import MilvusException
from pymilvus.client.types import LoadState
from test_snapshots_restore import finished

FLIPS = int(os.environ.get("REDKITE_FLIPS", "100"))
# A name that stands in the metadata once, to find its record in the metastore's file.
MARKER = "partition_that_is_looked_for"
# Two segments without what was deleted from them, and what the log holds.
FIRST_ROWS = 2000 - 50 + 30 - 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A stopped data directory: two flushed segments, an index, delete files, snapshots, and a log's tail."""
    folder = tmp_path_factory.mktemp("prepared")
    server = Server(folder).start()
    client = server.client()
    create_simple(client, "first", index="HNSW")
    create_simple(client, "second")
    for start in (0, 1000):
        client.insert("first", simple_rows(1000, start=start))
    client.flush("first")
    client.delete("first", ids=list(range(50)))
    client.flush("first")
    client.insert("second", simple_rows(100))
    client.flush("second")
    root = server.data_dir / "objects"
    eventually(lambda: any(root.rglob("index.*.bin")), "the index is written")
    eventually(
        lambda: client.describe_index("first", "vector")["state"] == "Finished", "it is on record"
    )
    for name in ("first", "second"):
        client.create_snapshot(f"snapshot_of_{name}", name)
    client.insert("first", simple_rows(30, start=5000))
    client.delete("first", ids=[60, 61])
    client.create_partition("first", MARKER)
    client.close()
    assert server.stop() == 0
    return server.data_dir


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy to damage; sound again when `mend` is called."""
    target = tmp_path / "data"
    shutil.copytree(prepared, target)
    return target


def contents(data_dir):
    files = (path for path in data_dir.rglob("*") if path.is_file() and path.name != "LOCK")
    return {str(path.relative_to(data_dir)): path.read_bytes() for path in files}


def test_a_healthy_directory_is_clean_and_left_alone(copy):
    before = contents(copy)
    report = redkite.fsck(copy)
    assert report["problems"] == []
    assert report["objects"] >= 6 and report["logs"] == 2 and report["log_records"] >= 2
    assert contents(copy) == before
    code, out, err = redkite.run("fsck", "--data-dir", copy)
    assert code == 0, err
    assert out.splitlines()[-1].startswith("0 problems in ")


def test_what_cannot_be_checked_is_said(copy, tmp_path):
    code, _, err = redkite.run("fsck", "--data-dir", tmp_path / "nothing")
    assert code == 2 and "holds no metadata" in err
    code, _, err = redkite.run("fsck", "--admin", "127.0.0.1:1")
    assert code == 2 and "127.0.0.1:1" in err
    shutil.rmtree(copy / "objects")
    code, _, err = redkite.run("fsck", "--data-dir", copy)
    assert code == 2 and "objects" in err


def test_a_running_server_is_checked_through_its_admin_port(server, client, name):
    create_simple(client, name, index="HNSW")
    client.insert(name, simple_rows(1200))
    client.flush(name)
    client.insert(name, simple_rows(10, start=5000))
    report = redkite.fsck(admin_port=server.admin_port)
    assert report["problems"] == []
    assert report["logs"] >= 1 and report["log_records"] >= 1
    code, _, err = redkite.run("fsck", "--data-dir", server.data_dir)
    assert code == 2 and "--admin" in err


def wal_end(data):
    """Where the last record of a log file ends: what follows was written ahead."""
    at = 64
    while at + 24 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        (lsn,) = struct.unpack_from("<Q", data, at + 8)
        if lsn == 0:
            break
        at += 24 + length
    return at


def everywhere(data, marker, inside):
    """Where the byte `inside` bytes behind the start of a marker is.

    The database keeps old copies of its pages; the same flip in each of them is also in the one that is
    read.
    """
    places, at = [], data.find(marker.encode())
    while at >= 0:
        places.append(at + inside)
        at = data.find(marker.encode(), at + 1)
    assert places, "the record is not in the file"
    return places


def flips(data_dir, rng):
    """Endless (kind, file, offsets): each a byte, or its copies, that is read back."""
    objects = sorted(path for path in (data_dir / "objects").rglob("*.*") if path.is_file())
    objects = [path for path in objects if ".tmp" not in path.parts]
    kinds = {
        "data": [path for path in objects if path.name.endswith(".parquet")],
        "stats": [path for path in objects if path.name.startswith("stats.")],
        "index": [path for path in objects if path.match("index.*.bin")],
        "log": sorted((data_dir / "wal").rglob("*.log")),
        "owner": sorted((data_dir / "wal").rglob("owner")),
        "meta": [data_dir / "meta" / "log" / "db"],
        "segment record": [data_dir / "meta" / "log" / "db"],
        "snapshot manifest": [path for path in objects if "snapshots" in path.parts],
    }
    # A log file that was just begun holds its header only.
    assert all(kinds.values()), {kind: len(paths) for kind, paths in kinds.items()}
    while True:
        for kind, paths in kinds.items():
            path = rng.choice(paths)
            data = path.read_bytes()
            if kind == "meta":
                yield kind, path, everywhere(data, MARKER, rng.randrange(len(MARKER)))
            elif kind == "segment record":
                # The path of its rows, and behind it their size and checksum.
                rows = rng.choice(kinds["data"]).relative_to(data_dir / "objects").as_posix()
                yield kind, path, everywhere(data, rows, rng.randrange(len(rows) + 8))
            else:
                end = wal_end(data) if kind == "log" else len(data)
                yield kind, path, [rng.randrange(end)]


@pytest.mark.timeout(900)
def test_every_flipped_bit_is_reported_with_its_file(copy):
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    rng = random.Random(seed)
    source = flips(copy, rng)
    for number in range(FLIPS):
        kind, path, offsets = next(source)
        original = path.read_bytes()
        damaged = bytearray(original)
        bit = 1 << rng.randrange(8)
        for offset in offsets:
            damaged[offset] ^= bit
        path.write_bytes(damaged)
        problems = redkite.fsck(copy)["problems"]
        path.write_bytes(original)
        what = f"flip {number}: {kind} {path.relative_to(copy)} at {offsets}, bit {bit}"
        key = str(path.relative_to(copy))
        if kind in ("data", "stats", "index", "snapshot manifest"):
            key = str(path.relative_to(copy / "objects"))
        named = [problem for problem in problems if problem["place"].endswith(key)]
        assert named, f"{what} is not reported: {problems}"
        assert all(problem["what"] and problem["lost"] for problem in named), what
        others = {problem["place"] for problem in problems} - {problem["place"] for problem in named}
        assert not others, f"{what}: {others} are sound"
        if kind == "log":
            assert named[0]["offset"] is not None, what
        if kind == "snapshot manifest":
            assert "snapshot_of_" in named[0]["lost"], what
    assert redkite.fsck(copy)["problems"] == []


@pytest.mark.parametrize("kind", ["data", "delta", "log", "index"])
def test_what_is_missing_is_reported(copy, kind):
    root = copy / "objects"
    target = {
        "data": lambda: next(root.rglob("data.*")),
        "delta": lambda: next((root / "deltas").rglob("*.parquet")),
        "index": lambda: next(root.rglob("index.*.bin")),
        "log": lambda: next(path for path in (copy / "wal").iterdir()),
    }[kind]()
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    problems = redkite.fsck(copy)["problems"]
    # Snapshots name what is flushed, too.
    lost = ["snapshot_of_" in problem["lost"] for problem in problems]
    assert sorted(lost) == ([False] if kind == "log" else [False, True]), problems
    assert all(target.name in problem["place"] for problem in problems), problems


def test_healthy_data_is_served_while_a_file_is_damaged(copy):
    first = None
    for path in (copy / "objects").rglob("data.*"):
        if path.stat().st_size > 60_000:
            first = path
    assert first is not None
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 4
    first.write_bytes(data)
    server = Server(copy.parent)
    server.data_dir = copy
    server.spawn()
    try:
        eventually(lambda: server.admin_status("/healthz") == 200, "the server answers")
        client = eventually(lambda: try_connect(server), "clients are served")
        eventually(
            lambda: client.get_load_state("second")["state"] == LoadState.Loaded, "it is loaded"
        )
        assert count(client, "second") == 100
        client.insert("second", simple_rows(5, start=900))
        assert count(client, "second") == 105
        key = str(pathlib.PurePath(first).relative_to(copy / "objects"))
        eventually(lambda: key in server.log_tail(400), "the log names the damaged file")

        def is_refused():
            try:
                client.get_load_state("first")
            except MilvusException as error:
                assert error.code == 604 and key in error.message, error
                return True
            return False

        # The log is first.
        eventually(is_refused, "the load has failed")
        report = redkite.fsck(admin_port=server.admin_port)
        assert {problem["place"] for problem in report["problems"]} == {key}
        client.close()
    finally:
        server.stop()


def test_a_snapshot_with_a_damaged_manifest_is_refused_and_named(copy):
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    rng = random.Random(seed)
    server = Server(copy.parent, data_dir=copy).start()
    try:
        client = server.client()
        place = client.describe_snapshot("snapshot_of_first", "first").s3_location
        (manifest,) = (
            path
            for path in (copy / "objects" / "snapshots").rglob("*.*")
            if path.relative_to(copy / "objects").as_posix().startswith(place)
        )
        key = manifest.relative_to(copy / "objects").as_posix()
        original = manifest.read_bytes()
        damaged = bytearray(original)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        client.close()
        server.kill9()
        manifest.write_bytes(damaged)
        server.start()
        client = server.client()
        for number in range(2):
            job = client.restore_snapshot("snapshot_of_first", "first", f"bad{number}")
            info = finished(client, job)
            assert info.state == "RestoreSnapshotFailed", info
            assert f"object {key} is corrupt" in info.reason, info
            assert sorted(client.list_collections()) == ["first", "second"]
        # The collection itself is whole, and takes writes; so is the other snapshot.
        eventually(
            lambda: client.get_load_state("first")["state"] == LoadState.Loaded, "it is loaded"
        )
        assert count(client, "first") == FIRST_ROWS
        client.insert("first", simple_rows(5, start=9000))
        client.flush("first")
        assert count(client, "first") == FIRST_ROWS + 5
        restored(client, "snapshot_of_second", "second", "sound", 100)
        report = redkite.fsck(admin_port=server.admin_port)
        assert [problem["place"] for problem in report["problems"]] == [key]
        # What it names has been kept.
        manifest.write_bytes(original)
        restored(client, "snapshot_of_first", "first", "mended", 1950)
        client.close()
    finally:
        server.stop()


def restored(client, snapshot, source, target, rows):
    """Restores a snapshot, and looks for so many rows."""
    info = finished(client, client.restore_snapshot(snapshot, source, target))
    assert info.state == "RestoreSnapshotCompleted", info
    client.load_collection(target)
    assert count(client, target) == rows
    client.drop_collection(target)


def try_connect(server):
    try:
        return server.client()
    except Exception:
        return None
