"""kill -9 under load, again and again, with a check of every acknowledged write.

What was acknowledged must be there. A request that was cut off may be there or not, but whole.
"""

import os
import random
import threading

import grpc
import numpy as np
import pytest
from harness.data import create_simple, index_params, make_vectors, simple_schema
from harness.process import Server
from harness.raw import Raw, longs, strings, vectors
from harness.waiting import eventually
from pymilvus.client.prepare import Prepare
from pymilvus.client.types import LoadState
from pymilvus.grpc_gen import milvus_pb2

NAME = "under_fire"
DIM = 8
BATCH = 20
KILLS = int(os.environ.get("REDKITE_KILLS", "20"))
VECTORS = make_vectors(4096, DIM, seed=1)


def vector_of(key, version):
    return VECTORS[(key * 31 + version * 7) % len(VECTORS)]


class Writer:
    """Writes batches of its own keys and remembers what was acknowledged.

    `rows` maps key -> version for what is certainly there. `pending` is the request that was cut
    off by a kill: (keys, version or None for a delete).
    """

    def __init__(self, number, seed):
        self.rng = random.Random(seed * 1000 + number)
        self.next_key = number * 10_000_000
        self.version = 0
        self.rows = {}
        self.batches = []
        self.pending = None
        self.acknowledged = 0
        self.failure = None

    def run(self, address, killed):
        raw = Raw(address, [("grpc.use_local_subchannel_pool", 1)])
        try:
            while not killed.is_set():
                self.step(raw)
        except grpc.RpcError as error:
            if not killed.is_set():
                self.failure = error
        except Exception as error:
            self.failure = error
        finally:
            raw.close()

    def step(self, raw):
        kind = self.rng.choices(["insert", "upsert", "delete"], [6, 3, 1])[0]
        if kind == "insert" or not self.batches:
            keys = list(range(self.next_key, self.next_key + BATCH))
            self.next_key += BATCH
            self.write(raw, "Insert", keys)
            self.batches.append(keys)
        elif kind == "upsert":
            self.write(raw, "Upsert", self.rng.choice(self.batches))
        else:
            keys = self.batches.pop(self.rng.randrange(len(self.batches)))
            self.delete(raw, keys)

    def write(self, raw, rpc, keys):
        self.version += 1
        self.pending = (keys, self.version)
        values = np.concatenate([vector_of(key, self.version) for key in keys])
        columns = [
            longs("id", keys),
            vectors("vector", DIM, values),
            longs("number", [self.version] * len(keys)),
            strings("label", [f"{key}/{self.version}" for key in keys]),
        ]
        reply = raw.insert(NAME, columns, len(keys), rpc=rpc)
        assert reply.status.code == 0, reply.status
        self.rows.update(dict.fromkeys(keys, self.version))
        self.done()

    def delete(self, raw, keys):
        self.pending = (keys, None)
        request = milvus_pb2.DeleteRequest(collection_name=NAME, expr=f"id in {keys}")
        reply = raw.call("Delete", request)
        assert reply.status.code == 0, reply.status
        for key in keys:
            self.rows.pop(key, None)
        self.done()

    def done(self):
        self.pending = None
        self.acknowledged += 1

    def check(self, found):
        """`found`: key -> version of this writer's rows. Takes over what became of `pending`."""
        if self.pending:
            keys, version = self.pending
            before = {key: self.rows.get(key) for key in keys}
            after = dict.fromkeys(keys, version)
            now = {key: found.get(key) for key in keys}
            assert now in (before, after), f"half a request is there: {self.pending} is {now}"
            for key, value in now.items():
                if value is None:
                    self.rows.pop(key, None)
                else:
                    self.rows[key] = value
            if keys in self.batches:
                self.batches.remove(keys)
            if all(value is not None for value in now.values()):
                self.batches.append(keys)
            self.pending = None
        lost = {key: v for key, v in self.rows.items() if found.get(key) != v}
        extra = {key: v for key, v in found.items() if key not in self.rows}
        assert not lost, (
            f"{len(lost)} acknowledged rows are lost or old, e.g. {list(lost.items())[:5]}"
        )
        assert not extra, f"{len(extra)} rows came back, e.g. {list(extra.items())[:5]}"


