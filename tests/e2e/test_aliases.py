"""Aliases."""

import pytest
from harness.data import count, create_simple, simple_rows
from harness.errors import fails


@pytest.fixture
def alias(request, client, name):
    chosen = f"alias_{name}"
    yield chosen
    try:
        client.drop_alias(chosen)
    except Exception as error:
        assert "alias not found" in str(error)


def test_an_alias_reads_and_writes_its_collection(client, name, alias):
    create_simple(client, name)
    client.create_alias(name, alias)
    client.insert(alias, simple_rows(5))
    assert count(client, alias) == 5
    assert count(client, name) == 5
    vector = simple_rows(5)[3]["vector"]
    assert client.search(alias, [vector], limit=1)[0][0]["id"] == 3
    assert client.has_collection(alias)
    assert client.describe_collection(alias)["collection_name"] == name
    assert client.describe_collection(name)["aliases"] == [alias]


def test_describe_and_list(client, name, alias):
    create_simple(client, name)
    client.create_alias(name, alias)
    assert client.describe_alias(alias) == {
        "alias": alias,
        "collection_name": name,
        "db_name": "default",
    }
    listed = client.list_aliases(name)
    assert listed["aliases"] == [alias]
    assert alias in client.list_aliases()["aliases"]


def test_an_alias_moves_at_once(client, name, other_name, alias):
    create_simple(client, name)
    create_simple(client, other_name)
    client.insert(name, simple_rows(2))
    client.insert(other_name, simple_rows(7))
    client.create_alias(name, alias)
    assert count(client, alias) == 2
    client.alter_alias(other_name, alias)
    assert count(client, alias) == 7
    assert client.list_aliases(name)["aliases"] == []


def test_dropped_alias_is_gone(client, name, alias):
    create_simple(client, name)
    client.create_alias(name, alias)
    client.drop_alias(alias)
    assert not client.has_collection(alias)
    with fails(1600, "alias not found"):
        client.describe_alias(alias)
    with fails(100, "collection not found"):
        client.query(alias, filter="id > 0")
    assert client.has_collection(name)


def test_an_alias_of_an_absent_collection_is_refused(client, alias, name):
    with fails(100, "collection not found"):
        client.create_alias(name, alias)


def test_an_alias_may_not_be_a_collections_name(client, name, other_name):
    create_simple(client, name)
    create_simple(client, other_name)
    with fails(1601, other_name):
        client.create_alias(name, other_name)


def test_a_collection_may_not_take_an_aliass_name(client, name, alias):
    create_simple(client, name)
    client.create_alias(name, alias)
    with fails(None, alias):
        create_simple(client, alias, dim=16)


def test_an_alias_of_another_collection_is_not_taken(client, name, other_name, alias):
    create_simple(client, name)
    create_simple(client, other_name)
    client.create_alias(name, alias)
    with fails(1602, alias):
        client.create_alias(other_name, alias)
    assert client.describe_alias(alias)["collection_name"] == name


def test_altering_an_absent_alias_answers_1600(client, name, alias):
    create_simple(client, name)
    with fails(1600, "alias not found"):
        client.alter_alias(name, alias)


def test_drop_collection_through_an_alias_is_refused(client, name, alias):
    create_simple(client, name)
    client.create_alias(name, alias)
    with fails(None):
        client.drop_collection(alias)
    assert client.has_collection(name)


def test_a_bad_name_is_refused(client, name):
    create_simple(client, name)
    with fails(1100, "Invalid collection alias"):
        client.create_alias(name, "1-bad")
