"""Search a dictionary by meaning.

    python examples/semantic_search.py                  # a few queries
    python examples/semantic_search.py salmon granite   # entries like these words

Loads 2,000 dictionary entries with their sentence embeddings from `examples/data/` (see NOTICE
there) and prints, for each word, the entries whose meaning is nearest. The embeddings are ready
made, so no model is needed: the query vector is the embedding of the entry for the word.
"""

import argparse
import gzip
import pathlib
import textwrap

import numpy as np
from pymilvus import DataType, MilvusClient

DATA = pathlib.Path(__file__).resolve().parent / "data"
NAME = "example_dictionary"
WORDS = ["salmon", "movie", "game of chance", "Orion", "granite", "franc"]


def load_entries():
    """Returns ([n] "word, word: gloss", [n, 384] float32)."""
    with gzip.open(DATA / "wordnet_2000.txt.gz", "rt", encoding="utf-8") as file:
        texts = file.read().splitlines()
    vectors = np.load(DATA / "wordnet_2000.f16.npy").astype(np.float32)
    assert len(texts) == len(vectors)
    return texts, vectors


def headwords(text):
    return [word.strip() for word in text.split(":", 1)[0].split(",")]


def create(client, texts, vectors):
    if client.has_collection(NAME):
        client.drop_collection(NAME)
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("word", DataType.VARCHAR, max_length=256)
    schema.add_field("text", DataType.VARCHAR, max_length=4096)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    index_params = client.prepare_index_params()
    index_params.add_index(
        "embedding", index_type="HNSW", metric_type="COSINE", M=16, efConstruction=200
    )
    client.create_collection(
        NAME, schema=schema, index_params=index_params, consistency_level="Strong"
    )
    for start in range(0, len(texts), 500):
        client.insert(
            NAME,
            [
                {
                    "id": i,
                    "word": headwords(texts[i])[0],
                    "text": texts[i],
                    "embedding": vectors[i].tolist(),
                }
                for i in range(start, min(start + 500, len(texts)))
            ],
        )


def find_entry(texts, word):
    for i, text in enumerate(texts):
        if word.lower() in (name.lower() for name in headwords(text)):
            return i
    return None


def shorten(text):
    return textwrap.shorten(text, width=96, placeholder=" ...")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", default=WORDS, help="headwords to start from")
    parser.add_argument("--uri", default="http://127.0.0.1:19530")
    parser.add_argument("--limit", type=int, default=4)
    args = parser.parse_args()

    texts, vectors = load_entries()
    client = MilvusClient(uri=args.uri)
    create(client, texts, vectors)
    count = client.query(NAME, filter="", output_fields=["count(*)"])[0]["count(*)"]
    print(f"{count} entries loaded")

    for word in args.words:
        row = find_entry(texts, word)
        if row is None:
            print(f"\n{word}: not among the {len(texts)} entries")
            continue
        print(f"\nlike  {shorten(texts[row])}")
        hits = client.search(
            NAME,
            data=[vectors[row].tolist()],
            filter="id != {row}",
            filter_params={"row": row},
            limit=args.limit,
            output_fields=["text"],
        )[0]
        for hit in hits:
            print(f"  {hit['distance']:.2f}  {shorten(hit['entity']['text'])}")

    client.drop_collection(NAME)
    client.close()


if __name__ == "__main__":
    main()
