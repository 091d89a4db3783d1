"""Names of snapshots: what they may be, whose they are, and in which database."""

import threading

import pytest
from harness.data import all_rows, create_simple, simple_rows
from harness.errors import fails
from pymilvus import MilvusException
from test_snapshots import fill
from test_snapshots_restore import restore, targets  # noqa: F401: a fixture

EMPTY = "snapshot name should be not empty"
TOO_LONG = "the length of snapshot name must be not greater than limit"
FIRST = "the first character of snapshot name must be an underscore or letter"
OTHERS = "snapshot name can only contain numbers, letters, underscores, and allowed characters"
BAD = [
    (" ", EMPTY),
    ("\t\n ", EMPTY),
    ("n" * 256, TOO_LONG),
    ("9a", FIRST),
    ("-a", FIRST),
    ("$a", FIRST),
    ("é", FIRST),
    ("a-b", OTHERS),
    ("a b", OTHERS),
    ("a.b", OTHERS),
    ("aé", OTHERS),
]


def test_names_that_cannot_be_are_refused_in_milvus_s_words(client, name):
    fill(client, name, rows=5)
    for bad, text in BAD:
        with fails(1100, text):
            client.create_snapshot(bad, name)
        with fails(1100, text):
            client.restore_snapshot(bad, name, f"{name}_copy")
    assert client.list_snapshots(name) == []
    assert not client.has_collection(f"{name}_copy")


def test_all_that_may_be_is_taken_and_blanks_around_it_do_not_count(client, name, targets):  # noqa: F811
    fill(client, name, rows=5)
    names = ["n" * 255, "_", "A$b_9", "trimmed"]
    for good in names[:3]:
        client.create_snapshot(good, name)
    client.create_snapshot("  trimmed\t", name)
    assert sorted(client.list_snapshots(name)) == sorted(names)
    with fails(1100, "snapshot name trimmed already exists in collection"):
        client.create_snapshot("trimmed", name)
    assert client.describe_snapshot(" trimmed ", name).name == "trimmed"
    info = restore(client, " trimmed ", name, targets())
    assert info.snapshot_name == "trimmed"
    pin = client.pin_snapshot_data("trimmed ", name)
    with fails(2601, "snapshot is pinned[snapshot=trimmed]"):
        client.drop_snapshot(" trimmed", name)
    client.unpin_snapshot_data(pin)
    client.drop_snapshot(" trimmed", name)
    assert sorted(client.list_snapshots(name)) == sorted(names[:3])


