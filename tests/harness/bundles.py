"""Snapshots exported and restored through the requests that the client library has no methods for."""

import json

from pymilvus.grpc_gen import milvus_pb2

from .raw import Raw
from .waiting import eventually
from .weed import ACCESS_KEY, SECRET_KEY


def spec(weed):
    """The `external_spec` of an S3 server's buckets."""
    extfs = {
        "cloud_provider": "minio",
        "region": "us-east-1",
        "use_ssl": "false",
        "access_key_id": ACCESS_KEY,
        "access_key_value": SECRET_KEY,
    }
    return json.dumps({"extfs": extfs})


def path(weed, bucket, key):
    """A path in a bucket, as Milvus writes that of a server of one's own."""
    host = weed.endpoint.removeprefix("http://")
    return f"s3://{host}/{bucket}/{key}"


class Bundles:
    """Exports and restores of one server."""

    def __init__(self, server):
        self.raw = Raw(server.address)

    def export(self, snapshot, collection, to, spec="", db=""):
        """(job, code, text) of the request."""
        request = milvus_pb2.ExportSnapshotRequest(
            name=snapshot, collection_name=collection, target_s3_path=to, external_spec=spec
        )
        answer = self.raw.call("ExportSnapshot", request, db=db)
        return answer.job_id, answer.status.code, answer.status.reason

    def export_state(self, job):
        request = milvus_pb2.GetExportSnapshotStateRequest(job_id=job)
        return self.raw.call("GetExportSnapshotState", request)

    def exported(self, job, seconds=90):
        """The job's last state; its progress never decreases on the way."""
        seen = [(0, 0)]

        def has_ended():
            answer = self.export_state(job)
            assert answer.status.code == 0, answer.status
            info = answer.info
            assert (info.progress, info.copied_files) >= seen[-1]
            seen.append((info.progress, info.copied_files))
            assert (info.snapshot_metadata_uri != "") == (info.state == 3), info
            return info if info.state in (3, 4) else None

        return eventually(has_ended, "the export has ended", seconds, 0.05)

    def write(self, snapshot, collection, to, spec=""):
        """Exports; the URI of what says that the bundle is complete."""
        job, code, text = self.export(snapshot, collection, to, spec)
        assert code == 0, text
        info = self.exported(job)
        assert info.state == milvus_pb2.ExportSnapshotCompleted, info
        assert (info.progress, info.copied_files) == (100, info.total_files)
        assert info.total_bytes > 0 and info.time_cost > 0
        assert info.snapshot_metadata_uri == f"{to}/metadata.json"
        return info.snapshot_metadata_uri

    def restore(self, uri, target, spec="", db=""):
        """(job, code, text) of the request."""
        request = milvus_pb2.RestoreExternalSnapshotRequest(
            target_collection_name=target, snapshot_metadata_uri=uri, external_spec=spec
        )
        answer = self.raw.call("RestoreExternalSnapshot", request, db=db)
        return answer.job_id, answer.status.code, answer.status.reason

    def create(self, snapshot, collection, flush=True, timeout=120):
        """Takes a snapshot that says itself whether it flushes."""
        request = milvus_pb2.CreateSnapshotRequest(name=snapshot, collection_name=collection)
        request.base.properties["snapshot.flush"] = str(flush).lower()
        status = self.raw.call("CreateSnapshot", request, timeout=timeout)
        assert status.code == 0, status.reason

    def close(self):
        self.raw.close()
