"""The sets of the engine's benchmark: vectors, queries, filters, and what exact search finds."""

import math

import numpy as np

K = 10
FILTERS = [0.10, 0.01]


def clusters(rows, dim, queries=1000):
    """Many overlapping clusters on a space of fewer dimensions, like embeddings have."""
    rng = np.random.default_rng(0)
    inner = dim // 4
    spread = rng.normal(size=(inner, dim)).astype(np.float32) / math.sqrt(inner)
    centres = rng.normal(size=(2000, inner)).astype(np.float32)
    points = centres[rng.integers(0, len(centres), rows + queries)]
    points = points + rng.normal(scale=0.6, size=points.shape).astype(np.float32)
    values = points @ spread
    values += rng.normal(scale=0.05, size=values.shape).astype(np.float32)
    return values[:rows], values[rows:]


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


class Set:
    """base [n, dim] and queries [nq, dim] float32; cosine sets are normalised for everyone.

    What exact search finds is kept in `folder`, with the vectors as the engine reads them.
    """

    def __init__(self, name, rows, wordnet, folder):
        if name == "wordnet":
            base = np.load(wordnet / "base.f16.npy").astype(np.float32)[: rows or None]
            queries = np.load(wordnet / "query.f16.npy").astype(np.float32)
            self.metric, base, queries = "COSINE", unit(base), unit(queries)
        else:
            count, dim = {"million": (1_000_000, 128), "wide": (200_000, 768)}[name]
            base, queries = clusters(rows or count, dim)
            self.metric = "L2"
        self.name, self.folder = name, folder
        self.base, self.queries = np.ascontiguousarray(base), np.ascontiguousarray(queries)
        self.dim = base.shape[1]
        self.paths = [folder / "base.f32", folder / "queries.f32"]
        for path, values in zip(self.paths, (self.base, self.queries), strict=True):
            if not path.exists():
                values.tofile(path)
        rng = np.random.default_rng(1)
        self.filters = {share: rng.random(len(base)) < share for share in FILTERS}
        self.found = {}

    def truth(self, share=None):
        """[nq, K] row numbers, of the rows that a filter lets pass if one is given."""
        if share not in self.found:
            path = self.folder / f"truth-{share}.npy"
            if not path.exists():
                np.save(path, self.exact(None if share is None else self.filters[share]))
            self.found[share] = np.load(path)
        return self.found[share]

    def exact(self, mask):
        rows = np.arange(len(self.base)) if mask is None else np.flatnonzero(mask)
        base = self.base[rows]
        norms = (base**2).sum(axis=1)
        found = []
        for block in np.array_split(self.queries, max(1, len(self.queries) // 100)):
            keys = norms - 2 * (block @ base.T)
            near = np.argpartition(keys, K, axis=1)[:, : K + 5]
            order = np.take_along_axis(keys, near, axis=1).argsort(axis=1)[:, :K]
            found.append(rows[np.take_along_axis(near, order, axis=1)])
        return np.concatenate(found)
