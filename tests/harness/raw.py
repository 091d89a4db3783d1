"""Requests as bytes on the wire, for what the client library would refuse to send."""

import grpc
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc, schema_pb2

OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Channels that share a connection share how long it waits before it is made again, too.
    ("grpc.use_local_subchannel_pool", 1),
]


class Raw:
    """A stub with a channel of its own."""

    def __init__(self, address, options=()):
        self.channel = grpc.insecure_channel(address, options=[*OPTIONS, *options])
        self.stub = milvus_pb2_grpc.MilvusServiceStub(self.channel)

    def call(self, rpc, request, db="", timeout=60):
        return getattr(self.stub, rpc)(request, metadata=[("dbname", db)], timeout=timeout)

    def insert(self, collection, columns, num_rows, partition="", rpc="Insert", **fields):
        kind = {"Insert": milvus_pb2.InsertRequest, "Upsert": milvus_pb2.UpsertRequest}[rpc]
        request = kind(
            collection_name=collection,
            partition_name=partition,
            fields_data=columns,
            num_rows=num_rows,
            **fields,
        )
        return self.call(rpc, request)

    def close(self):
        self.channel.close()


def longs(name, values, kind=schema_pb2.Int64):
    column = schema_pb2.FieldData(field_name=name, type=kind)
    payload = column.scalars.long_data if kind == schema_pb2.Int64 else column.scalars.int_data
    payload.data.extend(values)
    return column


def strings(name, values):
    column = schema_pb2.FieldData(field_name=name, type=schema_pb2.VarChar)
    column.scalars.string_data.data.extend(values)
    return column


def jsons(name, values, is_dynamic=False):
    column = schema_pb2.FieldData(field_name=name, type=schema_pb2.JSON, is_dynamic=is_dynamic)
    column.scalars.json_data.data.extend(values)
    return column


def vectors(name, dim, values):
    """`values` flattened; nothing checks that they fill whole rows."""
    column = schema_pb2.FieldData(field_name=name, type=schema_pb2.FloatVector)
    column.vectors.dim = dim
    column.vectors.float_vector.data.extend(values)
    return column


def failed(status, code, *texts):
    """Asserts on a Status: code, the old error code set too, and texts in the reason."""
    assert status.code == code, status
    assert status.error_code != common_pb2.Success, status
    for text in texts:
        assert text in status.reason, f"expected {text!r} in {status.reason!r}"


def keys(pairs):
    return [common_pb2.KeyValuePair(key=key, value=str(value)) for key, value in pairs.items()]
