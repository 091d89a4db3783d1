"""kill -9 of each service at each step of snapshots and exports, in a deployment of separate processes.

A process is held at a step, a service is killed, who is held goes on, and the service is started again. Then what was
under way is complete or undone, and says so; what is complete is exact.

REDKITE_KILL_STEPS: how many pairs of a step and a service are tried, chosen at random, or `all`.
"""

import io
import itertools
import json
import os
import random
import threading
import time

import pyarrow.parquet as pq
import pytest
from harness import redkite
from harness.bundles import Bundles
from harness.cluster import SERVICES, run_cluster
from harness.data import all_rows, create_simple, simple_rows
from harness.holding import Holding
from harness.process import connect, free_port
from harness.vikingdb import ACCESS_KEY, SECRET_KEY, service
from harness.waiting import eventually
from harness.weed import Bucket
from pymilvus import MilvusException
from test_snapshots_restore import finished
from volcengine.viking_db import TaskType

CASES = os.environ.get("REDKITE_KILL_STEPS", "4")
SOURCE = "films"
RESTORE = (
    "allocate pin_snapshot begin_job add_meta attach_data sync_querycoord commit "
    "expire_proxy_caches unpin_snapshot"
)
RESTORE_BUNDLE = (
    "allocate begin_job add_meta copy_files attach_data sync_querycoord commit expire_proxy_caches"
)


def unless_gone(use):
    """What a call answers, or the exception of a call whose service was killed."""
    try:
        return use()
    except Exception as error:  # noqa: BLE001: looked at by those who care
        return error


def is_error(answer, *codes):
    """Whether an answer is one of Milvus's errors."""
    return isinstance(answer, MilvusException) and answer.code in codes


class World:
    """A deployment with one collection, and what its rows are."""

    def __init__(self, cluster, holding, host, objects):
        self.cluster, self.holding, self.host, self.objects = cluster, holding, host, objects
        self.numbers = itertools.count()
        client = self.client()
        create_simple(client, SOURCE, index="HNSW", num_shards=2)
        for part in range(3):
            client.insert(SOURCE, simple_rows(200, start=part * 200, seed=part))
            client.flush(SOURCE)
        client.delete(SOURCE, ids=list(range(0, 600, 7)))
        client.upsert(SOURCE, [{**row, "label": "new"} for row in simple_rows(5, start=100)])
        client.flush(SOURCE)
        self.rows = all_rows(client, SOURCE)
        client.create_snapshot("base", SOURCE)
        self.bundle = self.bundles().write("base", SOURCE, "backups/base")
        client.close()

    def proxy(self):
        return self.cluster.services["proxy"][0]

    def client(self):
        return connect(self.proxy().uri)

    def bundles(self):
        return Bundles(self.proxy())

    def fresh(self, what):
        return f"{what}{next(self.numbers)}"

    def check_copy(self, client, name):
        """A collection has exactly the source's rows; it is gone afterwards."""
        client.load_collection(name)
        assert all_rows(client, name) == self.rows, name
        client.drop_collection(name)

    def check_snapshot(self, client, snapshot):
        copy = self.fresh("copy")
        job = finished(client, client.restore_snapshot(snapshot, SOURCE, copy))
        assert job.state == "RestoreSnapshotCompleted", job
        self.check_copy(client, copy)


class Create:
    places = ["create_snapshot.manifest_written", "create_snapshot.committed"]

    def __init__(self, world):
        self.world, self.name = world, world.fresh("s")

    def begin(self, client):
        client.create_snapshot(self.name, SOURCE)

    def check(self, client, answer):
        listed = self.name in client.list_snapshots(SOURCE)
        # Success means that it is there.
        assert listed or answer is not None, "an acknowledged snapshot is lost"
        if not listed:
            client.create_snapshot(self.name, SOURCE)
        else:
            with pytest.raises(MilvusException, match="already exists"):
                client.create_snapshot(self.name, SOURCE)
        self.world.check_snapshot(client, self.name)
        client.drop_snapshot(self.name, SOURCE)


class Drop:
    places = ["drop_snapshot.begun", "drop_snapshot.committed"]

    def __init__(self, world):
        self.world, self.name = world, world.fresh("s")
        client = world.client()
        client.create_snapshot(self.name, SOURCE)
        client.close()

    def begin(self, client):
        client.drop_snapshot(self.name, SOURCE)

    def check(self, client, answer):
        listed = self.name in client.list_snapshots(SOURCE)
        assert not listed or answer is not None, "a dropped snapshot is back"
        if listed:
            self.world.check_snapshot(client, self.name)
        client.drop_snapshot(self.name, SOURCE)
        assert self.name not in client.list_snapshots(SOURCE)


