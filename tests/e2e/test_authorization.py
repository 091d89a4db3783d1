"""Authorization switched on: who is let in, and what each user may do."""

import base64
import itertools
import json

import grpc
import pytest
from harness import redkite
from harness.access import PASSWORD, GuardedServer, denied, unauthenticated
from harness.data import DIM, create_simple, simple_rows
from harness.errors import fails
from harness.raw import Raw
from harness.vikingdb import call
from pymilvus import MilvusException
from pymilvus.grpc_gen import common_pb2, milvus_pb2

WRONG = "auth check failure, please check username and password are correct"
VECTOR = [[0.5] * DIM]

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    running = GuardedServer(tmp_path_factory.mktemp("guarded")).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def root(guarded):
    connected = guarded.client()
    create_simple(connected, "books")
    create_simple(connected, "films")
    connected.insert("books", simple_rows(20))
    connected.create_alias("books", "library")
    connected.create_database("shop")
    yield connected
    connected.close()


class Actor:
    """A user with one role of their own, and a client of theirs."""

    def __init__(self, server, root, name):
        self.server, self.root, self.name = server, root, name
        self.role = f"role_of_{name}"
        root.create_user(name, PASSWORD)
        root.create_role(self.role)
        root.grant_role(name, self.role)
        self.clients = []
        self.client = self.connect()

    def connect(self, **kwargs):
        self.clients.append(self.server.client(token=f"{self.name}:{PASSWORD}", **kwargs))
        return self.clients[-1]

    def grant(self, privilege, collection="*", database="default"):
        self.root.grant_privilege_v2(self.role, privilege, collection, db_name=database)

    def revoke(self, privilege, collection="*", database="default"):
        self.root.revoke_privilege_v2(self.role, privilege, collection, db_name=database)

    def end(self):
        for client in self.clients:
            client.close()
        self.root.drop_user(self.name)
        if self.role in self.root.list_roles():
            self.root.drop_role(self.role, force_drop=True)


@pytest.fixture
def actor(guarded, root):
    made = Actor(guarded, root, f"user{next(_numbers)}")
    yield made
    made.end()


def test_nobody_comes_in_without_the_right_password(guarded, root):
    for kwargs in ({"token": ""}, {"token": "root:wrong"}, {"token": "nobody:Milvus"}):
        with pytest.raises(MilvusException):
            guarded.client(timeout=5, **kwargs).close()
    raw = Raw(guarded.address)
    request = milvus_pb2.GetVersionRequest()

    def ask(*metadata):
        return raw.stub.GetVersion(request, metadata=metadata, timeout=60)

    def token(text):
        return ("authorization", base64.b64encode(text.encode()).decode())

    try:
        with unauthenticated("missing authorization in header"):
            ask()
        with unauthenticated("invalid token format"):
            ask(("authorization", "root:Milvus"))
        with unauthenticated("auth check failure, please check api key is correct"):
            ask(token("a-key"))
        for text in ("root:milvus", "root:", "nobody:Milvus", ":"):
            with unauthenticated(WRONG):
                ask(token(text))
        assert ask(token("root:Milvus")).version
        assert raw.stub.Connect(
            milvus_pb2.ConnectRequest(), metadata=[token("root:Milvus")]
        ).identifier
        with unauthenticated("missing authorization in header"):
            raw.stub.Connect(milvus_pb2.ConnectRequest())
    finally:
        raw.close()
    user_and_password = guarded.client(token="", user="root", password="Milvus")
    assert "books" in user_and_password.list_collections()
    user_and_password.close()


