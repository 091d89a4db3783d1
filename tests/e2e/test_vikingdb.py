"""VikingDB's API with its own SDK: signatures, collections, rows."""

import json

import pytest
from harness.vikingdb import ACCESS_KEY, VikingServer, call, send
from volcengine.viking_db import Data, Field, FieldType
from volcengine.viking_db.exception import (
    CollectionExistException,
    CollectionNotExistException,
    DataNotFoundException,
    InvalidRequestException,
    UnauthorizedException,
)


@pytest.fixture(scope="module")
def viking(tmp_path_factory):
    running = VikingServer(tmp_path_factory.mktemp("viking")).start()
    yield running
    running.stop()


@pytest.fixture
def service(viking):
    return viking.service()


def fields(dim=4):
    return [
        Field("id", FieldType.Int64, is_primary_key=True),
        Field("city", FieldType.String),
        Field("score", FieldType.Float32, default_val=0.5),
        Field("adult", FieldType.Bool),
        Field("visits", FieldType.List_Int64),
        Field("tags", FieldType.List_String),
        Field("note", FieldType.Text),
        Field("vector", FieldType.Vector, dim=dim),
    ]


def row(number, **changes):
    whole = {
        "id": number,
        "city": f"city{number % 3}",
        "score": number / 4,
        "adult": number % 2 == 0,
        "visits": [number, number + 1],
        "tags": [f"t{number}", "ünï"],
        "note": "x" * number,
        "vector": [float(number), 1.0, -2.5, 0.0],
    }
    return {**whole, **changes}


def test_the_sdk_creates_fills_and_reads_a_collection(viking, service):
    made = service.create_collection("people", fields(), description="who")
    try:
        made.upsert_data([Data(row(number)) for number in range(10)])
        got = made.fetch_data([3, 1])
        assert [data.fields for data in got] == [row(3), row(1)]
        made.upsert_data(Data(row(3, city="here")))
        assert made.fetch_data(3).fields["city"] == "here"
        # What is left out is the default or nothing.
        made.upsert_data(Data({"id": 77, "vector": [1, 2, 3, 4]}))
        sparse = made.fetch_data(77).fields
        assert sparse["score"] == 0.5 and sparse["city"] is None and sparse["tags"] is None
        made.delete_data([3, 4])
        with pytest.raises(DataNotFoundException):
            made.fetch_data(3)

        info = service.get_collection("people")
        assert info.primary_key == "id" and info.description == "who"
        kinds = {field.field_name: field.field_type for field in info.fields}
        assert kinds == {field.field_name: field.field_type.value for field in fields()}
        assert [one.collection_name for one in service.list_collections()] == ["people"]
        # The same rows are there for clients of the other interface.
        client = viking.client()
        found = client.query("people", "id == 5", output_fields=["city", "visits"])
        assert found[0]["city"] == "city2" and list(found[0]["visits"]) == [5, 6]
        client.close()
        with pytest.raises(CollectionExistException):
            service.create_collection("people", fields())
    finally:
        service.drop_collection("people")
    with pytest.raises(CollectionNotExistException):
        service.get_collection("people")


def test_keys_that_the_server_makes(service):
    made = service.create_collection("auto", fields()[1:])
    try:
        made.upsert_data([Data({"vector": [1, 2, 3, 4]}), Data({"vector": [1, 2, 3, 4]})])
        assert service.get_collection("auto").primary_key == "__AUTO_ID__"
    finally:
        service.drop_collection("auto")


@pytest.mark.parametrize(
    "change",
    [
        {"city": 5},
        {"id": "x"},
        {"id": None},
        {"visits": [1, "2"]},
        {"tags": "t"},
        {"vector": [1.0]},
        {"vector": None},
        {"adult": 1},
        {"unknown": 1},
    ],
)
def test_rows_that_do_not_fit_are_refused(service, change):
    made = service.create_collection("strict", fields())
    try:
        with pytest.raises(InvalidRequestException):
            made.upsert_data([Data(row(1)), Data(row(2, **change))])
        with pytest.raises(DataNotFoundException):
            made.fetch_data(1)
    finally:
        service.drop_collection("strict")


def test_requests_signed_by_hand_and_not_at_all(viking, service):
    status, answer = call(viking.host, "/api/collection/list", {})
    assert (status, answer["code"], answer["message"]) == (200, 0, "success")
    assert answer["request_id"] and answer["data"] == []
    for key, secret in [("AKOTHER", "SKTEST"), (ACCESS_KEY, "SKOTHER")]:
        status, answer = call(viking.host, "/api/collection/list", {}, key=key, secret=secret)
        assert (status, answer["code"]) == (401, 1000001)
    status, answer = send(viking.host, "/api/collection/list", "{}", {})
    assert (status, answer["code"]) == (401, 1000001)
    status, answer = call(viking.host, "/api/nothing", {})
    assert (status, answer["code"]) == (404, 1000024)
    status, answer = call(viking.host, "/api/collection/info", {"collection_name": "none"})
    assert (status, answer["code"]) == (400, 1000005)
    status, answer = call(viking.host, "/api/collection/info", ["no object"])
    assert (status, answer["code"]) == (400, 1000003)
    # A GET may have a body, and its query counts.
    status, answer = call(
        viking.host, "/api/collection/info", {"collection_name": "none"}, method="GET"
    )
    assert (status, answer["code"]) == (400, 1000005)
    service.sk = "SKOTHER"
    service.set_sk("SKOTHER")
    with pytest.raises(UnauthorizedException):
        service.list_collections()
    service.set_sk("SKTEST")


def test_a_user_does_what_it_was_granted(tmp_path):
    """A key of a user without `root`'s rights."""
    keys = [{"access_key": "AKBOB", "secret_key": "SKBOB", "user": "bob"}]
    folder = tmp_path / "server"
    folder.mkdir()
    config = tmp_path / "redkite.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys[0].items()]
    config.write_text("[[vikingdb.keys]]\n" + "\n".join(lines) + "\n")
    running = VikingServer(folder, config=config).start()
    try:
        bob = {"key": "AKBOB", "secret": "SKBOB"}
        for path in ["/api/collection/list", "/api/collection/info"]:
            status, answer = call(running.host, path, {"collection_name": "c"}, **bob)
            assert (status, answer["code"]) == (403, 1000002), answer
        client = running.client()
        client.create_user("bob", "password1")
        client.create_role("lister")
        client.grant_privilege_v2("lister", "ShowCollections", "*", "default")
        client.grant_role("bob", "lister")
        client.close()
        status, answer = call(running.host, "/api/collection/list", {}, **bob)
        assert (status, answer["code"]) == (200, 0), answer
        status, answer = call(running.host, "/api/collection/drop", {"collection_name": "c"}, **bob)
        assert (status, answer["code"]) == (403, 1000002), answer
    finally:
        running.stop()
