"""Exports with VikingDB's own SDK: what is in the files, whatever happens meanwhile."""

import json
import os
import random
import signal
import threading
import time

import ijson
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import redkite
from harness.process import connect, free_port
from harness.vikingdb import ACCESS_KEY, SECRET_KEY, VikingServer, call, service
from harness.waiting import eventually
from harness.weed import ACCESS_KEY as WEED_KEY
from harness.weed import SECRET_KEY as WEED_SECRET
from test_multiprocess import run_cluster
from volcengine.viking_db import Data, Field, FieldType, TaskStatus, TaskType
from volcengine.viking_db.exception import (
    CollectionNotExistException,
    InvalidRequestException,
    OperationNotAllowedException,
    TaskNotFoundException,
)

DIM = 8
CITIES = ["beijing", "shanghai", "xi'an", 'a"b\\c', "ünï", ""]
TASK_SECONDS = 90


def fields():
    return [
        Field("id", FieldType.Int64, is_primary_key=True),
        Field("user_id", FieldType.Int64),
        Field("city", FieldType.String),
        Field("price", FieldType.Float32),
        Field("x", FieldType.Float32),
        Field("adult", FieldType.Bool),
        Field("visits", FieldType.List_Int64),
        Field("tags", FieldType.List_String),
        Field("vector", FieldType.Vector, dim=DIM),
    ]


def make_rows(rng, first, count):
    """Rows as they are sent; some scalars are left out."""

    def maybe(value):
        return None if rng.random() < 0.05 else value

    rows = []
    for key in range(first, first + count):
        row = {
            "user_id": maybe(rng.randrange(-10, 10)),
            "city": maybe(rng.choice(CITIES)),
            "price": maybe(float(np.float32(rng.uniform(-5, 5)))),
            "x": maybe(float(np.float32(rng.uniform(-5, 5)))),
            "adult": maybe(rng.random() < 0.5),
            "visits": maybe([rng.randrange(5) for _ in range(rng.randrange(4))]),
            "tags": maybe([rng.choice(CITIES) for _ in range(rng.randrange(3))]),
        }
        row = {name: value for name, value in row.items() if value is not None}
        row["id"] = key
        row["vector"] = [float(np.float32(rng.uniform(-1, 1))) for _ in range(DIM)]
        rows.append(row)
    return rows


def upsert(collection, rows, step=2_000):
    for start in range(0, len(rows), step):
        collection.upsert_data([Data(row) for row in rows[start : start + step]])


def full(row):
    """A row as an export has it: every field, nulls where there is nothing."""
    return {field.field_name: row.get(field.field_name) for field in fields()}


@pytest.fixture(scope="module")
def seed():
    value = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed={value}")
    return value


@pytest.fixture(scope="module")
def viking(tmp_path_factory, weed):
    """A server whose bucket `lake` is on S3."""
    folder = tmp_path_factory.mktemp("viking")
    boto = weed.client()
    boto.create_bucket(Bucket="lake")
    config = folder / "redkite.toml"
    config.write_text(
        "[[datanode.export.buckets]]\n"
        f'bucket = "lake"\nendpoint = "{weed.endpoint}"\nregion = "us-east-1"\n'
        f'access_key = "{WEED_KEY}"\nsecret_key = "{WEED_SECRET}"\n'
        "[[datanode.export.buckets]]\n"
        'bucket = "gone"\nendpoint = "http://127.0.0.1:1"\nregion = "us-east-1"\n'
        'access_key = "a"\nsecret_key = "b"\ntimeout = "1s"\n'
    )
    running = VikingServer(folder, config=config).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def people(viking, seed):
    """10,000 rows, some in files and some in memory, some replaced and some deleted."""
    rng = random.Random(seed)
    collection = viking.service().create_collection("people", fields())
    rows = {row["id"]: row for row in make_rows(rng, 0, 10_000)}
    upsert(collection, list(rows.values()))
    client = viking.client()
    client.flush("people")
    changed = make_rows(rng, 4_000, 1_000)
    upsert(collection, changed)
    rows.update({row["id"]: row for row in changed})
    gone = rng.sample(sorted(rows), 500)
    collection.delete_data(gone[:250])
    client.flush("people")
    collection.delete_data(gone[250:])
    client.close()
    for key in gone:
        del rows[key]
    return [full(row) for row in rows.values()]


