"""Vectors of texts to measure, each text embedded once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from jaxencoder.inference.embed import embed
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import EmbedOptions


def text_vectors(model: OpenedModel, texts: Sequence[str], options: EmbedOptions) -> Any:
    """The vectors of texts, float32 [N, D], of a sparse model a csr_array; equal texts are embedded once.

    ValueError if not all are finite.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectors = embed(model, list(rows), options)
    if not np.isfinite(vectors.data if isinstance(vectors, sparse.csr_array) else vectors).all():
        raise ValueError("the vectors hold numbers that are not finite: the model is damaged, or training diverged")
    return vectors[[rows[text] for text in texts]]
