"""Triplets: how often a text is more similar to its positive than to its negative.

As in the TripletEvaluator of sentence-transformers, Reimers and Gurevych 2019, arXiv:1908.10084.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxencoder.evaluation.text_pairs import source_fields
from jaxencoder.evaluation.vectors import text_vectors
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.search import search_options
from jaxencoder.model.similarity import pair_similarities
from jaxencoder.tasks.embeddings.data import EmbeddingSchema, negatives
from jaxencoder.tasks.records import numbered, with_texts


def read_triplets(sources: Sequence[str], text_field: str = "", pair_field: str = "") -> list[tuple[str, str, str]]:
    """The anchor, positive and negative of each triplet of the set that the sources hold together.

    A record gives a triplet for each of its negatives, which are the fields `negatives` reads. ValueError if it has
    none, a field is missing or no text, or the fields have no usual names.
    """
    anchor_field, positive_field, _ = source_fields(
        sources, text_field, pair_field, pair_names=EmbeddingSchema.pair_names
    )
    triplets = []
    for source in sources:
        for where, record in numbered(source, anchor_field, [positive_field]):
            with_texts(record, [anchor_field, positive_field], where)
            texts = negatives(record)
            if not texts or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{where}: no text in negative, negative_1, ...; add one or drop the record")
            triplets += [(record[anchor_field], record[positive_field], negative) for negative in texts]
    return triplets


def evaluate_triplets(
    model: OpenedModel,
    sources: Sequence[str],
    text_field: str = "",
    pair_field: str = "",
    options: EmbedOptions = DEFAULT_OPTIONS,
) -> dict[str, Any]:
    """Compare the similarities of anchors with positives and with negatives, by the model's `sentence.similarity`.

    Args:
        sources: as in `jaxencoder.text.sources`; together they are one set.
        text_field, pair_field: of the anchor and the positive; empty: usual names.
        options: of the vectors. If the model embeds queries in another way than documents (two towers, or a sparse
            one's table), anchors are queries, and the other texts documents; both have the model's prompts of these
            names unless `options.prompt` is given.

    Returns:
        triplets, their number; similarity, the name of the function; accuracy, the fraction of triplets whose positive
        is more similar than the negative, without ties.
    """
    triplets = read_triplets(sources, text_field, pair_field)
    anchor, positive, negative = _vectors(model, triplets, options)
    similarity = model.sentence.similarity
    better = pair_similarities(similarity, anchor, positive) > pair_similarities(similarity, anchor, negative)
    return {"triplets": len(triplets), "similarity": similarity, "accuracy": float(np.mean(better))}


def _vectors(model: OpenedModel, triplets: Sequence[tuple[str, str, str]], options: EmbedOptions) -> tuple[Any, ...]:
    """The vectors of anchors, positives and negatives, [N, D] each."""
    if not model.sentence.embeds_queries_apart:
        vectors = text_vectors(model, [text for triplet in triplets for text in triplet], options)
        return tuple(vectors[column::3] for column in range(3))
    as_query, as_document = search_options(model, options, options.prompt)
    anchors = text_vectors(model, [anchor for anchor, *_ in triplets], as_query)
    documents = text_vectors(model, [text for _, *texts in triplets for text in texts], as_document)
    return anchors, documents[::2], documents[1::2]
