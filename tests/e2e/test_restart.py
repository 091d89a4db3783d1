"""After a kill -9 or a stop everything acknowledged is there and loaded collections serve."""

import pytest
from harness.data import (
    all_rows,
    count,
    create_simple,
    index_params,
    simple_rows,
    simple_schema,
)
from harness.errors import fails
from harness.process import Server
from harness.raw import Raw
from harness.waiting import eventually
from pymilvus.client.types import LoadState
from pymilvus.grpc_gen import milvus_pb2


@pytest.fixture(params=["kill9", "stop"])
def again(request, restartable_server):
    """Ends the server in one of two ways, starts it again and returns a new client."""
    clients = []

    def restart():
        for connected in clients:
            connected.close()
        clients.clear()
        if request.param == "kill9":
            restartable_server.kill9()
        else:
            assert restartable_server.stop() == 0, restartable_server.log_tail()
        restartable_server.start()
        clients.append(restartable_server.client())
        return clients[0]

    clients.append(restartable_server.client())
    restart.client = clients[0]
    yield restart
    for connected in clients:
        connected.close()


def test_rows_deletes_and_upserts_survive(again):
    client = again.client
    create_simple(client, "growing")
    create_simple(client, "sealed", index="HNSW", metric="COSINE")
    create_simple(client, "mixed")
    for name in ("growing", "sealed", "mixed"):
        client.insert(name, simple_rows(500))
        if name == "mixed":
            client.flush(name)
        client.delete(name, ids=list(range(0, 50)))
        client.upsert(name, [{**row, "label": "changed"} for row in simple_rows(10, start=100)])
        if name == "sealed":
            client.flush(name)
    before = {name: all_rows(client, name) for name in ("growing", "sealed", "mixed")}
    for _ in range(2):
        client = again()
        for name, rows in before.items():
            assert client.get_load_state(name)["state"] == LoadState.Loaded
            assert len(rows) == 450
            assert all_rows(client, name) == rows
            vector = rows[200]["vector"]
            hit = client.search(name, [vector], limit=1, output_fields=["label"])[0][0]
            assert hit["id"] == rows[200]["id"]
            assert hit["entity"]["label"] == rows[200]["label"]
            changed = client.query(name, filter='label == "changed"', output_fields=["id"])
            assert [row["id"] for row in changed] == list(range(100, 110))
            assert client.describe_index(name, "vector")["index_name"] == "vector"


def test_a_loaded_collection_serves_without_being_told(again):
    client = again.client
    create_simple(client, "served")
    client.insert("served", simple_rows(100))
    client = again()
    hits = client.search("served", [simple_rows(10)[9]["vector"]], limit=1)
    assert hits[0][0]["id"] == 9
    client.insert("served", simple_rows(100, start=1000))
    assert count(client, "served") == 200
    client.flush("served")
    assert count(client, "served") == 200


def test_load_states_survive(again):
    client = again.client
    client.create_collection("c", schema=simple_schema(), consistency_level="Strong")
    client.create_index("c", index_params())
    for partition in ("a", "b"):
        client.create_partition("c", partition)
        client.insert("c", simple_rows(10), partition_name=partition)
    client.load_partitions("c", ["a"])
    create_simple(client, "released")
    client.release_collection("released")
    client = again()

    def state(name, partition=""):
        return client.get_load_state(name, partition_name=partition)["state"]

    assert state("released") == LoadState.NotLoad
    assert state("c") == LoadState.Loaded
    assert state("c", "a") == LoadState.Loaded
    assert state("c", "b") == LoadState.NotLoad
    assert count(client, "c", partition_names=["a"]) == 10
    with fails(201, "partition not loaded"):
        client.query("c", filter="id > 0", partition_names=["b"])
    client.release_partitions("c", ["a"])
    assert state("c") == LoadState.NotLoad


