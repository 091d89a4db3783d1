"""Schemas that change: fields that are added, and altered, while rows are served."""

import threading

import pytest
from harness.data import DIM, count, index_params, make_vectors, simple_rows, simple_schema
from harness.errors import fails
from harness.raw import failed, longs, strings, vectors
from harness.waiting import eventually
from pymilvus import DataType
from pymilvus.exceptions import SchemaMismatchRetryableException


def create(client, name, **kwargs):
    client.create_collection(name, schema=simple_schema(**kwargs), consistency_level="Strong")
    client.create_index(name, index_params())
    client.load_collection(name)


def by_id(client, name, fields, filter="", **kwargs):
    rows = client.query(name, filter=filter, output_fields=["id", *fields], limit=1000, **kwargs)
    return {row["id"]: tuple(row[field] for field in fields) for row in rows}


def test_rows_of_every_kind_answer_for_an_added_field(client, name):
    create(client, name)
    client.insert(name, simple_rows(10))
    client.flush(name)
    client.insert(name, simple_rows(10, start=10))
    client.add_collection_field(name, "year", DataType.INT64, nullable=True)
    client.add_collection_field(
        name, "stars", DataType.INT8, nullable=True, default_value=3, desc="of five"
    )
    fields = {field["name"]: field for field in client.describe_collection(name)["fields"]}
    assert fields["year"]["nullable"] and fields["stars"]["description"] == "of five"
    old = dict.fromkeys(range(20), (None, 3))
    assert by_id(client, name, ["year", "stars"]) == old
    assert by_id(client, name, ["year"], "year is null and id < 3") == dict.fromkeys(range(3), (None,))
    assert by_id(client, name, ["year"], "year > 0 or stars != 3") == {}
    assert len(by_id(client, name, ["stars"], "stars == 3")) == 20
    rows = simple_rows(10, start=20)
    for row in rows:
        row.update(year=2000 + row["id"], stars=5)
    client.insert(name, rows)
    new = {id: (2000 + id, 5) for id in range(20, 30)}
    assert by_id(client, name, ["year", "stars"]) == old | new
    assert by_id(client, name, ["year"], "year >= 2025") == {
        id: (2000 + id,) for id in range(25, 30)
    }
    query = make_vectors(1)
    hits = client.search(name, query, limit=30, output_fields=["year", "stars"])[0]
    assert {hit["id"]: (hit["entity"]["year"], hit["entity"]["stars"]) for hit in hits} == old | new
    grouped = client.search(name, query, limit=5, group_by_field="stars", output_fields=["stars"])[0]
    assert sorted(hit["entity"]["stars"] for hit in grouped) == [3, 5]
    # Rows without it, by a client that knows the new schema.
    client.insert(name, simple_rows(1, start=30))
    client.upsert(name, [simple_rows(1)[0] | {"year": 1999}])
    changed = {30: (None, 3), 0: (1999, 3)}
    assert by_id(client, name, ["year", "stars"]) == old | new | changed
    # From files alone, after a compaction of segments with and without the columns, and a reload.
    client.flush(name)
    job = client.compact(name)
    eventually(lambda: client.get_compaction_state(job) == "Completed", "the compaction ends")
    assert by_id(client, name, ["year", "stars"]) == old | new | changed
    client.release_collection(name)
    client.load_collection(name)
    assert by_id(client, name, ["year", "stars"]) == old | new | changed


def test_a_field_is_added_beside_dynamic_keys(client, name):
    create(client, name, dynamic=True)
    client.insert(name, [simple_rows(1)[0] | {"year": 1999, "other": 1}])
    client.add_collection_field(name, "year", DataType.INT64, nullable=True)
    client.insert(name, [simple_rows(1, start=1)[0] | {"year": 2000, "other": 2}])
    assert by_id(client, name, ["year"]) == {0: (None,), 1: (2000,)}
    assert by_id(client, name, ["other"], "other > 0") == {0: (1,), 1: (2,)}


