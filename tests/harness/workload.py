"""A load of writes and definitions that remembers what was acknowledged, and checks it.

What was acknowledged must be there. A request that was cut off or refused may be there or not, but
whole. The clients are raw ones: they say exactly what was answered to each request.
"""

import random
import threading

import grpc
import numpy as np
import pytest
from pymilvus.client.prepare import Prepare
from pymilvus.grpc_gen import milvus_pb2

from .data import index_params, make_vectors, simple_schema
from .raw import Raw, longs, strings, vectors

DIM = 8
BATCH = 20
VECTORS = make_vectors(4096, DIM, seed=1)
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def vector_of(key, version):
    return VECTORS[(key * 31 + version * 7) % len(VECTORS)]


class Worker:
    """Repeats `step` until it is told to stop; an error that nobody expects ends it."""

    def __init__(self, tolerated=(), may_time_out=False):
        """Answers with the codes `tolerated` are no failures: the load goes on. So it does, where it
        `may_time_out`, after a call that was not answered in time: its fate is unknown."""
        self.tolerated = set(tolerated)
        self.may_time_out = may_time_out
        self.refused = {}
        self.failure = None

    def run(self, address, stop):
        """`stop` is set before the server goes: only then may a call be cut off."""
        raw = Raw(address, OWN_CONNECTION)
        try:
            while not stop.is_set():
                try:
                    self.step(raw)
                except grpc.RpcError as error:
                    late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                    if not (late and self.may_time_out):
                        raise
                    self.refused["late"] = self.refused.get("late", 0) + 1
        except grpc.RpcError as error:
            if not stop.is_set():
                self.failure = error
        except Exception as error:
            self.failure = error
        finally:
            raw.close()

    def accepted(self, status):
        """Whether a request was acknowledged; an answer that nobody expects is an error."""
        if status.code == 0:
            return True
        assert status.code in self.tolerated, status
        self.refused[status.code] = self.refused.get(status.code, 0) + 1
        return False


class Writer(Worker):
    """Writes batches of its own keys and remembers what was acknowledged.

    `rows` maps key -> version for what is certainly there. `unsure` are requests that were cut off or
    refused, as (keys, version or None for a delete); their keys are not touched until `check`.
    """

    def __init__(self, number, seed, name, batch=BATCH, most_batches=60, **options):
        super().__init__(**options)
        self.rng = random.Random(seed * 1000 + number)
        self.name = name
        self.batch = batch
        self.most_batches = most_batches
        self.first_key = self.next_key = number * 10_000_000
        self.version = 0
        self.rows = {}
        self.batches = []
        self.unsure = []
        # Every request since the last check, also those that were acknowledged.
        self.requests = []
        self.acknowledged = 0

    def step(self, raw):
        deletes = 1 if len(self.batches) < self.most_batches else 12
        kind = self.rng.choices(["insert", "upsert", "delete"], [6, 3, deletes])[0]
        if kind == "insert" or not self.batches:
            keys = list(range(self.next_key, self.next_key + self.batch))
            self.next_key += self.batch
            self.write(raw, "Insert", keys)
            return
        keys = self.batches.pop(self.rng.randrange(len(self.batches)))
        if kind == "upsert":
            self.write(raw, "Upsert", keys)
        else:
            self.delete(raw, keys)

    def write(self, raw, rpc, keys):
        self.version += 1
        request = (keys, self.version)
        self.begun(request)
        values = np.concatenate([vector_of(key, self.version) for key in keys])
        columns = [
            longs("id", keys),
            vectors("vector", DIM, values),
            longs("number", [self.version] * len(keys)),
            strings("label", [f"{key}/{self.version}" for key in keys]),
        ]
        reply = raw.insert(self.name, columns, len(keys), rpc=rpc)
        if self.accepted(reply.status):
            self.rows.update(dict.fromkeys(keys, self.version))
            self.batches.append(keys)
            self.done(request)

    def delete(self, raw, keys):
        request = (keys, None)
        self.begun(request)
        message = milvus_pb2.DeleteRequest(collection_name=self.name, expr=f"id in {keys}")
        reply = raw.call("Delete", message)
        if self.accepted(reply.status):
            for key in keys:
                self.rows.pop(key, None)
            self.done(request)

    def begun(self, request):
        self.unsure.append(request)
        self.requests.append(request)

    def done(self, request):
        self.unsure.remove(request)
        self.acknowledged += 1

    def check(self, everything):
        """`everything`: key -> version. Takes over what became of the requests in `unsure`."""
        first, last = self.first_key, self.first_key + 10_000_000
        found = {key: v for key, v in everything.items() if first <= key < last}
        for keys, version in self.unsure:
            before = {key: self.rows.get(key) for key in keys}
            after = dict.fromkeys(keys, version)
            now = {key: found.get(key) for key in keys}
            assert now in (before, after), f"half a request is there: {keys}, {version} is {now}"
            for key, value in now.items():
                if value is None:
                    self.rows.pop(key, None)
                else:
                    self.rows[key] = value
            if all(value is not None for value in now.values()):
                self.batches.append(keys)
        self.unsure, self.requests = [], []
        lost = {key: v for key, v in self.rows.items() if found.get(key) != v}
        extra = {key: v for key, v in found.items() if key not in self.rows}
        assert not lost, (
            f"{len(lost)} acknowledged rows are lost or old, e.g. {list(lost.items())[:5]}"
        )
        assert not extra, f"{len(extra)} rows came back, e.g. {list(extra.items())[:5]}"


