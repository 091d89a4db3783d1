"""VikingDB's API with its own SDK: signatures, collections, rows."""

import json

import pytest
from harness.vikingdb import ACCESS_KEY, VikingServer, call, send, sign
from harness.waiting import eventually
from volcengine.viking_db import Data, Field, FieldType, TaskType
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


def test_a_collection_may_be_named_in_the_query_alone(viking, service):
    """So does the SDK when it is to search: a GET without a body."""
    path = "/api/collection/info"
    service.create_collection("people", fields())
    try:
        asked = {"query": {"collection_name": "people"}, "method": "GET"}
        status, answer = call(viking.host, path, None, **asked)
        assert (status, answer["code"]) == (200, 0), answer
        assert answer == {
            **call(viking.host, path, {"collection_name": "people"})[1],
            "request_id": answer["request_id"],
        }
        assert answer["data"]["primary_key"] == "id"
        answer = json.loads(service.get_exception("GetCollection", asked["query"]))
        assert answer["data"]["collection_name"] == "people"
        status, answer = call(viking.host, path, None, secret="SKOTHER", **asked)
        assert (status, answer["code"]) == (401, 1000001), answer
        status, answer = call(
            viking.host, path, None, method="GET", query={"collection_name": "none"}
        )
        assert (status, answer["code"]) == (400, 1000005), answer
        status, answer = call(viking.host, path, None, method="GET")
        assert (status, answer["code"]) == (400, 1000003), answer
        assert "collection_name is missing" in answer["message"]
        # The query is signed, too.
        signed = sign(viking.host, path, None, "GET", query={"collection_name": "none"})
        path = f"{path}?collection_name=people"
        status, answer = send(viking.host, path, "", signed.headers, "GET")
        assert (status, answer["code"]) == (401, 1000001), answer
    finally:
        service.drop_collection("people")


def test_a_query_may_be_percent_encoded(viking, service):
    """Which the signature allows for: it is that of the decoded text."""
    path = "/api/collection/info"
    service.create_collection("people", fields())
    try:
        named = {"collection_name": "people"}
        signed = sign(viking.host, path, None, "GET", query=named)
        for query in ["collection_name=%70eople", "collection%5Fname=people"]:
            status, answer = send(viking.host, f"{path}?{query}", "", signed.headers, "GET")
            assert (status, answer["code"]) == (200, 0), (query, answer)
    finally:
        service.drop_collection("people")


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


BOB = {"key": "AKBOB", "secret": "SKBOB"}


class Bobs:
    """A server with a key of a user who was granted nothing; and `root`, who may do everything."""

    def __init__(self, folder):
        config = folder / "redkite.toml"
        config.write_text(
            "[[vikingdb.keys]]\n"
            f'access_key = "{BOB["key"]}"\nsecret_key = "{BOB["secret"]}"\nuser = "bob"\n'
        )
        self.server = VikingServer(folder, config=config).start()
        self.client = self.server.client()
        self.client.create_user("bob", "password1")
        self.client.create_role("worker")
        self.client.grant_role("bob", "worker")
        # Which everybody has at first.
        self.client.revoke_privilege("public", "Global", "DescribeCollection", "*", db_name="*")

    def stop(self):
        self.client.close()
        self.server.stop()

    def ask(self, path, body):
        """What `bob` is answered: (status, code, message, data)."""
        status, answer = call(self.server.host, path, body, **BOB)
        return status, answer["code"], answer["message"], answer.get("data")

    def export(self, collection):
        service = self.server.service()
        params = {"collection_name": collection, "export_all": True}
        place = f"own/{collection}{len(service.list_tasks())}"
        task_id = service.create_task(TaskType.Data_export, {**params, "tos_path": place})
        done = lambda: service.get_task(task_id).task_status == "done"  # noqa: E731
        eventually(done, "the export is done", 60)
        return task_id


@pytest.fixture
def bobs(tmp_path):
    made = Bobs(tmp_path)
    yield made
    made.stop()


def test_each_operation_needs_its_privilege(bobs):
    """Without it nothing is done; with it alone the operation goes through."""
    service = bobs.server.service()
    books = service.create_collection("books", fields())
    books.upsert_data([Data(row(number)) for number in range(3)])
    task_id = bobs.export("books")
    named = {"collection_name": "books"}
    params = {**named, "tos_path": "own/bob", "export_all": True}
    described = [
        {"field_name": "id", "field_type": "int64"},
        {"field_name": "vector", "field_type": "vector", "dim": 4},
    ]
    made = {"collection_name": "made", "primary_key": "id", "fields": described}
    confirmed = {"task_id": task_id, "task_status": "confirmed"}
    operations = [
        ("collection/create", made, "CreateCollection", "*"),
        ("collection/info", named, "DescribeCollection", "books"),
        ("collection/list", {}, "ShowCollections", "*"),
        ("collection/upsert_data", {**named, "fields": [row(9)]}, "Upsert", "books"),
        ("collection/fetch_data", {**named, "primary_keys": [2]}, "Query", "books"),
        ("collection/del_data", {**named, "primary_keys": [1]}, "Delete", "books"),
        ("task/create", {"task_type": "data_export", "task_params": params}, "Query", "books"),
        ("task/info", {"task_id": task_id}, "Query", "books"),
        ("task/update", confirmed, "Query", "books"),
        ("task/drop", {"task_id": task_id}, "Query", "books"),
        ("collection/drop", named, "DropCollection", "books"),
    ]
    for path, body, privilege, on in operations:
        status, code, message, data = bobs.ask(f"/api/{path}", body)
        assert (status, code, data) == (403, 1000002, None), (path, message)
        assert message == f"no permission:user bob lacks {privilege} on {on}", path
    # Nothing was made, changed or removed.
    assert [one.collection_name for one in service.list_collections()] == ["books"]
    assert [data.fields for data in books.fetch_data([0, 1, 2])] == [row(0), row(1), row(2)]
    with pytest.raises(DataNotFoundException):
        books.fetch_data(9)
    assert [task.task_id for task in service.list_tasks()] == [task_id]

    for path, body, privilege, on in operations:
        bobs.client.grant_privilege_v2("worker", privilege, on, "default")
        status, code, message, _ = bobs.ask(f"/api/{path}", body)
        # An export waits for no confirmation.
        wanted = (400, 1000006) if path == "task/update" else (200, 0)
        assert (status, code) == wanted, (path, message)
        bobs.client.revoke_privilege_v2("worker", privilege, on, "default")
        if path != "collection/drop":
            status, code, message, _ = bobs.ask(f"/api/{path}", body)
            gone = path == "task/drop"
            assert (status, code) == ((404, 1000035) if gone else (403, 1000002)), (path, message)


def test_tasks_of_collections_that_may_not_be_read_are_not_listed(bobs):
    service = bobs.server.service()
    tasks = {}
    for name in ("books", "films"):
        service.create_collection(name, fields()).upsert_data(Data(row(1)))
        tasks[name] = [bobs.export(name), bobs.export(name)]

    def listed():
        status, code, message, data = bobs.ask("/api/task/list", {})
        assert (status, code) == (200, 0), message
        return sorted(task["task_id"] for task in data)

    assert listed() == []
    for name in ("books", "films"):
        bobs.client.grant_privilege_v2("worker", "Query", name, "default")
        assert listed() == sorted(tasks[name])
        bobs.client.revoke_privilege_v2("worker", "Query", name, "default")
    assert listed() == []
    bobs.client.grant_privilege_v2("worker", "Query", "*", "default")
    assert listed() == sorted(tasks["books"] + tasks["films"])
