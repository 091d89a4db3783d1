"""The services as processes on loopback, several of each where a test wants that."""

import contextlib
import json
import pathlib
import signal

from .process import BIN_DIR, Process, free_port
from .waiting import eventually

SERVICES = ["rootcoord", "datacoord", "querycoord", "querynode", "datanode", "proxy"]
# So long that a process which the machine has no time for is not taken for dead: it would end. Whoever is killed
# and started again takes its own place at once. Not so a proxy, for which definitions wait as long; but one that
# was taken for dead goes on.
SESSION = {"common.session_ttl": "60s"}


def session(service):
    """The keys by which a service's processes announce themselves."""
    return {} if service == "proxy" else SESSION


class Cluster:
    """Processes by service and number. `counts` says of which service there is not just one."""

    def __init__(self, folder, counts=None, settings=None, env=None, config=None, own=None):
        """`settings` are keys of the configuration of every process, `env` its environment,
        `config` its configuration file; `own` are further keys by service."""
        self.folder = folder
        self.ports = {}
        self.services = {service: [] for service in SERVICES}
        root = free_port()
        for service in SERVICES:
            for number in range((counts or {}).get(service, 1)):
                port = root if service == "rootcoord" else free_port()
                admin = free_port()
                command = [
                    BIN_DIR / service,
                    "--data-dir",
                    folder / "data",
                    "--listen",
                    f"127.0.0.1:{port}",
                    "--admin-listen",
                    f"127.0.0.1:{admin}",
                    "--rootcoord",
                    f"127.0.0.1:{root}",
                ]
                keys = {**session(service), **(settings or {}), **(own or {}).get(service, {})}
                for key, value in keys.items():
                    command += ["--set", f"{key}={value}"]
                if config:
                    command += ["--config", config]
                name = f"{service}-{number}"
                process = Process(name, command, admin, folder / f"{name}.log", env)
                process.address = f"127.0.0.1:{port}"
                process.uri = f"http://{process.address}"
                self.services[service].append(process)

    def all(self):
        return [process for processes in self.services.values() for process in processes]

    def holder(self, role):
        """(the process that acts as a coordinator, its epoch), as the metadata says."""
        root = self.services["rootcoord"][0]
        status, body = root.admin_get(f"/admin/meta?key=office/{role}")
        assert status == 200, body
        record = json.loads(body)["record"]
        if record is None:
            return None, 0
        office = json.loads(record["value"])
        for process in self.services[role]:
            if process.address == office["address"]:
                return process, office["epoch"]
        raise AssertionError(f"nobody is at {office['address']}")

    def successor(self, role, epoch, seconds):
        """Waits until the office of a role has changed hands since an epoch; (process, epoch)."""

        def find():
            process, now = self.holder(role)
            return (process, now) if now > epoch else None

        return eventually(find, f"another {role} takes over", seconds)


@contextlib.contextmanager
def run_cluster(folder, counts=None, settings=None, env=None, config=None, own=None):
    cluster = Cluster(folder, counts, settings, env, config, own)
    try:
        for process in cluster.all():
            process.spawn()
        for process in cluster.all():
            process.wait_ready()
        yield cluster
    finally:
        for process in reversed(cluster.all()):
            if process.child is not None:
                process.child.send_signal(signal.SIGCONT)
            process.stop()


@contextlib.contextmanager
def frozen(process):
    """The process is stopped, as by a machine that has no time for it."""
    pid = process.child.pid
    process.child.send_signal(signal.SIGSTOP)

    def has_stopped():
        try:
            stats = [stat.read_text() for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/stat")]
        except OSError:
            # A thread that has just ended.
            return False
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    try:
        # One thread takes the signal, when it gets time to, and the others go on until then.
        eventually(has_stopped, f"{process.name} has stopped")
        yield
    finally:
        process.child.send_signal(signal.SIGCONT)
