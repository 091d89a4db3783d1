"""Truncation: every row goes, and nothing else."""

import contextlib
import threading

from harness.data import all_rows, count, create_simple, index_params, make_vectors, simple_rows, simple_schema
from harness.errors import fails
from harness.waiting import eventually
from pymilvus import DataType


def numbers(client, name, **kwargs):
    rows = client.query(name, filter="", output_fields=["id"], limit=16384, **kwargs)
    return sorted(row["id"] for row in rows)


def test_rows_go_and_everything_else_stays(client, name):
    create_simple(client, name, index="HNSW", num_shards=2)
    client.create_partition(name, "p1")
    client.create_alias(name, f"{name}_alias")
    client.insert(name, simple_rows(300))
    client.insert(name, simple_rows(100, start=300), partition_name="p1")
    client.flush(name)
    client.insert(name, simple_rows(50, start=400))
    client.delete(name, ids=[1, 2])
    assert count(client, name) == 448
    about = client.describe_collection(name)
    index = client.describe_index(name, "vector")
    client.truncate_collection(name)
    assert count(client, name) == 0
    assert client.search(name, make_vectors(1), limit=10)[0] == []
    after = client.describe_collection(name)
    for what in ("collection_id", "fields", "aliases", "update_timestamp", "num_shards"):
        assert after[what] == about[what], what
    assert client.list_partitions(name) == ["_default", "p1"]
    settings = ("index_name", "index_type", "metric_type", "field_name")
    assert {key: index[key] for key in settings} == {
        key: client.describe_index(name, "vector")[key] for key in settings
    }
    assert str(client.get_load_state(name)["state"]) == "Loaded"
    assert client.get_collection_stats(name)["row_count"] == 0
    assert client.get_partition_stats(name, "p1")["row_count"] == 0
    # The keys of before are free, deletes of before do not count, and all of it can be done again.
    for _ in range(2):
        client.insert(name, simple_rows(10), partition_name="p1")
        client.upsert(name, simple_rows(5, start=8))
        assert numbers(client, f"{name}_alias") == list(range(13))
        assert numbers(client, name, partition_names=["p1"]) == list(range(8))
        client.flush(name)
        client.truncate_collection(f"{name}_alias")
        assert count(client, name) == 0
    client.drop_alias(f"{name}_alias")


def test_partition_keys_find_their_partitions_afterwards(client, name):
    schema = simple_schema()
    schema.add_field("tenant", DataType.VARCHAR, max_length=20, is_partition_key=True)
    client.create_collection(name, schema=schema, num_partitions=5, consistency_level="Strong")
    client.create_index(name, index_params())
    client.load_collection(name)
    rows = [row | {"tenant": f"t{row['id'] % 7}"} for row in simple_rows(70)]
    for _ in range(2):
        client.insert(name, rows)
        for tenant in range(7):
            found = client.query(name, filter=f"tenant == 't{tenant}'", output_fields=["id"])
            assert sorted(row["id"] for row in found) == list(range(tenant, 70, 7))
        client.truncate_collection(name)
        assert count(client, name) == 0


def test_what_is_not_loaded_is_truncated_too(client, name):
    client.create_collection(name, schema=simple_schema(), consistency_level="Strong")
    client.create_index(name, index_params())
    client.insert(name, simple_rows(10))
    client.flush(name)
    client.truncate_collection(name)
    assert str(client.get_load_state(name)["state"]) == "NotLoad"
    with fails(101, "not loaded"):
        client.query(name, filter="id >= 0")
    client.insert(name, simple_rows(3))
    client.load_collection(name)
    assert numbers(client, name) == [0, 1, 2]
    with fails(100, "collection not found"):
        client.truncate_collection("nowhere")


