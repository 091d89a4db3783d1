"""`redkite meta`: the metadata now, as it was, and as it changes."""

import datetime
import json
import subprocess

from harness.data import create_simple
from harness.process import server_binary
from harness.waiting import eventually

LOGICAL_BITS = 18


def meta(server, *words):
    """Runs `redkite meta` against the server's admin port; its exit code, output and errors."""
    command = [server_binary(), "meta", *words, "--admin", f"127.0.0.1:{server.admin_port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def listed(server, *words):
    code, out, err = meta(server, "ls", *words)
    assert code == 0, err
    return [line.split("\t")[0] for line in out.splitlines()]


def partition_key(server, collection_id, partition):
    prefix = f"root-coord/partitions/{collection_id}/"
    for key in listed(server, prefix):
        code, out, err = meta(server, "get", key, "--decode")
        assert code == 0, err
        if json.loads(out)["name"] == partition:
            return key
    raise AssertionError(f"no {partition} below {prefix}")


def test_a_dropped_partition_is_shown_as_it_was(server, client, name):
    create_simple(client, name)
    client.create_partition(name, "early")
    collection_id = client.describe_collection(name)["collection_id"]
    key = partition_key(server, collection_id, "early")
    copies = listed(server, f"snapshots/{key}_ts")
    times = [int(copy.rsplit("_ts", 1)[1]) for copy in copies]
    assert times == sorted(times)
    created = times[-1]

    client.release_collection(name)
    client.drop_partition(name, "early")
    eventually(lambda: key not in listed(server, key), "the partition's record to go")
    code, _, err = meta(server, "get", key, "--decode")
    assert code == 1
    assert key in err

    # Milliseconds behind the point, so that the record is the one of then.
    seconds, millis = divmod(created >> LOGICAL_BITS, 1000)
    utc = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    clock_time = f"{utc:%Y-%m-%dT%H:%M:%S}.{millis:03}Z"
    for as_of in (str(created), clock_time):
        code, out, err = meta(server, "get", key, "--decode", "--as-of", as_of)
        assert code == 0, err
        assert json.loads(out)["name"] == "early"
        assert key in listed(server, f"root-coord/partitions/{collection_id}/", "--as-of", as_of)
    code, _, err = meta(server, "get", key, "--as-of", str(times[0] - 1))
    assert code == 1
    # The last copy says that it is gone.
    last = listed(server, f"snapshots/{key}_ts")[-1]
    code, out, err = meta(server, "get", last)
    assert code == 0, err
    assert out.strip() == r"\xe2\x9b\xbc"


def test_a_time_that_is_none_is_refused(server):
    code, _, err = meta(server, "ls", "root-coord/", "--as-of", "yesterday")
    assert code == 1
    assert "yesterday" in err


def test_keys_are_listed_page_by_page(server, client, name):
    create_simple(client, name)
    for number in range(4):
        client.create_partition(name, f"p{number}")
    collection_id = client.describe_collection(name)["collection_id"]
    prefix = f"root-coord/partitions/{collection_id}/"
    every = listed(server, prefix)
    assert len(every) == 5
    first = listed(server, prefix, "--limit", "2")
    second = listed(server, prefix, "--limit", "2", "--after", first[-1])
    assert first + second == every[:4]


def test_every_record_can_be_read(server, client, name):
    create_simple(client, name, index="HNSW")
    client.create_alias(name, f"{name}_alias")
    code, out, err = meta(server, "ls", "", "--decode")
    client.drop_alias(f"{name}_alias")
    assert code == 0, err
    assert "(not readable)" not in out
    assert "\ufffd" not in out


def test_changes_are_followed(server, client, name):
    create_simple(client, name)
    collection_id = client.describe_collection(name)["collection_id"]
    prefix = f"root-coord/partitions/{collection_id}/"
    command = [server_binary(), "meta", "watch", prefix, "--decode", "--after", "0"]
    command += ["--admin", f"127.0.0.1:{server.admin_port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        try:
            # From the collection's creation on, so that nothing depends on when the watch began.
            seen = json.loads(watch.stdout.readline())
            assert seen["put"]["value"]["name"] == "_default"
            client.create_partition(name, "watched")
            names = set()
            while "watched" not in names:
                seen = json.loads(watch.stdout.readline())
                names.add(seen["put"]["value"]["name"])
        finally:
            watch.kill()
