"""The class that engines call: columns in, columns with vectors out."""

import dataclasses
import logging
import pickle

import numpy as np
import pytest

from jaxencoder.api import load
from jaxencoder.bulk import embedder as embedder_module
from jaxencoder.bulk.embedder import Embedder
from jaxencoder.inference.embed import embed
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.token_vectors import embed_tokens
from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.tasks import records as records_module

TEXTS = ["the cat sat on a mat", "", "seven old men", "bread"]


def test_columns_are_kept_and_vectors_added(folder):
    batch = {"body": np.array(TEXTS, object), "n": np.arange(4), "rest": np.ones((4, 2))}
    result = Embedder(folder, text_field="body")(batch)
    assert list(result) == ["body", "n", "rest", "embedding"]
    assert result["rest"] is batch["rest"]
    assert result["embedding"].dtype == np.float32
    np.testing.assert_array_equal(result["embedding"], load(folder).embed(TEXTS))
    assert list(Embedder(folder, text_field="body", columns=["n"])(batch)) == ["n", "embedding"]


def test_options_count(folder):
    options = EmbedOptions(dimensions=8, normalize=True)
    vectors = Embedder(folder, options)({"text": np.array(TEXTS)})["embedding"]
    np.testing.assert_array_equal(vectors, embed(load(folder), TEXTS, options))


def test_it_is_pickled_without_its_model(folder):
    embed_batch = Embedder(folder)
    expected = embed_batch({"text": np.array(TEXTS)})["embedding"]
    content = pickle.dumps(embed_batch)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content)({"text": np.array(TEXTS)})["embedding"], expected)


def test_the_model_is_opened_once_and_late(folder, monkeypatch):
    opened, open_model = [], embedder_module.load
    monkeypatch.setattr(embedder_module, "load", lambda name: opened.append(name) or open_model(name))
    embed_batch = Embedder(folder)
    assert not opened
    for _ in range(2):
        embed_batch({"text": np.array(TEXTS)})
    assert embed_batch.open() and opened == [folder]


def test_a_relative_folder_is_found_from_elsewhere(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    embed_batch = Embedder(".")
    monkeypatch.chdir(tmp_path)
    assert embed_batch({"text": np.array(["the"])})["embedding"].shape == (1, 32)


def test_an_empty_batch_has_vectors_of_the_same_size(folder):
    assert Embedder(folder)({"text": np.array([], object)})["embedding"].shape == (0, 32)


def test_large_batches_are_embedded_in_chunks(folder, monkeypatch):
    monkeypatch.setattr(records_module, "_CHUNK_TEXTS", 3)
    result = Embedder(folder)({"text": np.array(TEXTS)})["embedding"]
    np.testing.assert_allclose(result, load(folder).embed(TEXTS), atol=2e-5)


def test_truncation_is_said_once(folder, caplog):
    embed_batch = Embedder(folder, EmbedOptions(max_length=4))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            embed_batch({"text": np.array(TEXTS)})
    assert caplog.messages == ["2 of 4 texts are longer than 4 tokens and were truncated."]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"txt": TEXTS}, "no column 'text' among txt; did you mean 'txt'"),
        ({"text": TEXTS, "embedding": [0] * 4}, "already has a column 'embedding'"),
        ({"text": ["a", None]}, "'text' of row 1 is NoneType, not text"),
        ({"text": [b"a"]}, "'text' of row 0 is bytes, not text"),
    ],
)
def test_a_wrong_batch(folder, batch, message):
    with pytest.raises(ValueError, match=message):
        Embedder(folder)({name: np.array(values, object) for name, values in batch.items()})


def test_a_multi_vector_model_gives_matrices(model, folder, monkeypatch):
    multi = dataclasses.replace(model, multi_vector=MultiVectorConfig())
    monkeypatch.setattr(embedder_module, "load", lambda name: multi)
    column = Embedder(folder)({"text": np.array(["cat", "men", "the cat sat"])})["embedding"]
    assert column.dtype == object and column.shape == (3,)
    for vectors, expected in zip(column, embed_tokens(multi, ["cat", "men", "the cat sat"]), strict=True):
        np.testing.assert_array_equal(vectors, expected)