def test_a_client_with_the_old_schema_is_sent_to_fetch_the_new_one(client, new_client, raw, name):
    create(client, name)
    other = new_client()
    other.insert(name, simple_rows(1))
    before = client.describe_collection(name)["update_timestamp"]
    client.add_collection_field(name, "year", DataType.INT64, nullable=True)
    columns = [
        longs("id", [7]),
        vectors("vector", DIM, make_vectors(1).ravel().tolist()),
        longs("number", [70]),
        strings("label", ["row 7"]),
    ]
    answer = raw.insert(name, columns, 1, schema_timestamp=before)
    failed(answer.status, 109, "collection schema mismatch")
    assert answer.status.error_code == 62
    # Nobody knows what a client without a timestamp knows: what it does not give is null.
    answer = raw.insert(name, columns, 1)
    assert answer.status.code == 0
    # pymilvus fetches the schema and sends the rows again, the new field included.
    other.insert(name, [simple_rows(1, start=1)[0] | {"year": 2000}])
    assert by_id(client, name, ["year"]) == {0: (None,), 1: (2000,), 7: (None,)}


def test_fields_that_rows_cannot_have_are_refused(client, name):
    create(client, name)
    for text, kwargs in [
        ("added field must be nullable, please check it, field name = f", {"nullable": False}),
        ("not support to add pk field, field name = f", {"nullable": True, "is_primary": True}),
        (
            "not support to add partition key field, field name  = f",
            {"nullable": True, "is_partition_key": True},
        ),
    ]:
        with fails(1100, text):
            client.add_collection_field(name, "f", DataType.INT64, **kwargs)
    with fails(1100, "duplicate field name: id"):
        client.add_collection_field(name, "id", DataType.INT64, nullable=True)
    with fails(1100, "should be in (0, 65535], but got 65536 instead"):
        client.add_collection_field(name, "f", DataType.VARCHAR, nullable=True, max_length=65536)
    with fails(1701, "Invalid field name: 1f"):
        client.add_collection_field(name, "1f", DataType.INT64, nullable=True)
    with fails(3000, "unsupported operation"):
        client.add_collection_field(name, "f", DataType.FLOAT_VECTOR, nullable=True, dim=8)
    with fails(100, "collection not found"):
        client.add_collection_field("nowhere", "f", DataType.INT64, nullable=True)
    assert len(client.describe_collection(name)["fields"]) == len(simple_schema().fields)


def test_reads_and_writes_go_on_while_fields_come(client, new_client, name):
    create(client, name)
    client.insert(name, simple_rows(50))
    stop, errors, written = threading.Event(), [], []

    def write():
        writer, id = new_client(), 1000
        while not stop.is_set():
            try:
                writer.insert(name, simple_rows(1, start=id))
                written.append(id)
            except SchemaMismatchRetryableException:
                # The client sends rows again with the new schema, but once only: another field came.
                continue
            except Exception as error:
                errors.append(error)
                return
            id += 1

    def read():
        reader = new_client()
        while not stop.is_set():
            try:
                rows = reader.query(name, filter="id < 50", output_fields=["*"], limit=100)
                assert len(rows) == 50
                reader.search(name, make_vectors(1), limit=5, output_fields=["*"])
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=work) for work in (write, read)]
    for thread in threads:
        thread.start()
    for number in range(8):
        client.add_collection_field(name, f"f{number}", DataType.INT64, nullable=True)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert count(client, name) == 50 + len(written)
    assert by_id(client, name, ["f7"], "id < 2") == {0: (None,), 1: (None,)}


