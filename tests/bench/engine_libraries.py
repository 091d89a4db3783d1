"""The libraries that the engine is measured against; each builds, saves, loads and searches."""

import json
import os
import pathlib
import re
import resource
import tempfile
import time

import numpy as np
from engine_data import K

EFS = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384]
PROBES = [2, 4, 8, 16, 32, 64, 128]


def cpu():
    return time.process_time()


def rss():
    """Resident megabytes of this process, now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


class Library:
    """Builds in this process; its memory is the growth of the resident size.

    An index that lies in the set's folder is loaded instead, with the figures of its build.
    """

    name = ""
    settings = EFS
    can_save = True
    can_filter = False

    def __init__(self, data):
        self.data = data
        self.folder = data.folder / self.name.replace(" ", "-").replace("/", "-")
        built = self.folder / "built.json"
        if built.exists():
            figures = json.loads(built.read_text())
            self.build_seconds, self.megabytes = figures["cpu_seconds"], figures["megabytes"]
            self.index = self.read()
            return
        before, start = rss(), cpu()
        self.build(data)
        self.build_seconds, self.megabytes = cpu() - start, rss() - before
        if self.can_save:
            self.folder.mkdir(exist_ok=True)
            self.write()
            figures = {"cpu_seconds": self.build_seconds, "megabytes": self.megabytes}
            built.write_text(json.dumps(figures))

    def load_ms(self):
        """Milliseconds to read the index from a file that the system has in memory, or None."""
        if not self.can_save:
            return None
        start = time.perf_counter()
        self.read()
        return (time.perf_counter() - start) * 1e3

    def search(self, setting, count, mask=None):
        self.set(setting)
        run = self.runner(self.data.queries[:count], mask)
        # CPU time: that in which the machine ran others does not count.
        start = time.process_time()
        found = run()
        return time.process_time() - start, found

    def close(self):
        self.index = None


class Hnswlib(Library):
    name = "hnswlib M 16"
    can_filter = True

    def build(self, data):
        import hnswlib

        self.index = hnswlib.Index("l2", data.dim)
        self.index.init_index(len(data.base), ef_construction=200, M=16)
        self.index.add_items(data.base, num_threads=1)

    def write(self):
        self.index.save_index(str(self.folder / "index"))

    def read(self):
        import hnswlib

        index = hnswlib.Index("l2", self.data.dim)
        index.load_index(str(self.folder / "index"))
        return index

    def set(self, setting):
        self.index.set_ef(setting)

    def runner(self, queries, mask):
        given = {}
        if mask is not None:
            # A set is what Python answers from fastest.
            given["filter"] = frozenset(np.flatnonzero(mask).tolist()).__contains__
        return lambda: self.index.knn_query(queries, K, num_threads=1, **given)[0]


class Faiss(Library):
    factory = ""
    can_filter = True

    def build(self, data):
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.index_factory(data.dim, self.factory, faiss.METRIC_L2)
        if "HNSW" in self.factory:
            self.index.hnsw.efConstruction = 200
        self.index.train(data.base)
        self.index.add(data.base)

    def write(self):
        import faiss

        faiss.write_index(self.index, str(self.folder / "index"))

    def read(self):
        import faiss

        faiss.omp_set_num_threads(1)
        return faiss.read_index(str(self.folder / "index"))

    def set(self, setting):
        self.setting = setting

    def runner(self, queries, mask):
        import faiss

        given = {}
        if mask is not None:
            given["sel"] = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        params = self.params(faiss, given)
        return lambda: self.index.search(queries, K, params=params)[1]


class FaissHnsw(Faiss):
    name = "faiss HNSW M 16"
    factory = "HNSW16"

    def params(self, faiss, given):
        return faiss.SearchParametersHNSW(efSearch=self.setting, **given)


class FaissIvf(Faiss):
    name = "faiss IVF-flat"
    factory = "IVF1024,Flat"
    settings = PROBES

    def params(self, faiss, given):
        return faiss.SearchParametersIVF(nprobe=self.setting, **given)


class FaissRefined(Faiss):
    settings = PROBES

    def params(self, faiss, given):
        inner = faiss.SearchParametersIVF(nprobe=self.setting, **given)
        return faiss.IndexRefineSearchParameters(k_factor=10, base_index_params=inner)


class FaissPq(FaissRefined):
    name = "faiss IVF-PQ fast scan + refine"

    def build(self, data):
        self.factory = f"IVF1024,PQ{data.dim // 4}x4fs,RFlat"
        super().build(data)


class FaissRabitq(FaissRefined):
    name = "faiss IVF-RaBitQ + refine"
    factory = "IVF1024,RaBitQ,RFlat"


class Usearch(Library):
    dtype = "f32"
    name = "usearch f32"

    def build(self, data):
        self.index = self.empty()
        self.index.add(np.arange(len(data.base)), data.base, threads=1)

    def empty(self):
        from usearch.index import Index

        return Index(
            ndim=self.data.dim,
            metric="cos" if self.data.metric == "COSINE" else "l2sq",
            dtype=self.dtype,
            connectivity=16,
            expansion_add=200,
        )

    def write(self):
        self.index.save(str(self.folder / "index"))

    def read(self):
        index = self.empty()
        index.load(str(self.folder / "index"))
        return index

    def set(self, setting):
        self.index.expansion_search = setting

    def runner(self, queries, mask):
        return lambda: self.index.search(queries, K, threads=1).keys.astype(np.int64)


class UsearchI8(Usearch):
    dtype = "i8"
    name = "usearch i8"


class Svs(Library):
    """LVQ8 where its library allows it, which is on Intel's own processors; else f32."""

    is_intel = "GenuineIntel" in pathlib.Path("/proc/cpuinfo").read_text()
    name = "Intel SVS Vamana " + ("LVQ8" if is_intel else "f32")
    alpha = 1.2
    # Of 0, 32 and 64 bytes, and of 1, 4, 8 and 16 rows: the fastest at one of two windows on 384 dimensions, and
    # within a twentieth of it at the other.
    padding, lookahead = 64, 4

    def build(self, data):
        import svs

        params = svs.VamanaBuildParameters(
            graph_max_degree=64, window_size=128, alpha=self.alpha
        )
        rows = data.base
        if self.is_intel:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "base.fvecs")
                svs.write_vecs(rows, path)
                loader = svs.VectorDataLoader(path, svs.DataType.float32, dims=data.dim)
                rows = svs.LVQLoader(loader, primary=8, residual=0, padding=self.padding)
                self.index = svs.Vamana.build(params, rows, svs.DistanceType.L2, num_threads=1)
        else:
            self.index = svs.Vamana.build(params, rows, svs.DistanceType.L2, num_threads=1)

    def write(self):
        self.index.save(*(str(self.folder / part) for part in ("config", "graph", "rows")))
        # Some machines' library writes the number without its digits, which none reads. Only builds use it.
        config = self.folder / "config" / "svs_config.toml"
        config.write_text(re.sub(r"alpha = \.\d*", f"alpha = {self.alpha}", config.read_text()))

    def read(self):
        import svs

        config, graph, rows = (str(self.folder / part) for part in ("config", "graph", "rows"))
        if self.is_intel:
            loader = svs.LVQLoader(rows, padding=self.padding)
        else:
            loader = svs.VectorDataLoader(rows, svs.DataType.float32, dims=self.data.dim)
        links = svs.GraphLoader(graph)
        return svs.Vamana(config, links, loader, svs.DistanceType.L2, num_threads=1)

    def set(self, setting):
        parameters = self.index.search_parameters
        parameters.prefetch_lookahead = self.lookahead
        self.index.search_parameters = parameters
        self.index.search_window_size = setting

    def runner(self, queries, mask):
        return lambda: self.index.search(queries, K)[0]


LIBRARIES = [Hnswlib, FaissHnsw, FaissIvf, FaissPq, FaissRabitq, UsearchI8, Usearch, Svs]