def at_once(new_client, count, use):
    """What as many calls at the same time answer, or their errors."""
    answers = [None] * count
    barrier = threading.Barrier(count)

    def call(i, connected):
        barrier.wait()
        try:
            answers[i] = use(connected)
        except MilvusException as error:
            answers[i] = error

    threads = [threading.Thread(target=call, args=(i, new_client())) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_of_many_at_a_time_one_takes_the_name_and_all_drop_it(client, new_client, name):
    fill(client, name, rows=5)
    for _ in range(3):
        taken = at_once(new_client, 6, lambda one: one.create_snapshot("s1", name))
        refused = [error for error in taken if error is not None]
        assert len(refused) == 5, taken
        for error in refused:
            assert error.code == 1100 and "snapshot name s1 already exists" in error.message, error
        assert client.list_snapshots(name) == ["s1"]
        dropped = at_once(new_client, 6, lambda one: one.drop_snapshot("s1", name))
        assert dropped == [None] * 6
        assert client.list_snapshots(name) == []


def test_each_call_takes_an_alias_for_its_collection(client, name, other_name, targets):  # noqa: F811
    fill(client, name, rows=5)
    fill(client, other_name, rows=7)
    alias = f"alias_{name}"
    client.create_alias(name, alias)
    try:
        client.create_snapshot("s1", alias)
        client.create_snapshot("other", other_name)
        assert client.list_snapshots(name) == client.list_snapshots(alias) == ["s1"]
        # The name is the collection's own.
        assert client.describe_snapshot("s1", alias).collection_name == name
        client.unpin_snapshot_data(client.pin_snapshot_data("s1", alias))
        copy = targets()
        restore(client, "s1", alias, copy)
        assert client.list_aliases(copy)["aliases"] == []
        client.load_collection(copy)
        assert all_rows(client, copy) == all_rows(client, name)
        # The snapshot stays with the collection when the alias goes to another.
        client.alter_alias(other_name, alias)
        assert client.list_snapshots(alias) == ["other"]
        with fails(2600, "snapshot not found[snapshot=s1]"):
            client.describe_snapshot("s1", alias)
        client.drop_snapshot("other", alias)
        assert client.list_snapshots(other_name) == []
        assert client.list_snapshots(name) == ["s1"]
    finally:
        client.drop_alias(alias)
    for call in (
        lambda: client.create_snapshot("s2", alias),
        lambda: client.list_snapshots(alias),
        lambda: client.describe_snapshot("s1", alias),
        lambda: client.pin_snapshot_data("s1", alias),
        lambda: client.restore_snapshot("s1", alias, f"{name}_copy"),
        lambda: client.drop_snapshot("s1", alias),
        lambda: client.list_restore_snapshot_jobs(alias),
    ):
        with fails(100, "collection not found", alias):
            call()
    assert client.list_snapshots(name) == ["s1"]


def test_a_renamed_collection_keeps_its_snapshots(client, name, other_name, targets):  # noqa: F811
    fill(client, name, rows=5)
    client.create_snapshot("s1", name)
    rows = all_rows(client, name)
    client.rename_collection(name, other_name)
    # Another one of the old name has none, and may take that name for its own.
    fill(client, name, rows=2)
    assert client.list_snapshots(name) == []
    with fails(2600, "snapshot not found[snapshot=s1]"):
        client.restore_snapshot("s1", name, f"{name}_copy")
    client.create_snapshot("s1", name, description="of the new one")
    assert client.list_snapshots(other_name) == ["s1"]
    info = client.describe_snapshot("s1", other_name)
    assert (info.collection_name, info.description) == (other_name, "")
    copy = targets()
    restore(client, "s1", other_name, copy)
    client.load_collection(copy)
    assert all_rows(client, copy) == rows


@pytest.fixture
def there(client, new_client, name):
    """A client of a database of the test's own, which is dropped with all that is in it."""
    database = f"db_{name}"[:60]
    client.create_database(database)
    connected = new_client(db_name=database)
    yield connected
    for left in connected.list_collections():
        connected.drop_collection(left)
    client.drop_database(database)


def test_each_call_goes_to_the_database_that_it_names(client, there, name, targets):  # noqa: F811
    database = f"db_{name}"[:60]
    fill(client, name, rows=5)
    fill(there, name, rows=7)
    client.create_snapshot("s1", name, db_name=database, description="there")
    assert client.list_snapshots(name, db_name=database) == ["s1"] == there.list_snapshots(name)
    assert client.list_snapshots(name) == []
    assert client.describe_snapshot("s1", name, db_name=database).description == "there"
    with fails(2600):
        client.describe_snapshot("s1", name)
    pin = client.pin_snapshot_data("s1", name, db_name=database)
    # There is none of that name here, which is no error; there it is pinned.
    client.drop_snapshot("s1", name)
    with fails(2601):
        client.drop_snapshot("s1", name, db_name=database)
    client.unpin_snapshot_data(pin)
    # Without a target database the copy is beside the source.
    beside = restore(client, "s1", name, "beside", source_db_name=database)
    here = targets()
    across = restore(
        client, "s1", name, here, source_db_name=database, target_db_name="default"
    )
    assert (beside.db_name, across.db_name) == (database, "default")
    assert not client.has_collection("beside")
    for connected, copy in ((there, "beside"), (client, here)):
        connected.load_collection(copy)
        assert [row["id"] for row in all_rows(connected, copy)] == list(range(7))
    # Jobs are those of the target's database.
    listed = {job.job_id for job in client.list_restore_snapshot_jobs(db_name=database)}
    assert beside.job_id in listed and across.job_id not in listed
    listed = {job.job_id for job in client.list_restore_snapshot_jobs()}
    assert across.job_id in listed and beside.job_id not in listed
    (job,) = client.list_restore_snapshot_jobs("beside", db_name=database)
    assert (job.job_id, job.collection_name) == (beside.job_id, "beside")
    with fails(100):
        client.list_restore_snapshot_jobs("beside")
    client.drop_snapshot("s1", name, db_name=database)
    assert there.list_snapshots(name) == []


def test_a_database_that_is_not_there_is_named(client, name):
    create_simple(client, name)
    client.insert(name, simple_rows(3))
    client.create_snapshot("s1", name)
    absent = {"db_name": "nowhere"}
    for call in (
        lambda: client.create_snapshot("s2", name, **absent),
        lambda: client.list_snapshots(name, **absent),
        lambda: client.describe_snapshot("s1", name, **absent),
        lambda: client.drop_snapshot("s1", name, **absent),
        lambda: client.pin_snapshot_data("s1", name, **absent),
        lambda: client.list_restore_snapshot_jobs(**absent),
        lambda: client.restore_snapshot("s1", name, "copy", source_db_name="nowhere"),
        lambda: client.restore_snapshot("s1", name, "copy", target_db_name="nowhere"),
    ):
        with fails(800, "nowhere"):
            call()
    assert not client.has_collection("copy")
    # Nothing holds it.
    client.drop_snapshot("s1", name)
