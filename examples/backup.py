"""Backs collections up and lets old backups go.

    python examples/backup.py http://localhost:19530 s3://bucket/backups --keep 7
    python examples/backup.py http://localhost:19530 s3://bucket/backups --restore films nightly_... copy

Run it from a scheduler. Each run takes a snapshot of every collection, with all rows that were
acknowledged, exports it below the given path, and drops the snapshots of earlier runs but the newest
`--keep`. Snapshots protect from mistakes; the exports protect from the loss of the store. Old exports are
the path's owner's to remove: each is one directory.

EXTERNAL_SPEC in the environment says how the store is reached, as Milvus's `external_spec`; without it
the keys come from the server's own configuration.
"""

import argparse
import os
import sys
import time

import grpc
from pymilvus import MilvusClient
from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc

PREFIX = "nightly_"
POLL_SECONDS = 0.2


class Server:
    """The ordinary client, and the requests that it has no methods for yet."""

    def __init__(self, uri):
        self.client = MilvusClient(uri)
        self.stub = milvus_pb2_grpc.MilvusServiceStub(grpc.insecure_channel(uri.split("://")[-1]))
        self.spec = os.environ.get("EXTERNAL_SPEC", "")

    def take(self, snapshot, collection):
        request = milvus_pb2.CreateSnapshotRequest(name=snapshot, collection_name=collection)
        # Everything that was acknowledged, on all shards as of one timestamp.
        request.base.properties["snapshot.flush"] = "true"
        check(self.stub.CreateSnapshot(request))

    def export(self, snapshot, collection, path):
        request = milvus_pb2.ExportSnapshotRequest(
            name=snapshot,
            collection_name=collection,
            target_s3_path=path,
            external_spec=self.spec,
        )
        begun = self.stub.ExportSnapshot(request)
        check(begun.status)
        asked = milvus_pb2.GetExportSnapshotStateRequest(job_id=begun.job_id)
        while True:
            answer = self.stub.GetExportSnapshotState(asked)
            check(answer.status)
            info = answer.info
            if info.state == milvus_pb2.ExportSnapshotCompleted:
                return info
            if info.state == milvus_pb2.ExportSnapshotFailed:
                sys.exit(f"export of {collection} failed: {info.reason}")
            time.sleep(POLL_SECONDS)

    def restore(self, uri, target):
        request = milvus_pb2.RestoreExternalSnapshotRequest(
            target_collection_name=target, snapshot_metadata_uri=uri, external_spec=self.spec
        )
        begun = self.stub.RestoreExternalSnapshot(request)
        check(begun.status)
        while True:
            info = self.client.get_restore_snapshot_state(begun.job_id)
            if info.state == "RestoreSnapshotCompleted":
                return
            if info.state == "RestoreSnapshotFailed":
                sys.exit(f"restore of {target} failed: {info.reason}")
            time.sleep(POLL_SECONDS)


def check(status):
    if status.code != 0:
        sys.exit(f"code {status.code}: {status.reason}")


def back_up(server, path, keep):
    # Sorted by name they are sorted by time.
    snapshot = f"{PREFIX}{time.strftime('%Y%m%d_%H%M%S', time.gmtime())}_{time.time_ns() % 10**9:09}"
    for collection in server.client.list_collections():
        server.take(snapshot, collection)
        info = server.export(snapshot, collection, f"{path}/{collection}/{snapshot}")
        print(f"{collection}: {info.total_files} files, {info.total_bytes} bytes: {info.snapshot_metadata_uri}")
        taken = [s for s in server.client.list_snapshots(collection) if s.startswith(PREFIX)]
        for old in sorted(taken)[:-keep]:
            server.client.drop_snapshot(old, collection)
            print(f"{collection}: {old} dropped")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uri", help="the server, http://host:port")
    parser.add_argument("path", help="where backups go: s3://bucket/path, or fs:///path")
    parser.add_argument("--keep", type=int, default=7, help="snapshots that stay in the server")
    parser.add_argument(
        "--restore",
        nargs=3,
        metavar=("COLLECTION", "SNAPSHOT", "TARGET"),
        help="restore a backup into a new collection instead",
    )
    args = parser.parse_args()
    server, path = Server(args.uri), args.path.rstrip("/")
    if args.restore:
        collection, snapshot, target = args.restore
        server.restore(f"{path}/{collection}/{snapshot}/metadata.json", target)
        print(f"{target} restored")
    else:
        back_up(server, path, max(args.keep, 1))


if __name__ == "__main__":
    main()