def test_writers_and_readers_see_one_cut_and_no_error(client, new_client, name):
    """What was acknowledged before a truncation began is gone, what was begun after it ended is
    there, and what is left of each writer is an unbroken end of what it wrote."""
    create_simple(client, name, num_shards=2)
    client.create_partition(name, "p")
    stop, errors = threading.Event(), []
    written = {worker: [] for worker in range(3)}

    def write(worker):
        mine, id = new_client(), worker * 1_000_000
        try:
            while not stop.is_set():
                into = "p" if id % 2 else "_default"
                mine.insert(name, simple_rows(2, start=id), partition_name=into)
                written[worker].append(id)
                id += 2
        except Exception as error:
            errors.append(error)

    def read():
        mine = new_client()
        try:
            while not stop.is_set():
                mine.query(name, filter="id >= 0", output_fields=["id"], limit=100)
                mine.search(name, make_vectors(1), limit=5)
                mine.delete(name, filter="number == 123456789")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in written]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for _ in range(5):
        seen = {worker: len(ids) for worker, ids in written.items()}
        more = lambda: errors or all(len(written[worker]) > seen[worker] + 3 for worker in seen)
        eventually(more, "rows are written")
        before = {worker: len(ids) for worker, ids in written.items()}
        client.truncate_collection(name)
        after = {worker: len(ids) for worker, ids in written.items()}
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors
    left = set(numbers(client, name))
    for worker, ids in written.items():
        kept = [id for id in ids if id in left]
        assert kept == ids[len(ids) - len(kept) :], f"a hole in what writer {worker} wrote"
        assert not left.intersection(ids[: before[worker]])
        # One insert may have been under way when the truncation ended.
        assert left.issuperset(ids[after[worker] + 1 :])


def test_a_truncation_that_a_kill_cuts_off_is_finished_before_the_server_is_ready(
    restartable_server, name
):
    client = restartable_server.client()
    create_simple(client, name)
    for partition in range(20):
        client.create_partition(name, f"p{partition}")
    for round in range(4):
        client.insert(name, simple_rows(20))
        client.insert(name, simple_rows(20, start=20), partition_name="p7")
        client.flush(name)

        other = restartable_server.client()

        def truncate(other=other):
            # The server is killed under it.
            with contextlib.suppress(Exception):
                other.truncate_collection(name, timeout=2)
            other.close()

        thread = threading.Thread(target=truncate)
        thread.start()
        if round:
            running = lambda: "truncate" in str(restartable_server.admin_get("/admin/sagas"))
            eventually(lambda: running() or not thread.is_alive(), "it runs", interval=0.001)
        restartable_server.kill9()
        # The client tries again: not with the next server, which would have a saga of its own then.
        thread.join()
        client.close()
        restartable_server.start()
        sagas = restartable_server.admin_get("/admin/sagas")
        assert "truncate" not in str(sagas), "ready while a saga that was cut off still runs"
        client = restartable_server.client()
        left = numbers(client, name)
        assert left in ([], list(range(40))), "half of the rows"
        assert len(client.list_partitions(name)) == 21
        client.insert(name, simple_rows(1, start=99), partition_name="p7")
        assert numbers(client, name, partition_names=["p7"])[-1] == 99
        client.truncate_collection(name)
        assert all_rows(client, name) == []
    client.close()


def test_index_properties_are_altered_while_nothing_is_served(client, name):
    create_simple(client, name, index="HNSW")
    loaded = "can't alter index on loaded collection, please release the collection first"
    with fails(104, loaded):
        client.alter_index_properties(name, "vector", {"mmap.enabled": True})
    with fails(104, loaded):
        client.drop_index_properties(name, "vector", ["mmap.enabled"])
    client.release_collection(name)
    client.alter_index_properties(name, "vector", {"mmap.enabled": True})
    assert client.describe_index(name, "vector")["mmap.enabled"] == "True"
    client.insert(name, simple_rows(50))
    client.flush(name)
    client.load_collection(name)
    assert len(client.search(name, make_vectors(1), limit=5)[0]) == 5
    client.release_collection(name)
    client.drop_index_properties(name, "vector", ["mmap.enabled"])
    assert "mmap.enabled" not in client.describe_index(name, "vector")
    with fails(1100, "M is not a configable index property"):
        client.alter_index_properties(name, "vector", {"M": 8})
    with fails(700, "index not found"):
        client.alter_index_properties(name, "nope", {"mmap.enabled": True})