def test_a_reader_may_search_but_not_insert(actor, root):
    client = actor.client
    with denied("Search", actor.name):
        client.search("books", VECTOR)
    actor.grant("Search", "books")
    assert len(client.search("books", VECTOR, limit=3)[0]) == 3
    # By the alias too, and no other collection.
    assert len(client.search("library", VECTOR, limit=3)[0]) == 3
    with denied("Search", actor.name):
        client.search("films", VECTOR)
    with denied("Insert", actor.name):
        client.insert("books", simple_rows(1, start=100))
    with denied("Query", actor.name):
        client.query("books", "id >= 0")
    with denied("CreateCollection", actor.name):
        client.create_collection("mine", dimension=4)
    with denied("DropCollection", actor.name):
        client.drop_collection("books")
    with denied("CreateOwnership", actor.name):
        client.create_user("friend", PASSWORD)
    with denied("ManageOwnership", actor.name):
        client.grant_role(actor.name, "admin")
    actor.revoke("Search", "books")
    with denied("Search", actor.name):
        client.search("books", VECTOR)


def test_lists_show_what_was_granted(actor, root):
    client = actor.client
    assert client.list_collections() == [] and client.list_databases() == []
    with fails(1401, "not allowed to access collection"):
        client.describe_collection("books")
    with fails(100):
        client.describe_collection("nothing")
    actor.grant("Query", "books")
    assert client.list_collections() == ["books"] and client.list_databases() == ["default"]
    assert client.describe_collection("books")["collection_name"] == "books"
    assert client.has_collection("books")
    actor.grant("CollectionReadOnly", "films")
    assert sorted(client.list_collections()) == ["books", "films"]
    assert {"books", "films"} <= set(root.list_collections())


def test_grants_of_a_database_do_not_count_in_another(actor, root):
    there = actor.connect(db_name="shop")
    actor.grant("CreateCollection", database="shop")
    with denied("CreateCollection", actor.name):
        actor.client.create_collection("mine", dimension=4)
    with denied("CreateCollection", actor.name, "shop"):
        actor.revoke("CreateCollection", database="shop")
        there.create_collection("mine", dimension=4)
    with denied("DropDatabase", actor.name, "shop"):
        actor.client.drop_database("shop")
    actor.grant("DatabaseAdmin", database="shop")
    actor.grant("CollectionAdmin", "mine", database="shop")
    there.create_collection("mine", dimension=4)
    assert there.list_collections() == ["mine"]
    assert sorted(there.list_databases()) == ["shop"]
    there.insert("mine", [{"id": 1, "vector": [0.0] * 4}])
    there.drop_collection("mine")
    with denied("Insert", actor.name):
        actor.client.insert("books", simple_rows(1, start=100))


def test_groups_of_privileges_count_with_what_is_in_them(actor, root):
    client = actor.client
    root.create_privilege_group("pack")
    try:
        root.add_privileges_to_group("pack", ["Query"])
        actor.grant("pack", "books")
        assert len(client.query("books", "id < 5")) == 5
        with denied("Delete", actor.name):
            client.delete("books", ids=[1_000])
        root.add_privileges_to_group("pack", ["Delete"])
        client.delete("books", ids=[1_000])
        root.remove_privileges_from_group("pack", ["Query"])
        with denied("Query", actor.name):
            client.query("books", "id < 5")
        actor.revoke("pack", "books")
        with denied("Delete", actor.name):
            client.delete("books", ids=[1_000])
    finally:
        root.drop_privilege_group("pack")
    actor.grant("ClusterReadOnly", database="*")
    assert "root" in client.list_users() and client.list_privilege_groups()
    with denied("DropOwnership", actor.name):
        client.drop_user("root")


def test_what_everybody_was_granted_counts_for_everybody(actor, root):
    root.grant_privilege_v2("public", "Search", "books", db_name="default")
    try:
        assert len(actor.client.search("books", VECTOR, limit=3)[0]) == 3
        assert actor.client.list_collections() == ["books"]
    finally:
        root.revoke_privilege_v2("public", "Search", "books", db_name="default")
    with denied("Search", actor.name):
        actor.client.search("books", VECTOR)
    # From the beginning everybody may look at indexes.
    assert actor.client.list_indexes("books") == ["vector"]


