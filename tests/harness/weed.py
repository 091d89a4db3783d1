"""A real S3 server: SeaweedFS on free loopback ports, which dies with the tests."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

import boto3
import botocore.config
import botocore.exceptions

from .process import STOP_SECONDS, free_port
from .waiting import eventually

ACCESS_KEY = "redkite"
SECRET_KEY = "redkite-secret"
START_SECONDS = 60.0

# Kills the server when the pipe on its input ends, which it does however the tests end. The first
# argument is a pattern of sockets that the server leaves behind.
KEEPER = """
sockets=$1; log=$2; shift 2
"$@" >>"$log" 2>&1 </dev/null &
server=$!
echo $server
cat >/dev/null
kill -9 $server
wait $server 2>/dev/null
rm -f $sockets
"""

_numbers = itertools.count(1)


def weed_binary():
    """`REDKITE_WEED`, or the one that pip has put beside this Python."""
    default = pathlib.Path(sys.executable).parent / "weed"
    return pathlib.Path(os.environ.get("REDKITE_WEED", default))


class Weed:
    """The server. `stall()` and `go_on()` play a server that hangs, `kill9()` one that is gone."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.log_path = self.folder / "weed.log"
        self.ports = {
            name: free_port()
            for name in (
                "master.port",
                "master.port.grpc",
                "volume.port",
                "volume.port.grpc",
                "filer.port",
                "filer.port.grpc",
                "s3.port",
                "s3.port.grpc",
            )
        }
        self.endpoint = f"http://127.0.0.1:{self.ports['s3.port']}"
        self.keeper = None
        self.pid = None

    def start(self):
        data = self.folder / "weed"
        data.mkdir(exist_ok=True)
        keys = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "test", "credentials": [keys], "actions": actions}
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        sockets = " ".join(f"/tmp/seaweedfs-*-{port}.sock" for port in self.ports.values())
        command = ["sh", "-c", KEEPER, "sh", sockets, self.log_path, weed_binary(), "server"]
        command += [f"-{name}={port}" for name, port in self.ports.items()]
        command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}", "-filer", "-s3"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}"]
        command += ["-s3.autoCreateBucket=false", "-master.telemetry=false"]
        command += ["-master.volumeSizeLimitMB=64", "-volume.max=400"]
        self.keeper = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = int(self.keeper.stdout.readline())
        try:
            eventually(self._answers, "the S3 server answers", START_SECONDS, 0.1)
        except AssertionError as error:
            log = self.log_path.read_text(errors="replace")[-4000:]
            raise AssertionError(f"{error}, on {self.ports}:\n{log}") from error
        return self

    def _answers(self):
        stat = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
        assert stat.rsplit(")", 1)[1].split()[0] != "Z", "the S3 server has ended"
        try:
            self.client().list_buckets()
            self.new_bucket()
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            return False
        return True

    def stop(self):
        """Ends the server at once, as a kill would; `start()` finds its data again."""
        if self.keeper is None:
            return
        keeper, self.keeper = self.keeper, None
        keeper.stdin.close()
        keeper.wait(timeout=STOP_SECONDS)
        keeper.stdout.close()

    def stall(self):
        """The server takes connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def client(self):
        """A client of its own for looking at what is stored."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=botocore.config.Config(connect_timeout=5, read_timeout=20),
        )

    def new_bucket(self):
        name = f"bucket-{next(_numbers)}"
        self.client().create_bucket(Bucket=name)
        return name


class Bucket:
    """A fresh bucket and how a server is told of it."""

    def __init__(self, weed):
        self.weed = weed
        self.name = weed.new_bucket()
        self.uri = f"s3://{self.name}/some/prefix"
        self.settings = {
            "storage.uri": self.uri,
            "storage.endpoint": weed.endpoint,
            "storage.access_key": ACCESS_KEY,
            "storage.secret_key": SECRET_KEY,
        }
        self.env = {
            f"REDKITE__{key.upper().replace('.', '__')}": value
            for key, value in self.settings.items()
        }

    def entries(self):
        pages = self.weed.client().get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [entry for page in pages for entry in page.get("Contents", [])]

    def keys(self):
        """All object keys, without the prefix."""
        return sorted(entry["Key"].removeprefix("some/prefix/") for entry in self.entries())

    def bytes(self):
        """What all objects take together."""
        return sum(entry["Size"] for entry in self.entries())
