"""Tasks of VikingDB's API that wait, that are dropped, and that cannot be completed.

Processes are held at places of the code (`harness/holding.py`), so nothing here depends on how fast they are.
"""

import pytest
from harness import faults
from harness.cluster import run_cluster
from harness.data import DIM, all_rows, create_simple, simple_rows
from harness.faultproxy import FaultProxy
from harness.holding import Holding
from harness.process import connect, free_port
from harness.vikingdb import ACCESS_KEY, SECRET_KEY, VikingServer, call, service
from harness.waiting import eventually
from harness.weed import ACCESS_KEY as WEED_KEY
from harness.weed import SECRET_KEY as WEED_SECRET
from pymilvus import MilvusException
from test_vikingdb_export import read_files
from volcengine.viking_db import TaskType
from volcengine.viking_db.exception import TaskNotFoundException

NAME = "films"
MIB = 1 << 20
DISK_LIMIT = 7


class World:
    """A deployment with a collection whose export has a part for each of its two channels."""

    def __init__(self, cluster, holding, host, folder, flushes=1, dim=DIM):
        self.cluster, self.holding, self.host = cluster, holding, host
        self.exports = folder / "data" / "objects" / "exports"
        client = connect(cluster.services["proxy"][0].uri)
        create_simple(client, NAME, dim=dim, num_shards=2)
        for number in range(flushes):
            client.insert(NAME, simple_rows(1_000, dim=dim, start=number * 1_000))
            client.flush(NAME)
        self.keys = [row["id"] for row in all_rows(client, NAME, ["id"])]
        client.close()

    def begin(self, path):
        params = {"collection_name": NAME, "tos_path": path, "export_all": True}
        return service(self.host).create_task(TaskType.Data_export, params)

    def task(self, task_id):
        return service(self.host).get_task(task_id)

    def status(self, task_id):
        return self.task(task_id).task_status

    def progress(self, task_id):
        """In percent, of a task that runs."""
        task = self.task(task_id)
        assert task.task_status == "running", task.process_info
        return percent(task)

    def ended(self, task_id):
        def find():
            task = self.task(task_id)
            return task if task.task_status in ("done", "fail") else None

        return eventually(find, f"task {task_id} ends", 120, 0.05)

    def check(self, task_id, path):
        task = self.ended(task_id)
        assert task.task_status == "done", task.process_info
        rows = read_files(self.exports / path)
        assert sorted(row["id"] for row in rows) == self.keys

    def files(self, path):
        return sorted(file.name for file in (self.exports / path).rglob("*") if file.is_file())


def environment(holding, host):
    return {
        **holding.env,
        "REDKITE__VIKINGDB__LISTEN": host,
        "REDKITE__VIKINGDB__ACCESS_KEY": ACCESS_KEY,
        "REDKITE__VIKINGDB__SECRET_KEY": SECRET_KEY,
    }


def percent(task):
    return int(task.process_info["task_progress"].removesuffix("%"))


@pytest.fixture(scope="module")
def world(tmp_path_factory, weed):
    """One task at a time, three at most, and a bucket behind a proxy that can fail.

    The bucket's time is for a store that a busy machine has no time for.
    """
    tmp_path = tmp_path_factory.mktemp("tasks")
    holding = Holding(tmp_path / "holding")
    host = f"127.0.0.1:{free_port()}"
    env = environment(holding, host)
    settings = {
        "datacoord.export.concurrent_tasks": "1",
        "datacoord.export.max_pending": "3",
        "datacoord.export.patience": "1s",
    }
    between = FaultProxy(weed.ports["s3.port"])
    bucket = weed.new_bucket()
    config = tmp_path / "redkite.toml"
    config.write_text(
        "[[datanode.export.buckets]]\n"
        f'bucket = "{bucket}"\nendpoint = "http://{between.address}"\nregion = "us-east-1"\n'
        f'access_key = "{WEED_KEY}"\nsecret_key = "{WEED_SECRET}"\ntimeout = "15s"\n'
    )
    with run_cluster(tmp_path, settings=settings, env=env, config=config) as cluster:
        made = World(cluster, holding, host, tmp_path)
        made.bucket, made.between = bucket, between
        yield made
    between.close()


