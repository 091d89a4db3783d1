"""Snapshots that flush first, and what has changed between two of them."""

import json
import threading

import pytest
from harness import redkite
from harness.bundles import Bundles
from harness.data import DIM, all_rows, create_simple, index_params, simple_rows, simple_schema
from harness.waiting import eventually
from pymilvus import DataType
from test_snapshots import code_of
from test_snapshots_restore import restore, targets  # noqa: F401: a fixture


@pytest.fixture
def bundles(server):
    connected = Bundles(server)
    yield connected
    connected.close()


def test_everything_that_was_acknowledged_is_in_it(client, name, targets, bundles):
    create_simple(client, name, num_shards=2)
    client.insert(name, simple_rows(300))
    client.delete(name, ids=[1, 2, 3])
    before = all_rows(client, name)
    bundles.create("plain", name, flush=False)
    bundles.create("flushed", name)
    # For a client that cannot say so, the collection does.
    client.alter_collection_properties(name, {"snapshot.flush": "true"})
    client.insert(name, simple_rows(1, start=1000))
    client.create_snapshot("property", name)
    with_last = all_rows(client, name)
    assert code_of(client.alter_collection_properties, name, {"snapshot.flush": "soon"})[0] == 1100
    for snapshot, rows in (("plain", []), ("flushed", before), ("property", with_last)):
        target = targets()
        restore(client, snapshot, name, target)
        client.load_collection(target)
        assert all_rows(client, target) == rows, snapshot