def test_metadata_survives(again):
    client = again.client
    client.create_database("other_db")
    client.create_collection(
        "first", schema=simple_schema(dynamic=True), consistency_level="Session", num_shards=2
    )
    client.create_collection("doomed", schema=simple_schema())
    client.create_partition("first", "z")
    client.create_partition("first", "y")
    client.create_partition("first", "gone")
    client.drop_partition("first", "gone")
    client.create_alias("first", "alias_a")
    client.create_alias("first", "alias_b")
    client.drop_alias("alias_b")
    client.create_index(
        "first", index_params("HNSW", "IP", index_name="ix", M=20, efConstruction=99)
    )
    client.alter_collection_properties("first", {"note": "kept"})
    client.rename_collection("first", "second")
    client.drop_collection("doomed")
    before = client.describe_collection("second")
    index = client.describe_index("second", "ix")
    for _ in range(2):
        client = again()
        assert sorted(client.list_databases()) == ["default", "other_db"]
        assert client.list_collections() == ["second"]
        assert client.describe_collection("second") == before
        assert client.describe_index("second", "ix") == index
        assert client.list_partitions("second") == ["_default", "z", "y"]
        assert client.describe_alias("alias_a")["collection_name"] == "second"
        assert not client.has_collection("alias_b")
        assert client.describe_collection("second")["properties"]["note"] == "kept"


def test_ids_and_timestamps_never_go_back(again, restartable_server):
    client = again.client
    create_simple(client, "auto", auto_id=True)
    rows = [{k: v for k, v in row.items() if k != "id"} for row in simple_rows(10)]
    keys, stamps = [], []
    for _ in range(3):
        keys.extend(client.insert("auto", rows)["ids"])
        raw = Raw(restartable_server.address)
        stamps.append(raw.call("AllocTimestamp", milvus_pb2.AllocTimestampRequest()).timestamp)
        raw.close()
        client = again()
    assert len(set(keys)) == 30
    assert stamps == sorted(set(stamps))
    assert count(client, "auto") == 30
    assert len({row["id"] for row in all_rows(client, "auto", ["id"])}) == 30


def test_dropped_collections_stay_dropped_and_names_are_free(again):
    client = again.client
    create_simple(client, "c")
    client.insert("c", simple_rows(100))
    client.flush("c")
    client.drop_collection("c")
    create_simple(client, "c")
    client.insert("c", simple_rows(3))
    client = again()
    assert count(client, "c") == 3


def test_a_stop_is_clean_and_prompt(tmp_path):
    # With so much patience one that waits for the client is not over when `stop` has no more.
    patience = {"rpc.drain_limit": "600s", "common.stop_timeout": "600s"}
    server = Server(tmp_path, settings=patience).start()
    client = server.client()
    create_simple(client, "c")
    client.insert("c", simple_rows(10))
    assert server.stop() == 0, server.log_tail()
    client.close()


def test_the_start_tells_how_to_connect(restartable_server):
    def told():
        log = restartable_server.log_path.read_text()
        return "MilvusClient" in log and str(restartable_server.port) in log

    eventually(told, "the log says how to connect")


def refused_start(folder, **changes):
    """Starts a server whose flags are changed; it must exit by itself. Returns its log."""
    folder.mkdir()
    server = Server(folder)
    for flag, value in changes.items():
        server.command[server.command.index(f"--{flag.replace('_', '-')}") + 1] = str(value)
    server.spawn()
    try:
        assert server.child.wait(timeout=120) != 0
        return server.log_tail()
    finally:
        server.stop()


def test_a_port_in_use_is_a_clear_error(restartable_server, tmp_path):
    log = refused_start(tmp_path / "second", port=restartable_server.port)
    assert str(restartable_server.port) in log
    assert "panicked" not in log


def test_a_data_directory_in_use_is_a_clear_error(restartable_server, tmp_path):
    log = refused_start(tmp_path / "second", data_dir=restartable_server.data_dir)
    assert str(restartable_server.data_dir) in log
    assert "panicked" not in log
    client = restartable_server.client()
    create_simple(client, "still_fine")
    client.insert("still_fine", simple_rows(3))
    assert count(client, "still_fine") == 3
    client.close()