def finished(viking_service, task_id, seconds=TASK_SECONDS):
    seen = []

    def ended():
        task = viking_service.get_task(task_id)
        seen.append(int(task.process_info["task_progress"].rstrip("%")))
        return task if task.task_status in ("done", "fail") else None

    task = eventually(ended, f"task {task_id} ended", seconds)
    assert seen == sorted(seen), seen
    return task


def export(viking_service, path, collection="people", **params):
    params = {"collection_name": collection, "tos_path": path, **params}
    task_id = viking_service.create_task(TaskType.Data_export, params)
    task = finished(viking_service, task_id)
    assert task.task_status == "done", task.process_info
    assert task.process_info["task_progress"] == "100%"
    return task


def folder_of(viking, path):
    return viking.data_dir / "objects" / "exports" / path


def read_files(folder, kind="parquet"):
    """Rows of the files that `_SUCCESS` lists, with each number checked."""
    success = json.loads((folder / "_SUCCESS").read_text())
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["_SUCCESS", *(file["name"] for file in success["files"])]
    )
    rows = []
    for number, file in enumerate(success["files"], 1):
        assert file["name"] == f"{number}.{kind}"
        path = folder / file["name"]
        assert path.stat().st_size == file["size"]
        found = parquet_rows(path) if kind == "parquet" else json_rows(path)
        assert len(found) == file["rows"]
        rows += found
    return rows


def parquet_rows(path):
    file = pq.ParquetFile(path)
    rows = []
    for batch in file.iter_batches(100):
        assert len(batch.to_pandas()) == len(batch)
        rows += batch.to_pylist()
    return rows


def json_rows(path):
    with open(path, "rb") as file:
        rows = list(ijson.items(file, "item", use_float=True))
    lines = path.read_text().splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines[1:-1]] == rows
    return rows


def same_rows(found, expected):
    def narrow(row):
        vector = [float(np.float32(number)) for number in row["vector"]]
        floats = {
            name: None if row[name] is None else float(np.float32(row[name]))
            for name in ("price", "x")
        }
        return {**row, **floats, "vector": vector}

    by_key = sorted((narrow(row) for row in found), key=lambda row: row["id"])
    wanted = sorted((narrow(row) for row in expected), key=lambda row: row["id"])
    assert [row["id"] for row in by_key] == [row["id"] for row in wanted]
    assert by_key == wanted


def test_the_documented_flow(viking, weed, people, tmp_path):
    """Filter in, Parquet out, through S3, row by row what pandas finds in the rows that were written."""
    viking_service = viking.service()
    wanted = {"user_id": [5, 9], "city": ["beijing"]}
    task = export(viking_service, "lake/out/2024", filter=wanted, file_type="parquet")
    frame = pd.DataFrame(people)
    frame = frame[frame["user_id"].isin([5, 9]) & frame["city"].isin(["beijing"])]
    keys = set(frame["id"])
    expected = [row for row in people if row["id"] in keys]
    assert expected, "the filter finds nothing"

    info = task.process_info
    assert task.collection_name == "people" and task.task_type == "data_export"
    assert task.task_params["filter"] == wanted and info["err_msg"] == ""
    assert info["total_filter_count"] == len(expected)
    assert info["scan_data_count"] == info["total_data_count"] >= len(people)
    assert len(info["sampled_data"]) == min(5, len(expected))
    assert all(row["city"] == "beijing" for row in info["sampled_data"])
    boto = weed.client()
    for item in boto.list_objects_v2(Bucket="lake", Prefix="out/2024/")["Contents"]:
        name = item["Key"].removeprefix("out/2024/")
        boto.download_file("lake", item["Key"], str(tmp_path / name))
    same_rows(read_files(tmp_path), expected)


