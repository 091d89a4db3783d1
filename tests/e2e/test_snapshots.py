"""Snapshots: taken without moving data, kept, pinned, restored as they were."""

import time

import pytest
from harness.data import create_simple, simple_rows
from pymilvus import MilvusException


def code_of(call, *args, **kwargs):
    with pytest.raises(MilvusException) as raised:
        call(*args, **kwargs)
    return raised.value.code, raised.value.message


def fill(client, name, rows=200):
    create_simple(client, name)
    client.insert(name, simple_rows(rows))
    client.flush(name)


def test_a_snapshot_is_listed_described_and_dropped(client, name):
    fill(client, name)
    client.create_partition(name, "p1")
    began = time.time()
    client.create_snapshot("s1", name, description="the first")
    assert client.list_snapshots(name) == ["s1"]
    info = client.describe_snapshot("s1", name)
    assert (info.name, info.description, info.collection_name) == ("s1", "the first", name)
    assert sorted(info.partition_names) == ["_default", "p1"]
    # A hybrid timestamp, not milliseconds: those are above its 18 bits of a counter.
    taken_at = (info.create_ts >> 18) / 1000
    assert began - 1 <= taken_at <= time.time() + 1
    assert info.s3_location.startswith("snapshots/")
    # What becomes of the parts later does not change it.
    client.release_collection(name)
    client.drop_partition(name, "p1")
    assert sorted(client.describe_snapshot("s1", name).partition_names) == ["_default", "p1"]
    client.drop_snapshot("s1", name)
    client.drop_snapshot("s1", name)
    assert client.list_snapshots(name) == []
    code, text = code_of(client.describe_snapshot, "s1", name)
    assert code == 2600 and "snapshot not found[snapshot=s1]" in text
    assert f"collection {client.describe_collection(name)['collection_id']}" in text


def test_names_are_checked_and_belong_to_a_collection(client, name, other_name):
    create_simple(client, name)
    create_simple(client, other_name)
    for bad in ["9a", "a-b", "n" * 256, " "]:
        assert code_of(client.create_snapshot, bad, name)[0] == 1100, bad
    client.create_snapshot("s1", name)
    client.create_snapshot("s1", other_name)
    code, text = code_of(client.create_snapshot, "s1", name)
    assert code == 1100 and "snapshot name s1 already exists in collection" in text
    assert code_of(client.create_snapshot, "s2", "absent")[0] == 100
    assert code_of(client.list_snapshots, "absent")[0] == 100
    assert code_of(client.list_snapshots)[0] == 1101
    code, text = code_of(
        client.create_snapshot, "s3", name, compaction_protection_seconds=604_801
    )
    assert code == 1100 and "must not exceed 604800" in text


def test_a_snapshot_follows_its_collection_through_names(client, name, other_name):
    fill(client, name)
    alias = f"alias_{name}"
    client.create_alias(name, alias)
    client.create_snapshot("s1", alias)
    assert client.list_snapshots(alias) == client.list_snapshots(name) == ["s1"]
    client.drop_alias(alias)
    assert code_of(client.list_snapshots, alias)[0] == 100
    client.rename_collection(name, other_name)
    assert code_of(client.list_snapshots, name)[0] == 100
    assert client.describe_snapshot("s1", other_name).collection_name == other_name
    client.drop_collection(other_name)
    create_simple(client, other_name)
    assert client.list_snapshots(other_name) == []


def test_a_pin_keeps_a_snapshot(client, name):
    fill(client, name)
    client.create_snapshot("s1", name)
    assert code_of(client.pin_snapshot_data, "s2", name)[0] == 2600
    assert code_of(client.pin_snapshot_data, "s1", name, ttl_seconds=2_592_001)[0] == 1100
    first = client.pin_snapshot_data("s1", name)
    second = client.pin_snapshot_data("s1", name, ttl_seconds=600)
    assert first > 0 and second > 0 and first != second
    for pin in (first, second):
        code, text = code_of(client.drop_snapshot, "s1", name)
        assert code == 2601 and "active pins exist, unpin before dropping" in text
        client.unpin_snapshot_data(pin)
    client.unpin_snapshot_data(first)
    client.drop_snapshot("s1", name)
    assert client.list_snapshots(name) == []


def test_protected_segments_are_not_compacted(client, name):
    create_simple(client, name)
    for batch in range(2):
        client.insert(name, simple_rows(100, start=batch * 100))
        client.flush(name)
    client.create_snapshot("s1", name, compaction_protection_seconds=600)
    assert code_of(client.compact, name)[0] == 2317
    client.drop_snapshot("s1", name)
    assert client.compact(name) != 0