def test_admins_do_everything_as_long_as_they_are(actor, root):
    root.grant_role(actor.name, "admin")
    actor.client.insert("films", simple_rows(1))
    actor.client.create_user("helper", PASSWORD)
    actor.client.drop_user("helper")
    assert {"books", "films"} <= set(actor.client.list_collections())
    actor.client.grant_privilege_v2(actor.role, "Search", "books")
    shown = root.describe_role(actor.role)["privileges"]
    assert shown and {grant["grantor_name"] for grant in shown} == {actor.name}
    root.revoke_role(actor.name, "admin")
    with denied("Insert", actor.name):
        actor.client.insert("films", simple_rows(1))


def test_users_look_after_themselves(guarded, actor, root):
    client = actor.client
    assert client.describe_user(actor.name)["roles"] == (actor.role,)
    actor.grant("Search", "books")
    own = client._get_connection().select_grant_for_one_role(actor.role, "default")
    assert [grant.privilege for grant in own.groups] == ["Search"]
    with denied("SelectUser", actor.name):
        client.describe_user("root")
    with denied("SelectOwnership", actor.name):
        client.describe_role("admin")
    with denied("UpdateUser", actor.name):
        client.update_password("root", "Milvus", "an0ther")
    with fails(1400, f"old password not correct for {actor.name}"):
        client.update_password(actor.name, "wrong password", "an0ther")
    client.update_password(actor.name, PASSWORD, "an0ther")
    # The client that came with the old one is out at once.
    with unauthenticated(WRONG):
        client.list_collections()
    changed = guarded.client(token=f"{actor.name}:an0ther")
    assert changed.list_collections() == ["books"]
    root.drop_user(actor.name)
    with unauthenticated(WRONG):
        changed.list_collections()
    changed.close()


def test_root_s_password_is_changed_like_any_other(guarded, root):
    root.update_password("root", "Milvus", "an0ther")
    rotated = guarded.client(token="root:an0ther")
    try:
        with unauthenticated(WRONG):
            root.list_users()
        assert "root" in rotated.list_users()
    finally:
        rotated.update_password("root", "an0ther", "Milvus")
        rotated.close()
    assert "root" in root.list_users()


def test_every_rpc_is_refused_as_milvus_s_own_options_say(guarded, actor):
    raw = Raw(guarded.address)
    token = base64.b64encode(f"{actor.name}:{PASSWORD}".encode()).decode()
    extension = common_pb2.privilege_ext_obj
    refused = 0
    try:
        for method in milvus_pb2.DESCRIPTOR.services_by_name["MilvusService"].methods:
            options = method.input_type.GetOptions()
            if not options.HasExtension(extension):
                continue
            wanted = common_pb2.ObjectPrivilege.Name(options.Extensions[extension].object_privilege)
            if wanted in ("PrivilegeDescribeCollection", "PrivilegeIndexDetail"):
                # The role `public` has them.
                continue
            request = getattr(milvus_pb2, method.input_type.name)()
            with pytest.raises(grpc.RpcError) as caught:
                getattr(raw.stub, method.name)(
                    request, metadata=[("authorization", token)], timeout=60
                )
            error = caught.value
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                continue
            assert error.code() == grpc.StatusCode.PERMISSION_DENIED, (method.name, error)
            expected = f"{wanted}: permission deny to {actor.name} in the `default` database"
            assert error.details() == expected, method.name
            refused += 1
    finally:
        raw.close()
    assert refused > 60, refused


def test_the_internal_tools_need_no_password(guarded, root):
    admin = f"127.0.0.1:{guarded.admin_port}"
    for words in (["saga", "ls"], ["meta", "ls"], ["raft", "status"], ["gc", "--dry-run"]):
        code, _, err = redkite.run(*words, "--admin", admin)
        assert code == 0, (words, err)
    assert redkite.fsck(admin_port=guarded.admin_port)["problems"] == []


