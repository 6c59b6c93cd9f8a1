"""Vectors of texts to measure, each text embedded once."""

from collections.abc import Sequence
from typing import Any

from jaxencoder.inference.embed import embed
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.model.similarity import check_finite


def text_vectors(model: OpenedModel, texts: Sequence[str], options: EmbedOptions) -> Any:
    """The vectors of texts, float32 [N, D], of a sparse model a csr_array; equal texts are embedded once.

    ValueError if not all are finite.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    return check_finite(embed(model, list(rows), options))[[rows[text] for text in texts]]


def pair_vectors(
    model: OpenedModel, texts: Sequence[str], second_texts: Sequence[str], options: EmbedOptions
) -> tuple[Any, Any]:
    """The `text_vectors` of first and of second texts."""
    vectors = text_vectors(model, [*texts, *second_texts], options)
    return vectors[: len(texts)], vectors[len(texts) :]
