"""Exports with VikingDB's own SDK: what is in the files, whatever happens meanwhile."""

import datetime
import json
import os
import random
import re
import threading
import time
import uuid

import ijson
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import redkite
from harness.checksum import crc32c
from harness.filters import Filters
from harness.holding import Holding
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
        Field("note", FieldType.Text),
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
            "note": maybe(f"note {key}"),
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
def chosen_seed():
    return int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))


@pytest.fixture(autouse=True)
def seed(chosen_seed):
    """All rows depend on it, so each test that fails says it."""
    print(f"seed={chosen_seed}")
    return chosen_seed


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
def people(viking, chosen_seed):
    """10,000 rows, some in files and some in memory, some replaced and some deleted."""
    rng = random.Random(chosen_seed)
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
    """Rows of the files that `_SUCCESS` lists, with all that it says of them checked."""
    success = json.loads((folder / "_SUCCESS").read_text())
    assert set(success) == {"task_id", "sampled_timestamp", "rows", "files"}
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["_SUCCESS", *(file["name"] for file in success["files"])]
    )
    rows = []
    for number, file in enumerate(success["files"], 1):
        assert file["name"] == f"{number}.{kind}"
        path = folder / file["name"]
        content = path.read_bytes()
        assert (file["size"], file["crc32c"]) == (len(content), f"{crc32c(content):08x}"), file
        found = parquet_rows(path) if kind == "parquet" else json_rows(path)
        assert len(found) == file["rows"]
        rows += found
    assert success["rows"] == len(rows)
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


def narrowed(rows):
    """Rows by key, with numbers as 32-bit fields hold them."""

    def narrow(row):
        vector = [float(np.float32(number)) for number in row["vector"]]
        floats = {
            name: None if row[name] is None else float(np.float32(row[name]))
            for name in ("price", "x")
        }
        return {**row, **floats, "vector": vector}

    return sorted((narrow(row) for row in rows), key=lambda row: row["id"])


def same_rows(found, expected):
    by_key, wanted = narrowed(found), narrowed(expected)
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


TASK_FIELDS = {
    "task_id": str,
    "task_type": str,
    "task_status": str,
    "collection_name": str,
    "update_person": str,
    "update_time": str,
    "create_time": str,
    "process_info": dict,
    "task_params": dict,
}
PROCESS_FIELDS = {
    "sampled_data": list,
    "sampled_timestamp": int,
    "err_msg": str,
    "task_progress": str,
    "total_data_count": int,
    "total_filter_count": int,
    "scan_data_count": int,
}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def unix_seconds(text):
    assert RFC3339.fullmatch(text), text
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def raw_task(viking, task_id, method="POST"):
    """A task as it is answered, which has every field of a task and no others."""
    status, answer = call(viking.host, "/api/task/info", {"task_id": task_id}, method=method)
    assert status == 200, answer
    task = answer["data"]
    assert {name: type(value) for name, value in task.items()} == TASK_FIELDS, task
    info = task["process_info"]
    assert {name: type(value) for name, value in info.items()} == PROCESS_FIELDS, info
    assert unix_seconds(task["create_time"]) <= unix_seconds(task["update_time"])
    return task


