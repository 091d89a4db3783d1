"""kill -9 under load, again and again, with a check of every acknowledged write.

What was acknowledged must be there. A request that was cut off may be there or not, but whole. Whoever
reads meanwhile sees each row once, and none that nobody has written.
"""

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from harness.data import create_simple, index_params, simple_schema
from harness.process import Server
from harness.raw import Raw
from harness.storage import STORAGES
from harness.waiting import eventually
from harness.workload import (
    OWN_CONNECTION,
    Definer,
    Load,
    Reader,
    Writer,
    check_everything,
    create_request,
)
from pymilvus.client.types import LoadState
from pymilvus.grpc_gen import milvus_pb2

NAME = "under_fire"
# Half of them of servers on files, half of servers on S3.
KILLS = int(os.environ.get("REDKITE_KILLS", "200"))
# Servers that are killed side by side: while one starts, the other works.
SERVERS = 3
KINDS = 3 * ("create", "create", "drop", "flush", "compact") + ("index",)
NOT_LOADED = {101}
SETTINGS = {
    # Small segments and short logs, so that kills hit flushes, index builds and truncations.
    "querynode.segment_max_rows": 1500,
    "querynode.log_max_size": "256KiB",
}


def seed_of_this_run():
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    return seed


@pytest.fixture(params=STORAGES)
def storage(request):
    with STORAGES[request.param]() as home:
        yield home


class Victim:
    """A server under load that is killed `kills` times."""

    def __init__(self, number, seed, folder, settings):
        self.rng = random.Random(seed * 100 + number)
        self.server = Server(folder, settings={**SETTINGS, **settings})
        self.writers = [
            Writer(writer, seed * 100 + number, NAME, batch=100, most_batches=25)
            for writer in range(2)
        ]
        self.definer = Definer(seed * 100 + number, NAME, KINDS)
        # Not while the index is dropped and made again, for which the collection is released.
        self.reader = Reader(seed * 100 + number, NAME, self.writers, tolerated=NOT_LOADED)
        self.workers = [*self.writers, self.definer, self.reader]

    def run(self, kills):
        try:
            self.server.start()
            client = self.server.client()
            create_simple(client, NAME, metric="L2", index="HNSW")
            client.close()
            for kill in range(kills):
                self.kill_under_load()
                if self.rng.random() < 0.15:
                    self.kill_at_start()
                self.server.start()
                self.server.await_sagas()
                self.check(kill)
        finally:
            self.server.stop()

    def kill_under_load(self):
        """Kills after some more acknowledged writes, and a moment that no answer tells of."""
        with Load(self.server.address, self.workers) as load:
            wanted = load.acknowledged() + self.rng.randrange(1, 50)
            eventually(
                lambda: load.acknowledged() >= wanted or load.failed(),
                "the writers make progress",
                60,
                0.001,
            )
            threading.Event().wait(self.rng.uniform(0, 0.02))
            load.stop.set()
            self.server.kill9()
        load.check()

    def kill_at_start(self):
        """Kills while the server recovers."""
        self.server.spawn()
        threading.Event().wait(self.rng.uniform(0, 0.5))
        self.server.kill9()

    def check(self, kill):
        client = self.server.client()
        self.definer.mend(client)
        assert client.get_load_state(NAME)["state"] == LoadState.Loaded
        found = check_everything(client, NAME, self.workers, self.rng)
        client.close()
        if kill % 20 == 0:
            print(f"kill {kill + 1}: {len(found)} rows")


@pytest.mark.timeout(1200)
def test_nothing_acknowledged_is_lost(storage, tmp_path):
    seed = seed_of_this_run()
    wanted = -(-KILLS // len(STORAGES))
    share = -(-wanted // SERVERS)
    victims = []
    for number in range(SERVERS):
        folder = tmp_path / str(number)
        folder.mkdir()
        victims.append(Victim(number, seed, folder, storage.settings(number)))
    with ThreadPoolExecutor(SERVERS) as pool:
        runs = [pool.submit(victim.run, share) for victim in victims]
    for victim, run in zip(victims, runs, strict=True):
        if run.exception():
            print(victim.server.log_tail())
        run.result()
    acknowledged = sum(writer.acknowledged for victim in victims for writer in victim.writers)
    answers = sum(victim.reader.answers for victim in victims)
    seen = sum(victim.reader.rows_seen for victim in victims)
    indexed = sum(victim.definer.indexed for victim in victims)
    print(f"{share * SERVERS} kills, {acknowledged} acknowledged writes, {indexed} new indexes")
    print(f"{answers} answers with {seen} rows")
    assert acknowledged >= wanted
    assert answers >= wanted and seen > answers


@pytest.mark.timeout(600)
def test_kills_while_collections_come_and_go(tmp_path):
    """Acknowledged creates and drops of whole collections hold; names never stay blocked."""
    rng = random.Random(os.environ.get("REDKITE_TEST_SEED", "5"))
    server = Server(tmp_path).start()
    sure, maybe = {}, set()
    try:
        for _ in range(max(3, KILLS // 20)):
            killed = threading.Event()
            failures = []

            def churn(killed=killed, failures=failures):
                raw = Raw(server.address, OWN_CONNECTION)
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
            server.await_sagas()
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