def test_tasks_wait_for_their_turn_and_not_too_many(world):
    place = "export.file_written"
    world.holding.arm(place)
    first = world.begin("own/first")
    world.holding.await_held(place)
    waiting = [world.begin(f"own/waiting{number}") for number in range(2)]
    for task_id in waiting:
        eventually(lambda task_id=task_id: world.status(task_id) == "queued", "the task waits")
    assert world.status(first) == "running"
    params = {"collection_name": NAME, "tos_path": "own/more", "export_all": True}
    body = {"task_type": "data_export", "task_params": params}
    status, answer = call(world.host, "/api/task/create", body)
    assert (status, answer["code"]) == (429, 1000029), answer
    # One that waits is dropped at once, and makes room for another.
    service(world.host).drop_task(waiting[0])
    with pytest.raises(TaskNotFoundException):
        world.task(waiting[0])
    last = world.begin("own/last")
    assert [world.status(task_id) for task_id in (first, waiting[1])] == ["running", "queued"]
    world.holding.release(place)
    for task_id, path in [(first, "first"), (waiting[1], "waiting1"), (last, "last")]:
        world.check(task_id, f"own/{path}")
    assert not (world.exports / "own" / "waiting0").exists()


def test_progress_rises_with_each_part(world):
    part, completing = "export.part_written", "export.completing"
    world.holding.arm(part)
    task_id = world.begin("own/progress")
    world.holding.await_held(part)
    # It counts once it is recorded.
    seen = [world.progress(task_id)]
    assert seen == [0]
    world.holding.pass_on(part)
    world.holding.await_held(part)
    seen.append(world.progress(task_id))
    assert 0 < seen[-1] < 100, seen
    info = world.task(task_id).process_info
    assert 0 < info["scan_data_count"] < info["total_data_count"] == len(world.keys), info
    assert 0 < info["total_filter_count"] < len(world.keys), info
    assert seen[-1] == info["scan_data_count"] * 100 // info["total_data_count"], info
    assert len(info["sampled_data"]) == 5
    world.holding.arm(completing)
    world.holding.release(part)
    world.holding.await_held(completing)
    # All rows are written, but a reader that stops at 100 % must find the export complete.
    seen.append(world.progress(task_id))
    assert seen[-2] < seen[-1] < 100, seen
    world.holding.release(completing)

    def find():
        task = world.task(task_id)
        seen.append(percent(task))
        return task.task_status == "done"

    eventually(find, "the task is done", 60, 0.005)
    assert seen == sorted(seen) and seen[-1] == 100, seen
    assert 100 not in seen[:-1], seen
    world.check(task_id, "own/progress")


def stamps(folder, names):
    """What changes when a file is written again."""
    found = {name: (folder / name).stat() for name in names}
    return {name: (one.st_ino, one.st_size, one.st_mtime_ns) for name, one in found.items()}


