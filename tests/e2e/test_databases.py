"""Databases keep collections apart."""

import pytest
from harness.data import count, create_simple, simple_rows, simple_schema
from harness.errors import fails


@pytest.fixture
def db(request, client):
    chosen = f"db_{abs(hash(request.node.nodeid)) % 10**9}"
    client.create_database(chosen)
    yield chosen
    if chosen in client.list_databases():
        client.drop_database(chosen)


def test_default_is_there_and_first(client):
    assert client.list_databases()[0] == "default"


def test_create_list_describe_drop(client, db):
    assert db in client.list_databases()
    assert client.describe_database(db)["name"] == db
    client.drop_database(db)
    assert db not in client.list_databases()
    with fails(800, f"database not found[database={db}]"):
        client.describe_database(db)


def test_the_same_name_in_two_databases_is_two_collections(client, new_client, db, name):
    there = new_client(db_name=db)
    create_simple(client, name)
    create_simple(there, name)
    client.insert(name, simple_rows(3))
    there.insert(name, simple_rows(5))
    assert count(client, name) == 3
    assert count(there, name) == 5
    there.drop_collection(name)
    assert not there.has_collection(name)
    assert count(client, name) == 3


def test_use_database_switches(new_client, db, name):
    moving = new_client()
    moving.use_database(db)
    moving.create_collection(name, schema=simple_schema())
    assert moving.list_collections() == [name]
    moving.use_database("default")
    assert not moving.has_collection(name)
    moving.use_database(db)
    moving.drop_collection(name)
    assert moving.list_collections() == []


def test_use_of_an_absent_database_answers_800(new_client):
    with fails(800, "database not found[database=nowhere_db]"):
        new_client().use_database("nowhere_db")


def test_a_database_with_collections_is_not_dropped(client, new_client, db, name):
    there = new_client(db_name=db)
    there.create_collection(name, schema=simple_schema())
    with fails(None, "not empty"):
        client.drop_database(db)
    assert there.has_collection(name)
    there.drop_collection(name)


def test_default_is_not_dropped(client):
    with fails(None, "default"):
        client.drop_database("default")
    assert "default" in client.list_databases()


def test_creating_an_existing_database_is_refused(client, db):
    with fails(None, db):
        client.create_database(db)


def test_errors_name_the_database(new_client, db):
    with fails(100, f"collection not found[database={db}][collection=nowhere]"):
        new_client(db_name=db).describe_collection("nowhere")


@pytest.mark.parametrize("bad", ["1db", "-db"])
def test_a_bad_name_answers_802(client, bad):
    text = "the first character of a database name must be an underscore or letter"
    with fails(802, text, f"invalid database name[database={bad}]"):
        client.create_database(bad)


def test_properties(client, db):
    client.alter_database_properties(db, {"database.note": "hello"})
    assert client.describe_database(db)["database.note"] == "hello"
    client.drop_database_properties(db, ["database.note"])
    assert "database.note" not in client.describe_database(db)


def test_rename_into_another_database(client, new_client, db, name):
    there = new_client(db_name=db)
    create_simple(client, name)
    client.insert(name, simple_rows(4))
    client.rename_collection(name, name, target_db=db)
    assert not client.has_collection(name)
    assert count(there, name) == 4
    there.drop_collection(name)
