"""What a collector of traces sees of snapshots: the calls, and what was done for them."""

import pytest
from harness.bundles import Bundles
from harness.collector import Collector
from harness.data import create_simple, simple_rows
from harness.process import Server
from harness.waiting import eventually
from test_snapshots_restore import finished

SERVICE = "/milvus.proto.milvus.MilvusService"


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture
def server(tmp_path, collector):
    settings = {
        "telemetry.otlp_endpoint": collector.endpoint,
        "datanode.bundle.local_dirs": f'["{tmp_path / "backups"}"]',
    }
    server = Server(tmp_path, settings=settings).start()
    yield server
    server.stop()


def test_snapshots_are_seen_in_traces(server, collector, tmp_path):
    client = server.client()
    create_simple(client, "books")
    client.insert("books", simple_rows(50))
    client.flush("books")
    client.create_snapshot("s", "books")
    number = client.describe_collection("books")["collection_id"]
    finished(client, client.restore_snapshot("s", "books", "copy"))
    Bundles(server).write("s", "books", f"fs://{tmp_path}/backups/b")
    client.close()

    def seen(name, **said):
        found = eventually(lambda: collector.spans(name, **said), f"a span {name} {said}")
        assert len(found) == 1, found
        return found[0]

    def call_above(span):
        """The call of a client that a span is part of, however deep."""
        while span is not None and not span.name.startswith(SERVICE):
            assert any(span.parent), f"{span} is part of no call"
            inner = span
            span = eventually(lambda: collector.above(inner), f"what {inner} is part of")
        return span.name.removeprefix(f"{SERVICE}/")

    taken = seen("create_snapshot", collection=number)
    assert call_above(taken) == "CreateSnapshot"
    restored = seen("saga", kind="restore_snapshot")
    assert call_above(restored) == "RestoreSnapshot"
    # A job that goes on when its call has been answered is a trace of its own.
    exported = seen("export_snapshot")
    assert exported.said["job"] > 0
