"""Blocks of a text join to the tokens and offsets of the complete text, whatever its characters."""

import random
import tracemalloc

import numpy as np
import pytest

from jaxencoder.text import streams
from jaxencoder.text.streams import stream_tokens
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

TOKENIZERS = ("bert-base-cased", "bert-base-uncased", "bigbird", "deberta-v3", "modernbert", "roberta-base")
HOSTILE = (
    *(
        "the cat",
        " ",
        "   ",
        "\n\n",
        "\t",
        "naïve",
        "e\u0301te",
        "\u0301\u0302",
        "İstanbul",
        "ΟΔΟΣ",
        "ﬁne ½",
        "ő",
        "𝔘𝔫",
    ),
    *(
        "猫が好き",
        "ไทยภาษา",
        "مرحبا",
        "🐈\u200d⬛👨\u200d👩\u200d👧",
        "\u00a0",
        "\u200b",
        "\x00\x07",
        "don't",
        "10,000.5",
    ),
    *("𝔘𝔫", "10,000.5", "[MASK]", "<mask>", "[SEP]", "a" * 300),
)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request, shared_data) -> Tokenizer:
    return Tokenizer.load(shared_data / "tokenizers" / request.param)


def hostile(seed: int, pieces: int) -> str:
    choose = random.Random(seed).choice
    return " " + "".join(choose(HOSTILE) + choose(["", " ", " ", "\n"]) for _ in range(pieces)) + "  "


def joined(blocks, number):
    blocks = [block for block in blocks if block.text == number]
    return np.concatenate([block.ids for block in blocks]), np.concatenate([block.offsets for block in blocks])


@pytest.mark.parametrize("characters", [1300, 4096])
def test_blocks_join_to_the_encoding(tokenizer, monkeypatch, characters):
    monkeypatch.setattr(streams, "_CHARACTERS", characters)
    texts = ["", hostile(characters, 900), "the cat", "猫" * 5000, " " * 3000, hostile(1, 40), "ab" * 700 + " end"]
    blocks = list(stream_tokens(tokenizer, texts, offsets=True))
    assert [block.text for block in blocks] == sorted(block.text for block in blocks)
    assert {block.text for block in blocks} == set(range(len(texts)))
    assert sum(block.text == 1 for block in blocks) > 1
    expected = tokenizer.encode_batch(texts, special=False, offsets=True)
    bare = list(stream_tokens(tokenizer, texts))
    for number, encoding in enumerate(expected):
        ids, offsets = joined(blocks, number)
        assert ids.tolist() == encoding.ids.tolist()
        assert offsets.tolist() == encoding.offsets.tolist()
        assert np.concatenate([block.ids for block in bare if block.text == number]).tolist() == ids.tolist()
    assert not any(len(block.offsets) for block in bare)


def test_piece_grows_without_a_seam(shared_data, monkeypatch):
    """A word of more than 100 characters is one unknown token: a piece must hold all of it."""
    monkeypatch.setattr(streams, "_CHARACTERS", 1300)
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased")
    text = "the cat " * 100 + "x" * 20_000 + " sat" * 9000
    blocks = list(stream_tokens(tokenizer, [text], offsets=True))
    ids, offsets = joined(blocks, 0)
    (expected,) = tokenizer.encode_batch([text], special=False, offsets=True)
    assert ids.tolist() == expected.ids.tolist() and offsets.tolist() == expected.offsets.tolist()
    assert [800, 20_800] in offsets.tolist() and len(blocks) > 2


@pytest.mark.parametrize("name", ["bert-base-uncased", "deberta-v3"])
def test_growth_is_limited(shared_data, monkeypatch, name):
    """Spaces without tokens, and a word whose tokens never align, are tokenized in pieces of bounded size."""
    monkeypatch.setattr(streams, "_CHARACTERS", 1300)
    monkeypatch.setattr(streams, "_MAX_PIECE", 5000)
    tokenizer, encoded, sizes = Tokenizer.load(shared_data / "tokenizers" / name), streams._encode_piece, []

    def counted(tokenizer, text, start, end):
        sizes.append(end - start)
        return encoded(tokenizer, text, start, end)

    monkeypatch.setattr(streams, "_encode_piece", counted)
    texts = [" " * 100_000, "the cat" + " " * 100_000 + "sat", "x" * 100_000, "the " + "x" * 100_000 + " cat"]
    blocks = list(stream_tokens(tokenizer, texts, offsets=True))
    expected = tokenizer.encode_batch(texts, special=False, offsets=True)
    assert max(sizes) < 2 * 5000 and sum(sizes) < 4 * sum(map(len, texts))
    for number, encoding in enumerate(expected[:2]):
        ids, offsets = joined(blocks, number)
        assert ids.tolist() == encoding.ids.tolist()
        words = [[texts[number][start:end].strip() for start, end in at] for at in (offsets, encoding.offsets)]
        assert words[0] == words[1]
    for number, text in enumerate(texts[2:], 2):
        ids, offsets = joined(blocks, number)
        covered = np.zeros(len(text), bool)
        for start, end in offsets:
            covered[start:end] = True
        assert covered[np.array(list(text)) == "x"].all() and (np.diff(offsets[:, 0]) >= 0).all()
        assert len(ids) >= len(expected[number].ids)


def test_memory_is_independent_of_length(shared_data):
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased")

    def peak(words: int) -> int:
        text = "the cat sat " * words
        tracemalloc.start()
        assert sum(len(block.ids) for block in stream_tokens(tokenizer, [text], offsets=True)) == 3 * words
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return traced

    assert peak(160_000) < 1.2 * peak(20_000)


def test_errors_name_the_text(tokenizer):
    with pytest.raises(ValueError, match="not a list of strings"):
        next(stream_tokens(tokenizer, "the cat"))
    with pytest.raises(ValueError, match="text 1 is None"):
        list(stream_tokens(tokenizer, ["the cat", None]))
    with pytest.raises(ValueError, match=r"text 2 has a lone surrogate .U\+D800. at character 200000"):
        list(stream_tokens(tokenizer, ["the cat", "a " * 50_000, "a " * 100_000 + "\ud800"]))
