"""Streams of records from everywhere text comes from, in a fixed order and in bounded memory.

A source is one string:

    pydocs                              the running interpreter's documentation: nothing to download
    tfds:imdb_reviews/plain_text:train  a split of a data set of tensorflow.org/datasets, read without TensorFlow
    novels.jsonl.xz  books/*.txt  data  a file, a glob or a folder of .jsonl .json .txt .parquet .csv .tsv .conll
                                        .conllu (and SQuAD's .json), plain or .gz .xz .zst
    gs://bucket/*.jsonl.zst  s3://...   the same on a file system that fsspec supports
    aligned:news.de.gz|news.en.gz       two text files, of any extension, whose lines are translations of each other
    reviews.jsonl[:5000]                the first 5,000 records of any of them, in the notation of TFDS splits
"""

from jaxencoder.text.messages import closest, listed
from jaxencoder.text.sources.formats import Record
from jaxencoder.text.sources.records import (
    EmptySource,
    MissingField,
    class_names,
    field_names,
    fingerprint,
    is_files,
    pair_fields,
    read,
)

__all__ = [
    "EmptySource",
    "MissingField",
    "Record",
    "class_names",
    "closest",
    "field_names",
    "fingerprint",
    "is_files",
    "listed",
    "pair_fields",
    "read",
]
