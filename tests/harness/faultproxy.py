"""A proxy in front of an HTTP server whose faults are switched on and off while it runs.

It forwards bytes, so that requests arrive exactly as they were signed; only the answers are its own
where it plays a server in trouble.
"""

import contextlib
import select
import socket
import threading

from .process import free_port

CHUNK = 64 << 10
REASONS = {500: "Internal Server Error", 503: "Slow Down"}
CODES = {500: "InternalError", 503: "SlowDown"}
# What can go wrong, by name.
FAULTS = ("500", "503", "slow", "timeout", "reset", "refused")


class FaultProxy:
    """Listens on a loopback port and forwards to another one.

    Faults: `500` and `503` answer every request with that status; `slow` lets every piece wait for
    `delay` seconds; `timeout` takes requests and never answers; `reset` cuts connections in the
    middle of a request; `refused` takes no connection. Connections that were open when a fault
    begins are cut, except for `slow`.
    """

    def __init__(self, target_port, delay=0.3):
        self.target_port = target_port
        self.delay = delay
        self.fault = None
        # What requests begin with that are taken and never passed on.
        self.swallow = None
        # Requests or connections that met a fault.
        self.hits = 0
        self._lock = threading.Lock()
        self._open = set()
        self._stopping = threading.Event()
        self._listener = None
        # Not one that the kernel gives out: while nothing listens there (`refused`) an outgoing connection
        # could take it, even one that tries to reach it and then talks to itself.
        self.port = free_port()
        self._listen()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self, fault):
        assert fault in FAULTS, fault
        with self._lock:
            self.fault = fault
        if fault == "refused":
            self._close_listener()
        if fault != "slow":
            self._cut_all()

    def stop_fault(self):
        with self._lock:
            before, self.fault = self.fault, None
        if before == "refused":
            self._listen()
        if before == "timeout":
            self._cut_all()

    @contextlib.contextmanager
    def faulty(self, fault):
        self.start(fault)
        try:
            yield self
        finally:
            self.stop_fault()

    def close(self):
        self._stopping.set()
        self._close_listener()
        self._cut_all()

    def _listen(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _close_listener(self):
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            # Wakes the thread that waits in accept().
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()

    def _accept(self, listener):
        while not self._stopping.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _cut_all(self):
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            _cut(connection)

    def _hit(self):
        with self._lock:
            self.hits += 1

    def _serve(self, client):
        server = None
        try:
            if self.fault in ("500", "503", "timeout", "reset"):
                with self._lock:
                    self._open.add(client)
                self._play(client)
                return
            server = socket.create_connection(("127.0.0.1", self.target_port), timeout=10)
            server.settimeout(None)
            with self._lock:
                if self.fault not in (None, "slow"):
                    # It began while the connection came about, and has cut only those that were open.
                    return
                self._open.update((client, server))
            self._forward(client, server)
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.difference_update((client, server))
            for connection in (client, server):
                if connection is not None:
                    connection.close()

    def _forward(self, client, server):
        """Copies both ways until one side ends."""
        other = {client: server, server: client}
        while True:
            ready, _, _ = select.select([client, server], [], [], 1)
            if self._stopping.is_set():
                return
            for source in ready:
                piece = source.recv(CHUNK)
                if not piece:
                    return
                if self.swallow and source is client and piece.startswith(self.swallow):
                    self._hit()
                    continue
                if self.fault == "slow":
                    self._hit()
                    self._stopping.wait(self.delay)
                other[source].sendall(piece)

    def _play(self, client):
        """Answers requests as a server in trouble does, until the connection ends."""
        buffered = b""
        while True:
            head, buffered = _read_until(client, buffered, b"\r\n\r\n")
            if head is None:
                return
            self._hit()
            fault = self.fault
            if fault == "timeout":
                # It is cut when the fault ends.
                while not self._stopping.is_set() and client.recv(CHUNK):
                    pass
                return
            if fault not in ("500", "503"):
                _cut(client)
                return
            length = _content_length(head)
            if b"100-continue" in head.lower():
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            while len(buffered) < length:
                piece = client.recv(CHUNK)
                if not piece:
                    return
                buffered += piece
            buffered = buffered[length:]
            client.sendall(_answer(int(fault), is_head=head.startswith(b"HEAD ")))


def _answer(status, is_head):
    body = f"<Error><Code>{CODES[status]}</Code><Message>played</Message></Error>".encode()
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + (b"" if is_head else body)


def _read_until(connection, buffered, end):
    """(head, rest), or (None, rest) when the connection ends before."""
    while end not in buffered:
        piece = connection.recv(CHUNK)
        if not piece:
            return None, buffered
        buffered += piece
    head, rest = buffered.split(end, 1)
    return head, rest


def _content_length(head):
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def _cut(connection):
    """Ends a connection with a reset, so that the other side cannot take it for a proper end."""
    with contextlib.suppress(OSError):
        linger_now = b"\1\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_now)
    with contextlib.suppress(OSError):
        # Wakes whoever waits for it in another thread.
        connection.shutdown(socket.SHUT_RDWR)
