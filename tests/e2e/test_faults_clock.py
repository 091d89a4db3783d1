"""A wall clock that jumps: timestamps grow all the same, and nothing that was written is hidden."""

import json

import pytest
from harness import faults
from harness.data import count, create_simple, simple_rows
from harness.process import Server

NAME = "timed"
HOUR = 3600


@pytest.fixture
def clock(tmp_path):
    return faults.MovedClock(tmp_path)


def timestamp(client):
    return client._get_connection().alloc_timestamp(timeout=60)


def wall_clock(server):
    """What the server's log says the time is, in the last line."""
    return server.log_path.read_text().splitlines()[-1].split()[0]


def test_timestamps_grow_when_the_clock_jumps_back_an_hour(tmp_path, clock):
    server = Server(tmp_path, env=clock.env).start()
    try:
        client = server.client()
        create_simple(client, NAME)
        given = [timestamp(client)]
        rows = 0

        def go_on():
            nonlocal rows
            for _ in range(10):
                given.append(timestamp(client))
                client.insert(NAME, simple_rows(3, start=rows))
                rows += 3
                # Strong reads ask for all that was written before, by timestamp.
                assert count(client, NAME) == rows
                given.append(timestamp(client))
            client.delete(NAME, ids=[rows - 1])
            assert count(client, NAME) == rows - 1
            client.insert(NAME, simple_rows(1, start=rows - 1))
            assert count(client, NAME) == rows
            client.create_partition(NAME, f"p{rows}")
            # It is logged, with the time.
            client.flush(NAME)

        go_on()
        before = wall_clock(server)
        clock.move(-HOUR)
        go_on()
        assert wall_clock(server) < before, "the clock was not moved"
        # Nor does a process that begins with the wrong time know better.
        client.close()
        server.kill9()
        server.start()
        client = server.client()
        go_on()
        clock.move(HOUR)
        go_on()
        clock.move(0)
        go_on()
        assert given == sorted(set(given)), json.dumps(given)
        client.close()
    finally:
        server.stop()
