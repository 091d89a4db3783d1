"""Snapshots against a reference, and against everything else that goes on.

Set REDKITE_TEST_SEED to run a failing sequence again, REDKITE_SNAPSHOT_SECONDS for longer ones.
"""

import os
import random
import shutil
import threading
import time

import grpc
import pytest
from harness import redkite
from harness.bundles import Bundles
from harness.data import all_rows, count, create_simple, make_vectors, simple_rows
from harness.errors import fails
from harness.process import Server
from harness.raw import Raw
from harness.waiting import eventually
from pymilvus import MilvusException
from pymilvus.grpc_gen import milvus_pb2
from test_snapshots_restore import ON_DEMAND, finished, restore

# Snapshots and copies that are there at a time: each file of each is read at the end.
KEPT = 12
SECONDS = float(os.environ.get("REDKITE_SNAPSHOT_SECONDS", "4"))


def chosen_seed():
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    return seed


class Writer:
    """Writes rows of its own at random, and remembers each write with what it left behind."""

    def __init__(self, client, collection, number, seed):
        self.rng = random.Random(seed)
        self.client, self.collection, self.number = client, collection, number
        self.rows = {}
        # What the rows were after so many answers.
        self.states = [{}]
        self.stop = threading.Event()
        self.failure = None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.stop.is_set():
                self.step()
        except Exception as error:  # noqa: BLE001: shown by the test
            self.failure = error

    def step(self):
        key = self.number * 1000 + self.rng.randrange(60)
        if key in self.rows and self.rng.random() < 0.4:
            self.client.delete(self.collection, ids=[key])
            del self.rows[key]
        else:
            label = f"{key} {self.rng.randrange(10**9)}"
            vector = make_vectors(1, seed=self.rng.randrange(10**6))[0].tolist()
            row = {"id": key, "vector": vector, "number": key, "label": label}
            self.client.upsert(self.collection, [row])
            self.rows[key] = row
        self.states.append(dict(self.rows))


def taken_among(bundles, name, writers):
    """Takes a snapshot; how many states each writer had left behind when that began."""
    while True:
        before = [len(writer.states) - 1 for writer in writers]
        try:
            bundles.create(name, "films")
        except AssertionError as refused:
            # Each time that it has flushed, what it had written was collected before it was committed.
            if "met changing metadata too often" not in str(refused):
                raise
            print(f"{name} is taken again: {refused}")
        else:
            return before


class Held:
    """Exports and pins of snapshots, which come and go at random."""

    def __init__(self, client, bundles, folder, rng):
        self.client, self.bundles, self.folder, self.rng = client, bundles, folder, rng
        self.exports, self.pins = {}, []

    def step(self, names):
        name = self.rng.choice(names)
        if not self.exports or (name not in self.exports and self.rng.random() < 0.3):
            job, code, text = self.bundles.export(name, "films", f"fs://{self.folder}/{name}")
            assert code == 0, text
            self.exports[name] = job
        name = self.rng.choice(names)
        self.pins.append((self.client.pin_snapshot_data(name, "films"), name))
        with fails(2601, f"snapshot is pinned[snapshot={name}]"):
            self.client.drop_snapshot(name, "films")
        if len(self.pins) > 3:
            self.unpin(self.rng.choice(self.pins))

    def unpin(self, one):
        self.pins.remove(one)
        self.client.unpin_snapshot_data(one[0])

    def let_go(self, name):
        """Nothing holds the snapshot any more; whether there is a whole bundle of it."""
        for one in [one for one in self.pins if one[1] == name]:
            self.unpin(one)
        job = self.exports.pop(name, None)
        if job is None:
            return False
        info = self.bundles.exported(job)
        assert info.state == milvus_pb2.ExportSnapshotCompleted, info
        return True

    def check_bundle(self, writers, name, before, after):
        """What comes back from the bundle is the same moment."""
        copy = f"bundle_{name}"
        job, code, text = self.bundles.restore(f"fs://{self.folder}/{name}/metadata.json", copy)
        assert code == 0, text
        info = finished(self.client, job)
        assert info.state == "RestoreSnapshotCompleted", info
        check_moment(self.client, writers, name, before, after, copy)
        self.client.drop_collection(copy)
        shutil.rmtree(self.folder / name)