def test_keys_of_vikingdb_s_api_are_users(guarded, root):
    def ask(path, body, user, method="POST"):
        key, secret = {"root": ("AKROOT", "SKROOT"), "bob": ("AKBOB", "SKBOB")}.get(
            user, ("AKNONE", "SKNONE")
        )
        return call(guarded.host, path, body, method=method, key=key, secret=secret)

    named = {"collection_name": "books"}
    rows = {"collection_name": "books", "primary_keys": [1]}
    for user in ("bob", "nobody"):
        status, answer = ask("/api/collection/fetch_data", rows, user)
        assert (status, answer["code"]) == (403, 1000002), answer
        status, answer = ask("/api/collection/info", named, user)
        assert (status, answer["code"]) == (403, 1000002), answer
    bob = Actor(guarded, root, "bob")
    try:
        status, answer = ask("/api/collection/info", named, "bob")
        assert (status, answer["code"]) == (403, 1000002), answer
        bob.grant("Query", "books")
        status, answer = ask("/api/collection/info", named, "bob")
        assert status == 200, answer
        status, answer = ask("/api/collection/fetch_data", rows, "bob")
        assert status == 200, answer
        status, answer = ask("/api/collection/drop", named, "bob")
        assert (status, answer["code"]) == (403, 1000002), answer
        bob.revoke("Query", "books")
        status, answer = ask("/api/collection/fetch_data", rows, "bob")
        assert (status, answer["code"]) == (403, 1000002), answer
        status, answer = ask("/api/collection/info", named, "root")
        assert status == 200, answer
    finally:
        bob.end()


def test_tasks_of_vikingdb_s_api_are_shown_to_who_may_read_their_collection(guarded, root):
    def ask(path, body, user="BOB"):
        return call(guarded.host, path, body, key=f"AK{user}", secret=f"SK{user}")

    def create(collection, number):
        params = {"collection_name": collection, "tos_path": f"own/tales/{number}"}
        body = {"task_type": "data_export", "task_params": {**params, "export_all": True}}
        status, answer = ask("/api/task/create", body, "ROOT")
        assert status == 200, answer
        return answer["data"]["task_id"]

    def seen(task):
        """Whether bob is shown a task, which the list and the task itself agree on."""
        named = {"task_id": task}
        status, answer = ask("/api/task/info", named)
        _, listed = ask("/api/task/list", {})
        is_listed = task in [one["task_id"] for one in listed["data"]]
        assert is_listed == (status == 200), (answer, listed)
        if not is_listed:
            assert ask("/api/task/drop", named)[0] == status
        return status

    shop = guarded.client(db_name="shop")
    for client, name in ((root, "tales"), (shop, "books")):
        create_simple(client, name)
        client.insert(name, simple_rows(10))
        client.flush(name)
    bob = Actor(guarded, root, "bob")
    try:
        bob.grant("Query", "tales")
        bob.grant("Query", "books")
        tales = create("tales", 1)
        assert seen(tales) == 200
        root.rename_collection("tales", "legends")
        assert seen(tales) == 200
        # Another collection takes the name: its readers are told nothing of the first one's rows.
        create_simple(root, "tales")
        bob.revoke("Query", "legends")
        bob.grant("Query", "tales")
        assert seen(tales) == 403
        bob.grant("Query", "legends")
        assert seen(tales) == 200
        # What is exported from another database is not that of a collection here by the same name.
        words = ["--database", "shop", "--collection", "books", "--to", "s3://own/shop"]
        code, _, err = redkite.run("export", *words, "--admin", f"127.0.0.1:{guarded.admin_port}")
        assert code == 0, err
        _, tasks = guarded.admin_get("/admin/exports")
        tasks = json.loads(tasks)["tasks"]
        [other] = [task["task"] for task in tasks if task["task"] != tales]
        assert seen(other) == 404
        # Once the collection is gone, its rows are those of who exported them.
        root.drop_collection("legends")
        assert seen(tales) == 403
        status, answer = ask("/api/task/info", {"task_id": tales}, "ROOT")
        assert status == 200, answer
    finally:
        bob.end()
        for client, name in ((root, "tales"), (shop, "books")):
            client.drop_collection(name)
        shop.close()
