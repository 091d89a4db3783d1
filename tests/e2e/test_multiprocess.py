"""The six services as six processes on loopback, and the quick start against their proxy."""

import contextlib
import subprocess
import sys

import pytest
from harness.cluster import SERVICES, session
from harness.data import count, create_simple, simple_rows
from harness.process import BIN_DIR, ROOT, Process, connect, free_port
from harness.waiting import eventually


def command_of(service, folder, ports):
    """The command line of one service. `ports`: service -> (rpc port, admin port).

    The proxy's `--listen` is the Milvus port. All services are told where rootcoord is and find
    each other through it. Data that several services share lies under one directory.
    """
    listen, admin = ports[service]
    return [
        BIN_DIR / service,
        "--data-dir",
        folder / "data",
        "--listen",
        f"127.0.0.1:{listen}",
        "--admin-listen",
        f"127.0.0.1:{admin}",
        "--rootcoord",
        f"127.0.0.1:{ports['rootcoord'][0]}",
        *(word for key, value in session(service).items() for word in ("--set", f"{key}={value}")),
    ]


@contextlib.contextmanager
def run_cluster(folder, env=None):
    """The running processes, in the order of SERVICES."""
    ports = {service: (free_port(), free_port()) for service in SERVICES}
    processes = [
        Process(
            service,
            command_of(service, folder, ports),
            ports[service][1],
            folder / f"{service}.log",
            env,
        )
        for service in SERVICES
    ]
    processes[-1].uri = f"http://127.0.0.1:{ports['proxy'][0]}"
    try:
        for process in processes:
            process.spawn()
        for process in processes:
            process.wait_ready()
        yield processes
    finally:
        for process in reversed(processes):
            process.stop()


@pytest.fixture
def cluster(tmp_path):
    with run_cluster(tmp_path) as processes:
        yield processes


@pytest.mark.timeout(300)
def test_the_quick_start_passes(cluster):
    uri = cluster[-1].uri
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py", uri],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "collection there: False" in done.stdout


@pytest.mark.timeout(300)
def test_a_killed_proxy_and_querynode_are_replaced(cluster):
    proxy = cluster[-1]
    client = connect(proxy.uri)
    create_simple(client, "c")
    client.insert("c", simple_rows(100))
    client.close()
    for service in ("proxy", "querynode"):
        process = next(p for p in cluster if p.name == service)
        process.kill9()
        process.start()
        client = connect(proxy.uri)

        def served(client=client):
            try:
                return count(client, "c", timeout=5) == 100
            except Exception:
                return False

        eventually(served, f"the rows are served after a kill of {service}", 60)
        client.close()
