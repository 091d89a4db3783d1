"""Snapshots against what had been written at their timestamp, by the timestamps of the answers.

Set REDKITE_TEST_SEED to run a failing sequence again.
"""

import os
import random
import threading

import pytest
from harness.bundles import Bundles
from harness.data import DIM, all_rows, create_simple, make_vectors
from harness.raw import Raw, longs, strings, vectors
from harness.waiting import eventually
from pymilvus.grpc_gen import milvus_pb2
from test_snapshots_restore import restore, targets  # noqa: F401: a fixture

KINDS = ("insert", "upsert", "delete")
KEYS = 60
SNAPSHOTS = 4


class Writer:
    """Writes rows of its own at random, and keeps of each key what it was from which time on."""

    def __init__(self, server, collection, number, seed, together):
        self.rng = random.Random(seed)
        self.raw, self.collection = Raw(server.address), collection
        self.keys = range(number * 1000, number * 1000 + KEYS)
        # How many rows a request has: those of one channel are written at one time.
        self.together = together
        self.rows = {}
        # By key, (timestamp, row or None), and (timestamp, kind) of all.
        self.history = {key: [] for key in self.keys}
        self.writes = []
        self.stop = threading.Event()
        self.failure = None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.stop.is_set():
                self.step()
        except Exception as error:  # noqa: BLE001: shown by the test
            self.failure = error
        finally:
            self.raw.close()

    def step(self):
        kind = self.rng.choice(KINDS)
        possible = {
            "insert": [key for key in self.keys if key not in self.rows],
            "upsert": list(self.keys),
            "delete": list(self.rows),
        }[kind]
        chosen = self.rng.sample(possible, min(len(possible), self.rng.randint(1, self.together)))
        if not chosen:
            return
        if kind == "delete":
            request = milvus_pb2.DeleteRequest(collection_name=self.collection, expr=f"id in {chosen}")
            answer = self.raw.call("Delete", request)
            after = dict.fromkeys(chosen)
        else:
            after = {key: self.made(key) for key in chosen}
            answer = self.raw.insert(
                self.collection, columns(after.values()), len(after), rpc=kind.capitalize()
            )
        assert answer.status.code == 0, answer.status
        assert answer.timestamp > 0, answer
        for key, row in after.items():
            self.history[key].append((answer.timestamp, row))
            if row is None:
                del self.rows[key]
            else:
                self.rows[key] = row
        self.writes.append((answer.timestamp, kind))

    def made(self, key):
        return {
            "id": key,
            "vector": make_vectors(1, seed=self.rng.randrange(10**6))[0].tolist(),
            "number": self.rng.randrange(10**9),
            "label": f"{key} {self.rng.randrange(10**9)}",
        }

    def at(self, ts):
        """The rows at a time: what is written at it is among them."""
        found = {}
        for key, changes in self.history.items():
            row = [None, *(row for when, row in changes if when <= ts)][-1]
            if row is not None:
                found[key] = row
        return found


def columns(rows):
    rows = list(rows)
    return [
        longs("id", [row["id"] for row in rows]),
        vectors("vector", DIM, [value for row in rows for value in row["vector"]]),
        longs("number", [row["number"] for row in rows]),
        strings("label", [row["label"] for row in rows]),
    ]


def differences(found, expected):
    keys = found.keys() | expected.keys()
    return {
        key: (found.get(key), expected.get(key))
        for key in sorted(keys)
        if found.get(key) != expected.get(key)
    }


@pytest.mark.parametrize(
    "flush, shards", [(True, 3), (True, 1), (False, 1)], ids=["flushed-3", "flushed-1", "as-it-is"]
)
def test_a_snapshot_is_what_was_written_up_to_its_timestamp(
    server, client, new_client, name, targets, flush, shards  # noqa: F811
):
    """Whatever was written at `create_ts` or before is in it, and nothing else: each row of each key
    is compared. Without a flush that is so for a channel, whose position `create_ts` then is."""
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    create_simple(client, name, num_shards=shards)
    # Requests of several channels have no time of their own.
    together = 3 if shards == 1 else 1
    writers = [Writer(server, name, n, seed + n, together) for n in range(3)]
    bundles, stop, failures = Bundles(server), threading.Event(), []

    def flush_on():
        # So that it is not known what a snapshot that does not flush finds.
        connected = new_client()
        try:
            while not stop.is_set():
                connected.flush(name)
                connected.compact(name)
        except Exception as error:  # noqa: BLE001: shown below
            failures.append(error)

    threads = [writer.thread for writer in writers]
    if not flush:
        threads.append(threading.Thread(target=flush_on))
    for thread in threads:
        thread.start()

    def written(more):
        reached = [len(writer.writes) + more for writer in writers]

        def is_written():
            failed = failures or any(writer.failure for writer in writers)
            return failed or all(len(one.writes) >= n for one, n in zip(writers, reached))

        eventually(is_written, "rows are written", 60)

    taken = []
    try:
        for i in range(SNAPSHOTS):
            written(20)
            # What was acknowledged before that, and flushed, has no later timestamp.
            last = max(ts for writer in writers for ts, _ in list(writer.writes))
            if not flush:
                client.flush(name)
            bundles.create(f"s{i}", name, flush=flush)
            taken.append((f"s{i}", last))
        written(20)
    finally:
        stop.set()
        for writer in writers:
            writer.stop.set()
        for thread in threads:
            thread.join()
        bundles.close()
    assert not failures, failures
    assert not [writer.failure for writer in writers if writer.failure]
    for writer in writers:
        for changes in writer.history.values():
            times = [ts for ts, _ in changes]
            assert times == sorted(set(times)), times
    writes = [write for writer in writers for write in writer.writes]
    print(f"{len(writes)} writes")
    before = 0
    for snapshot, last in taken:
        create_ts = client.describe_snapshot(snapshot, name).create_ts
        # Each kind of write is on both sides of it.
        for kind in KINDS:
            sides = {ts <= create_ts for ts, one in writes if one == kind}
            assert sides == {True, False}, (snapshot, kind)
        assert create_ts > before
        before = create_ts
        assert create_ts >= last, snapshot
        expected = {}
        for writer in writers:
            expected |= writer.at(create_ts)
        target = targets()
        restore(client, snapshot, name, target)
        client.load_collection(target)
        found = {row["id"]: row for row in all_rows(client, target)}
        assert differences(found, expected) == {}, snapshot
