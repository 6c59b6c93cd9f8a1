"""Parts of long texts and pairs: as documented, each token in one, and no more of them in memory than are asked for."""

import tracemalloc

import numpy as np
import pytest

from jaxencoder.tasks.classification.windows import _windows, pair_parts, text_parts
from jaxencoder.text.config import WindowConfig
from jaxencoder.text.tokenizers.tokenizer import Encoding
from tests.inference.conftest import SENTENCES, WORDS

LENGTH = 16
LONG = " ".join(WORDS * 3)


def test_windows_are_the_documented_ones():
    ids = np.array([2, 11, 12, 13, 14, 15, 3])
    parts = _windows(0, Encoding(ids, ids * 0, None), 1, 5, 2)
    assert [part.ids.tolist() for part in parts] == [[2, 11, 12, 13, 3], [2, 13, 14, 15, 3]]


@pytest.mark.parametrize("stride", [None, 1, 5, LENGTH - 2])
@pytest.mark.parametrize("words", [13, 20, 28, 45])
def test_windows_reach_every_token(tokenizer, stride, words):
    text = " ".join((WORDS * 3)[:words])
    (whole,) = tokenizer.encode_batch([text])
    length, body = len(whole.ids), whole.ids[1:-1].tolist()
    parts = list(text_parts(tokenizer, [text], LENGTH, WindowConfig(stride)))
    assert [x.ids.tolist() for x in parts] == [x.ids.tolist() for x in _windows(0, whole, 1, LENGTH, stride)]
    assert all(part.ids[0] == whole.ids[0] and part.ids[-1] == whole.ids[-1] for part in parts)
    assert [len(part.ids) for part in parts[:-1]] == [LENGTH] * (len(parts) - 1) and len(parts[-1].ids) <= LENGTH
    step, seen = stride or (LENGTH - 2) // 2, []
    for number, part in enumerate(parts):
        inner = part.ids[1:-1].tolist()
        assert body[number * step : number * step + len(inner)] == inner
        assert number * step + len(inner) > len(seen)  # each adds something
        seen = body[: number * step + len(inner)]
    assert seen == body
    assert sum(part.weight for part in parts) == length - 2  # each token counts once
    assert sum(part.tokens for part in parts) == length and not any(part.is_truncated for part in parts)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("windows", [None, WindowConfig(), WindowConfig(pooling="first")])
def test_tokens_and_what_was_cut(tokenizer, paired, windows):
    texts = [*SENTENCES[::20], "", LONG]
    pairs = [*SENTENCES[::20], LONG, LONG] if paired else None
    parts = (text_parts, pair_parts)[paired]
    found = list(parts(tokenizer, *filter(None, (texts, pairs)), LENGTH, windows))
    for number, encoding in enumerate(tokenizer.encode_batch(texts, pairs)):
        own = [part for part in found if part.text == number]
        assert sum(part.tokens for part in own) == len(encoding.ids)
        fits = len(encoding.ids) <= LENGTH
        lost = windows is None or (paired and number == len(texts) - 1)  # of a first text that is too long
        assert sum(part.is_truncated for part in own) == (not fits and lost)
        assert (len(own) > 1) == (not fits and (windows is not None and windows.pooling != "first"))
        if fits:
            assert own[0].ids.tolist() == encoding.ids.tolist()


@pytest.mark.parametrize("windows", [None, WindowConfig()])
def test_memory_is_that_of_a_part_of_the_text(tokenizer, windows):
    def peak(words: int) -> int:
        text = "the cat sat " * words
        tracemalloc.start()
        assert sum(part.tokens for part in text_parts(tokenizer, [text], LENGTH, windows)) == 3 * words + 2
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1000)
    assert peak(80_000) < 1.3 * peak(20_000)
