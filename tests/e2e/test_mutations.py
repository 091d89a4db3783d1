"""Insert, upsert, delete, flush."""

import threading

import pytest
from harness.data import all_rows, count, create_simple, make_vectors, simple_rows
from harness.errors import fails
from harness.raw import longs, strings, vectors
from pymilvus import DataType
from pymilvus.grpc_gen import milvus_pb2


def ids(rows):
    return [row["id"] for row in rows]


def test_insert_answers_count_and_keys(client, name):
    create_simple(client, name)
    reply = client.insert(name, simple_rows(5, start=10))
    assert reply["insert_count"] == 5
    assert list(reply["ids"]) == [10, 11, 12, 13, 14]
    assert client.insert(name, simple_rows(1, start=99)[0])["insert_count"] == 1
    assert client.insert(name, []) == {"insert_count": 0, "ids": []}
    assert count(client, name) == 6


def test_an_insert_is_found_at_once(client, name):
    create_simple(client, name)
    for i in range(20):
        row = simple_rows(1, start=i, seed=i)[0]
        client.insert(name, row)
        hit = client.search(name, [row["vector"]], limit=1)[0][0]
        assert hit["id"] == i and hit["distance"] == 0
        assert count(client, name) == i + 1


def test_a_batch_of_10000_rows(client, name):
    create_simple(client, name)
    rows = simple_rows(10_000)
    assert client.insert(name, rows)["insert_count"] == 10_000
    assert count(client, name) == 10_000
    assert client.get(name, ids=[9_999], output_fields=["number"]) == [
        {"id": 9_999, "number": 99_990}
    ]


@pytest.mark.parametrize("sealed", [False, True], ids=["growing", "sealed"])
def test_upsert_replaces_and_adds(client, name, sealed):
    create_simple(client, name)
    client.insert(name, simple_rows(10))
    if sealed:
        client.flush(name)
    changed = [{**row, "label": "changed"} for row in simple_rows(4, start=8, seed=5)]
    reply = client.upsert(name, changed)
    assert reply["upsert_count"] == 4
    assert count(client, name) == 12
    rows = client.query(name, filter='label == "changed"', output_fields=["id"])
    assert ids(rows) == [8, 9, 10, 11]
    assert client.query(name, filter='label == "row 8"') == []
    hits = client.search(name, [changed[0]["vector"]], limit=1)[0]
    assert hits[0]["id"] == 8 and hits[0]["distance"] == 0


def test_repeated_upserts_leave_one_row(client, name):
    create_simple(client, name)
    for version in range(20):
        client.upsert(name, [{**simple_rows(1)[0], "number": version}])
        if version % 7 == 3:
            client.flush(name)
    assert client.query(name, filter="id == 0", output_fields=["number"]) == [
        {"id": 0, "number": 19}
    ]
    assert count(client, name) == 1


@pytest.mark.parametrize("sealed", [False, True], ids=["growing", "sealed"])
def test_delete_by_ids(client, name, sealed):
    create_simple(client, name)
    client.insert(name, simple_rows(10))
    if sealed:
        client.flush(name)
    assert client.delete(name, ids=[2, 3])["delete_count"] == 2
    assert ids(all_rows(client, name)) == [0, 1, 4, 5, 6, 7, 8, 9]
    assert client.get(name, ids=[2, 3, 4], output_fields=["id"]) == [{"id": 4}]
    hits = client.search(name, [simple_rows(3)[2]["vector"]], limit=10)[0]
    assert len(hits) == 8 and 2 not in [hit["id"] for hit in hits]


@pytest.mark.parametrize("sealed", [False, True], ids=["growing", "sealed"])
def test_delete_by_filter(client, name, sealed):
    create_simple(client, name)
    client.insert(name, simple_rows(100))
    if sealed:
        client.flush(name)
    reply = client.delete(name, filter="number >= 500 and number < 700")
    assert reply["delete_count"] == 20
    assert count(client, name) == 80
    assert client.query(name, filter="number == 650") == []
    reply = client.delete(name, filter="label in {labels}", filter_params={"labels": ["row 1"]})
    assert reply["delete_count"] == 1
    assert count(client, name) == 79


def test_deleting_nothing_succeeds(client, name):
    create_simple(client, name)
    client.insert(name, simple_rows(3))
    client.delete(name, ids=[77])
    assert client.delete(name, filter="number > 1000000").get("delete_count", 0) == 0
    assert count(client, name) == 3


def test_a_bad_delete_filter_deletes_nothing(client, name):
    create_simple(client, name)
    client.insert(name, simple_rows(3))
    with fails(1100, "nothing_here"):
        client.delete(name, filter="nothing_here > 1")
    with fails(1100, "cannot parse expression"):
        client.delete(name, filter="number >")
    assert count(client, name) == 3


def test_an_empty_delete_filter_is_refused(client, name):
    create_simple(client, name)
    client.insert(name, simple_rows(3))
    with fails(None):
        client.delete(name, filter="")
    assert count(client, name) == 3


