"""Connecting, versions, health pages, limits of the transport, RPCs that are not served."""

import time

import grpc
import pytest
from harness.errors import fails
from harness.process import connect, free_port
from harness.raw import Raw, vectors
from pymilvus import MilvusException
from pymilvus.grpc_gen import milvus_pb2


def test_version_is_told_in_both_ways(client):
    version = client.get_server_version()
    assert version
    assert client.get_server_version(detail=True)["version"] == version


def test_server_type_is_milvus(client):
    assert client.get_server_type() == "milvus"


def test_connect_answers_an_identifier(raw):
    reply = raw.call("Connect", milvus_pb2.ConnectRequest())
    assert reply.status.code == 0
    assert reply.identifier != 0
    assert reply.server_info.build_tags


def test_connecting_to_a_closed_port_fails_with_code_2():
    with pytest.raises(MilvusException) as caught:
        connect(f"http://127.0.0.1:{free_port()}", timeout=1)
    assert caught.value.code == 2


def test_timestamps_grow_and_carry_the_wall_clock(raw):
    request = milvus_pb2.AllocTimestampRequest()
    first = raw.call("AllocTimestamp", request)
    second = raw.call("AllocTimestamp", request)
    assert first.status.code == 0 and second.status.code == 0
    assert second.timestamp > first.timestamp
    assert abs((second.timestamp >> 18) / 1000 - time.time()) < 60


def test_health_pages(server):
    assert server.admin_status("/healthz") == 200
    assert server.admin_status("/readyz") == 200
    status, body = server.admin_get("/metrics")
    assert status == 200
    assert "redkite_" in body


NOT_SERVED = [
    ("CreateResourceGroup", milvus_pb2.CreateResourceGroupRequest(resource_group="rg")),
    ("RunAnalyzer", milvus_pb2.RunAnalyzerRequest()),
    ("CalcDistance", milvus_pb2.CalcDistanceRequest()),
    ("AlterCollectionSchema", milvus_pb2.AlterCollectionSchemaRequest()),
    ("BackupRBAC", milvus_pb2.BackupRBACMetaRequest()),
]


@pytest.mark.parametrize("rpc, request_", NOT_SERVED, ids=[rpc for rpc, _ in NOT_SERVED])
def test_an_rpc_that_is_not_served_says_so_by_name(raw, rpc, request_):
    with pytest.raises(grpc.RpcError) as caught:
        raw.call(rpc, request_)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert rpc in caught.value.details()


def test_the_client_does_not_retry_an_rpc_that_is_not_served(client):
    start = time.monotonic()
    with pytest.raises((grpc.RpcError, MilvusException)):
        client.create_resource_group("rg")
    # Its retries take minutes.
    assert time.monotonic() - start < 60


def test_keepalive_pings_without_calls_are_accepted(server):
    """A ping a second on an idle channel: a server that minds answers GOAWAY too_many_pings."""
    options = [
        ("grpc.keepalive_time_ms", 1000),
        # A server that is slow to answer a ping is no server that minds it.
        ("grpc.keepalive_timeout_ms", 60_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    idle = Raw(server.address, options)
    states = []
    idle.channel.subscribe(states.append, try_to_connect=True)
    grpc.channel_ready_future(idle.channel).result(timeout=60)
    seen = len(states)
    end = time.monotonic() + 6
    while time.monotonic() < end:
        assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states[seen:], states
        time.sleep(0.1)
    assert idle.call("GetVersion", milvus_pb2.GetVersionRequest()).status.code == 0
    idle.close()


def test_a_message_of_20_mib_is_accepted_and_checked(raw, client, name):
    client.create_collection(name, dimension=8)
    big = vectors("vector", 8, [0.5] * (5 << 20))
    reply = raw.insert(name, [big], 1)
    assert reply.status.code == 1100


@pytest.mark.timeout(300)
def test_a_message_above_the_cap_gets_a_clear_error(server, raw, client):
    request = milvus_pb2.InsertRequest(collection_name="any", hash_keys=[2**32 - 1])
    column = request.fields_data.add(field_name="vector")
    column.scalars.bytes_data.data.append(bytes(257 << 20))
    with pytest.raises(grpc.RpcError) as caught:
        raw.call("Insert", request, timeout=120)
    assert caught.value.code() in (
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    assert any(word in caught.value.details() for word in ("limit", "large", "max"))
    assert client.get_server_version()


def test_an_unknown_database_is_refused(new_client):
    elsewhere = new_client(db_name="no_such_database")
    with fails(800, "database not found[database=no_such_database]"):
        elsewhere.list_collections()