def test_files_on_s3_are_read_by_others(viking, weed, people, tmp_path):
    viking_service = viking.service()
    export(viking_service, "lake/all", export_all=True)
    boto = weed.client()
    listed = boto.list_objects_v2(Bucket="lake", Prefix="all/")["Contents"]
    names = sorted(item["Key"].split("/")[-1] for item in listed)
    assert names == ["1.parquet", "_SUCCESS"]
    for name in names:
        boto.download_file("lake", f"all/{name}", str(tmp_path / name))
    same_rows(read_files(tmp_path), people)
    kinds = pq.read_schema(tmp_path / "1.parquet")
    assert kinds.field("vector").type == pa.list_(pa.field("element", pa.float32(), False))
    assert pa.types.is_int64(kinds.field("user_id").type)
    assert pa.types.is_list(kinds.field("visits").type)
    assert pq.ParquetFile(tmp_path / "1.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_json_files_are_arrays_with_a_row_a_line(viking, people):
    export(viking.service(), "own/json", export_all=True, file_type="json")
    same_rows(read_files(folder_of(viking, "own/json"), "json"), people)


def test_an_export_of_no_rows_has_an_empty_file(viking, people):
    viking_service = viking.service()
    for kind in ["parquet", "json"]:
        path = f"own/none_{kind}"
        export(viking_service, path, filter={"user_id": 77}, file_type=kind)
        assert read_files(folder_of(viking, path), kind) == []


class Filters:
    """Random filters, each with what it means for a row."""

    def __init__(self, rng):
        self.rng = rng

    def tree(self, depth=3):
        if depth and self.rng.random() < 0.4:
            parts = [self.tree(depth - 1) for _ in range(self.rng.randrange(1, 4))]
            op, join = self.rng.choice([("and", all), ("or", any)])
            conds = [part for part, _ in parts]
            tests = [test for _, test in parts]
            return {"op": op, "conds": conds}, lambda row: join(test(row) for test in tests)
        return self.rng.choice([self.must, self.range, self.circle])()

    def must(self):
        name = self.rng.choice(["user_id", "city", "adult", "visits", "tags", "id"])
        pools = {
            "user_id": list(range(-10, 12)),
            "city": [*CITIES, "nowhere"],
            "adult": [True, False],
            "visits": list(range(6)),
            "tags": [*CITIES, "nowhere"],
            "id": list(range(10_000)),
        }
        pool = pools[name]
        values = self.rng.sample(pool, self.rng.randrange(1, min(6, len(pool) + 1)))
        op = self.rng.choice(["must", "must_not"])

        def matches(row):
            value = row[name]
            if isinstance(value, list):
                found = any(element in values for element in value)
            else:
                found = value is not None and value in values
            return found == (op == "must")

        return {"op": op, "field": name, "conds": values}, matches

    def range(self):
        name = self.rng.choice(["user_id", "price"])
        bounds = self.rng.sample(["gt", "gte", "lt", "lte"], self.rng.randrange(1, 3))
        limits = {bound: self.rng.choice([-3, 0, 2, 1.5, -2.25]) for bound in bounds}
        op, join = self.rng.choice([("range", all), ("range_out", any)])
        compare = {
            "gt": lambda a, b: a > b,
            "gte": lambda a, b: a >= b,
            "lt": lambda a, b: a < b,
            "lte": lambda a, b: a <= b,
        }

        def matches(row):
            value = row[name]
            hits = [compare[bound](value, limit) for bound, limit in limits.items()] if value is not None else []
            return value is not None and join(hits)

        return {"op": op, "field": name, **limits}, matches

    def circle(self):
        center = [self.rng.uniform(-3, 3), self.rng.uniform(-3, 3)]
        radius = self.rng.uniform(0.5, 4)
        op = self.rng.choice(["range", "range_out"])

        def matches(row):
            if row["x"] is None or row["price"] is None:
                return False
            distance = (row["x"] - center[0]) ** 2 + (row["price"] - center[1]) ** 2
            return (distance <= radius * radius) == (op == "range")

        tree = {"op": op, "field": ["x", "price"], "center": center, "radius": radius}
        return tree, matches


def test_filters_mean_what_a_plain_evaluator_says(viking, people, seed):
    viking_service = viking.service()
    filters = Filters(random.Random(seed + 1))
    cases = [filters.must() for _ in range(4)] + [filters.range() for _ in range(3)]
    cases += [filters.circle() for _ in range(2)] + [filters.tree() for _ in range(9)]
    tasks = []
    for number, (tree, _) in enumerate(cases):
        given = {"filter": tree} if number % 2 else {"filter_conds": [tree]}
        params = {"collection_name": "people", "tos_path": f"own/f{number}", **given}
        tasks.append(viking_service.create_task(TaskType.Data_export, params))
    for number, (tree, matches) in enumerate(cases):
        task = finished(viking_service, tasks[number])
        assert task.task_status == "done", (tree, task.process_info)
        found = read_files(folder_of(viking, f"own/f{number}"))
        wanted = sorted(row["id"] for row in people if matches(row))
        assert sorted(row["id"] for row in found) == wanted, tree


def test_the_older_form_of_filters(viking, people):
    """Fields are all to match, values any; of a list any element; and a value may stand alone."""
    viking_service = viking.service()
    cases = [
        ({"tags": ["beijing", "nowhere"]}, lambda row: "beijing" in (row["tags"] or [])),
        ({"visits": [1, 4]}, lambda row: {1, 4} & set(row["visits"] or [])),
        (
            {"user_id": 3, "visits": [2]},
            lambda row: row["user_id"] == 3 and 2 in (row["visits"] or []),
        ),
    ]
    for number, (given, matches) in enumerate(cases):
        # In one place of the documentation the path stands beside the parameters.
        body = {
            "task_type": "data_export",
            "tos_path": f"own/older{number}",
            "task_params": {"collection_name": "people", "filter": given},
        }
        status, answer = call(viking.host, "/api/task/create", body)
        assert status == 200, answer
        task = finished(viking_service, answer["data"]["task_id"])
        assert task.task_status == "done", task.process_info
        expected = [row for row in people if matches(row)]
        assert expected
        same_rows(read_files(folder_of(viking, f"own/older{number}")), expected)


WRONG = [
    {},
    {"export_all": False},
    {"export_all": "yes"},
    {"filter": {}},
    {"filter": {"nothing": [1]}},
    {"filter": {"user_id": []}},
    {"filter": {"user_id": ["1"]}},
    {"filter": {"user_id": [1.5]}},
    {"filter": {"city": [1]}},
    {"filter": {"price": [1.0]}},
    {"filter": {"vector": [1.0]}},
    {"filter_conds": []},
    {"filter_conds": {"op": "must"}},
    {"filter_conds": [{"op": "must_nor", "field": "user_id", "conds": [1]}]},
    {"filter_conds": [{"op": "must", "field": "user_id"}]},
    {"filter_conds": [{"op": "must", "field": "user_id", "conds": [1], "gt": 1}]},
    {"filter_conds": [{"op": "range", "field": "user_id"}]},
    {"filter_conds": [{"op": "range", "field": "city", "gt": 1}]},
    {"filter_conds": [{"op": "range", "field": "user_id", "gt": "1"}]},
    {"filter_conds": [{"op": "range", "field": ["x"], "center": [1], "radius": 1}]},
    {"filter_conds": [{"op": "range", "field": ["x", "price"], "center": [1, 2], "radius": -1}]},
    {"filter_conds": [{"op": "and", "conds": []}]},
    {"filter_conds": [{"field": "user_id"}]},
    {"export_all": True, "file_type": "csv"},
    {"export_all": True, "tos_path": "bucket"},
    {"export_all": True, "tos_path": "bucket/../x"},
    {"export_all": True, "unknown": 1},
]


def test_requests_that_make_no_sense_are_refused(viking, people):
    viking_service = viking.service()
    for number, params in enumerate(WRONG):
        params = {"collection_name": "people", "tos_path": f"own/w{number}", **params}
        with pytest.raises(InvalidRequestException):
            pytest.fail(f"{params}: {viking_service.create_task(TaskType.Data_export, params)}")
    with pytest.raises(CollectionNotExistException):
        params = {"collection_name": "none", "tos_path": "own/x", "export_all": True}
        viking_service.create_task(TaskType.Data_export, params)
    with pytest.raises(OperationNotAllowedException):
        viking_service.create_task(TaskType.Filter_Delete, {"collection_name": "people"})
    missing = "11111111-2222-4333-8444-555555555555"
    for use in [viking_service.get_task, viking_service.drop_task]:
        with pytest.raises(TaskNotFoundException):
            use(missing)
    with pytest.raises(TaskNotFoundException):
        viking_service.update_task(missing, TaskStatus.Confirmed)
    status, answer = call(viking.host, "/api/task/info", {"task_id": missing}, method="GET")
    assert (status, answer["code"]) == (404, 1000035)


def test_tasks_are_listed_dropped_and_not_mixed(viking, people):
    viking_service = viking.service()
    task = export(viking_service, "own/twice", export_all=True)
    assert task.task_id in [one.task_id for one in viking_service.list_tasks()]
    with pytest.raises(OperationNotAllowedException):
        viking_service.update_task(task.task_id, TaskStatus.Confirmed)
    again = {"collection_name": "people", "tos_path": "own/twice", "export_all": True}
    second = finished(viking_service, viking_service.create_task(TaskType.Data_export, again))
    assert second.task_status == "fail" and "export" in second.process_info["err_msg"]
    same_rows(read_files(folder_of(viking, "own/twice")), people)
    for one in [task, second]:
        viking_service.drop_task(one.task_id)
        with pytest.raises(TaskNotFoundException):
            viking_service.get_task(one.task_id)
    # The files of one that was complete are the user's.
    same_rows(read_files(folder_of(viking, "own/twice")), people)


def test_a_dropped_task_leaves_nothing_half_done(viking, people):
    viking_service = viking.service()
    tasks = {}
    for number in range(8):
        path = f"own/dropped{number}"
        params = {"collection_name": "people", "tos_path": path, "export_all": True}
        tasks[viking_service.create_task(TaskType.Data_export, params)] = folder_of(viking, path)
    states = {viking_service.get_task(task_id).task_status for task_id in tasks}
    assert states <= {"init", "queued", "running", "done"}, states
    for task_id, folder in tasks.items():
        viking_service.drop_task(task_id)
        left = sorted(file.name for file in folder.iterdir()) if folder.exists() else []
        # Unless it was done before.
        assert left in ([], ["1.parquet", "_SUCCESS"])
        with pytest.raises(TaskNotFoundException):
            viking_service.get_task(task_id)


def test_a_target_that_cannot_be_reached_fails_the_task(viking, people):
    viking_service = viking.service()
    params = {"collection_name": "people", "tos_path": "gone/x", "export_all": True}
    task = finished(viking_service, viking_service.create_task(TaskType.Data_export, params))
    assert task.task_status == "fail" and task.process_info["err_msg"]


def test_an_export_is_of_one_time_while_rows_come_and_go(viking, seed):
    """Equals the rows that the same time shows to a client of the other interface."""
    rng = random.Random(seed + 2)
    viking_service = viking.service()
    collection = viking_service.create_collection("busy", fields())
    rows = make_rows(rng, 0, 3_000)
    upsert(collection, rows)
    client = viking.client()
    client.flush("busy")
    stop = threading.Event()
    # Every batch is one write: all its rows have one mark, and an export has all or none of them.
    batches = 0
    # When each was begun and answered, in Unix milliseconds.
    begun, answered = {}, {}

    def write():
        nonlocal batches
        writer = connect(viking.uri)
        while not stop.is_set():
            batches += 1
            keys = range(10_000 + batches * 20, 10_000 + batches * 20 + 20)
            new = [
                {**full({}), "id": key, "user_id": batches, "vector": [0.0] * DIM} for key in keys
            ]
            begun[batches] = time.time_ns() // 1_000_000
            writer.upsert("busy", new)
            answered[batches] = time.time_ns() // 1_000_000
            writer.delete("busy", ids=[rows[batches % len(rows)]["id"]])
            if batches % 10 == 0:
                writer.flush("busy")
                writer.compact("busy")
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        eventually(lambda: batches > 10 or not thread.is_alive(), "writes are under way")
        tasks = [
            export(viking_service, f"own/busy{number}", "busy", export_all=True)
            for number in range(3)
        ]
    finally:
        stop.set()
        thread.join()
    times = [task.process_info["sampled_timestamp"] for task in tasks]
    assert times == sorted(times)
    for number in range(3):
        found = read_files(folder_of(viking, f"own/busy{number}"))
        keys = [row["id"] for row in found]
        assert len(keys) == len(set(keys))
        marks = [row["user_id"] for row in found if row["id"] >= 10_000]
        last = max(marks, default=0)
        assert last >= 10
        # Exactly what was written at the task's time: a batch that was answered before is there, one that was begun
        # later is not. The server's clock is this machine's.
        at = times[number]
        assert all(mark in marks for mark, when in answered.items() if when < at), (at, last)
        assert not [mark for mark, when in begun.items() if when > at and mark in marks], (at, last)
        # Writes are one after the other: those up to a moment are there, and none behind it.
        assert sorted(marks) == sorted(mark for mark in range(1, last + 1) for _ in range(20))
        old = {row["id"] for row in found if row["id"] < 10_000}
        deleted = {rows[mark % len(rows)]["id"] for mark in range(1, last + 1)}
        sure = {rows[mark % len(rows)]["id"] for mark in range(1, last)}
        everything = {row["id"] for row in rows}
        assert everything - deleted <= old <= everything - sure
    client.close()


def test_killed_services_leave_an_exact_export(tmp_path, seed):
    """kill -9 of the datanode, the datacoord and the proxy while tasks run; then the collection goes
    before its rows are read."""
    host = f"127.0.0.1:{free_port()}"
    env = {
        "REDKITE__VIKINGDB__LISTEN": host,
        "REDKITE__VIKINGDB__ACCESS_KEY": ACCESS_KEY,
        "REDKITE__VIKINGDB__SECRET_KEY": SECRET_KEY,
        "REDKITE__DATANODE__EXPORT__MAX_FILE_SIZE": "64KiB",
        "REDKITE__COMMON__SESSION_TTL": "2s",
        "REDKITE__DATACOORD__COMPACTION__ENABLED": "false",
        "REDKITE__DATACOORD__GC__ENABLED": "false",
        "REDKITE__DATACOORD__GC__GRACE": "0s",
        "REDKITE__DATACOORD__GC__DROPPED_GRACE": "0s",
    }
    rng = random.Random(seed + 3)
    with run_cluster(tmp_path, env) as processes:
        named = {process.name: process for process in processes}
        viking_service = service(host)
        collection = viking_service.create_collection("people", fields())
        client = connect(processes[-1].uri)
        rows = make_rows(rng, 0, 6_000)
        for start in range(0, len(rows), 1_000):
            upsert(collection, rows[start : start + 1_000])
            client.flush("people")
        client.close()
        objects = tmp_path / "data" / "objects" / "exports"
        for victim in ["datanode", "datacoord", "proxy"]:
            node = named["datanode"]
            viking_service = service(host)
            task_id, path = frozen_export(viking_service, node, objects, f"own/{victim}")
            assert viking_service.get_task(task_id).task_status == "running"
            named[victim].kill9()
            if victim != "datanode":
                node.child.send_signal(signal.SIGCONT)
            named[victim].start()
            same_as_ended(host, task_id, objects / path, rows)
        # What an export reads is there until it has ended, though nothing else needs it.
        task_id, path = frozen_export(service(host), named["datanode"], objects, "own/dropped")
        named["datanode"].kill9()
        client = connect(processes[-1].uri)
        client.drop_collection("people")
        client.close()
        redkite.gc(named["datacoord"])
        named["datanode"].start()
        same_as_ended(host, task_id, objects / path, rows)
        garbage = redkite.gc(named["datacoord"])["garbage"]
        assert any(item["key"].startswith("segments/") for item in garbage), garbage


def same_as_ended(host, task_id, folder, rows):
    """Waits for a task's end; its files hold exactly `rows`."""
    again = lambda: service(host)  # noqa: E731
    viking_service = eventually(lambda: attempt(again), "the API answers", 60)
    task = eventually(lambda: attempt(lambda: ended(viking_service, task_id)), "the task ended", 90)
    assert task.task_status == "done", task.process_info
    assert task.process_info["total_filter_count"] == len(rows)
    assert len(json.loads((folder / "_SUCCESS").read_text())["files"]) > 1
    same_rows(read_files(folder), [full(row) for row in rows])


def frozen_export(viking_service, node, objects, prefix):
    """(id, path) of an export whose data node was stopped with some of its files written."""
    for number in range(20):
        path = f"{prefix}{number}"
        params = {"collection_name": "people", "tos_path": path, "export_all": True}
        task_id = viking_service.create_task(TaskType.Data_export, params)
        eventually((objects / path / "1.parquet").exists, "the first file is there", 60, 0.001)
        node.child.send_signal(signal.SIGSTOP)
        if not (objects / path / "_SUCCESS").exists():
            return task_id, path
        # It was faster than this test.
        node.child.send_signal(signal.SIGCONT)
    pytest.fail("every export was complete before it could be stopped")


def ended(viking_service, task_id):
    task = viking_service.get_task(task_id)
    return task if task.task_status in ("done", "fail") else None


def attempt(use):
    try:
        return use()
    except Exception:
        return None