def test_an_added_field_outlives_a_kill(restartable_server, name):
    client = restartable_server.client()
    create(client, name)
    client.insert(name, simple_rows(5))
    client.flush(name)
    client.insert(name, simple_rows(5, start=5))
    client.add_collection_field(name, "year", DataType.INT64, nullable=True, default_value=1)
    client.insert(name, [simple_rows(1, start=10)[0] | {"year": 2}])
    client.close()
    restartable_server.kill9()
    restartable_server.start()
    client = restartable_server.client()
    want = dict.fromkeys(range(10), (1,)) | {10: (2,)}
    assert by_id(client, name, ["year"]) == want
    client.close()


def test_snapshots_from_before_and_after_a_field_was_added(client, name):
    create(client, name)
    client.insert(name, simple_rows(3))
    client.flush(name)
    client.create_snapshot(f"{name}_before", name)
    client.add_collection_field(name, "year", DataType.INT64, nullable=True)
    client.insert(name, [simple_rows(1, start=3)[0] | {"year": 2000}])
    client.flush(name)
    client.create_snapshot(f"{name}_after", name)
    for when, fields in [("before", []), ("after", ["year"])]:
        target = f"{name}_{when}"
        job = client.restore_snapshot(f"{name}_{when}", name, target)
        done = lambda: client.get_restore_snapshot_state(job).state == "RestoreSnapshotCompleted"
        eventually(done, "the restore completes")
        client.load_collection(target)
        names = [field["name"] for field in client.describe_collection(target)["fields"]]
        assert ("year" in names) == bool(fields)
        want = {id: (None,) for id in range(3)} | {3: (2000,)} if fields else {}
        rows = by_id(client, target, fields)
        assert rows == (want or {id: () for id in range(3)})
        client.drop_collection(target)


@pytest.fixture
def texts(client, name):
    schema = simple_schema()
    schema.add_field("text", DataType.VARCHAR, max_length=4)
    client.create_collection(name, schema=schema, consistency_level="Strong")
    client.create_index(name, index_params())
    return name


def params(client, name, field):
    fields = client.describe_collection(name)["fields"]
    return next(found["params"] for found in fields if found["name"] == field)


def test_a_text_may_grow_while_it_is_served(client, texts):
    client.load_collection(texts)
    row = simple_rows(1)[0]
    with fails(1100, "exceeds max length"):
        client.insert(texts, [row | {"text": "12345"}])
    client.alter_collection_field(texts, "text", {"max_length": 5})
    assert params(client, texts, "text")["max_length"] == 5
    client.insert(texts, [row | {"text": "12345"}])
    assert by_id(client, texts, ["text"]) == {0: ("12345",)}
    for key, value, text in [
        ("max_length", 4, "may only grow"),
        ("max_length", 65536, "65536 exceeds the maximum allowed value 65535"),
        ("max_length", "a", "max_length should be an integer"),
        ("max_capacity", 4, "can not modify the maxcapacity for non-array types"),
        ("element_type", 5, "element_type does not allow update in collection field param"),
    ]:
        with fails(1100, text):
            client.alter_collection_field(texts, "text", {key: value})
    with fails(1100, "can not modify the maxlength for non-string types"):
        client.alter_collection_field(texts, "vector", {"max_length": 9})
    with fails(1100, "field nope does not exist"):
        client.alter_collection_field(texts, "nope", {"max_length": 9})
    with fails(104, "can not alter collection field properties if collection loaded"):
        client.alter_collection_field(texts, "text", {"mmap.enabled": True})
    assert params(client, texts, "text")["max_length"] == 5


def test_mapping_of_a_field_is_altered_while_it_is_not_served(client, texts):
    client.insert(texts, [row | {"text": "t"} for row in simple_rows(5)])
    client.flush(texts)
    client.alter_collection_field(texts, "vector", {"mmap.enabled": True})
    client.alter_collection_field(texts, "text", {"mmap.enabled": False})
    assert params(client, texts, "vector")["mmap_enabled"] is True
    assert params(client, texts, "text")["mmap_enabled"] is False
    client.load_collection(texts)
    assert count(client, texts) == 5
    assert len(client.search(texts, make_vectors(1), limit=5)[0]) == 5