def test_a_killed_task_goes_on_behind_the_parts_that_it_has(tmp_path):
    """Of two parts one is written when the coordinator and the data node are killed."""
    holding = Holding(tmp_path / "holding")
    host = f"127.0.0.1:{free_port()}"
    settings = {
        "datacoord.compaction.enabled": "false",
        "datanode.export.max_file_size": "64KiB",
    }
    env = environment(holding, host)
    part, file = "export.part_written", "export.file_written"
    with run_cluster(tmp_path, settings=settings, env=env) as cluster:
        world = World(cluster, holding, host, tmp_path, flushes=2, dim=64)
        victims = [cluster.services[name][0] for name in ("datacoord", "datanode")]

        def kill_and_start(place):
            for process in victims:
                process.kill9()
            holding.release(place)
            for process in victims:
                process.spawn()
            for process in victims:
                process.wait_ready()

        def begin_and_write_a_part(path):
            holding.arm(part)
            task_id = world.begin(path)
            holding.await_held(part)
            names = [name for name in world.files(path) if name[0].isdigit()]
            # One for each of its segments.
            assert names == ["1.parquet", "2.parquet"]
            return task_id, names, stamps(world.exports / path, names)

        # It is recorded: what is written after the kill is the other part alone.
        task_id, names, before = begin_and_write_a_part("own/recorded")
        holding.arm(file)
        holding.release(part)
        holding.await_held(file)
        assert 0 < world.progress(task_id) < 100
        kill_and_start(file)
        world.check(task_id, "own/recorded")
        assert stamps(world.exports / "own/recorded", names) == before
        assert world.files("own/recorded") == [f"{n}.parquet" for n in range(1, 5)] + ["_SUCCESS"]

        # It is not: should it be written again, its files have the same bytes.
        task_id, names, _ = begin_and_write_a_part("own/unrecorded")
        assert world.progress(task_id) == 0
        contents = [(world.exports / "own/unrecorded" / name).read_bytes() for name in names]
        kill_and_start(part)
        world.check(task_id, "own/unrecorded")
        again = [(world.exports / "own/unrecorded" / name).read_bytes() for name in names]
        assert again == contents


@pytest.mark.parametrize(
    "place, there",
    [
        # A file is whole and has no name yet, at the data node.
        ("export.file_written", ["_TASK"]),
        # The first part has its files, but is not recorded, at the coordinator.
        ("export.part_written", ["1.parquet", "_TASK"]),
        ("export.completing", ["1.parquet", "2.parquet", "_TASK"]),
        ("export.completed", ["1.parquet", "2.parquet", "_SUCCESS"]),
    ],
)
def test_a_task_that_is_dropped_while_it_runs_leaves_nothing(world, place, there):
    path = f"own/dropped_at_{place}"
    world.holding.arm(place)
    task_id = world.begin(path)
    world.holding.await_held(place)
    assert [name for name in world.files(path) if not name.startswith(".")] == there
    service(world.host).drop_task(task_id)
    with pytest.raises(TaskNotFoundException):
        world.task(task_id)
    assert world.files(path) == []
    world.holding.release(place)
    # Who was held has nothing more to do, and the place is free.
    world.check(world.begin(path), path)


def test_a_target_that_goes_away_fails_the_task_and_has_no_final_file(world, weed):
    place = "export.file_written"
    world.holding.arm(place)
    task_id = world.begin(f"{world.bucket}/cut")
    world.holding.await_held(place)
    with world.between.faulty("refused"):
        world.holding.release(place)
        task = world.ended(task_id)
        assert task.task_status == "fail", task.process_info
        reason = task.process_info["err_msg"]
        assert "cut/1.parquet" in reason or "cut/" in reason, reason
    listed = weed.client().list_objects_v2(Bucket=world.bucket).get("Contents", [])
    # Its marker could not be removed either.
    assert {entry["Key"] for entry in listed} <= {"cut/_TASK"}, listed