class Restore:
    places = [f"saga.restore_snapshot.{step}" for step in RESTORE.split()]

    def __init__(self, world):
        self.world, self.target = world, world.fresh("restored")

    def begin(self, client):
        return self.request(client)

    def request(self, client):
        return client.restore_snapshot("base", SOURCE, self.target)

    def check(self, client, answer):
        def jobs():
            found = unless_gone(lambda: client.list_restore_snapshot_jobs())
            assert isinstance(found, list), found
            mine = [job for job in found if job.collection_name == self.target]
            ended = ("RestoreSnapshotCompleted", "RestoreSnapshotFailed")
            return (mine,) if all(job.state in ended for job in mine) else None

        root = self.world.cluster.services["rootcoord"][0]

        def no_saga_runs():
            status, body = root.admin_get("/admin/sagas")
            return status == 200 and not json.loads(body)["sagas"]

        eventually(no_saga_runs, "the restore is finished or undone", 120)
        (mine,) = eventually(jobs, f"jobs of {self.target} end", 60)
        there = client.has_collection(self.target)
        completed = [job for job in mine if job.state == "RestoreSnapshotCompleted"]
        assert len(completed) == int(there), (there, mine)
        if isinstance(answer, int) and answer:
            # It was acknowledged, so it is known.
            assert answer in [job.job_id for job in mine], (answer, mine)
        if not there:
            job = finished(client, self.request(client))
            assert job.state == "RestoreSnapshotCompleted", job
        self.world.check_copy(client, self.target)


class RestoreBundle(Restore):
    places = [f"saga.restore_bundle.{step}" for step in RESTORE_BUNDLE.split()]

    def request(self, client):
        bundles = self.world.bundles()
        try:
            job, code, text = bundles.restore(self.world.bundle, self.target)
        finally:
            bundles.close()
        assert code == 0, text
        return job


class Bundle:
    """Jobs of bundles are acknowledged before they begin, so they come to their end."""

    places = [
        "export_snapshot.begun",
        "bundle.copying",
        "export_snapshot.copied",
        "export_snapshot.completing",
        "export_snapshot.completed",
    ]

    def __init__(self, world):
        self.world, self.to = world, f"backups/{world.fresh('b')}"

    def begin(self, _client):
        bundles = self.world.bundles()
        job, code, text = bundles.export("base", SOURCE, self.to)
        bundles.close()
        assert code == 0, text
        return job

    def check(self, client, answer):
        bundles = self.world.bundles()
        assert isinstance(answer, int), answer
        info = bundles.exported(answer, 120)
        assert info.state == 3, info
        target = self.world.fresh("unpacked")
        job, code, text = bundles.restore(info.snapshot_metadata_uri, target)
        assert code == 0, text
        # Each file is compared with what is recorded of it on the way.
        job = finished(client, job)
        assert job.state == "RestoreSnapshotCompleted", job
        self.world.check_copy(client, target)
        bundles.close()


class Export:
    """Exports of VikingDB's API."""

    places = [
        "export.prepared",
        "export.file_written",
        "export.part_written",
        "export.completing",
        "export.completed",
    ]

    def __init__(self, world):
        self.world, self.path = world, f"lake/{world.fresh('e')}"

    def begin(self, _client):
        params = {"collection_name": SOURCE, "tos_path": self.path, "export_all": True}
        return service(self.world.host).create_task(TaskType.Data_export, params)

    def check(self, _client, answer):
        assert isinstance(answer, str), answer

        def ended():
            task = unless_gone(lambda: service(self.world.host).get_task(answer))
            is_over = getattr(task, "task_status", None) in ("done", "fail")
            return task if is_over else None

        task = eventually(ended, f"task {answer} ends", 120, 0.1)
        assert task.task_status == "done", task.process_info
        files = self.world.objects(f"exports/{self.path}/")
        success = json.loads(files.pop("_SUCCESS"))
        assert sorted(files) == sorted(file["name"] for file in success["files"])
        rows = []
        for file in success["files"]:
            table = pq.read_table(io.BytesIO(files[file["name"]]))
            assert (len(files[file["name"]]), len(table)) == (file["size"], file["rows"])
            rows += table.to_pylist()
        rows.sort(key=lambda row: row["id"])
        assert [row["id"] for row in rows] == [row["id"] for row in self.world.rows]
        for row, wanted in zip(rows, self.world.rows, strict=True):
            assert row == {**wanted, "vector": [float(number) for number in wanted["vector"]]}