def check_moment(client, writers, name, before, after, copy=None):
    """The copy of a snapshot has what each writer had between two of its answers."""
    copy = copy or f"copy_{name}"
    client.load_collection(copy)
    found = {row["id"]: row for row in all_rows(client, copy)}
    for n, writer in enumerate(writers):
        mine = {key: row for key, row in found.items() if key // 1000 == n}
        # A write that was under way may be in it or not.
        moments = writer.states[before[n] : after[n] + 1]
        assert mine in moments, (name, n, len(mine), before[n], after[n])


def check_files(server):
    """Reads every file that a record or a snapshot names."""
    report = redkite.fsck(admin_port=server.admin_port)
    assert report["problems"] == [], report["problems"]


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("store", ["files", "s3"])
def test_every_snapshot_is_a_moment_while_all_goes_on(tmp_path, s3, store):
    """Writers, snapshots, restores, exports, pins, compactions and collections of garbage at the same
    time. Each snapshot has, of each writer, what one moment between two of its answers had: rows,
    vectors and all."""
    seed = chosen_seed()
    env = s3.env if store == "s3" else None
    backups = tmp_path / "backups"
    settings = {**ON_DEMAND, "datanode.bundle.local_dirs": f'["{backups}"]'}
    server = Server(tmp_path, settings=settings, env=env).start()
    try:
        client, bundles = server.client(), Bundles(server)
        create_simple(client, "films", num_shards=3)
        writers = [Writer(server.client(), "films", n, seed + n) for n in range(3)]
        for writer in writers:
            writer.thread.start()
        stop, failures, pauses = threading.Event(), [], random.Random(seed - 1)

        def collect():
            try:
                # No file is too young to be collected here: without pauses no flush would ever be committed on a
                # busy machine, where one takes a second on S3.
                while not stop.wait(pauses.uniform(0, 2)):
                    redkite.gc(server)
                    client.compact("films")
            except Exception as error:  # noqa: BLE001: shown below
                failures.append(error)

        collector = threading.Thread(target=collect)
        collector.start()
        held = Held(client, bundles, backups, random.Random(seed - 2))
        until, taken, dropped = time.monotonic() + SECONDS, [], 0
        try:
            while time.monotonic() < until or len(taken) < 3:
                name = f"s{len(taken) + dropped}"
                before = taken_among(bundles, name, writers)
                after = [len(writer.states) for writer in writers]
                restore(client, name, "films", f"copy_{name}")
                taken.append((name, before, after))
                held.step([one[0] for one in taken])
                if len(taken) > KEPT:
                    # Some go again, so that what they alone name is collected.
                    gone = taken.pop(pauses.randrange(len(taken)))
                    has_bundle = held.let_go(gone[0])
                    client.drop_snapshot(gone[0], "films")
                    check_moment(client, writers, *gone)
                    if has_bundle:
                        held.check_bundle(writers, *gone)
                    client.drop_collection(f"copy_{gone[0]}")
                    dropped += 1
        finally:
            stop.set()
            for writer in writers:
                writer.stop.set()
            for thread in [collector, *(writer.thread for writer in writers)]:
                thread.join()
        assert not failures, failures
        assert not [writer.failure for writer in writers if writer.failure]
        print(f"{len(taken) + dropped} snapshots, {sum(len(writer.states) for writer in writers)} writes")
        check_files(server)
        # Some live on without what they came from, and what is pinned or exported until it is not.
        client.drop_collection("films")
        redkite.gc(server)
        check_files(server)
        exported = [one for one in taken if held.let_go(one[0])]
        assert not held.pins
        redkite.gc(server)
        if exported:
            held.check_bundle(writers, *exported[-1])
        for name, before, after in taken:
            check_moment(client, writers, name, before, after)
    finally:
        server.stop()


def test_a_hundred_restores_at_a_time(tmp_path):
    """A hundred requests begin together; each makes a whole copy."""
    server = Server(tmp_path).start()
    # Each with a connection of its own, which ten requests share.
    raws = [Raw(server.address) for _ in range(10)]
    try:
        client = server.client()
        create_simple(client, "films")
        client.insert("films", simple_rows(100))
        client.delete("films", ids=[1, 2, 3])
        client.flush("films")
        before = all_rows(client, "films")
        assert len(before) == 97
        client.create_snapshot("s1", "films")
        for raw in raws:
            grpc.channel_ready_future(raw.channel).result(timeout=60)
        names = [f"copy{i}" for i in range(100)]
        together = threading.Barrier(len(names))
        jobs, failures = {}, []

        def begin(name, raw):
            request = milvus_pb2.RestoreSnapshotRequest(
                name="s1", collection_name="films", target_collection_name=name
            )
            try:
                together.wait(120)
                answer = raw.call("RestoreSnapshot", request, timeout=300)
                assert answer.status.code == 0, answer.status
                jobs[name] = answer.job_id
            except Exception as error:  # noqa: BLE001: shown below
                failures.append((name, error))

        threads = [
            threading.Thread(target=begin, args=(name, raws[i % len(raws)]))
            for i, name in enumerate(names)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        assert len(set(jobs.values())) == len(names)
        for name in names:
            info = finished(client, jobs[name])
            assert (info.state, info.collection_name) == ("RestoreSnapshotCompleted", name), info
        assert set(names) <= set(client.list_collections())
        client.drop_snapshot("s1", "films")
        client.drop_collection("films")
        for i, name in enumerate(names):
            client.load_collection(name)
            assert count(client, name) == len(before), name
            if i % 10 == 0:
                assert all_rows(client, name) == before, name
            client.drop_collection(name)
        assert client.list_collections() == []
    finally:
        for raw in raws:
            raw.close()
        server.stop()


def test_a_source_that_is_dropped_in_mid_restore(tmp_path):
    """The restore that has begun comes to its end; what is dropped with the source is not its own."""
    server = Server(tmp_path, settings=ON_DEMAND).start()
    try:
        client, other = server.client(), server.client()
        for round_number in range(4):
            create_simple(client, "films")
            client.insert("films", simple_rows(200))
            client.flush("films")
            client.create_snapshot("s1", "films")
            target, job = f"copy{round_number}", []

            def begin():
                try:
                    job.append(other.restore_snapshot("s1", "films", target))
                except MilvusException as error:
                    # The drop was first.
                    assert error.code in (100, 2600), error

            thread = threading.Thread(target=begin)
            thread.start()
            time.sleep(0.004 * round_number)
            client.drop_collection("films")
            redkite.gc(server)
            thread.join()
            if not job:
                assert not client.has_collection(target)
                continue
            info = finished(client, job[0])
            done = info.state == "RestoreSnapshotCompleted"
            assert client.has_collection(target) == done, info
            if done:
                redkite.gc(server)
                client.load_collection(target)
                assert [row["id"] for row in all_rows(client, target)] == list(range(200))

        # What the source left is gone once nobody restores it.
        for target in client.list_collections():
            client.drop_collection(target)

        def is_empty():
            redkite.gc(server)
            root = server.data_dir / "objects"
            return not [p for p in root.rglob("*") if p.is_file() and p.suffix != ""]

        eventually(is_empty, "every file is gone", 60, interval=0.5)
    finally:
        server.stop()


@pytest.mark.parametrize("compares_all", [False, True])
def test_a_file_that_is_not_what_it_was_fails_the_restore(tmp_path, compares_all):
    settings = {"datacoord.snapshot.verify_checksums": "true"} if compares_all else {}
    server = Server(tmp_path, settings=settings).start()
    try:
        client = server.client()
        create_simple(client, "films")
        client.insert("films", simple_rows(100))
        client.flush("films")
        client.create_snapshot("s1", "films")
        restore(client, "s1", "films", "copy")
        victim = next((server.data_dir / "objects").rglob("data.v*.parquet"))
        before, content = victim.stat(), bytearray(victim.read_bytes())
        # Touched, and still the same.
        victim.write_bytes(content)
        restore(client, "s1", "films", "copy1")
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
        if compares_all:
            # As a disk does it.
            os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
        info = finished(client, client.restore_snapshot("s1", "films", "copy2"))
        assert info.state == "RestoreSnapshotFailed" and victim.name in info.reason, info
        assert not client.has_collection("copy2")
        client.drop_snapshot("s1", "films")
    finally:
        server.stop()
