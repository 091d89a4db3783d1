"""Random sequences of operations against a simple reference in memory.

Set REDKITE_TEST_SEED to run a failing sequence again, REDKITE_MODEL_STEPS for longer ones.
"""

import os
import random

import numpy as np
import pytest
from harness.data import entity, index_params, simple_schema

DIM = 8
NAME = "model"
STEPS = int(os.environ.get("REDKITE_MODEL_STEPS", "150"))
KEYS = 600


def chosen_seed(salt):
    return int(os.environ.get("REDKITE_TEST_SEED") or random.SystemRandom().randrange(2**31)) + salt


class Model:
    """The collection as a dict: id -> row."""

    def __init__(self, server, seed, index):
        self.rng = random.Random(seed)
        self.server = server
        self.index = index
        self.metric = self.rng.choice(["L2", "IP", "COSINE"])
        self.rows = {}
        self.log = []
        self.client = server.client()
        self.client.create_collection(
            NAME,
            schema=simple_schema(),
            index_params=index_params(index, self.metric),
            consistency_level="Strong",
            num_shards=self.rng.choice([1, 1, 2]),
        )

    def run(self, steps):
        writes = [self.insert, self.upsert, self.delete_ids, self.delete_filter]
        reads = [self.query, self.search, self.count, self.get]
        rare = [self.flush, self.flush, self.restart, self.reload, self.compact]
        for _ in range(steps):
            operation = self.rng.choice(writes * 3 + reads * 4 + rare)
            self.log.append(operation.__name__)
            operation()
        self.check_all()

    def new_row(self, key):
        return {
            "id": key,
            "vector": [float(np.float32(self.rng.uniform(-1, 1))) for _ in range(DIM)],
            "number": self.rng.randrange(50),
            "label": self.rng.choice(["red", "green", "blue"]),
        }

    def batch(self, keys):
        rows = [self.new_row(key) for key in keys]
        self.rows.update((row["id"], row) for row in rows)
        return rows

    # writes

    def insert(self):
        free = [key for key in range(KEYS) if key not in self.rows]
        keys = self.rng.sample(free, min(len(free), self.rng.choice([1, 5, 40])))
        if keys:
            rows = self.batch(keys)
            assert self.client.insert(NAME, rows)["insert_count"] == len(rows)

    def upsert(self):
        keys = self.rng.sample(range(KEYS), self.rng.choice([1, 5, 30]))
        rows = self.batch(keys)
        assert self.client.upsert(NAME, rows)["upsert_count"] == len(rows)

    def delete_ids(self):
        keys = self.rng.sample(range(KEYS), self.rng.choice([1, 3, 20]))
        self.client.delete(NAME, ids=keys)
        for key in keys:
            self.rows.pop(key, None)

    def delete_filter(self):
        text, test = self.condition()
        gone = [key for key, row in self.rows.items() if test(row)]
        if len(gone) > 60:
            text, gone = f"({text}) and id in {gone[:60]}", gone[:60]
        reply = self.client.delete(NAME, filter=text)
        assert reply.get("delete_count", 0) == len(gone), text
        for key in gone:
            del self.rows[key]

    # life

    def flush(self):
        self.client.flush(NAME)

    def compact(self):
        self.client.compact(NAME)

    def reload(self):
        self.client.release_collection(NAME)
        self.client.load_collection(NAME)

    def restart(self):
        self.client.close()
        if self.rng.random() < 0.7:
            self.server.kill9()
        else:
            assert self.server.stop() == 0
        self.server.start()
        self.client = self.server.client()

    # reads

    def condition(self):
        """A filter and the same as a function of a row."""
        n = self.rng.randrange(50)
        colour = self.rng.choice(["red", "green", "blue"])
        low = self.rng.randrange(KEYS)
        return self.rng.choice(
            [
                (f"number == {n}", lambda r: r["number"] == n),
                (f"number > {n}", lambda r: r["number"] > n),
                (f'label == "{colour}"', lambda r: r["label"] == colour),
                (
                    f'label == "{colour}" and number < {n}',
                    lambda r: r["label"] == colour and r["number"] < n,
                ),
                (f"{low} <= id < {low + 50}", lambda r: low <= r["id"] < low + 50),
                (f'not (label in ["{colour}"])', lambda r: r["label"] != colour),
                (f"number % 7 == {n % 7}", lambda r: r["number"] % 7 == n % 7),
            ]
        )

    def query(self):
        text, test = self.condition()
        expected = [self.rows[key] for key in sorted(self.rows) if test(self.rows[key])]
        offset = self.rng.choice([0, 0, 3])
        limit = self.rng.choice([5, 1000])
        found = self.client.query(
            NAME, filter=text, output_fields=["*"], limit=limit, offset=offset
        )
        assert found == expected[offset : offset + limit], text

    def get(self):
        keys = sorted(self.rng.sample(range(KEYS), 5))
        found = self.client.get(NAME, ids=keys)
        assert found == [self.rows[key] for key in keys if key in self.rows]

    def count(self):
        found = self.client.query(NAME, filter="", output_fields=["count(*)"])
        assert found == [{"count(*)": len(self.rows)}]

    def exact_scores(self, query, rows):
        base = np.array([row["vector"] for row in rows], dtype=np.float64).reshape(-1, DIM)
        if self.metric == "L2":
            return ((base - query) ** 2).sum(axis=1)
        dots = base @ query
        if self.metric == "IP":
            return dots
        return dots / (np.linalg.norm(base, axis=1) * np.linalg.norm(query))

    def search(self):
        text, test = self.condition() if self.rng.random() < 0.5 else ("", lambda r: True)
        query = np.array([np.float32(self.rng.uniform(-1, 1)) for _ in range(DIM)], dtype=float)
        limit = self.rng.choice([1, 10, 100])
        rows = [row for row in self.rows.values() if test(row)]
        exact = {
            row["id"]: float(score)
            for row, score in zip(rows, self.exact_scores(query, rows), strict=True)
        }
        expected = sorted(exact.values(), reverse=self.metric != "L2")[:limit]
        found = self.client.search(
            NAME, [query.tolist()], filter=text, limit=limit, output_fields=["*"]
        )[0]
        keys = [hit["id"] for hit in found]
        assert len(set(keys)) == len(keys), "a row was found twice"
        for hit in found:
            assert hit["id"] in exact, f"{hit['id']} is deleted or does not match {text!r}"
            assert {"id": hit["id"], **entity(hit)} == self.rows[hit["id"]]
            assert hit["distance"] == pytest.approx(exact[hit["id"]], rel=1e-4, abs=1e-5)
        scores = [hit["distance"] for hit in found]
        assert scores == sorted(scores, reverse=self.metric != "L2")
        assert len(found) == len(expected)
        if self.index == "FLAT":
            assert scores == pytest.approx(expected, rel=1e-4, abs=1e-5)
        else:
            worst = expected[-1] if expected else 0.0
            slack = 1e-4 + abs(worst) * 1e-4
            good = sum(
                s <= worst + slack if self.metric == "L2" else s >= worst - slack for s in scores
            )
            assert good >= 0.8 * len(expected)

    def check_all(self):
        found = self.client.query(NAME, filter="id >= 0", output_fields=["*"], limit=KEYS)
        assert found == [self.rows[key] for key in sorted(self.rows)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("index, salt", [("FLAT", 0), ("FLAT", 1), ("HNSW", 2)])
def test_random_sequences(restartable_server, index, salt):
    seed = chosen_seed(salt)
    print(f"seed={seed} (set REDKITE_TEST_SEED={seed - salt} to repeat)")
    model = Model(restartable_server, seed, index)
    try:
        model.run(STEPS)
    except BaseException:
        print(f"after {len(model.log)} operations: {' '.join(model.log[-30:])}")
        raise
    finally:
        model.client.close()