@pytest.mark.parametrize(
    "given, matches",
    [
        ({"filter": {"city": ["beijing"]}}, lambda row: row["city"] == "beijing"),
        ({"filter_conds": [{"op": "range", "field": "id", "lt": 3}]}, lambda row: row["id"] < 3),
        ({"filter": {"user_id": 77}, "file_type": "json"}, lambda row: row["user_id"] == 77),
        ({"export_all": True, "file_type": "parquet"}, lambda row: True),
    ],
)
def test_a_task_says_what_was_asked_and_what_was_done(viking, people, given, matches):
    expected = {row["id"]: row for row in people if matches(row)}
    number = len(viking.service().list_tasks())
    params = {"collection_name": "people", "tos_path": f"own/said{number}", **given}
    begun = time.time()
    body = {"task_type": "data_export", "task_params": params}
    status, answer = call(viking.host, "/api/task/create", body)
    assert (status, answer["code"], answer["message"]) == (200, 0, "success"), answer
    assert set(answer["data"]) == {"task_id"}
    task_id = answer["data"]["task_id"]
    assert str(uuid.UUID(task_id)) == task_id
    raw_task(viking, task_id)
    finished(viking.service(), task_id)
    ended = time.time()

    task = raw_task(viking, task_id)
    assert task["task_id"] == task_id and task["task_type"] == "data_export"
    assert task["task_status"] == "done" and task["collection_name"] == "people"
    assert task["task_params"] == params
    assert task["update_person"] == "root"
    # The times are of whole seconds.
    created, updated = unix_seconds(task["create_time"]), unix_seconds(task["update_time"])
    assert int(begun) <= created <= updated <= ended
    info = task["process_info"]
    assert begun * 1000 - 1 <= info["sampled_timestamp"] <= ended * 1000
    assert info["task_progress"] == "100%" and info["err_msg"] == ""
    assert info["total_filter_count"] == len(expected)
    # The rows that were replaced and those that were deleted may be in files still.
    assert len(people) <= info["total_data_count"] <= 11_000
    assert info["scan_data_count"] == info["total_data_count"]
    keys = {row["id"] for row in info["sampled_data"]}
    assert len(keys) == len(info["sampled_data"]) == min(5, len(expected))
    same_rows(info["sampled_data"], [expected[key] for key in keys])

    assert raw_task(viking, task_id, method="GET") == task
    for method in ["POST", "GET"]:
        status, answer = call(viking.host, "/api/task/list", {}, method=method)
        assert status == 200 and [one for one in answer["data"] if one == task] == [task], answer


def test_a_filter_does_not_count_beside_export_all(viking, people):
    for number, given in enumerate(
        [
            {"filter": {"user_id": [5]}},
            {"filter_conds": [{"op": "must", "field": "city", "conds": ["nowhere"]}]},
            {"filter": {"nothing": [1]}},
        ]
    ):
        path = f"own/ignored{number}"
        task = export(viking.service(), path, export_all=True, **given)
        assert task.process_info["total_filter_count"] == len(people)
        same_rows(read_files(folder_of(viking, path)), people)


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
    task = export(viking.service(), "own/json", export_all=True, file_type="json")
    success = json.loads((folder_of(viking, "own/json") / "_SUCCESS").read_text())
    assert success["task_id"] == task.task_id
    assert success["sampled_timestamp"] == task.process_info["sampled_timestamp"]
    assert success["rows"] == task.process_info["total_filter_count"] == len(people)
    same_rows(read_files(folder_of(viking, "own/json"), "json"), people)


def test_an_export_of_no_rows_has_an_empty_file(viking, people):
    viking_service = viking.service()
    for kind in ["parquet", "json"]:
        path = f"own/none_{kind}"
        export(viking_service, path, filter={"user_id": 77}, file_type=kind)
        assert read_files(folder_of(viking, path), kind) == []


def filters_of(rng, people):
    return Filters(
        rng,
        people,
        matched=["id", "user_id", "city", "adult", "visits", "tags"],
        ranged=["id", "user_id", "price", "x"],
        planes=[("x", "price"), ("id", "user_id"), ("user_id", "x")],
        absent={"id": -1, "user_id": 77, "city": "nowhere", "visits": 5, "tags": "nowhere"},
    )


def check_filters(viking, people, name, cases):
    """Exports with each filter, all at once, have the rows that the filter means."""
    viking_service = viking.service()
    tasks = []
    for number, (given, _) in enumerate(cases):
        params = {"collection_name": "people", "tos_path": f"own/{name}{number}", **given}
        tasks.append(viking_service.create_task(TaskType.Data_export, params))
    for number, (given, matches) in enumerate(cases):
        task = finished(viking_service, tasks[number])
        assert task.task_status == "done", (given, task.process_info)
        found = read_files(folder_of(viking, f"own/{name}{number}"))
        wanted = sorted(row["id"] for row in people if matches(row))
        assert sorted(row["id"] for row in found) == wanted, given


