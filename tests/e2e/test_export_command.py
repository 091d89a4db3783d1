"""`redkite export`: the real command, what it writes, what it shows, and what it says when it cannot."""

import io
import json
import os
import pty
import re
import select
import subprocess
import time

import pyarrow.parquet as pq
import pytest
from harness import redkite
from harness.cluster import run_cluster
from harness.data import all_rows, create_simple, simple_rows
from harness.process import Server, connect, server_binary
from harness.weed import ACCESS_KEY, SECRET_KEY, Bucket
from pymilvus import DataType

NAME = "films"
LAKE = "export-lake"


@pytest.fixture(scope="module")
def config(weed, tmp_path_factory):
    """A file that tells data nodes of a bucket on S3, and of one that nobody can reach."""
    weed.client().create_bucket(Bucket=LAKE)
    path = tmp_path_factory.mktemp("config") / "redkite.toml"
    path.write_text(
        "[[datanode.export.buckets]]\n"
        f'bucket = "{LAKE}"\nendpoint = "{weed.endpoint}"\nregion = "us-east-1"\n'
        f'access_key = "{ACCESS_KEY}"\nsecret_key = "{SECRET_KEY}"\n'
        "[[datanode.export.buckets]]\n"
        'bucket = "gone"\nendpoint = "http://127.0.0.1:1"\nregion = "us-east-1"\n'
        'access_key = "a"\nsecret_key = "b"\ntimeout = "1s"\n'
    )
    return path


def fill(client):
    """Rows in several segments, some deleted and some replaced; what is left."""
    create_simple(client, NAME, num_shards=2)
    client.insert(NAME, simple_rows(500))
    client.flush(NAME)
    client.insert(NAME, simple_rows(500, start=500, seed=1))
    client.delete(NAME, ids=list(range(0, 1000, 9)))
    client.upsert(NAME, [{**row, "label": "new"} for row in simple_rows(10, start=300)])
    return all_rows(client, NAME)


def export(admin_port, to, *words):
    where = ["--to", to, "--admin", f"127.0.0.1:{admin_port}"]
    return redkite.run("export", "--collection", NAME, *where, *words)


def rows_of(files, kind):
    """The rows of the files that `_SUCCESS` lists, by key."""
    success = json.loads(files["_SUCCESS"])
    assert sorted(files) == sorted(["_SUCCESS", *(file["name"] for file in success["files"])])
    rows = []
    for file in success["files"]:
        content = files[file["name"]]
        assert len(content) == file["size"]
        if kind == "parquet":
            rows += pq.read_table(io.BytesIO(content)).to_pylist()
        else:
            rows += json.loads(content)
    return sorted(rows, key=lambda row: row["id"])


def check(files, kind, wanted):
    found = rows_of(files, kind)
    assert len(found) == len(wanted)
    for row, other in zip(found, wanted, strict=True):
        other = {**other, "vector": pytest.approx(list(other["vector"]), rel=1e-6)}
        assert row == other


def in_bucket(weed, bucket, prefix):
    boto = weed.client()
    listed = boto.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    read = lambda key: boto.get_object(Bucket=bucket, Key=key)["Body"].read()  # noqa: E731
    return {entry["Key"].removeprefix(prefix): read(entry["Key"]) for entry in listed}


def check_exports(admin_port, rows, weed, own):
    """Each format to each kind of target; `own` reads what lies in the deployment's own store."""
    few = [row for row in rows if row["number"] >= 3000 and row["label"] != "new"]
    assert 0 < len(few) < len(rows)
    given = ["--filter", 'number >= 3000 and label != "new"']
    for number, (to, kind, words, wanted) in enumerate(
        [
            (LAKE, "parquet", [], rows),
            (LAKE, "json", given, few),
            ("own", "parquet", given, few),
            ("own", "json", [], rows),
        ]
    ):
        place = f"{admin_port}/{number}"
        code, out, err = export(admin_port, f"s3://{to}/{place}", "--format", kind, *words)
        assert code == 0, err
        shown = re.fullmatch(r"(\d+) of (\d+) rows in (\d+) files with (\d+) bytes at (\S+)\n", out)
        assert shown, out
        files = in_bucket(weed, LAKE, f"{place}/") if to == LAKE else own(f"exports/own/{place}/")
        check(files, kind, wanted)
        numbers = [int(shown[part]) for part in (1, 3, 4)]
        contents = [content for name, content in files.items() if name != "_SUCCESS"]
        assert numbers == [len(wanted), len(contents), sum(map(len, contents))]
        assert shown[5] == f"s3://{to}/{place}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, config):
    """A server in files, with authorization, and its rows."""
    folder = tmp_path_factory.mktemp("guarded")
    server = Server(folder, settings={"security.authorization": "true"})
    server.command += ["--config", str(config)]
    server.start()
    client = server.client(token="root:Milvus")
    yield server, fill(client)
    client.close()
    server.stop()


