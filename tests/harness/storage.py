"""The homes of data that a test can run a server on."""

import contextlib
import tempfile

from .weed import Bucket, Weed


class Storage:
    """Where a server keeps its objects: settings for its configuration, one place for each server.

    `endpoint_port`: the port of a remote store, for putting something into the way.
    """

    def __init__(self, settings=None, endpoint_port=None):
        self.make_settings = settings or (lambda number: {})
        self.endpoint_port = endpoint_port

    def settings(self, number=0, endpoint=None):
        """Settings for the server with this number; no two servers share a place."""
        settings = self.make_settings(number)
        return {**settings, "storage.endpoint": endpoint} if endpoint else settings


@contextlib.contextmanager
def fs():
    """Files below the data directory."""
    yield Storage()


@contextlib.contextmanager
def s3():
    """A real S3 server with a bucket for each server; the logs are there too."""
    with tempfile.TemporaryDirectory(prefix="redkite-s3-") as folder:
        weed = Weed(folder).start()
        buckets = {}

        def settings(number):
            if number not in buckets:
                buckets[number] = Bucket(weed)
            return buckets[number].settings

        try:
            yield Storage(settings, weed.ports["s3.port"])
        finally:
            weed.stop()


# A further home is one line here: its name, and what opens it as a context that yields a `Storage`.
STORAGES = {
    "fs": fs,
    "s3": s3,
}