def as_operator(number, tree):
    """The three places where an operator may stand."""
    return [{"filter": tree}, {"filter_conds": [tree]}, {"filter": [tree]}][number % 3]


def test_each_operator_means_what_a_plain_evaluator_says(viking, people, seed):
    """Each on every kind of field that it takes."""
    filters = filters_of(random.Random(seed + 1), people)
    leaves = list(filters.every_leaf())
    for tree, matches in leaves:
        # None of them would pass by doing nothing.
        assert 0 < sum(map(matches, people)) < len(people), tree
    cases = [(as_operator(number, tree), test) for number, (tree, test) in enumerate(leaves)]
    check_filters(viking, people, "leaf", cases)


def test_filters_mean_what_a_plain_evaluator_says(viking, people, seed):
    """Operators in each other, lists of them, and both forms beside each other."""
    filters = filters_of(random.Random(seed + 2), people)
    trees = [*filters.every_join(), *(filters.tree(4) for _ in range(9))]
    cases = [(as_operator(number, tree), test) for number, (tree, test) in enumerate(trees)]
    for _ in range(3):
        (one, first), (other, second) = filters.tree(1), filters.tree(1)
        both = lambda row, first=first, second=second: first(row) and second(row)  # noqa: E731
        cases.append(({"filter_conds": [one, other]}, both))
        given, third = filters.map("city")
        both = lambda row, first=first, third=third: first(row) and third(row)  # noqa: E731
        cases.append(({"filter": given, "filter_conds": [one]}, both))
    check_filters(viking, people, "tree", cases)


def test_random_filters_of_the_older_form(viking, people, seed):
    filters = filters_of(random.Random(seed + 3), people)
    maps = [filters.map(name) for name in filters.matched]
    for _ in range(8):
        count = filters.rng.randrange(2, 4)
        maps.append(filters.map(*filters.rng.sample(filters.matched[1:], count)))
    check_filters(viking, people, "map", [({"filter": given}, test) for given, test in maps])


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


def op(name, field, **more):
    return {"filter_conds": [{"op": name, "field": field, **more}]}


