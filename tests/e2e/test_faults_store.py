"""An object store in trouble: acknowledged rows are there whatever it does, and it passes.

The faults are played by a proxy between the server and the store. The first tests show, against a
plain HTTP server, that the proxy does what it says.
"""

import contextlib
import http.client
import http.server
import os
import random
import socket
import threading

import pytest
from harness.data import count, create_simple
from harness.faultproxy import FAULTS, FaultProxy
from harness.process import Server
from harness.storage import STORAGES
from harness.waiting import eventually
from harness.workload import Definer, Load, Writer, check_everything

NAME = "far_away"
FAULT_SECONDS = float(os.environ.get("REDKITE_STORE_FAULT_SECONDS", "30"))
# Refused because a queue is full, memory is short, the log fails, or time is over.
PASSING = {2, 3, 4, 5, 8, 503, 1001, 10001}


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made = FaultProxy(server.server_port, delay=0.2)
    yield made
    made.close()
    server.shutdown()
    server.server_close()


def put(proxy, body, timeout=60):
    """(status, body) of a request through the proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("PUT", "/x", body=body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_the_proxy_forwards_what_it_gets(proxy):
    body = os.urandom(3 << 20)
    assert put(proxy, body) == (200, body)
    assert proxy.hits == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_the_proxy_plays_a_fault_and_ends_it(proxy, fault):
    body = os.urandom(200_000)
    with proxy.faulty(fault):
        if fault in ("500", "503"):
            status, answer = put(proxy, body)
            assert status == int(fault) and b"<Code>" in answer
        elif fault == "slow":
            assert put(proxy, body) == (200, body)
            assert proxy.hits > 0
        elif fault == "timeout":
            with pytest.raises(socket.timeout):
                put(proxy, body, timeout=0.5)
        elif fault == "reset":
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                put(proxy, body)
        else:
            with pytest.raises(ConnectionRefusedError):
                put(proxy, body)
    assert put(proxy, body) == (200, body)


def test_a_connection_that_is_open_when_a_fault_begins_is_cut(proxy):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("PUT", "/x", body=b"first")
        assert connection.getresponse().read() == b"first"
        with proxy.faulty("refused"), pytest.raises((ConnectionError, http.client.HTTPException)):
            connection.request("PUT", "/x", body=b"second")
            connection.getresponse()
            connection.close()
            connection.request("PUT", "/x", body=b"third")


REMOTE = [name for name in STORAGES if name != "fs"]


@pytest.mark.skipif(not REMOTE, reason="no remote store is among harness.storage.STORAGES")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("home", REMOTE or ["none"])
def test_a_store_in_trouble_loses_nothing_and_passes(home, fault, tmp_path):
    """The remote homes put the proxy into the way: `Storage.endpoint_port` and `settings(proxy=)`."""
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed={seed}")
    with STORAGES[home]() as storage:
        between = FaultProxy(storage.endpoint_port)
        settings = storage.settings(0, endpoint=f"http://{between.address}")
        server = Server(tmp_path, settings=settings).start()
        try:
            client = server.client()
            create_simple(client, NAME, index="HNSW")
            patience = {"tolerated": PASSING, "may_time_out": True}
            workers = [Writer(number, seed, NAME, **patience) for number in range(2)]
            workers.append(Definer(seed, NAME, kinds=["flush", "create"], **patience))
            with Load(server.address, workers) as load:
                wanted = load.acknowledged() + 30
                eventually(lambda: load.acknowledged() >= wanted or load.failed(), "writes", 60)
                with between.faulty(fault):
                    load.stop.wait(FAULT_SECONDS)
                    met = lambda: between.hits > 0 or fault == "refused" or load.failed()  # noqa: E731
                    eventually(met, "the fault is met", 120)
                assert server.child.poll() is None, server.log_tail()
                wanted = load.acknowledged() + 30
                eventually(lambda: load.acknowledged() >= wanted or load.failed(), "writes", 180)
            load.check()
            found = check_everything(client, NAME, workers)
            client.flush(NAME)
            assert check_everything(client, NAME, workers) == found
            client.close()
            server.kill9()
            server.start()
            client = server.client()
            assert check_everything(client, NAME, workers) == found
            assert count(client, NAME) >= len(found)
            client.close()
        finally:
            server.stop()
            between.close()
