"""Vectors of texts to measure."""

import numpy as np
import pytest
from scipy import sparse

from jaxencoder.evaluation import vectors
from jaxencoder.inference.options import DEFAULT_OPTIONS


@pytest.mark.parametrize("kind", [np.array, sparse.csr_array], ids=["dense", "sparse"])
def test_each_text_is_embedded_once(kind, monkeypatch) -> None:
    embedded = []

    def embed(model, texts, options):
        embedded.extend(texts)
        return kind([[len(text), ord(text[0])] for text in texts])

    monkeypatch.setattr(vectors, "embed", embed)
    first, second = vectors.pair_vectors(None, ["a", "bb", "a"], ["bb", "ccc"], DEFAULT_OPTIONS)
    assert embedded == ["a", "bb", "ccc"]
    dense = [x.toarray() if sparse.issparse(x) else x for x in (first, second)]
    assert [x.tolist() for x in dense] == [[[1, 97], [2, 98], [1, 97]], [[2, 98], [3, 99]]]


def test_what_is_not_finite(monkeypatch) -> None:
    monkeypatch.setattr(vectors, "embed", lambda *_: sparse.csr_array([[0, np.nan]]))
    with pytest.raises(ValueError, match="the vectors hold numbers that are not finite"):
        vectors.text_vectors(None, ["a"], DEFAULT_OPTIONS)