class Moment:
    """What a writer knew before a read, to judge by what the read shows while writing goes on."""

    def __init__(self, writer):
        self.writer = writer
        # In this order: a request that ends meanwhile counts as one that may or may not be seen.
        self.begun = len(writer.requests)
        self.unsure = list(writer.unsure)
        self.rows = dict(writer.rows)

    def expected(self, first, last):
        """key -> the versions that may be seen of it, None for no row. To be asked after the read."""
        sure = {key: {version} for key, version in self.rows.items() if first <= key < last}
        for keys, version in [*self.unsure, *self.writer.requests[self.begun :]]:
            for key in keys:
                if first <= key < last:
                    sure.setdefault(key, {None}).add(version)
        return sure


class Reader(Worker):
    """Queries and searches what writers write; every answer must be one that they can explain.

    The collection's own level of consistency must be Strong: a row is seen once, as it was acknowledged
    before or as a request under way has it, and no other.
    """

    def __init__(self, seed, name, writers, **options):
        super().__init__(**options)
        self.rng = random.Random(seed)
        self.name = name
        self.writers = writers
        self.answers = 0
        self.rows_seen = 0

    def step(self, raw):
        if self.rng.random() < 0.7:
            self.query(raw)
        else:
            self.search(raw)

    def query(self, raw):
        """All rows with keys of a part of what one writer writes."""
        writer = self.rng.choice(self.writers)
        first = self.rng.randrange(writer.first_key, writer.next_key + writer.batch)
        last = first + 8 * writer.batch
        moment = Moment(writer)
        request = Prepare.query_request(
            self.name,
            f"id >= {first} and id < {last}",
            ["id", "number", "label"],
            ["_default"],
        )
        reply = raw.call("Query", request)
        if not self.accepted(reply.status):
            return
        expected = moment.expected(first, last)
        found = self.seen(reply.fields_data)
        for key in found.keys() | expected.keys():
            version, allowed = found.get(key), expected.get(key, {None})
            assert version in allowed, f"row {key} is {version} instead of one of {allowed}"

    def search(self, raw):
        """The nearest to the vectors of some rows, which are among them."""
        moments = [Moment(writer) for writer in self.writers]
        rows = {key: version for moment in moments for key, version in moment.rows.items()}
        keys = self.rng.sample(sorted(rows), min(3, len(rows)))
        if not keys:
            return
        request = Prepare.search_requests_with_expr(
            self.name,
            "vector",
            {"metric_type": "L2", "params": {}},
            5,
            [vector_of(key, rows[key]).tolist() for key in keys],
            partition_names=["_default"],
            output_fields=["number", "label"],
        )
        reply = raw.call("Search", request)
        if not self.accepted(reply.status):
            return
        every = [moment.expected(0, 10_000_000_000) for moment in moments]
        expected = {key: allowed for some in every for key, allowed in some.items()}
        ids, start = list(reply.results.ids.int_id.data), 0
        columns = {column.field_name: column for column in reply.results.fields_data}
        for key, size in zip(keys, reply.results.topks, strict=True):
            end = start + size
            found = self.versions(
                ids[start:end],
                columns["number"].scalars.long_data.data[start:end],
                columns["label"].scalars.string_data.data[start:end],
            )
            for hit, version in found.items():
                allowed = expected.get(hit, {None})
                assert version in allowed, f"hit {hit} is {version} instead of one of {allowed}"
            if len(expected[key]) == 1:
                nearest = list(reply.results.scores[start:end])[:1]
                assert nearest == pytest.approx([0], abs=1e-5), f"row {key} is not found: {found}"
            start = end

    def seen(self, fields_data):
        columns = {column.field_name: column for column in fields_data}
        if not columns:
            return {}
        return self.versions(
            columns["id"].scalars.long_data.data,
            columns["number"].scalars.long_data.data,
            columns["label"].scalars.string_data.data,
        )

    def versions(self, keys, numbers, labels):
        """key -> version of rows, each of which is one that was written as a whole."""
        found = {}
        for key, number, label in zip(keys, numbers, labels, strict=True):
            assert key not in found, f"row {key} is there twice"
            assert label == f"{key}/{number}", f"row {key} is mixed of two: {number}, {label}"
            found[key] = number
        self.answers += 1
        self.rows_seen += len(found)
        return found


