"""Redkite in two minutes, through the ordinary Milvus client.

    pip install pymilvus==3.0.2
    make run                                   # in another terminal
    python examples/quickstart.py              # or: python examples/quickstart.py http://127.0.0.1:19530

Creates a small collection, fills it, searches, queries, deletes, uses partitions, and cleans up.
"""

import random
import sys

from pymilvus import DataType, MilvusClient

URI = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:19530"
NAME = "quickstart_books"
DIM = 8


def heading(text):
    print(f"\n== {text}")


def make_vector(rng):
    return [rng.uniform(-1, 1) for _ in range(DIM)]


client = MilvusClient(uri=URI)
print(f"connected to {URI}, server version {client.get_server_version()}")

heading("create a collection")
if client.has_collection(NAME):
    client.drop_collection(NAME)

schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
schema.add_field("id", DataType.INT64, is_primary=True)
schema.add_field("title", DataType.VARCHAR, max_length=200)
schema.add_field("year", DataType.INT32)
schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=DIM)

index_params = client.prepare_index_params()
index_params.add_index("embedding", index_type="AUTOINDEX", metric_type="COSINE")

client.create_collection(NAME, schema=schema, index_params=index_params, consistency_level="Strong")
described = client.describe_collection(NAME)
print("fields:", ", ".join(field["name"] for field in described["fields"]))
print("load state:", client.get_load_state(NAME)["state"].name)

heading("insert")
rng = random.Random(7)
rows = [
    {
        "id": i,
        "title": f"Book number {i}",
        "year": 1950 + i % 70,
        "embedding": make_vector(rng),
        "colour": random.Random(i).choice(["red", "green", "blue"]),  # a dynamic field
    }
    for i in range(1000)
]
print(client.insert(NAME, rows)["insert_count"], "rows inserted")

heading("search: the three books nearest to book 42")
for hit in client.search(
    NAME, data=[rows[42]["embedding"]], limit=3, output_fields=["title", "year"]
)[0]:
    print(f"  {hit['distance']:.4f}  {hit['entity']['title']} ({hit['entity']['year']})")

heading("search with a filter: only red books after 2000")
for hit in client.search(
    NAME,
    data=[rows[42]["embedding"]],
    filter='year > 2000 and colour == "red"',
    limit=3,
    output_fields=["title", "year", "colour"],
)[0]:
    entity = hit["entity"]
    print(f"  {hit['distance']:.4f}  {entity['title']} ({entity['year']}, {entity['colour']})")

heading("query by a condition and by ids")
for row in client.query(
    NAME, filter='title like "Book number 99%"', output_fields=["title", "year"], limit=3
):
    print(f"  {row['id']}: {row['title']} ({row['year']})")
print("  get 7:", client.get(NAME, ids=[7], output_fields=["title"])[0]["title"])

heading("upsert and delete")
client.upsert(NAME, [{**rows[7], "title": "Book number 7, second edition"}])
print("  get 7:", client.get(NAME, ids=[7], output_fields=["title"])[0]["title"])
print("  deleted by ids:", client.delete(NAME, ids=[1, 2, 3])["delete_count"])
print("  deleted by filter:", client.delete(NAME, filter="year == 1950")["delete_count"])
print("  rows left:", client.query(NAME, filter="", output_fields=["count(*)"])[0]["count(*)"])

heading("partitions")
client.create_partition(NAME, "archive")
client.load_partitions(NAME, ["archive"])
print("  partitions:", client.list_partitions(NAME))
client.insert(
    NAME,
    [
        {"id": 10_000 + i, "title": f"Scroll {i}", "year": 100 + i, "embedding": make_vector(rng)}
        for i in range(5)
    ],
    partition_name="archive",
)
hits = client.search(
    NAME,
    data=[rows[42]["embedding"]],
    limit=2,
    output_fields=["title"],
    partition_names=["archive"],
)[0]
print("  nearest in the archive:", [hit["entity"]["title"] for hit in hits])
client.release_partitions(NAME, ["archive"])
client.drop_partition(NAME, "archive")
print("  partitions:", client.list_partitions(NAME))

heading("clean up")
client.drop_collection(NAME)
print("collection there:", client.has_collection(NAME))
client.close()
