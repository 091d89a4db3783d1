"""Servers, clients and collection names for the tests."""

import itertools
import logging
import os
import re

import pytest
from harness import faults
from harness.process import Process, Server
from harness.raw import Raw
from harness.weed import Bucket, Weed

_numbers = itertools.count(1)

# The client logs a traceback for every error that a test provokes.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


def pytest_sessionstart(session):
    faults.sweep()


def pytest_report_header(config):
    return f"REDKITE_TEST_SEED={os.environ.get('REDKITE_TEST_SEED', '(random)')}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if not report.failed:
        return
    for value in getattr(item, "funcargs", {}).values():
        for process in value if isinstance(value, list) else [value]:
            if isinstance(process, Process):
                report.sections.append((f"log of {process.name}", process.log_tail()))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One running server for all tests of this worker."""
    running = Server(tmp_path_factory.mktemp("server")).start()
    yield running
    running.stop()


@pytest.fixture
def restartable_server(tmp_path):
    """A running server of the test's own: `kill9()`, `stop()`, `start()`."""
    running = Server(tmp_path).start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def weed(tmp_path_factory):
    """One S3 server for all tests of this worker."""
    running = Weed(tmp_path_factory.mktemp("weed")).start()
    yield running
    running.stop()


@pytest.fixture
def s3(weed):
    """A fresh bucket: `uri`, `env` for a server that is to use it, `keys()`."""
    return Bucket(weed)


@pytest.fixture(scope="session")
def client(server):
    """A client of the shared server, on the database `default`."""
    connected = server.client()
    yield connected
    connected.close()


@pytest.fixture
def new_client(server):
    """Makes further clients of the shared server; closed at the end of the test."""
    clients = []

    def make(**kwargs):
        clients.append(server.client(**kwargs))
        return clients[-1]

    yield make
    for connected in clients:
        connected.close()


@pytest.fixture
def raw(server):
    connected = Raw(server.address)
    yield connected
    connected.close()


def unique_name(request):
    short = re.sub(r"\W", "_", request.node.name, flags=re.ASCII)[:80]
    return f"{short}_{next(_numbers)}"


@pytest.fixture
def name(request, client):
    """A collection name of the test's own; the collection is dropped at the end."""
    chosen = unique_name(request)
    yield chosen
    client.drop_collection(chosen)


@pytest.fixture
def other_name(request, client):
    """A second one."""
    chosen = f"other_{unique_name(request)}"
    yield chosen
    client.drop_collection(chosen)