def test_rows_arrive_in_files_and_on_s3_with_authorization(guarded, weed):
    server, rows = guarded

    def own(prefix):
        folder = server.data_dir / "objects" / prefix
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    check_exports(server.admin_port, rows, weed, own)


def test_rows_arrive_from_a_deployment_on_s3_without_a_cache(tmp_path, weed, config):
    """Separate processes; the data node has no file on a local disk."""
    bucket = Bucket(weed)
    settings = {**bucket.settings, "storage.cache_size": "0"}
    with run_cluster(tmp_path, settings=settings, config=config) as cluster:
        client = connect(cluster.services["proxy"][0].uri)
        rows = fill(client)
        client.close()
        port = cluster.services["datacoord"][0].admin_port
        own = lambda prefix: in_bucket(weed, bucket.name, f"some/prefix/{prefix}")  # noqa: E731
        check_exports(port, rows, weed, own)


def test_json_fields_that_are_said_to_hold_lists_are_lists(guarded, weed):
    server, _ = guarded
    client = server.client(token="root:Milvus")
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    for name in ("numbers", "words", "other"):
        schema.add_field(name, DataType.JSON)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    types = {"vikingdb.type.numbers": "list<int64>", "vikingdb.type.words": "list<string>"}
    client.create_collection("lists", schema=schema, properties=types)
    row = {"id": 1, "numbers": [3, 4], "words": ["a", "b"], "other": [5], "vector": [1.0, 2.0]}
    client.insert("lists", [row])
    client.flush("lists")
    client.close()
    where = ["--to", f"s3://{LAKE}/lists", "--admin", f"127.0.0.1:{server.admin_port}"]
    code, _, err = redkite.run("export", "--collection", "lists", *where)
    assert code == 0, err
    [found] = rows_of(in_bucket(weed, LAKE, "lists/"), "parquet")
    assert json.loads(found.pop("other")) == row.pop("other")
    assert found == row


def test_what_cannot_be_is_said(guarded):
    server, _ = guarded
    port = server.admin_port
    to = "s3://own/wrong"
    for words, text in [
        (["--filter", "nothing > 1"], "nothing"),
        (["--filter", "number >"], "expected a value"),
        (["--format", "csv"], "format csv is not known, parquet and json are"),
        (["--database", "absent"], "absent"),
        (["--colour", "red"], "--colour"),
    ]:
        code, out, err = export(port, to, *words)
        assert code != 0 and out == "" and text in err, (words, err)
    for bad in ["own/wrong", "s3://own", "s3://own/", "fs:///tmp/x"]:
        code, _, err = export(port, bad)
        assert code != 0 and "is not s3://BUCKET/DIRECTORY" in err, err
    code, _, err = export(port, "s3://own/../up")
    assert code != 0 and ".." in err, err
    where = ["--to", to, "--admin", f"127.0.0.1:{port}"]
    code, _, err = redkite.run("export", "--collection", "absent", *where)
    assert code != 0 and "absent" in err, err
    code, _, err = redkite.run("export", *where)
    assert code != 0 and "--collection" in err, err
    # Nobody is there.
    code, _, err = export(1, to)
    assert code != 0 and "127.0.0.1:1" in err, err
    assert not (server.data_dir / "objects" / "exports" / "own" / "wrong").exists()


def test_an_export_that_fails_fails_the_command_with_its_reason(guarded):
    server, _ = guarded
    code, out, err = export(server.admin_port, "s3://gone/x")
    assert code == 1 and out == "" and err.startswith("error: "), err
    place = f"s3://own/{server.admin_port}/twice"
    assert export(server.admin_port, place)[0] == 0
    code, _, err = export(server.admin_port, place)
    assert code == 1 and "it holds an export already" in err, err


def test_a_terminal_shows_a_bar(guarded):
    server, rows = guarded
    to = f"s3://own/{server.admin_port}/bar"
    words = ["export", "--collection", NAME, "--to", to, "--admin", f"127.0.0.1:{server.admin_port}"]
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [str(server_binary()), *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    shown, until = b"", time.monotonic() + 120
    while time.monotonic() < until:
        if not select.select([ours], [], [], 1)[0]:
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:
            # The other end was closed.
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert child.wait(60) == 0, shown
    text = shown.decode()
    # Rows that are in the files that were read: some of them were deleted.
    bars = re.findall(r"done \[(#+|█+)\] (\d+)/(\d+) rows", text)
    assert bars, text
    assert bars[-1][1] == bars[-1][2] and int(bars[-1][2]) >= len(rows)