# Parameters, and what the answer says is wrong with them.
WRONG = [
    ({}, "neither filter nor export_all"),
    ({"export_all": False}, "neither filter nor export_all"),
    ({"export_all": None, "filter": None}, "neither filter nor export_all"),
    ({"export_all": "yes"}, "export_all is no boolean"),
    ({"filter": {}}, "filter is empty"),
    ({"filter": 5}, "filter is no object"),
    ({"filter": {"nothing": [1]}}, "field nothing"),
    ({"filter": {"user_id": []}}, "field user_id has no values"),
    ({"filter": {"user_id": ["1"]}}, 'value "1" does not fit field user_id of type int64'),
    ({"filter": {"user_id": [1.5]}}, "value 1.5 does not fit field user_id of type int64"),
    ({"filter": {"user_id": [2**63]}}, f"value {2**63} does not fit field user_id of type int64"),
    ({"filter": {"user_id": [[1]]}}, "value [1] does not fit field user_id of type int64"),
    ({"filter": {"user_id": None}}, "value null does not fit field user_id of type int64"),
    ({"filter": {"city": [1]}}, "value 1 does not fit field city of type string"),
    ({"filter": {"city": ["xi'an", True]}}, "value true does not fit field city of type string"),
    ({"filter": {"adult": [1]}}, "value 1 does not fit field adult of type bool"),
    ({"filter": {"visits": ["1"]}}, 'value "1" does not fit field visits of type list<int64>'),
    ({"filter": {"tags": [1]}}, "value 1 does not fit field tags of type list<string>"),
    ({"filter": {"price": [1.0]}}, "field price of type float32 cannot be matched"),
    ({"filter": {"vector": [1.0]}}, "field vector of type vector cannot be matched"),
    ({"filter": {"note": ["note 1"]}}, "field note of type text cannot be matched"),
    ({"filter": {"user_id": [1], "nothing": [1]}}, "field nothing"),
    ({"filter_conds": []}, "filter_conds is no list of operators"),
    ({"filter_conds": {"op": "must"}}, "filter_conds is no list of operators"),
    ({"filter_conds": ["must"]}, "operator is no object"),
    ({"filter_conds": [{"field": "user_id"}]}, "operator has no op"),
    ({"filter_conds": [{"op": 5, "field": "user_id"}]}, "operator has no op"),
    ({"filter": {"op": "nor", "field": "user_id", "conds": [1]}}, "op nor "),
    (op("must_nor", "user_id", conds=[1]), "op must_nor "),
    (op("must", "nothing", conds=[1]), "field nothing"),
    (op("must", None, conds=[1]), "must has no field"),
    (op("must", "user_id"), "must has no conds"),
    (op("must", "user_id", conds=[]), "field user_id has no values"),
    (op("must", "user_id", conds=[1], gt=1), "gt of must"),
    (op("must", "price", conds=[1.0]), "field price of type float32 cannot be matched"),
    (op("must", "note", conds=["note 1"]), "field note of type text cannot be matched"),
    (op("must_not", "nothing", conds=[1]), "field nothing"),
    (op("must_not", "user_id"), "must_not has no conds"),
    (op("must_not", "user_id", conds=["1"]), 'value "1" does not fit field user_id'),
    (op("must_not", "note", conds=["note 1"]), "field note of type text cannot be matched"),
    (op("must_not", "vector", conds=[1.0]), "field vector of type vector cannot be matched"),
    (op("range", "nothing", gt=1), "field nothing"),
    (op("range", "user_id"), "range has no bound"),
    (op("range", "user_id", gt="1"), "gt of range is no number"),
    (op("range", "user_id", gt=1, lte=True), "lte of range is no number"),
    (op("range", "user_id", equal=1), "equal of range"),
    (op("range", "user_id", conds=[1]), "conds of range"),
    (op("range", "city", gt=1), "field city of type string has no ranges"),
    (op("range", "note", gt=1), "field note of type text has no ranges"),
    (op("range", "adult", gt=0), "field adult of type bool has no ranges"),
    (op("range", "visits", gt=0), "field visits of type list<int64> has no ranges"),
    (op("range", "vector", gt=0), "field vector of type vector has no ranges"),
    (op("range_out", "nothing", gt=1), "field nothing"),
    (op("range_out", "user_id"), "range_out has no bound"),
    (op("range_out", "user_id", lt=[1]), "lt of range_out is no number"),
    (op("range_out", "tags", lt=1), "field tags of type list<string> has no ranges"),
    (op("range", ["x"], center=[1], radius=1), "field of range is no pair"),
    (op("range", ["x", 1], center=[1, 2], radius=1), "field of range is no string"),
    (op("range", ["x", "nothing"], center=[1, 2], radius=1), "field nothing"),
    (op("range", ["x", "city"], center=[1, 2], radius=1), "field city of type string"),
    (op("range", ["x", "price"], radius=1), "center of range is no pair"),
    (op("range", ["x", "price"], center=[1, "2"], radius=1), "center of range is no number"),
    (op("range", ["x", "price"], center=[1, 2]), "radius of range is no length"),
    (op("range", ["x", "price"], center=[1, 2], radius=-1), "radius of range is no length"),
    (op("range", ["x", "price"], center=[1, 2], radius=1, gt=1), "gt of range"),
    (op("range_out", ["x", "note"], center=[1, 2], radius=1), "field note of type text"),
    ({"filter_conds": [{"op": "and"}]}, "conds of and is no list of operators"),
    ({"filter_conds": [{"op": "and", "conds": []}]}, "conds of and is no list of operators"),
    ({"filter_conds": [{"op": "or", "conds": {}}]}, "conds of or is no list of operators"),
    ({"filter_conds": [{"op": "or", "conds": [1]}]}, "operator is no object"),
    ({"filter_conds": [{"op": "or", "field": "x", "conds": []}]}, "field of or"),
    ({"filter": {"op": "or", "conds": [{"op": "and", "filter": []}]}}, "filter of and"),
    ({"filter": {"op": "or", "conds": op("must_nor", "x")["filter_conds"]}}, "op must_nor "),
    ({"filter": {"user_id": [1]}, **op("must_nor", "x")}, "op must_nor "),
    ({"export_all": True, "file_type": "csv"}, 'file_type "csv"'),
    ({"export_all": True, "tos_path": "bucket"}, "tos_path bucket"),
    ({"export_all": True, "tos_path": "bucket/../x"}, "tos_path bucket/../x"),
    ({"export_all": True, "tos_path": None}, "tos_path of task_params is missing"),
    ({"export_all": True, "collection_name": None}, "collection_name of task_params is missing"),
    ({"export_all": True, "unknown": 1}, "unknown of task_params"),
]