def test_deleted_keys_may_be_inserted_again(client, name):
    create_simple(client, name)
    client.insert(name, simple_rows(3))
    client.flush(name)
    client.delete(name, ids=[1])
    client.insert(name, [{**simple_rows(3)[1], "label": "again"}])
    client.flush(name)
    assert client.get(name, ids=[1], output_fields=["label"]) == [{"id": 1, "label": "again"}]
    assert count(client, name) == 3


def test_mutations_answer_a_timestamp_that_grows(raw, client, name):
    create_simple(client, name)
    stamps = []
    for i in range(3):
        columns = [
            longs("id", [i]),
            vectors("vector", 8, [0.0] * 8),
            longs("number", [i]),
            strings("label", ["x"]),
        ]
        reply = raw.insert(name, columns, 1)
        assert reply.status.code == 0, reply.status
        assert reply.insert_cnt == 1
        assert list(reply.IDs.int_id.data) == [i]
        assert reply.acknowledged or reply.succ_index == [0]
        stamps.append(reply.timestamp)
    reply = raw.call("Delete", milvus_pb2.DeleteRequest(collection_name=name, expr="id in [0, 1]"))
    assert reply.status.code == 0 and reply.delete_cnt == 2
    stamps.append(reply.timestamp)
    assert stamps == sorted(set(stamps))


# Flush


def test_flush_keeps_every_row_and_returns(client, name):
    create_simple(client, name)
    client.flush(name)
    client.insert(name, simple_rows(500))
    client.flush(name)
    client.flush(name)
    assert count(client, name) == 500
    assert ids(all_rows(client, name)) == list(range(500))
    client.insert(name, simple_rows(500, start=500))
    assert count(client, name) == 1000
    client.flush(name)
    assert ids(all_rows(client, name)) == list(range(1000))


def test_flush_of_an_unloaded_collection(client, name):
    create_simple(client, name)
    client.release_collection(name)
    client.insert(name, simple_rows(50))
    client.flush(name)
    assert client.get_collection_stats(name)["row_count"] == 50
    client.load_collection(name)
    assert count(client, name) == 50


def test_deletes_before_and_after_flush_hold(client, name):
    create_simple(client, name)
    client.insert(name, simple_rows(100))
    client.delete(name, ids=list(range(0, 100, 3)))
    client.flush(name)
    client.delete(name, ids=list(range(1, 100, 3)))
    client.insert(name, simple_rows(10, start=1000))
    client.flush(name)
    expected = list(range(2, 100, 3)) + list(range(1000, 1010))
    assert ids(all_rows(client, name)) == expected
    client.release_collection(name)
    client.load_collection(name)
    assert ids(all_rows(client, name)) == expected
    hits = client.search(name, [[0.0] * 8], limit=100)[0]
    assert sorted(hit["id"] for hit in hits) == expected


def test_auto_id_rows_are_upserted_as_new_rows(client, name):
    create_simple(client, name, auto_id=True)
    rows = [{k: v for k, v in row.items() if k != "id"} for row in simple_rows(3)]
    keys = client.insert(name, rows)["ids"]
    reply = client.upsert(name, [{**rows[0], "id": keys[0], "label": "changed"}])
    assert reply["upsert_count"] == 1
    assert count(client, name) == 3
    changed = client.query(name, filter='label == "changed"', output_fields=["id"])
    assert len(changed) == 1
    assert client.query(name, filter='label == "row 0"') == []


def test_many_writers_at_once(new_client, client, name):
    create_simple(client, name)
    failures = []

    def write(worker):
        mine = new_client()
        try:
            for batch in range(10):
                start = worker * 100_000 + batch * 100
                mine.insert(name, simple_rows(100, start=start))
                mine.delete(name, ids=list(range(start, start + 10)))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    expected = [
        worker * 100_000 + batch * 100 + i
        for worker in range(4)
        for batch in range(10)
        for i in range(10, 100)
    ]
    assert ids(all_rows(client, name)) == expected


def test_upsert_across_shards(client, name):
    create_simple(client, name, num_shards=2)
    client.insert(name, simple_rows(200))
    client.upsert(name, [{**row, "number": -1} for row in simple_rows(200, seed=9)[50:150]])
    assert count(client, name) == 200
    assert len(client.query(name, filter="number == -1", limit=1000)) == 100
    vector = make_vectors(200, seed=9)[60].tolist()
    assert client.search(name, [vector], limit=1)[0][0]["id"] == 60


def test_varchar_deletes_by_filter_templates(client, name):
    create_simple(client, name, pk=DataType.VARCHAR)
    client.insert(name, [{**row, "id": f"k{row['id']}"} for row in simple_rows(10)])
    client.delete(name, filter="id in {gone}", filter_params={"gone": ["k1", "k2"]})
    assert count(client, name) == 8