OPERATIONS = [Create, Drop, Restore, RestoreBundle, Bundle, Export]


def chosen_cases():
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    cases = [
        (operation, place, victim)
        for operation in OPERATIONS
        for place in operation.places
        for victim in SERVICES
    ]
    rng = random.Random(seed)
    if CASES == "all":
        return seed, cases
    # A query node has no part in most of it; the order is part of what is random.
    return seed, rng.sample(cases, min(int(CASES), len(cases)))


def run_case(world, operation, place, victim):
    action = operation(world)
    world.holding.arm(place)
    answers = []

    def begin():
        client = unless_gone(world.client)
        answers.append(unless_gone(lambda: action.begin(client)))

    thread = threading.Thread(target=begin)
    thread.start()
    try:
        world.holding.await_held(place)
        killed = world.cluster.services[victim][0]
        # What is acknowledged before its steps is answered by now.
        if operation in (Bundle, Export):
            thread.join(120)
        killed.kill9()
    finally:
        world.holding.release(place)
    killed.start()
    thread.join(120)
    assert not thread.is_alive(), "the request is never answered"
    client = eventually(lambda: connected(world), "the proxy serves", 120)
    action.check(client, answers[0])
    client.close()


def connected(world):
    """A client, once the deployment answers it."""
    client = unless_gone(world.client)
    if isinstance(client, Exception):
        return None
    served = unless_gone(lambda: client.query(SOURCE, filter="id == 1", timeout=5))
    if isinstance(served, list):
        return client
    client.close()
    return None


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("store", ["files", "s3"])
def test_what_a_kill_cuts_off_is_complete_or_undone(tmp_path, request, store):
    seed, cases = chosen_cases()
    print(f"seed={seed} {len(cases)} cases")
    settings = {"datacoord.compaction.enabled": "false"}
    # For so long a definition waits for a proxy that was killed.
    own = {"proxy": {"common.session_ttl": "5s"}}
    folder = tmp_path / "data" / "objects"
    bucket = Bucket(request.getfixturevalue("weed")) if store == "s3" else None
    settings.update(bucket.settings if bucket else {})

    def objects(prefix):
        """What is stored below a prefix, by its name."""
        if bucket:
            boto = bucket.weed.client()
            keys = [key for key in bucket.keys() if key.startswith(prefix)]
            get = lambda key: boto.get_object(Bucket=bucket.name, Key=f"some/prefix/{key}")  # noqa: E731
            return {key.removeprefix(prefix): get(key)["Body"].read() for key in keys}
        return {path.name: path.read_bytes() for path in (folder / prefix).iterdir()}

    holding = Holding(tmp_path / "holding")
    host = f"127.0.0.1:{free_port()}"
    env = {
        **holding.env,
        "REDKITE__VIKINGDB__LISTEN": host,
        "REDKITE__VIKINGDB__ACCESS_KEY": ACCESS_KEY,
        "REDKITE__VIKINGDB__SECRET_KEY": SECRET_KEY,
    }
    failures = []
    with run_cluster(tmp_path, settings=settings, env=env, own=own) as cluster:
        world = World(cluster, holding, host, objects)
        for operation, place, victim in cases:
            began = time.monotonic()
            try:
                run_case(world, operation, place, victim)
            except (AssertionError, Exception) as error:  # noqa: BLE001: all are shown at the end
                failures.append((place, victim, error))
                print(f"FAILED {place}, kill of {victim}: {error!r}")
                if CASES != "all":
                    raise
            print(f"{place}, kill of {victim}: {time.monotonic() - began:.1f} s", flush=True)
        coordinator = cluster.services["datacoord"][0]
        report = redkite.fsck(admin_port=coordinator.admin_port)
        assert report["problems"] == [], report["problems"]
        # Nothing that was cut off has left a pin.
        client = world.client()
        client.drop_snapshot("base", SOURCE)
        assert client.list_snapshots(SOURCE) == []
        client.close()
    assert not failures, failures
