"""Three root coordinators, one raft group, and the other services beside them."""

import contextlib
import json
import subprocess

from .cluster import session
from .process import BIN_DIR, Process, connect, free_port, server_binary
from .waiting import eventually

OTHERS = ["datacoord", "querycoord", "querynode", "datanode", "proxy"]


class Replicas:
    """Root coordinators by their ids. `members` found the group; more can be made to join it."""

    def __init__(self, folder, members=(1, 2, 3), settings=None):
        """`settings` are further keys of each one's configuration."""
        self.folder = folder
        self.settings = settings or {}
        self.ports = {}
        self.admin = {}
        self.processes = {}
        for node_id in members:
            self._place(node_id)
        self.founders = list(members)
        for node_id in members:
            self._make(node_id, join=False)

    def _place(self, node_id):
        self.ports[node_id] = free_port()
        self.admin[node_id] = free_port()

    def address(self, node_id):
        return f"127.0.0.1:{self.ports[node_id]}"

    def addresses(self):
        return [self.address(node_id) for node_id in self.ports]

    def data_dir(self, node_id):
        return self.folder / f"rootcoord-{node_id}"

    def _make(self, node_id, join):
        members = ",".join(f'"{one}={self.address(one)}"' for one in self.founders)
        command = [
            BIN_DIR / "rootcoord",
            "--data-dir",
            self.data_dir(node_id),
            "--listen",
            self.address(node_id),
            "--admin-listen",
            f"127.0.0.1:{self.admin[node_id]}",
            "--set",
            f"metastore.node_id={node_id}",
            "--set",
            f"metastore.members=[{members}]",
        ]
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        if join:
            command += ["--set", "metastore.join=true"]
        log = self.folder / f"rootcoord-{node_id}.log"
        name = f"rootcoord {node_id}"
        self.processes[node_id] = Process(name, command, self.admin[node_id], log)

    def start_all(self):
        for process in self.processes.values():
            process.spawn()
        for process in self.processes.values():
            process.wait_ready()

    def join(self, node_id):
        """Starts a new replica, which waits to be added."""
        self._place(node_id)
        self._make(node_id, join=True)
        self.processes[node_id].spawn()
        eventually(lambda: self.status(node_id), f"replica {node_id} answers")

    def stop(self):
        for process in self.processes.values():
            process.stop()

    def running(self):
        return [id for id, process in self.processes.items() if process.child is not None]

    def status(self, node_id):
        """What `/admin/raft` of a replica says; None where nothing answers."""
        status, body = self.processes[node_id].admin_get("/admin/raft")
        return json.loads(body)["raft"] if status == 200 else None

    def leader(self, among=None):
        """The id of the replica that leads and has said so; waits for one."""

        def find():
            for node_id in among or self.running():
                status = self.status(node_id)
                if status and status["state"] == "Leader":
                    return node_id
            return None

        return eventually(find, "a leader")

    def redkite(self, node_id, *words):
        """A subcommand of `redkite raft` at a replica: its exit code and its output."""
        admin = f"127.0.0.1:{self.admin[node_id]}"
        command = [server_binary(), "raft", *map(str, words), "--admin", admin]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr


@contextlib.contextmanager
def run_replicas(folder, settings=None):
    """Three root coordinators and one of each other service; gives (replicas, URI of the proxy)."""
    replicas = Replicas(folder, settings=settings)
    others = []
    proxy_port = free_port()
    for service in OTHERS:
        admin = free_port()
        port = proxy_port if service == "proxy" else free_port()
        command = [
            BIN_DIR / service,
            "--data-dir",
            folder / "data",
            "--listen",
            f"127.0.0.1:{port}",
            "--admin-listen",
            f"127.0.0.1:{admin}",
        ]
        for address in replicas.addresses():
            command += ["--rootcoord", address]
        for key, value in session(service).items():
            command += ["--set", f"{key}={value}"]
        others.append(Process(service, command, admin, folder / f"{service}.log"))
    try:
        replicas.start_all()
        for process in others:
            process.spawn()
        for process in others:
            process.wait_ready()
        yield replicas, f"http://127.0.0.1:{proxy_port}"
    finally:
        for process in reversed(others):
            process.stop()
        replicas.stop()


def until_it_works(uri, work, what, seconds=60):
    """Calls `work(client)` with new clients until it raises nothing; returns what it returns."""

    def attempt():
        try:
            client = connect(uri, timeout=10)
            try:
                return (work(client),)
            finally:
                client.close()
        except Exception as error:
            attempt.last = error
            return None

    attempt.last = None
    try:
        return eventually(attempt, what, seconds, 0.05)[0]
    except AssertionError as error:
        raise AssertionError(f"{error}; the last error was {attempt.last!r}") from attempt.last
