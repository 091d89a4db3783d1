"""Damaged files of one collection: it is named, its users are told, all others are served."""

import time

import pytest
from harness.data import all_rows, count, create_simple, simple_rows
from harness.process import Server
from harness.waiting import eventually
from pymilvus import MilvusException
from pymilvus.client.types import LoadState

DAMAGED = 1009


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path)
    yield running
    running.stop()


def flip(path, at):
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def make(server):
    """Two collections with rows in a segment and rows in the log; returns what is in them."""
    client = server.client()
    for name in ("hurt", "sound"):
        create_simple(client, name, index="HNSW")
        client.insert(name, simple_rows(2000))
        client.flush(name)
        for number in range(5):
            client.insert(name, simple_rows(10, start=10_000 + number * 10))
        client.delete(name, ids=[1, 2, 3])
        indexed = lambda name=name: client.describe_index(name, "vector")["indexed_rows"] == 2000
        eventually(indexed, "the segment is indexed")
    rows = {name: all_rows(client, name) for name in ("hurt", "sound")}
    ids = {name: client.describe_collection(name)["collection_id"] for name in rows}
    client.close()
    return rows, ids


def is_sound(client, rows):
    """The other collection is served in full, and takes writes."""
    assert client.get_load_state("sound")["state"] == LoadState.Loaded
    assert all_rows(client, "sound") == rows["sound"]
    hit = client.search("sound", [rows["sound"][50]["vector"]], limit=1)[0][0]
    assert hit["id"] == rows["sound"][50]["id"]
    client.insert("sound", simple_rows(5, start=50_000))
    client.flush("sound")
    assert count(client, "sound") == len(rows["sound"]) + 5


def answered_in_time(seconds, call):
    """Runs a call that must fail, and soon: waiting for a repair would be a hang."""
    started = time.monotonic()
    with pytest.raises(MilvusException) as caught:
        call()
    assert time.monotonic() - started < seconds, "the error came too late to be one"
    return caught.value


def test_a_log_that_is_damaged_before_its_tail(server):
    server.start()
    rows, ids = make(server)
    server.kill9()
    (folder,) = (server.data_dir / "wal").glob(f"*{ids['hurt']}v0")
    log = max(folder.glob("*.log"))
    before = log.read_bytes()
    # In the middle of what is written: records behind it prove that it had been synced.
    written = len(before.rstrip(b"\0"))
    flip(log, written // 2)
    server.start()
    client = server.client()
    is_sound(client, rows)
    tries = [
        lambda: client.query("hurt", filter="id >= 0", limit=1),
        lambda: client.search("hurt", [rows["hurt"][0]["vector"]], limit=1),
        lambda: client.insert("hurt", simple_rows(1, start=90_000)),
        lambda: client.delete("hurt", ids=[5]),
        lambda: client.flush("hurt"),
    ]
    for call in tries:
        error = answered_in_time(60, call)
        assert error.code == DAMAGED, error
        assert log.name in error.message, error
    # The operator is told, file and place.
    assert "corrupt at byte" in server.log_path.read_text()
    assert log.name in server.log_path.read_text()
    # Nothing was cut off or overwritten: with the bit put right everything is there again.
    server.kill9()
    assert len(log.read_bytes()) == len(before)
    flip(log, written // 2)
    assert log.read_bytes() == before
    client.close()
    server.start()
    client = server.client()
    assert all_rows(client, "hurt") == rows["hurt"]
    client.close()


def test_a_collection_with_a_damaged_log_can_be_dropped(server):
    server.start()
    rows, ids = make(server)
    server.kill9()
    (folder,) = (server.data_dir / "wal").glob(f"*{ids['hurt']}v0")
    log = max(folder.glob("*.log"))
    flip(log, len(log.read_bytes().rstrip(b"\0")) // 2)
    server.start()
    client = server.client()
    client.drop_collection("hurt")
    assert client.list_collections() == ["sound"]
    create_simple(client, "hurt")
    client.insert("hurt", simple_rows(7))
    assert count(client, "hurt") == 7
    is_sound(client, rows)
    client.close()


def files_of(server, collection, pattern):
    found = sorted((server.data_dir / "objects" / "segments" / str(collection)).rglob(pattern))
    assert found, f"no file is like {pattern}"
    return found


def test_a_damaged_segment_file(server):
    server.start()
    rows, ids = make(server)
    server.kill9()
    data = files_of(server, ids["hurt"], "data*")[0]
    flip(data, data.stat().st_size // 2)
    server.start()
    client = server.client()
    is_sound(client, rows)
    tries = [
        lambda: client.query("hurt", filter="id >= 0", limit=1),
        lambda: client.search("hurt", [rows["hurt"][0]["vector"]], limit=1),
    ]
    for call in tries:
        error = answered_in_time(60, call)
        assert error.code == DAMAGED, error
        assert data.name in error.message, error
    assert data.name in server.log_path.read_text()
    # Its log is sound: writes are taken, and are there when the file is.
    client.insert("hurt", simple_rows(3, start=90_000))
    client.close()
    server.kill9()
    flip(data, data.stat().st_size // 2)
    server.start()
    client = server.client()
    assert count(client, "hurt") == len(rows["hurt"]) + 3
    client.close()


def test_a_damaged_index_file_costs_speed_and_nothing_else(server):
    server.start()
    rows, ids = make(server)
    server.kill9()
    index = files_of(server, ids["hurt"], "index/*/*")[0]
    flip(index, index.stat().st_size // 2)
    server.start()
    client = server.client()
    is_sound(client, rows)
    # The rows are whole, so they are searched without it.
    assert all_rows(client, "hurt") == rows["hurt"]
    for row in rows["hurt"][::400]:
        assert client.search("hurt", [row["vector"]], limit=1)[0][0]["id"] == row["id"]
    log = server.log_path.read_text()
    assert "index not opened" in log and ("corrupt" in log or "checksum" in log), log[-2000:]
    client.close()


def test_a_damaged_metastore_is_refused_and_named(server):
    server.start()
    make(server)
    assert server.stop() == 0
    database = server.data_dir / "meta" / "log" / "db"
    content = bytearray(database.read_bytes())
    # All of it but the head: whatever sled makes of that, it must not be less than was there.
    for at in range(len(content) // 8, len(content), 4096):
        content[at] ^= 0x10
    database.write_bytes(content)
    server.spawn()
    assert server.wait_exit(60) != 0
    log = server.log_tail()
    assert "metastore" in log and str(server.data_dir / "meta") in log, log
