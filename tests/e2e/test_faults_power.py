"""A power cut: everything that was written and not synced is lost, everywhere at once.

The log, the segment files and the metastore must each have synced what they answered for, names of
files included. The disk is a real ext4 that is shut down under the server.
"""

import os
import random

import pytest
from harness import faults
from harness.data import create_simple
from harness.process import Server
from harness.waiting import eventually
from harness.workload import Definer, Load, Writer, check_everything

NAME = "powerless"
CUTS = int(os.environ.get("REDKITE_POWER_CUTS", "12"))


@pytest.fixture
def disk():
    with faults.loop_disk(400 << 20) as mounted:
        yield mounted


def test_the_disk_forgets_what_was_not_synced_and_nothing_else(disk):
    """Without this the other test would show nothing."""
    kept, forgotten = disk.place / "kept", disk.place / "forgotten"
    with open(kept, "wb") as file:
        file.write(b"x" * 5000)
        os.fsync(file.fileno())
    folder = os.open(disk.place, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    forgotten.write_bytes(b"y" * 5000)
    disk.cut_power()
    disk.restore_power()
    assert kept.read_bytes() == b"x" * 5000
    assert not forgotten.exists()


@pytest.mark.timeout(600)
def test_a_power_cut_loses_nothing_acknowledged(disk, tmp_path):
    seed = int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed={seed}")
    rng = random.Random(seed)
    settings = {
        "querynode.segment_max_rows": 1500,
        "querynode.log_max_size": "256KiB",
        "common.min_free_space": "1MiB",
    }
    server = Server(tmp_path, data_dir=disk.place / "data", settings=settings).start()
    try:
        client = server.client()
        create_simple(client, NAME, metric="L2", index="HNSW")
        client.close()
        workers = [
            Writer(0, seed, NAME),
            Writer(1, seed, NAME),
            Definer(seed, NAME),
        ]
        # What is answered between the cut and the kill was not synced by anything: a sync fails
        # then, so those who wait for one get an error, and that is as good as no answer.
        for worker in workers:
            worker.tolerated = {2, 5, 500, 503, 1001, 10001, 65535}
        for cut in range(CUTS):
            with Load(server.address, workers) as load:
                wanted = load.acknowledged() + rng.randrange(1, 150)
                eventually(
                    lambda load=load, wanted=wanted: load.acknowledged() >= wanted or load.failed(),
                    "the writers make progress",
                    60,
                    0.001,
                )
                load.stop.set()
                disk.cut_power()
                server.kill9()
            load.check()
            disk.restore_power()
            server.start()
            client = server.client()
            found = check_everything(client, NAME, workers, rng)
            client.close()
            print(f"cut {cut + 1}: {len(found)} rows, {len(workers[2].names)} partitions")
    finally:
        server.stop()
