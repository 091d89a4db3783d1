"""Snapshots that travel: written out as bundles, and restored by other servers."""

import shutil

import pytest
from harness import redkite
from harness.bundles import Bundles, path, spec
from harness.data import DIM, all_rows, count, create_simple, index_params, make_vectors, simple_rows
from harness.metrics import counter
from harness.process import Server
from harness.waiting import eventually
from pymilvus import DataType, MilvusClient
from pymilvus.grpc_gen import milvus_pb2
from test_snapshots import fill
from test_snapshots_restore import ON_DEMAND, finished
from test_vector_types import wait_indexed

# So many that a segment of each of two shards gets index files, and some more.
LARGE, ROWS = 2800, 3000
BUILT = "redkite_datanode_build_seconds_count"


@pytest.fixture
def start(tmp_path):
    """Starts servers of the test's own; `backups` of its folder is where bundles may be."""
    running = []

    def make(name, settings=None, **kwargs):
        folder = tmp_path / name
        folder.mkdir()
        backups = tmp_path / "backups"
        settings = {"datanode.bundle.local_dirs": f'["{backups}"]', **(settings or {})}
        server = Server(folder, settings=settings, **kwargs).start()
        running.append(server)
        return server

    yield make
    for server in running:
        server.stop()


def rich(client, name):
    """A collection with every kind of field, deletes, an upsert and a partition; its rows."""
    schema = MilvusClient.create_schema(enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("doc", DataType.JSON, nullable=True)
    schema.add_field("number", DataType.INT64, nullable=True)
    client.create_collection(
        name,
        schema=schema,
        index_params=index_params("HNSW", "COSINE", M=8, efConstruction=64),
        num_shards=2,
        consistency_level="Strong",
    )
    client.create_partition(name, "p1")
    vectors = make_vectors(ROWS)

    def row(i, **more):
        return {
            "id": f"key {i}",
            "vector": vectors[i].tolist(),
            "doc": None if i % 3 == 0 else {"n": i, "deep": {"x": [i, "y"]}},
            "number": None if i % 5 == 0 else i,
            "extra": i * 1.5,
            **more,
        }

    client.insert(name, [row(i) for i in range(LARGE)])
    client.insert(name, [row(i) for i in range(LARGE, ROWS)], partition_name="p1")
    client.flush(name)
    client.delete(name, ids=[f"key {i}" for i in range(50)])
    client.upsert(name, [row(100, extra="new")])
    client.flush(name)
    wait_indexed(client, name, "vector")
    # So that it is searched by its index files from here on, as the copy is.
    client.release_collection(name)
    client.load_collection(name)
    return all_rows(client, name)


def restored(client, bundles, uri, target, spec=""):
    job, code, text = bundles.restore(uri, target, spec)
    assert code == 0, text
    info = finished(client, job)
    assert info.state == "RestoreSnapshotCompleted", info
    assert (info.progress, info.reason, info.collection_name) == (100, "", target)


@pytest.mark.parametrize("where", ["files", "s3"])
def test_a_bundle_is_restored_by_another_server(start, tmp_path, weed, s3, where):
    """Nothing of the first server is left when the second one restores."""
    if where == "files":
        to, external, env = f"fs://{tmp_path}/backups/one", "", None
    else:
        to, external, env = path(weed, weed.new_bucket(), "backups/one"), spec(weed), s3.env
    source = start("source")
    client, bundles = source.client(), Bundles(source)
    before = rich(client, "films")
    # There are index files to be carried.
    assert counter(source, BUILT) >= 2
    query = make_vectors(ROWS)[700].tolist()
    search = {"limit": 10, "search_params": {"params": {"ef": 200}}}
    found = client.search("films", [query], **search)
    client.create_snapshot("s1", "films", description="nightly")
    uri = bundles.write("s1", "films", to, external)
    # What belongs to the job goes with it.
    client.drop_snapshot("s1", "films")
    source.stop()
    shutil.rmtree(source.data_dir)
    # With its own objects on S3 the first time, in files the second.
    target = start("target", settings=ON_DEMAND, env=env)
    client, bundles = target.client(), Bundles(target)
    restored(client, bundles, uri, "copy", external)
    redkite.gc(target)
    described = client.describe_index("copy", "vector")
    assert (described["index_type"], described["M"]) == ("HNSW", "8")
    # No index is built anew.
    assert described["indexed_rows"] == described["total_rows"]
    assert sorted(client.list_partitions("copy")) == ["_default", "p1"]
    client.load_collection("copy")
    assert all_rows(client, "copy") == before
    assert client.search("copy", [query], **search) == found
    assert counter(target, BUILT) == 0
    client.delete("copy", ids=["key 700"])
    client.insert("copy", [{**before[0], "id": "new"}])
    assert count(client, "copy") == len(before)
    target.kill9()
    target.start()
    client = target.client()
    eventually(lambda: count(client, "copy") == len(before), "the copy is served again")
    client.drop_collection("copy")
    if where == "files":

        def is_empty():
            redkite.gc(target)
            root = target.data_dir / "objects"
            return not [p for p in root.rglob("*") if p.is_file() and p.suffix != ""]

        eventually(is_empty, "every file is gone", interval=0.3)


def test_a_bundle_in_ones_own_store_outlives_the_collection(start):
    server = start("server", settings=ON_DEMAND)
    client, bundles = server.client(), Bundles(server)
    fill(client, "films")
    before = all_rows(client, "films")
    client.create_snapshot("s1", "films")
    uri = bundles.write("s1", "films", "backups/one")
    _, code, text = bundles.restore(uri, "films")
    assert code == 65535 and "duplicate collection" in text
    client.drop_collection("films")
    redkite.gc(server)
    restored(client, bundles, uri, "films")
    client.load_collection("films")
    assert all_rows(client, "films") == before


def test_what_cannot_be_is_said(start, tmp_path):
    server = start("server")
    client, bundles = server.client(), Bundles(server)
    fill(client, "films")
    client.create_snapshot("s1", "films")
    to = f"fs://{tmp_path}/backups/one"
    assert bundles.export("s2", "films", to)[1] == 2600
    assert bundles.export("s1", "absent", to)[1] == 100
    assert bundles.export("s1", "films", "")[1] == 1101
    assert bundles.export("s1", "films", "gs://bucket/x")[1] == 3000
    assert bundles.export("s1", "films", "s3://bucket/x", '{"extfs": {"colour": "red"}}')[1] == 1100
    answer = bundles.export_state(1)
    assert answer.status.code == 2101 and "not found" in answer.status.reason
    # Places that nobody has meant for bundles: the job says so.
    for bad in (f"fs://{tmp_path}/elsewhere", "wal/one"):
        job, code, text = bundles.export("s1", "films", bad)
        assert code == 0, text
        info = bundles.exported(job)
        assert info.state == 4 and info.reason, info
    assert not (tmp_path / "elsewhere").exists()
    uri = bundles.write("s1", "films", to)
    # One place, one bundle.
    job, _, _ = bundles.export("s1", "films", to)
    info = bundles.exported(job)
    assert info.state == 4 and "holds a bundle already" in info.reason, info
    assert bundles.restore(uri, "9bad")[1] == 1100
    assert bundles.restore(f"{to}/other.json", "copy")[1] == 1100
    assert bundles.restore("", "copy")[1] == 1101
    _, code, text = bundles.restore(f"{to}/none/metadata.json", "copy")
    assert code == 1000 and "none" in text
    assert not client.has_collection("copy")
    # Nothing holds it.
    client.drop_snapshot("s1", "films")


@pytest.mark.parametrize("damage", ["missing", "changed", "manifest"])
def test_a_damaged_bundle_fails_the_restore_and_the_file_is_named(start, tmp_path, damage):
    server = start("server", settings=ON_DEMAND)
    client, bundles = server.client(), Bundles(server)
    fill(client, "films")
    client.create_snapshot("s1", "films")
    root = tmp_path / "backups" / "one"
    uri = bundles.write("s1", "films", f"fs://{root}")
    victim = next(root.rglob("data.v*.parquet"))
    if damage == "manifest":
        victim = root / "manifest.bin"
    content = bytearray(victim.read_bytes())
    if damage == "missing":
        victim.unlink()
    else:
        # The size stays.
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    job, code, text = bundles.restore(uri, "copy")
    if damage == "manifest":
        assert code == 1009 and "manifest.bin" in text, text
    else:
        assert code == 0, text
        info = finished(client, job)
        assert info.state == "RestoreSnapshotFailed"
        assert str(victim.relative_to(root)) in info.reason, info.reason
    assert not client.has_collection("copy")
    client.drop_collection("films")

    def is_empty():
        redkite.gc(server)
        objects = server.data_dir / "objects"
        return not [p for p in objects.rglob("*") if p.is_file() and p.suffix != ""]

    eventually(is_empty, "what was copied is gone", interval=0.3)


def test_a_damaged_source_fails_the_export_and_leaves_nothing(start, tmp_path):
    server = start("server")
    client, bundles = server.client(), Bundles(server)
    fill(client, "films")
    client.create_snapshot("s1", "films")
    victim = next((server.data_dir / "objects").rglob("data.v*.parquet"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    root = tmp_path / "backups" / "one"
    job, _, _ = bundles.export("s1", "films", f"fs://{root}")
    info = bundles.exported(job)
    assert info.state == 4 and victim.name in info.reason, info
    assert not [p for p in root.rglob("*") if p.is_file()]
    client.drop_snapshot("s1", "films")


def test_exports_and_restores_survive_kills(start, tmp_path):
    """Killed at any moment, a job goes on where it was; it ends completely or not at all."""
    server = start("server")
    client, bundles = server.client(), Bundles(server)
    create_simple(client, "films", index="HNSW")
    for part in range(12):
        client.insert("films", simple_rows(100, start=part * 100, seed=part))
        client.flush("films")
    before = all_rows(client, "films")
    client.create_snapshot("s1", "films")
    jobs = []
    for i in range(3):
        job, code, text = bundles.export("s1", "films", f"fs://{tmp_path}/backups/{i}")
        assert code == 0, text
        jobs.append(job)
        server.kill9()
        server.start()
    bundles = Bundles(server)
    ended = [bundles.exported(job) for job in jobs]
    uris = [info.snapshot_metadata_uri for info in ended]
    assert all(uris), [(info.state, info.reason) for info in ended]
    for i, uri in enumerate(uris):
        job, code, text = bundles.restore(uri, f"copy{i}")
        assert code == 0, text
        server.kill9()
        server.start()
        client, bundles = server.client(), Bundles(server)
        info = finished(client, job)
        assert info.state == "RestoreSnapshotCompleted", info
        client.load_collection(f"copy{i}")
        assert all_rows(client, f"copy{i}") == before
    # No pin is left behind.
    client.drop_snapshot("s1", "films")


EXPORTS = "redkite_datacoord_snapshot_exports_total"
EXPORT_SECONDS = "redkite_datacoord_snapshot_export_seconds"
FILES = "redkite_datanode_bundle_files_total"
BYTES = "redkite_datanode_bundle_bytes_total"
RESTORES = "redkite_rootcoord_restores_total"
COUNTED = {
    "exports completed": (EXPORTS, {"result": "completed"}),
    "exports failed": (EXPORTS, {"result": "failed"}),
    "exports timed": (f"{EXPORT_SECONDS}_count", {}),
    "files copied": (FILES, {"what": "copied"}),
    "bytes copied": (BYTES, {"what": "copied"}),
    "files checked": (FILES, {"what": "checked"}),
    "bytes checked": (BYTES, {"what": "checked"}),
    "bundles restored": (RESTORES, {"kind": "bundle", "result": "completed"}),
    "bundles not restored": (RESTORES, {"kind": "bundle", "result": "failed"}),
    "snapshots restored": (RESTORES, {"kind": "snapshot", "result": "completed"}),
}


def test_exports_and_bundles_are_counted(start, tmp_path):
    server = start("server", settings={"datacoord.snapshot.verify_checksums": "true"})
    client, bundles = server.client(), Bundles(server)
    fill(client, "films")
    client.create_snapshot("s1", "films")

    def counted():
        return {what: counter(server, name, **labels) for what, (name, labels) in COUNTED.items()}

    def rises(**by):
        """What has been counted since the last time; nothing else has."""
        now = counted()
        risen = {what: now[what] - before[what] for what in now if now[what] != before[what]}
        before.update(now)
        assert risen == {what.replace("_", " "): value for what, value in by.items()}

    before = dict.fromkeys(COUNTED, 0)
    rises()
    root = tmp_path / "backups" / "one"
    job, _, _ = bundles.export("s1", "films", f"fs://{root}")
    info = bundles.exported(job)
    assert info.state == milvus_pb2.ExportSnapshotCompleted, info
    # Each file of it but the one that says that it is complete.
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "metadata.json"]
    size = sum(path.stat().st_size for path in files)
    assert (info.total_files, info.total_bytes) == (len(files), size)
    rises(exports_completed=1, exports_timed=1, files_copied=len(files), bytes_copied=size)
    seconds = counter(server, f"{EXPORT_SECONDS}_sum")
    assert seconds == pytest.approx(info.time_cost / 1000)
    job, _, _ = bundles.export("s1", "films", f"fs://{tmp_path}/elsewhere")
    assert bundles.exported(job).state == milvus_pb2.ExportSnapshotFailed
    rises(exports_failed=1)
    # Its manifest is read in another way.
    data = [path for path in files if path.name != "manifest.bin"]
    size = sum(path.stat().st_size for path in data)
    restored(client, bundles, info.snapshot_metadata_uri, "copy")
    rises(bundles_restored=1, files_copied=len(data), bytes_copied=size)
    job = client.restore_snapshot("s1", "films", "copy2")
    assert finished(client, job).state == "RestoreSnapshotCompleted"
    rises(snapshots_restored=1, files_checked=len(data), bytes_checked=size)
    data[0].unlink()
    job, code, text = bundles.restore(info.snapshot_metadata_uri, "copy3")
    assert code == 0, text
    assert finished(client, job).state == "RestoreSnapshotFailed"
    assert counted()["bundles not restored"] == 1
    assert counted()["bundles restored"] == 1
