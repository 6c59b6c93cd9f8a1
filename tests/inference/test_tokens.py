"""Vectors of tokens: of what fits as the model gives them, of long texts from the window with most around each."""

import numpy as np
import pytest

from jaxencoder.text.config import WindowConfig
from jaxencoder.text.windows import text_windows

from .conftest import SENTENCES, WORDS

LENGTH = 16
LONG = " ".join(WORDS * 4)
HOSTILE = ["", " ", LONG, "a" * 10_000, "  É 猫🐈\u200d cat \n", "[MASK] the [SEP] " * 20, "the " * 14, "the " * 15]


@pytest.fixture(scope="module")
def short(make_model):
    return make_model(row_length=LENGTH)


@pytest.mark.parametrize("stride", [None, 3, LENGTH - 2])
def test_each_token_is_that_of_the_window_with_most_around_it(short, stride):
    hidden, mask, offsets = short.tokens([LONG], windows=WindowConfig(stride), offsets=True)
    (whole,) = short.tokenizer.encode_batch([LONG], offsets=True)
    body, n, step = whole.ids[1:-1], len(whole.ids) - 2, stride or (LENGTH - 2) // 2
    assert mask.all() and hidden.shape == (1, n + 2, 32) and offsets[0].tolist() == whole.offsets.tolist()
    starts = range(0, max(n - (LENGTH - 2), 0) + step, step)
    rows = [np.r_[whole.ids[0], body[s : s + LENGTH - 2], whole.ids[-1]] for s in starts]
    vectors = [np.asarray(short(row[None])["hidden"])[0] for row in rows]
    for token in range(n):
        context = [min(token - s, s + len(v) - 3 - token) for s, v in zip(starts, vectors, strict=True)]
        best = int(np.argmax(context))
        np.testing.assert_allclose(hidden[0, 1 + token], vectors[best][1 + token - starts[best]], atol=2e-5)
    np.testing.assert_allclose(hidden[0, 0], vectors[0][0], atol=2e-5)
    np.testing.assert_allclose(hidden[0, -1], vectors[-1][-1], atol=2e-5)


@pytest.mark.parametrize("windows", [None, WindowConfig()])
def test_what_fits_is_what_the_model_gives(model, windows):
    texts = ["", *SENTENCES[::20], "the " * 62]
    hidden, mask, offsets = model.tokens(texts, windows=windows, offsets=True)
    for i, encoding in enumerate(model.tokenizer.encode_batch(texts, offsets=True)):
        n = len(encoding.ids)
        assert mask[i].tolist() == [True] * n + [False] * (mask.shape[1] - n)
        np.testing.assert_allclose(hidden[i, :n], model(encoding.ids[None])["hidden"][0], atol=2e-5)
        assert offsets[i, :n].tolist() == encoding.offsets.tolist() and not hidden[i, n:].any()
    assert len(model.tokens(texts)) == 2


def test_offsets_of_what_is_cut(short):
    hidden, mask, offsets = short.tokens([LONG, "the"], offsets=True)
    (cut,) = short.tokenizer.encode_batch([LONG], offsets=True, max_length=LENGTH)
    assert offsets[0].tolist() == cut.offsets.tolist() and mask[0].all() and hidden.shape == (2, LENGTH, 32)
    assert LONG[slice(*offsets[0, 1])] == WORDS[0] and not offsets[1, 3:].any()


def test_chunks_are_the_tokens(short):
    hidden, mask, offsets = short.tokens(HOSTILE, windows=WindowConfig(5), offsets=True)
    chunks = list(short.token_chunks(HOSTILE, stride=5, batch_tokens=64))
    assert [chunk.text for chunk in chunks] == sorted(chunk.text for chunk in chunks)
    for number, encoding in enumerate(short.tokenizer.encode_batch(HOSTILE, offsets=True)):
        own = [chunk for chunk in chunks if chunk.text == number]
        n = len(encoding.ids)
        assert np.concatenate([chunk.ids for chunk in own]).tolist() == encoding.ids.tolist()
        joined = np.concatenate([chunk.offsets for chunk in own]).tolist()
        assert joined == encoding.offsets.tolist() == offsets[number, :n].tolist()
        np.testing.assert_allclose(np.concatenate([c.hidden for c in own]), hidden[number, :n], atol=2e-5)
        assert mask[number].sum() == n


def test_chunks_come_before_the_text_has_been_read(short, monkeypatch):
    read = []

    def counted(*given, **options):
        for window in text_windows(*given, **options):
            read.append(window)
            yield window

    monkeypatch.setattr("jaxencoder.inference.tokens.text_windows", counted)
    chunks = short.token_chunks(["the cat sat " * 50_000])
    first = next(chunks)
    assert first.text == 0 and len(read) * LENGTH <= (1 << 14) + LENGTH
    for _ in range(3000):
        next(chunks)
    assert 3000 * LENGTH <= len(read) * LENGTH <= 3000 * LENGTH + 2 * (1 << 14)


def test_mistakes(short):
    with pytest.raises(ValueError, match="stride is 15; windows with room for 14"):
        short.tokens(["the"], windows=WindowConfig(15))
    with pytest.raises(ValueError, match="window pooling is 'max', but tokens are not pooled"):
        short.tokens(["the"], windows=WindowConfig(pooling="max"))
