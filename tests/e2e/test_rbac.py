"""Users, roles, grants and groups of privileges, as records."""

import base64

import pytest
from harness.data import simple_schema
from harness.errors import fails

PASSWORD = "P@ssw0rd"


@pytest.fixture
def user(client):
    client.create_user("ann", PASSWORD, description="reads")
    yield "ann"
    client.drop_user("ann")


@pytest.fixture
def role(client):
    client.create_role("reader", description="may read")
    yield "reader"
    if "reader" in client.list_roles():
        client.drop_role("reader", force_drop=True)


@pytest.fixture
def group(client):
    client.create_privilege_group("g")
    yield "g"
    client.drop_privilege_group("g")


def granted(client, role, **kwargs):
    return {
        (grant["object_type"], grant["db_name"], grant["object_name"], grant["privilege"])
        for grant in client.describe_role(role, **kwargs)["privileges"]
    }


def test_root_admin_and_public_are_there(client):
    assert "root" in client.list_users()
    assert {"admin", "public"} <= set(client.list_roles())
    assert client.describe_user("root")["roles"] == ("admin", "public")
    assert granted(client, "public") == {
        ("Global", "*", "*", "DescribeCollection"),
        ("Collection", "*", "*", "IndexDetail"),
    }
    with fails(1401, "root user cannot be deleted"):
        client.drop_user("root")
    for name in ("admin", "public"):
        with fails(1401, f"the role[{name}] is a default role, which can't be dropped"):
            client.drop_role(name)


def test_a_user_s_life(client, user):
    assert user in client.list_users()
    described = client.describe_user(user)
    assert described == {"user_name": user, "roles": (), "description": "reads"}
    client.update_user(user, description="writes")
    assert client.describe_user(user)["description"] == "writes"
    with fails(65535, "user already exists: ann"):
        client.create_user(user, PASSWORD)
    assert client.describe_user("nobody") == {}
    client.drop_user("nobody")


def test_a_new_password_needs_the_old_one(client, user):
    new = "an0ther one"
    with fails(1400, "old password not correct for ann: not authenticated"):
        client.update_password(user, "wrong password", new)
    with fails(1400, "old password not correct for nobody: not authenticated"):
        client.update_password("nobody", PASSWORD, new)
    with fails(1100, "invalid password"):
        client.update_password(user, PASSWORD, "short")
    client.update_password(user, PASSWORD, new)
    with fails(1400):
        client.update_password(user, PASSWORD, new)
    client.update_password(user, new, PASSWORD)


@pytest.mark.parametrize("name", ["", "0", "n@me", "h h", "n" * 33, "a/b"])
def test_bad_names_are_refused(client, name):
    with fails(1100, "invalid parameter"):
        client.create_user(name, PASSWORD)


@pytest.mark.parametrize("password", ["", "short", "x" * 73])
def test_bad_passwords_are_refused(client, password):
    with fails(1100, "invalid password"):
        client.create_user("bob", password)
    assert "bob" not in client.list_users()


def test_passwords_are_kept_as_hashes_that_nobody_is_shown(server, client, user):
    status, body = server.admin_get("/admin/meta?prefix=root-coord/")
    assert status == 200 and "root-coord/credential/users/ann" in body
    encoded = base64.b64encode(PASSWORD.encode()).decode()
    for secret in (PASSWORD, encoded, "$2b$"):
        assert secret not in body
    assert PASSWORD not in server.log_tail(10_000)


def test_roles_are_given_and_taken(client, user, role):
    client.grant_role(user, role)
    client.grant_role(user, role)
    assert client.describe_user(user)["roles"] == (role,)
    client.revoke_role(user, role)
    client.revoke_role(user, role)
    assert client.describe_user(user)["roles"] == ()
    with fails(65535, "not found the role"):
        client.grant_role(user, "nothing")
    with fails(65535, "not found the user"):
        client.grant_role("nobody", role)
    client.grant_role(user, role)
    client.drop_role(role)
    assert client.describe_user(user)["roles"] == ()


def test_a_role_s_life(client, role):
    described = client.describe_role(role)
    assert described == {"role": role, "description": "may read", "privileges": []}
    client.alter_role(role, description="may look")
    assert client.describe_role(role)["description"] == "may look"
    with fails(65535, "already exists"):
        client.create_role(role)
    with fails(65535, "not found the role"):
        client.describe_role("nothing")
    client.grant_privilege(role, "Collection", "Search", "books")
    with fails(65535, "fail to drop the role that it has privileges"):
        client.drop_role(role)
    client.drop_role(role, force_drop=True)
    assert role not in client.list_roles()