def test_requests_that_make_no_sense_are_refused_with_what_is_wrong(viking, people):
    before = [task.task_id for task in viking.service().list_tasks()]
    for number, (params, wrong) in enumerate(WRONG):
        params = {"collection_name": "people", "tos_path": f"own/w{number}", **params}
        body = {"task_type": "data_export", "task_params": params}
        status, answer = call(viking.host, "/api/task/create", body)
        assert (status, answer["code"]) == (400, 1000003), (params, answer)
        message = answer["message"]
        assert message.startswith("invalid request:") and wrong in message, (params, message)
        assert answer["request_id"] and "data" not in answer
    assert [task.task_id for task in viking.service().list_tasks()] == before


def test_requests_that_cannot_be_are_refused(viking, people):
    viking_service = viking.service()
    with pytest.raises(InvalidRequestException):
        params = {"collection_name": "people", "tos_path": "own/x", "filter": {"nothing": [1]}}
        viking_service.create_task(TaskType.Data_export, params)
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


class Writes:
    """Writes one after the other, each with when it was begun and answered in Unix milliseconds."""

    def __init__(self, rng, rows):
        self.rng = rng
        self.start = {row["id"]: full(row) for row in rows}
        self.now = dict(self.start)
        self.next_key = max(self.now) + 1
        self.done = []

    def one(self, writer):
        """New rows, other rows with the keys of some, or some without."""
        kind = self.rng.choice(["insert", "replace", "replace", "delete"])
        if kind == "insert":
            rows = make_rows(self.rng, self.next_key, 20)
            self.next_key += 20
        else:
            keys = self.rng.sample(sorted(self.now), 20)
            rows = [make_rows(self.rng, key, 1)[0] for key in keys]
        changes = {row["id"]: None if kind == "delete" else full(row) for row in rows}
        write = {"kind": kind, "changes": changes, "begun": time.time_ns() // 1_000_000}
        self.done.append(write)
        if kind == "delete":
            writer.delete("busy", ids=list(changes))
        else:
            writer.upsert("busy", list(changes.values()))
        write["answered"] = time.time_ns() // 1_000_000
        self.apply(self.now, changes)

    @staticmethod
    def apply(rows, changes):
        for key, row in changes.items():
            if row is None:
                del rows[key]
            else:
                rows[key] = row

    def states(self, at):
        """What there may be at a time: (how many writes were before it, the rows after them).

        The server's clock is this machine's: a write that was answered earlier is there, and one
        that was begun later is not.
        """
        sure = sum(write["answered"] < at for write in self.done)
        possible = sum(write["begun"] <= at for write in self.done)
        rows = dict(self.start)
        for number, write in enumerate(self.done[:possible]):
            if number >= sure:
                yield number, list(rows.values())
            self.apply(rows, write["changes"])
        yield possible, list(rows.values())


def test_an_export_is_of_one_time_while_rows_come_and_go(viking, seed):
    """Its rows are those that a plain model has at the same time, field by field."""
    rng = random.Random(seed + 4)
    viking_service = viking.service()
    collection = viking_service.create_collection("busy", fields())
    rows = make_rows(rng, 0, 3_000)
    upsert(collection, rows)
    client = viking.client()
    client.flush("busy")
    writes = Writes(rng, rows)
    stop = threading.Event()
    compactions = []

    def write():
        writer = connect(viking.uri)
        while not stop.is_set():
            writes.one(writer)
            if len(writes.done) % 10 == 0:
                writer.flush("busy")
                compactions.append(writer.compact("busy"))
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    tasks = []
    try:
        for number in range(4):
            writes_before, compactions_before = len(writes.done), len(compactions)

            def under_way(writes_before=writes_before, compactions_before=compactions_before):
                more = len(writes.done) > writes_before + 10
                return (more and len(compactions) > compactions_before) or not thread.is_alive()

            eventually(under_way, "writes and a compaction are under way")
            tasks.append(export(viking_service, f"own/busy{number}", "busy", export_all=True))
        eventually(under_way, "writes go on")
    finally:
        alive = thread.is_alive()
        stop.set()
        thread.join()
    assert alive, "a write has failed"
    assert {write["kind"] for write in writes.done} == {"insert", "replace", "delete"}
    completed = lambda: client.get_compaction_state(compactions[0]) == "Completed"  # noqa: E731
    eventually(completed, "a compaction is complete")
    client.close()
    times = [task.process_info["sampled_timestamp"] for task in tasks]
    assert times == sorted(set(times))
    for number, at in enumerate(times):
        found = narrowed(read_files(folder_of(viking, f"own/busy{number}")))
        states = dict(writes.states(at))
        # One write at the most was under way, and others within its millisecond.
        assert len(states) <= 4 and min(states) >= 10, (at, list(states))
        if not any(found == narrowed(rows) for rows in states.values()):
            print(f"at {at}, after {list(states)} of {len(writes.done)} writes")
            same_rows(found, states[min(states)])


def test_killed_services_leave_an_exact_export(tmp_path, seed):
    """kill -9 of the datanode, the datacoord and the proxy while tasks run; then the collection goes
    before its rows are read."""
    host = f"127.0.0.1:{free_port()}"
    holding = Holding(tmp_path / "holding")
    env = {
        **holding.env,
        "REDKITE__VIKINGDB__LISTEN": host,
        "REDKITE__VIKINGDB__ACCESS_KEY": ACCESS_KEY,
        "REDKITE__VIKINGDB__SECRET_KEY": SECRET_KEY,
        "REDKITE__DATANODE__EXPORT__MAX_FILE_SIZE": "64KiB",
        "REDKITE__COMMON__SESSION_TTL": "5s",
        "REDKITE__DATACOORD__COMPACTION__ENABLED": "false",
        "REDKITE__DATACOORD__GC__ENABLED": "false",
        "REDKITE__DATACOORD__GC__GRACE": "0s",
        "REDKITE__DATACOORD__GC__DROPPED_GRACE": "0s",
    }
    rng = random.Random(seed + 5)
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
            viking_service = service(host)
            path = f"own/{victim}"
            task_id = held_export(viking_service, holding, objects, path)
            assert viking_service.get_task(task_id).task_status == "running"
            named[victim].kill9()
            holding.release(FILE_WRITTEN)
            named[victim].start()
            same_as_ended(host, task_id, objects / path, rows)
        # What an export reads is there until it has ended, though nothing else needs it.
        path = "own/dropped"
        task_id = held_export(service(host), holding, objects, path)
        named["datanode"].kill9()
        holding.release(FILE_WRITTEN)
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


FILE_WRITTEN = "export.file_written"


def held_export(viking_service, holding, objects, path):
    """The id of an export whose data node is held with one of its files written, and the next one nearly."""
    holding.arm(FILE_WRITTEN)
    params = {"collection_name": "people", "tos_path": path, "export_all": True}
    task_id = viking_service.create_task(TaskType.Data_export, params)
    holding.await_held(FILE_WRITTEN)
    holding.pass_on(FILE_WRITTEN)
    holding.await_held(FILE_WRITTEN)
    assert (objects / path / "1.parquet").exists()
    assert not (objects / path / "_SUCCESS").exists()
    return task_id


def ended(viking_service, task_id):
    task = viking_service.get_task(task_id)
    return task if task.task_status in ("done", "fail") else None


def attempt(use):
    try:
        return use()
    except Exception:
        return None