class Definer(Worker):
    """Creates and drops partitions, flushes, and compacts; of kind `index`, also drops and creates the index."""

    def __init__(self, seed, name, kinds=("create", "create", "drop", "flush", "compact"), **options):
        super().__init__(**options)
        self.rng = random.Random(seed)
        self.name = name
        self.kinds = kinds
        self.next = 0
        self.names = set()
        self.uncertain = set()
        self.is_indexing = False
        self.indexed = 0

    def step(self, raw):
        kind = self.rng.choice(self.kinds)
        if kind == "flush":
            reply = raw.call("Flush", milvus_pb2.FlushRequest(collection_names=[self.name]))
            # A flush of what was flushed just now is refused as a rate limit.
            if reply.status.code != 8:
                self.accepted(reply.status)
        elif kind == "compact":
            request = milvus_pb2.ManualCompactionRequest(collection_name=self.name)
            self.accepted(raw.call("ManualCompaction", request).status)
        elif kind == "index":
            self.index(raw)
        elif kind == "create" or not self.names:
            self.create(raw)
        else:
            self.drop(raw, self.rng.choice(sorted(self.names)))

    def index(self, raw):
        """Only an index of what is not loaded can be dropped."""
        self.is_indexing = True
        params = {"index_type": "HNSW", "metric_type": "L2"}
        calls = [
            ("ReleaseCollection", milvus_pb2.ReleaseCollectionRequest(collection_name=self.name)),
            ("DropIndex", Prepare.drop_index_request(self.name, "vector", "vector")),
            ("CreateIndex", Prepare.create_index_request(self.name, "vector", params, index_name="vector")),
            ("LoadCollection", milvus_pb2.LoadCollectionRequest(collection_name=self.name)),
        ]
        for rpc, request in calls:
            status = raw.call(rpc, request)
            assert status.code == 0, (rpc, status)
        self.is_indexing = False
        self.indexed += 1

    def mend(self, client):
        """Does the rest where `index` was cut off."""
        if not self.is_indexing:
            return
        if client.list_indexes(self.name) == []:
            client.create_index(self.name, index_params("HNSW", "L2"))
        client.load_collection(self.name)
        self.is_indexing = False

    def create(self, raw):
        name = f"p{self.next}"
        self.next += 1
        request = milvus_pb2.CreatePartitionRequest(
            collection_name=self.name, partition_name=name
        )
        self.uncertain.add(name)
        if self.accepted(raw.call("CreatePartition", request)):
            self.names.add(name)
            self.uncertain.discard(name)

    def drop(self, raw, name):
        request = milvus_pb2.ReleasePartitionsRequest(
            collection_name=self.name, partition_names=[name]
        )
        if not self.accepted(raw.call("ReleasePartitions", request)):
            return
        request = milvus_pb2.DropPartitionRequest(collection_name=self.name, partition_name=name)
        self.uncertain.add(name)
        if self.accepted(raw.call("DropPartition", request)):
            self.names.discard(name)
            self.uncertain.discard(name)

    def check(self, listed):
        listed = set(listed) - {"_default"}
        certain = self.names - self.uncertain
        assert certain <= listed, f"partitions are lost: {certain - listed}"
        assert listed <= certain | self.uncertain, f"came back: {listed - certain}"
        self.names, self.uncertain = listed, set()