def test_privileges_of_both_versions_are_granted_and_revoked(client, role):
    client.grant_privilege(role, "Collection", "Search", "books")
    client.grant_privilege(role, "Global", "CreateCollection", "*", db_name="shop")
    client.grant_privilege_v2(role, "Insert", "books", db_name="shop")
    client.grant_privilege_v2(role, "ClusterReadOnly", "*", db_name="*")
    everywhere = ("Global", "*", "*", "ClusterReadOnly")
    here = ("Collection", "default", "books", "Search")
    there = {
        ("Global", "shop", "*", "CreateCollection"),
        ("Collection", "shop", "books", "Insert"),
    }
    assert granted(client, role) == {here, everywhere}
    assert granted(client, role, db_name="shop") == there | {everywhere}
    assert granted(client, role, db_name="*") == there | {here, everywhere}
    client.revoke_privilege(role, "Collection", "Search", "books")
    client.revoke_privilege(role, "Collection", "Search", "books")
    client.revoke_privilege_v2(role, "Insert", "books", db_name="shop")
    client.revoke_privilege_v2(role, "ClusterReadOnly", "*", db_name="*")
    left = ("Global", "shop", "*", "CreateCollection")
    assert granted(client, role, db_name="*") == {left}
    with fails(65535, "the object entity in the request is nil or invalid"):
        client.grant_privilege(role, "Nothing", "Search", "books")
    with fails(65535, "not found the privilege name"):
        client.grant_privilege(role, "Collection", "CreateDatabase", "books")
    with fails(802, "database name can only contain"):
        client.grant_privilege_v2(role, "Insert", "*", db_name="n%$#@!")


def test_privilege_groups(client, role, group):
    groups = {g["privilege_group"]: g["privileges"] for g in client.list_privilege_groups()}
    assert groups[group] == ()
    assert set(groups["DatabaseReadOnly"]) == {"ShowCollections", "DescribeDatabase"}
    assert len(groups) >= 10
    client.add_privileges_to_group(group, ["Search", "Query", "Insert"])
    client.remove_privileges_from_group(group, ["Insert"])
    groups = {g["privilege_group"]: g["privileges"] for g in client.list_privilege_groups()}
    assert groups[group] == ("Query", "Search")
    with fails(1100, "privileges are not the same privilege level"):
        client.add_privileges_to_group(group, ["CreateDatabase"])
    with fails(1100, "there is no privilege group name [nothing] defined in system"):
        client.add_privileges_to_group("nothing", ["Search"])
    with fails(1100, "is defined by built in privileges"):
        client.create_privilege_group("ClusterAdmin")
    client.grant_privilege_v2(role, group, "books", db_name="default")
    with fails(1100, f"privilege group [{group}] is used by role [{role}]"):
        client.drop_privilege_group(group)
    client.revoke_privilege_v2(role, group, "books", db_name="default")


def test_grants_follow_a_renamed_collection_and_go_with_a_dropped_one(
    client, role, name, other_name
):
    client.create_collection(name, schema=simple_schema())
    client.grant_privilege_v2(role, "Search", name, db_name="default")
    client.rename_collection(name, other_name)
    assert granted(client, role) == {("Collection", "default", other_name, "Search")}
    client.drop_collection(other_name)
    assert granted(client, role) == set()


def test_everything_survives_a_kill(restartable_server):
    client = restartable_server.client()
    client.create_user("ann", PASSWORD)
    client.create_role("reader")
    client.grant_role("ann", "reader")
    client.grant_privilege("reader", "Collection", "Search", "books")
    client.create_privilege_group("g")
    client.add_privileges_to_group("g", ["Search"])
    client.close()
    restartable_server.kill9()
    restartable_server.start()
    client = restartable_server.client()
    assert client.describe_user("ann")["roles"] == ("reader",)
    assert granted(client, "reader") == {("Collection", "default", "books", "Search")}
    groups = {g["privilege_group"]: g["privileges"] for g in client.list_privilege_groups()}
    assert groups["g"] == ("Search",)
    client.update_password("ann", PASSWORD, "an0ther one")
    client.close()