class Definer:
    """Creates and drops partitions, flushes and compacts; remembers what was acknowledged."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.next = 0
        self.names = set()
        self.uncertain = set()
        self.failure = None

    def run(self, server, killed):
        raw = Raw(server.address, [("grpc.use_local_subchannel_pool", 1)])
        try:
            while not killed.is_set():
                self.step(raw)
        except grpc.RpcError as error:
            if not killed.is_set():
                self.failure = error
        except Exception as error:
            self.failure = error
        finally:
            raw.close()

    def step(self, raw):
        kind = self.rng.choice(["create", "create", "drop", "flush", "compact"])
        if kind == "compact":
            request = milvus_pb2.ManualCompactionRequest(collection_name=NAME)
            reply = raw.call("ManualCompaction", request)
            assert reply.status.code == 0, reply.status
            return
        if kind == "flush":
            reply = raw.call("Flush", milvus_pb2.FlushRequest(collection_names=[NAME]))
            assert reply.status.code in (0, 8), reply.status
            return
        if kind == "create" or not self.names:
            name = f"p{self.next}"
            self.next += 1
            request = milvus_pb2.CreatePartitionRequest(collection_name=NAME, partition_name=name)
            self.uncertain.add(name)
            reply = raw.call("CreatePartition", request)
            assert reply.code == 0, reply
            self.names.add(name)
        else:
            name = self.rng.choice(sorted(self.names))
            request = milvus_pb2.ReleasePartitionsRequest(
                collection_name=NAME, partition_names=[name]
            )
            reply = raw.call("ReleasePartitions", request)
            assert reply.code == 0, reply
            request = milvus_pb2.DropPartitionRequest(collection_name=NAME, partition_name=name)
            self.uncertain.add(name)
            reply = raw.call("DropPartition", request)
            assert reply.code == 0, reply
            self.names.discard(name)
        self.uncertain.discard(name)

    def check(self, listed):
        listed = set(listed) - {"_default"}
        certain = self.names - self.uncertain
        assert certain <= listed, f"partitions are lost: {certain - listed}"
        assert listed <= certain | self.uncertain, f"came back: {listed - certain}"
        self.names, self.uncertain = listed, set()


def read_versions(client):
    found = {}
    iterator = client.query_iterator(
        NAME,
        batch_size=5000,
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


def check_searches(client, found, rng):
    keys = rng.sample(sorted(found), min(10, len(found)))
    queries = [vector_of(key, found[key]).tolist() for key in keys]
    if not queries:
        return
    results = client.search(
        NAME, queries, limit=5, output_fields=["number"], partition_names=["_default"]
    )
    for key, result in zip(keys, results, strict=True):
        assert result, f"nothing is found for row {key}"
        assert result[0]["distance"] == pytest.approx(0, abs=1e-5)
        for hit in result:
            assert found[hit["id"]] == hit["entity"]["number"]


@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost(restartable_server):
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    rng = random.Random(seed)
    server = restartable_server
    client = server.client()
    create_simple(client, NAME, metric="L2", index="HNSW")
    client.close()
    writers = [Writer(number, seed) for number in range(2)]
    definer = Definer(seed)
    everyone = [*writers, definer]
    for kill in range(KILLS):
        killed = threading.Event()
        before = sum(writer.acknowledged for writer in writers)
        wanted = before + rng.randrange(1, 120)
        threads = [
            threading.Thread(target=writer.run, args=(server.address, killed)) for writer in writers
        ]
        threads.append(threading.Thread(target=definer.run, args=(server, killed)))
        for thread in threads:
            thread.start()
        eventually(
            lambda wanted=wanted: (
                sum(writer.acknowledged for writer in writers) >= wanted
                or any(worker.failure for worker in everyone)
            ),
            "the writers make progress",
            60,
            0.001,
        )
        killed.set()
        server.kill9()
        for thread in threads:
            thread.join()
        for worker in everyone:
            assert worker.failure is None, worker.failure
        server.start()
        client = server.client()
        assert client.get_load_state(NAME)["state"] == LoadState.Loaded
        found = read_versions(client)
        for number, writer in enumerate(writers):
            low, high = number * 10_000_000, (number + 1) * 10_000_000
            writer.check({key: v for key, v in found.items() if low <= key < high})
        definer.check(client.list_partitions(NAME))
        check_searches(client, found, rng)
        client.close()
        print(f"kill {kill + 1}: {len(found)} rows, {len(definer.names)} partitions")
    assert sum(writer.acknowledged for writer in writers) >= KILLS


@pytest.mark.timeout(600)
def test_kills_while_collections_come_and_go(tmp_path):
    """Acknowledged creates and drops of whole collections hold; names never stay blocked."""
    rng = random.Random(os.environ.get("REDKITE_TEST_SEED", "5"))
    server = Server(tmp_path).start()
    sure, maybe = {}, set()
    try:
        for _ in range(max(3, KILLS // 4)):
            killed = threading.Event()
            failures = []

            def churn(killed=killed, failures=failures):
                raw = Raw(server.address, [("grpc.use_local_subchannel_pool", 1)])
                try:
                    while not killed.is_set():
                        name = f"c{rng.randrange(12)}"
                        maybe.add(name)
                        if sure.get(name):
                            request = milvus_pb2.DropCollectionRequest(collection_name=name)
                            reply = raw.call("DropCollection", request)
                        else:
                            reply = raw.call("CreateCollection", create_request(name))
                        assert reply.code == 0, reply
                        sure[name] = not sure.get(name)
                        maybe.discard(name)
                except grpc.RpcError as error:
                    if not killed.is_set():
                        failures.append(error)
                except AssertionError as error:
                    failures.append(error)
                finally:
                    raw.close()

            thread = threading.Thread(target=churn)
            thread.start()
            wait = threading.Event()
            wait.wait(rng.uniform(0.05, 0.6))
            killed.set()
            server.kill9()
            thread.join()
            assert failures == []
            server.start()
            client = server.client()
            listed = set(client.list_collections())
            for name, there in sure.items():
                if name not in maybe:
                    assert (name in listed) == there, f"{name} should be there: {there}"
            for name in maybe:
                sure[name] = name in listed
            maybe.clear()
            for name in sorted(listed):
                client.describe_collection(name)
            client.create_collection("probe", schema=simple_schema(), index_params=index_params())
            client.drop_collection("probe")
            client.close()
    finally:
        server.stop()


def create_request(name):
    return Prepare.create_collection_request(name, simple_schema())
