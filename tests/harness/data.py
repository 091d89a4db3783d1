"""Collections and rows that the tests use, and exact answers to compare with."""

import numpy as np
from pymilvus import DataType, MilvusClient

DIM = 8


def make_vectors(count, dim=DIM, seed=0):
    """[count, dim] float32, values in [-1, 1)."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, dim)).astype(np.float32)


def simple_schema(dim=DIM, dynamic=False, pk=DataType.INT64, auto_id=False, **extra):
    """Primary key `id`, `vector`, and an Int64 `number` and VarChar `label`."""
    schema = MilvusClient.create_schema(auto_id=auto_id, enable_dynamic_field=dynamic, **extra)
    if pk == DataType.VARCHAR:
        schema.add_field("id", pk, is_primary=True, max_length=64)
    else:
        schema.add_field("id", pk, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    schema.add_field("number", DataType.INT64)
    schema.add_field("label", DataType.VARCHAR, max_length=64)
    return schema


def simple_rows(count, dim=DIM, start=0, seed=0):
    vectors = make_vectors(count, dim, seed)
    return [
        {
            "id": start + i,
            "vector": vectors[i].tolist(),
            "number": (start + i) * 10,
            "label": f"row {start + i}",
        }
        for i in range(count)
    ]


def index_params(index_type="FLAT", metric_type="L2", field="vector", **params):
    result = MilvusClient.prepare_index_params()
    result.add_index(field, index_type=index_type, metric_type=metric_type, **params)
    return result


def create_simple(client, name, metric="L2", index="FLAT", dim=DIM, consistency="Strong", **kwargs):
    """A loaded collection of `simple_schema`."""
    options = {key: kwargs.pop(key) for key in ("num_partitions", "num_shards") if key in kwargs}
    client.create_collection(
        name,
        schema=simple_schema(dim=dim, **kwargs),
        index_params=index_params(index, metric),
        consistency_level=consistency,
        **options,
    )


def scores(metric, base, queries):
    """[nq, n] float64: the score that Milvus reports for each pair."""
    base = np.asarray(base, dtype=np.float64)
    queries = np.asarray(queries, dtype=np.float64)
    if metric == "L2":
        return ((queries[:, None, :] - base[None, :, :]) ** 2).sum(axis=2)
    dots = queries @ base.T
    if metric == "IP":
        return dots
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(base, axis=1)[None, :]
    return dots / norms


def nearest(metric, ids, base, query, limit):
    """[(id, score)] of the exact `limit` best, best first, ties by id."""
    values = scores(metric, base, [query])[0]
    sign = 1 if metric == "L2" else -1
    order = sorted(range(len(ids)), key=lambda i: (sign * values[i], ids[i]))
    return [(ids[i], float(values[i])) for i in order[:limit]]


def count(client, name, **kwargs):
    """Rows of a loaded collection, read with Strong consistency."""
    rows = client.query(
        name, filter="", output_fields=["count(*)"], consistency_level="Strong", **kwargs
    )
    return rows[0]["count(*)"]


def all_rows(client, name, output_fields=("*",), filter=""):
    """Every row of a loaded collection, in primary-key order."""
    iterator = client.query_iterator(
        name,
        batch_size=1000,
        filter=filter,
        output_fields=list(output_fields),
        consistency_level="Strong",
    )
    rows = []
    while True:
        page = iterator.next()
        if not page:
            iterator.close()
            return rows
        rows.extend(page)


def entity(hit):
    """The output fields of a search hit. The key stands beside them and may be among them."""
    return {field: value for field, value in hit["entity"].items() if field != "id"}