class Load:
    """Workers that run together until they are stopped."""

    def __init__(self, address, workers):
        self.workers = workers
        self.stop = threading.Event()
        self.threads = [
            threading.Thread(target=worker.run, args=(address, self.stop), daemon=True)
            for worker in workers
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def failed(self):
        return any(worker.failure for worker in self.workers)

    def acknowledged(self):
        return sum(getattr(worker, "acknowledged", 0) for worker in self.workers)

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(timeout=90)

    def refusals(self):
        """Refused requests of each writer."""
        writers = [worker for worker in self.workers if isinstance(worker, Writer)]
        return [sum(writer.refused.values()) for writer in writers]

    def is_refused_since(self, before, times=3):
        """Whether every writer was refused so often since `refusals()` answered `before`."""
        pairs = zip(before, self.refusals(), strict=True)
        return all(after >= earlier + times for earlier, after in pairs)

    def check(self):
        """After the end: nobody met an error that was not to be expected."""
        assert not any(thread.is_alive() for thread in self.threads), "a call is never answered"
        for worker in self.workers:
            assert worker.failure is None, worker.failure


def read_versions(client, name, batch_size=5000):
    """key -> version of all rows in the default partition of a loaded collection."""
    found = {}
    iterator = client.query_iterator(
        name,
        batch_size=batch_size,
        filter="id >= 0",
        output_fields=["number", "label"],
        partition_names=["_default"],
        consistency_level="Strong",
    )
    while page := iterator.next():
        for row in page:
            assert row["id"] not in found, f"row {row['id']} is there twice"
            assert row["label"] == f"{row['id']}/{row['number']}"
            found[row["id"]] = row["number"]
    iterator.close()
    return found


def check_searches(client, name, found, rng):
    """Each of some rows is nearest to its own vector, and every hit is a row that is there."""
    keys = rng.sample(sorted(found), min(10, len(found)))
    queries = [vector_of(key, found[key]).tolist() for key in keys]
    if not queries:
        return
    results = client.search(
        name, queries, limit=5, output_fields=["number"], partition_names=["_default"]
    )
    for key, result in zip(keys, results, strict=True):
        assert result, f"nothing is found for row {key}"
        assert result[0]["distance"] == pytest.approx(0, abs=1e-5)
        for hit in result:
            assert found[hit["id"]] == hit["entity"]["number"]


def check_everything(client, name, workers, rng=None):
    """Compares all that a collection holds with what its workers were told; returns the rows."""
    found = read_versions(client, name)
    for worker in workers:
        if isinstance(worker, Writer):
            worker.check(found)
        elif isinstance(worker, Definer):
            worker.check(client.list_partitions(name))
    check_searches(client, name, found, rng or random.Random(len(found)))
    return found


def create_request(name):
    return Prepare.create_collection_request(name, simple_schema())
