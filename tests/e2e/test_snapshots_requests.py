"""Snapshot requests that the client library would refuse to send, and names that it may give."""

import pytest
from harness.raw import failed
from pymilvus.grpc_gen import milvus_pb2
from test_snapshots import code_of, fill
from test_snapshots_restore import restore, targets  # noqa: F401: a fixture


@pytest.mark.parametrize(
    "rpc, request_, code, texts",
    [
        (
            "CreateSnapshot",
            milvus_pb2.CreateSnapshotRequest(name="", collection_name="{name}"),
            1100,
            ["snapshot name should be not empty"],
        ),
        (
            "CreateSnapshot",
            milvus_pb2.CreateSnapshotRequest(
                name="s2", collection_name="{name}", compaction_protection_seconds=-1
            ),
            1100,
            ["must be non-negative"],
        ),
        (
            "DescribeSnapshot",
            milvus_pb2.DescribeSnapshotRequest(name="s1"),
            1101,
            ["collection_name is required for describe snapshot"],
        ),
        (
            "RestoreSnapshot",
            milvus_pb2.RestoreSnapshotRequest(name="s1", target_collection_name="copy"),
            1101,
            ["collection_name is required for restore snapshot"],
        ),
        (
            "RestoreSnapshot",
            milvus_pb2.RestoreSnapshotRequest(name="s1", collection_name="{name}"),
            1101,
            ["target_collection_name is required for restore snapshot"],
        ),
        (
            "RestoreSnapshot",
            milvus_pb2.RestoreSnapshotRequest(
                name="9s", collection_name="{name}", target_collection_name="copy"
            ),
            1100,
            ["the first character of snapshot name must be an underscore or letter"],
        ),
        (
            "PinSnapshotData",
            milvus_pb2.PinSnapshotDataRequest(
                name="s1", collection_name="{name}", ttl_seconds=-1
            ),
            1100,
            ["ttl_seconds must be non-negative"],
        ),
        (
            "GetRestoreSnapshotState",
            milvus_pb2.GetRestoreSnapshotStateRequest(job_id=0),
            2101,
            ["restore job not found: jobID=0"],
        ),
    ],
)
def test_what_is_wrong_has_milvus_s_code_and_words(client, raw, name, rpc, request_, code, texts):
    fill(client, name, rows=10)
    client.create_snapshot("s1", name)
    request = type(request_)()
    request.CopyFrom(request_)
    if getattr(request, "collection_name", "") == "{name}":
        request.collection_name = name
    answer = raw.call(rpc, request)
    failed(getattr(answer, "status", answer), code, *texts)
    assert client.list_snapshots(name) == ["s1"]
    assert not client.has_collection("copy")


def test_a_snapshot_is_of_one_collection_and_jobs_are_found_by_alias(
    client,
    name,
    other_name,
    targets,  # noqa: F811
):
    fill(client, name)
    fill(client, other_name)
    client.create_snapshot("s1", name)
    code, text = code_of(client.describe_snapshot, "s1", other_name)
    assert code == 2600 and "snapshot not found[snapshot=s1]" in text
    assert code_of(client.restore_snapshot, "s1", other_name, targets())[0] == 2600
    target, alias = targets(), f"alias_of_{name}"
    info = restore(client, "s1", name, target)
    client.create_alias(target, alias)
    try:
        jobs = client.list_restore_snapshot_jobs(alias)
        assert [job.job_id for job in jobs] == [info.job_id]
        assert client.list_restore_snapshot_jobs(name) == []
    finally:
        client.drop_alias(alias)
