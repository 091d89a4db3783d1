"""A process under test: started, watched until ready, stopped or killed."""

import http.client
import itertools
import json
import os
import pathlib
import random
import signal
import socket
import subprocess

from pymilvus import MilvusClient

from .waiting import eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN_DIR = pathlib.Path(os.environ.get("REDKITE_BIN_DIR", ROOT / "target" / "debug"))
READY_SECONDS = float(os.environ.get("REDKITE_READY_SECONDS", "60"))
STOP_SECONDS = 60.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# Below the range from which the kernel takes ports of outgoing connections, so that a port is still free
# when a server that was killed is started again.
PORTS = range(12_000, 32_000)


def own_ports():
    """Ports that no other process of this run of the tests takes, none twice before all were used."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = PORTS[worker::workers]
    first = random.Random(os.getpid()).randrange(len(own))
    return itertools.cycle([*own[first:], *own[:first]])


_ports = own_ports()


def server_binary():
    return pathlib.Path(os.environ.get("REDKITE_BIN", ROOT / "target" / "debug" / "redkite"))


def free_port():
    """A loopback port that nothing listens on, and that nobody else in these tests was given."""
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Process:
    """One binary with its log file and its admin port."""

    def __init__(self, name, command, admin_port, log_path, env=None, wrapper=()):
        self.name = name
        self.command = [str(part) for part in (*wrapper, *command)]
        self.admin_port = admin_port
        self.log_path = pathlib.Path(log_path)
        self.env = {**os.environ, "RUST_BACKTRACE": "1", **(env or {})}
        self.child = None

    def spawn(self):
        assert self.child is None, f"{self.name} runs already"
        log = open(self.log_path, "ab")
        try:
            self.child = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, env=self.env, cwd=ROOT
            )
        finally:
            log.close()

    def wait_ready(self, seconds=READY_SECONDS):
        eventually(self._is_ready, f"{self.name} ready on port {self.admin_port}", seconds, 0.005)

    def start(self):
        self.spawn()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def _is_ready(self):
        code = self.child.poll()
        assert code is None, f"{self.name} exited with {code} at start:\n{self.log_tail()}"
        return self.admin_status("/readyz") == 200

    def admin_status(self, path):
        """HTTP status of a page of the admin port; None where nothing answers."""
        return self.admin_get(path)[0]

    def admin_get(self, path):
        """(status, body) of a page of the admin port; (None, "") where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return None, ""
        finally:
            connection.close()

    def kill9(self):
        """SIGKILL; returns when the process is gone."""
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(timeout=STOP_SECONDS)
        self.child = None

    def wait_exit(self, seconds=STOP_SECONDS):
        """Waits for the process to end by itself; returns its exit code."""
        code = self.child.wait(timeout=seconds)
        self.child = None
        return code

    def stop(self):
        """Ctrl-C; returns the exit code. A process that does not stop in time is killed: None."""
        if self.child is None:
            return 0
        child, self.child = self.child, None
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(timeout=STOP_SECONDS)
                return None
        return child.returncode

    def log_tail(self, lines=60):
        if not self.log_path.exists():
            return "(no log)"
        text = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(text[-lines:])

    def cpu_seconds(self):
        """User and system CPU time of the process so far."""
        stat = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def rss_bytes(self):
        statm = pathlib.Path(f"/proc/{self.child.pid}/statm").read_text()
        return int(statm.split()[1]) * PAGE_BYTES

    def anonymous_bytes(self):
        """Resident memory that no file backs, so that only swapping could free it."""
        status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        return int(lines["RssAnon"].split()[0]) * 1024


class Server(Process):
    """`redkite standalone` on free loopback ports."""

    def __init__(
        self, folder, binary=None, env=None, data_dir=None, settings=None, wrapper=()
    ):
        """`settings` are keys of the configuration; `wrapper` is put before the command."""
        folder = pathlib.Path(folder)
        self.data_dir = data_dir or folder / "data"
        self.port = free_port()
        admin_port = free_port()
        command = [
            binary or server_binary(),
            "standalone",
            "--data-dir",
            self.data_dir,
            "--port",
            self.port,
            "--admin-port",
            admin_port,
        ]
        for key, value in (settings or {}).items():
            command += ["--set", f"{key}={value}"]
        log_path = folder / "server.log"
        super().__init__("redkite standalone", command, admin_port, log_path, env, wrapper)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def uri(self):
        return f"http://{self.address}"

    def await_sagas(self):
        """Until definitions that a kill has cut off are finished or undone, which a server that
        serves already may still be at."""

        def none_runs():
            status, body = self.admin_get("/admin/sagas")
            return status == 200 and not json.loads(body)["sagas"]

        eventually(none_runs, "no definition is under way", 60)

    def client(self, **kwargs):
        """A client with a connection of its own, which no other client's life touches."""
        return connect(self.uri, **kwargs)


class Client(MilvusClient):
    """The ordinary client, with query results as plain lists.

    Its own lists fill in vectors and JSON only when a row is looked at, so that comparing one
    with a list compares half-filled rows.
    """

    def query(self, *args, **kwargs):
        return list(super().query(*args, **kwargs))

    def get(self, *args, **kwargs):
        return list(super().get(*args, **kwargs))


def connect(uri, **kwargs):
    """A client that sees a restarted server at once: no shared connection, short back-off.

    The least back-off stays as it is (20 s): it is how long a connection may take to come about.
    A server that is slow to answer a ping is not cut off: what was asked of it would be asked again.
    """
    kwargs.setdefault("timeout", 30)
    options = {
        "grpc.use_local_subchannel_pool": 1,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 500,
        "grpc.keepalive_timeout_ms": 60_000,
    }
    return Client(uri=uri, dedicated=True, grpc_options=options, **kwargs)