@pytest.mark.parametrize("level", ["info", "debug", "trace"])
def test_no_log_has_a_secret(tmp_path, weed, level):
    """Whatever is logged of requests, of exports, and of those that fail."""
    secrets = {
        "listener": SECRET_KEY,
        "list": "secret-of-the-list",
        "bucket": WEED_SECRET,
        "unreachable": "secret-of-nobody",
    }
    bucket = weed.new_bucket()
    config = tmp_path / "redkite.toml"
    config.write_text(
        "[[vikingdb.keys]]\n"
        f'access_key = "AKLIST"\nsecret_key = "{secrets["list"]}"\n'
        "[[datanode.export.buckets]]\n"
        f'bucket = "{bucket}"\nendpoint = "{weed.endpoint}"\nregion = "us-east-1"\n'
        f'access_key = "{WEED_KEY}"\nsecret_key = "{secrets["bucket"]}"\n'
        "[[datanode.export.buckets]]\n"
        'bucket = "gone"\nendpoint = "http://127.0.0.1:1"\nregion = "us-east-1"\n'
        f'access_key = "a"\nsecret_key = "{secrets["unreachable"]}"\ntimeout = "1s"\n'
    )
    holding = Holding(tmp_path / "holding")
    host = f"127.0.0.1:{free_port()}"
    settings = {"telemetry.log_filter": level}
    env = environment(holding, host)
    with run_cluster(tmp_path, settings=settings, env=env, config=config) as cluster:
        world = World(cluster, holding, host, tmp_path)
        for key, secret, wanted in [
            (ACCESS_KEY, secrets["listener"], 200),
            ("AKLIST", secrets["list"], 200),
            ("AKLIST", secrets["listener"], 401),
            ("AKNOBODY", secrets["list"], 401),
        ]:
            status, answer = call(host, "/api/task/list", {}, key=key, secret=secret)
            assert status == wanted, answer
        exported = world.begin(f"{bucket}/films")
        failed = world.begin("gone/films")
        assert world.ended(exported).task_status == "done"
        assert world.ended(failed).task_status == "fail"
    listed = weed.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert "films/_SUCCESS" in [entry["Key"] for entry in listed]
    texts = {one.name: one.log_path.read_text(errors="replace") for one in cluster.all()}
    leaks = []
    for name, text in texts.items():
        assert level.upper() in text, f"{name} logs nothing of the level {level}"
        for whose, secret in secrets.items():
            leaks += [(name, whose, line) for line in text.splitlines() if secret in line]
    assert not leaks, f"{len(leaks)} lines, first {leaks[0]}"
    # They do say what was done.
    assert exported in texts["datacoord-0"] and failed in texts["datacoord-0"]


def test_a_full_disk_fails_the_task_and_leaves_nothing(tmp_path):
    with faults.small_disk(160 * MIB) as disk:
        settings = {"common.min_free_space": "32MiB", "datacoord.export.patience": "2s"}
        server = VikingServer(tmp_path, settings=settings)
        server.command[server.command.index("--data-dir") + 1] = str(disk / "data")
        server.start()
        try:
            client = server.client()
            create_simple(client, NAME, dim=128)
            client.insert(NAME, simple_rows(2_000, dim=128))
            client.flush(NAME)
            # Less than what background work leaves free.
            filler = faults.fill(disk, leave=12 * MIB)

            def is_full():
                """Whether the server has seen it."""
                try:
                    client.insert(NAME, simple_rows(1, dim=128, start=10_000))
                except MilvusException as error:
                    return error.code == DISK_LIMIT
                return False

            eventually(is_full, "writes are refused", 120, 0.2)
            params = {"collection_name": NAME, "tos_path": "own/full", "export_all": True}
            task_id = server.service().create_task(TaskType.Data_export, params)
            find = lambda: ended_of(server, task_id)  # noqa: E731
            task = eventually(find, "the task ends", 60, 0.1)
            assert task.task_status == "fail", task.process_info
            assert "disk limit exceeded" in task.process_info["err_msg"], task.process_info
            folder = disk / "data" / "objects" / "exports"
            assert not [path for path in folder.rglob("*") if path.is_file()]
            filler.unlink()

            def exports():
                """Once the server has seen that there is room."""
                task_id = server.service().create_task(TaskType.Data_export, params)
                find = lambda: ended_of(server, task_id)  # noqa: E731
                return eventually(find, "the next one ends", 60, 0.1).task_status == "done"

            eventually(exports, "the next one is done", 60)
            assert len(read_files(folder / "own" / "full")) >= 2_000
            client.close()
        finally:
            server.stop()


def ended_of(server, task_id):
    task = server.service().get_task(task_id)
    return task if task.task_status in ("done", "fail") else None