def test_all_channels_are_as_of_one_time(client, new_client, name, targets, bundles):
    """Writers of many channels write while snapshots are taken; each has exactly what was written
    up to its timestamp, by the answers that the writers got."""
    create_simple(client, name, num_shards=4)
    stop = threading.Event()
    written, failures = [[], [], []], []

    def write(w, connected):
        i = 0
        try:
            while not stop.is_set():
                key = w * 1_000_000 + i
                connected.insert(name, simple_rows(1, start=key))
                written[w].append(key)
                i += 1
        except Exception as error:  # noqa: BLE001: shown at the end
            failures.append(error)

    writers = [threading.Thread(target=write, args=(w, new_client())) for w in range(3)]
    for writer in writers:
        writer.start()
    acknowledged = []
    try:
        for i in range(3):
            reached = [len(one) + 15 for one in written]
            eventually(
                lambda: failures or all(len(one) >= n for one, n in zip(written, reached)),
                "rows are written",
            )
            acknowledged.append([len(one) for one in written])
            bundles.create(f"s{i}", name)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert not failures, failures
    for i in range(3):
        target = targets()
        restore(client, f"s{i}", name, target)
        client.load_collection(target)
        keys = {row["id"] for row in all_rows(client, target, ["id"])}
        for w in range(3):
            mine = sorted(key - w * 1_000_000 for key in keys if key // 1_000_000 == w)
            # A writer waits for each answer: what it wrote before a moment is all but the last.
            assert mine == list(range(len(mine))), (i, w)
            assert len(mine) >= acknowledged[i][w], (i, w)


def snapshot_command(server, *words):
    where = ["--admin", f"127.0.0.1:{server.admin_port}"]
    code, out, err = redkite.run("snapshot", *words, *where)
    assert code == 0, err
    return out


def test_what_has_changed_is_shown(server, client, name, targets, bundles):
    create_simple(client, name, num_shards=2)
    client.create_partition(name, "p1")
    client.insert(name, simple_rows(100))
    client.insert(name, simple_rows(40, start=1000), partition_name="p1")
    bundles.create("a", name)
    bundles.create("same", name)
    client.insert(name, simple_rows(30, start=200))
    client.delete(name, ids=list(range(10)))
    client.upsert(name, simple_rows(5, start=50))
    client.delete(name, ids=[1000], partition_name="p1")
    client.create_partition(name, "p2")
    bundles.create("b", name)
    listed = snapshot_command(server, "ls", name)
    assert [line.split("\t")[1] for line in listed.splitlines()] == ["a", "b", "same"]
    shown = json.loads(snapshot_command(server, "show", name, "b"))
    assert shown["name"] == "b" and shown["rows"] > 0
    diff = json.loads(snapshot_command(server, "diff", name, "a", "b", "--json"))
    rows = {one["partition"]: (one["added"], one["deleted"]) for one in diff["rows"]}
    assert rows == {"_default": (35, 15), "p1": (0, 1)}
    assert diff["partitions"] == {"added": ["p2"], "removed": [], "changed": []}
    back = json.loads(snapshot_command(server, "diff", name, "b", "a", "--json"))
    rows = {one["partition"]: (one["added"], one["deleted"]) for one in back["rows"]}
    assert rows == {"_default": (15, 35), "p1": (1, 0)}
    assert snapshot_command(server, "diff", name, "a", "same") == "nothing has changed\n"
    code, _, err = redkite.run(
        "snapshot", "diff", name, "a", "absent", "--admin", f"127.0.0.1:{server.admin_port}"
    )
    assert code != 0 and "snapshot not found" in err


def test_what_has_changed_of_the_definition_is_shown(server, client, name, targets, bundles):
    """Fields, indexes, properties and segments, each of them new, gone and other than it was."""
    schema = simple_schema()
    schema.add_field("cover", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("poster", DataType.FLOAT_VECTOR, dim=DIM)
    properties = {"owner": "archive", "colour": "red", "shape": "round"}
    client.create_collection(name, schema=schema, properties=properties)
    client.create_index(name, index_params())
    client.create_index(name, index_params(field="cover", index_name="of_cover"))

    def rows(count, **extra):
        made = simple_rows(count, **extra)
        return [row | {"cover": row["vector"], "poster": row["vector"]} for row in made]

    client.insert(name, rows(50))
    client.flush(name)
    first = segments_of(client, name)
    bundles.create("a", name, flush=False)
    client.drop_index(name, "of_cover")
    client.create_index(name, index_params(field="poster", index_name="of_poster"))
    client.alter_index_properties(name, "vector", {"mmap.enabled": "true"})
    client.add_collection_field(name, "year", DataType.INT64, nullable=True)
    client.alter_collection_field(name, "label", {"max_length": 80})
    client.alter_collection_properties(name, {"owner": "library", "size": "large"})
    client.drop_collection_properties(name, ["colour"])
    client.insert(name, [row | {"year": 1999} for row in rows(20, start=100)])
    client.flush(name)
    second = segments_of(client, name)
    assert len(first) == 1 and first < second
    bundles.create("b", name, flush=False)

    def changes(added=(), removed=(), changed=()):
        return {"added": list(added), "removed": list(removed), "changed": list(changed)}

    diff = json.loads(snapshot_command(server, "diff", name, "a", "b", "--json"))
    assert diff == {
        "rows": [{"partition": "_default", "added": 20, "deleted": 0}],
        "partitions": changes(),
        "fields": changes(["year"], [], ["label"]),
        "indexes": changes(["of_poster"], ["of_cover"], ["vector"]),
        "properties": changes(["size"], ["colour"], ["owner"]),
        "segments_added": sorted(second - first),
        "segments_removed": [],
    }
    back = json.loads(snapshot_command(server, "diff", name, "b", "a", "--json"))
    assert back == {
        "rows": [{"partition": "_default", "added": 0, "deleted": 20}],
        "partitions": changes(),
        "fields": changes([], ["year"], ["label"]),
        "indexes": changes(["of_cover"], ["of_poster"], ["vector"]),
        "properties": changes(["colour"], ["size"], ["owner"]),
        "segments_added": [],
        "segments_removed": sorted(second - first),
    }
    lines = snapshot_command(server, "diff", name, "a", "b").splitlines()
    assert lines == [
        "partition _default: 20 rows added, 0 rows deleted",
        "field year: added",
        "field label: changed",
        "index of_poster: added",
        "index of_cover: removed",
        "index vector: changed",
        "property size: added",
        "property colour: removed",
        "property owner: changed",
        *(f"segment {segment}: added" for segment in sorted(second - first)),
    ]
    # A compaction changes segments, and nothing else.
    job = client.compact(name)
    eventually(lambda: client.get_compaction_state(job) == "Completed", "the compaction ends")
    third = segments_of(client, name)
    assert len(third) == 1 and not third & second
    bundles.create("c", name, flush=False)
    lines = snapshot_command(server, "diff", name, "b", "c").splitlines()
    assert lines == [
        *(f"segment {segment}: added" for segment in sorted(third)),
        *(f"segment {segment}: removed" for segment in sorted(second)),
    ]


def segments_of(client, name):
    return {segment.segment_id for segment in client.list_persistent_segments(name)}
