"""Windows cover all tokens, assign each to the one with most context, and keep its place in the original text.

Blocks of a text join to the tokens and offsets of the complete text, whatever its characters.
"""

import random
import tracemalloc

import numpy as np
import pytest

from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer
from jaxencoder.text.windows import (
    TokenWindow,
    _encode_piece,
    max_context_windows,
    sliding_windows,
    special_tokens,
    stream_tokens,
    text_windows,
)

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
    *("𝔘𝔫", "10,000.5", "[MASK]", "<mask>", "[SEP]"),
)
LONG_WORD = "a" * 300  # whose splits have equal scores in a unigram model: which one is taken depends on what precedes


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request, shared_data) -> Tokenizer:
    return Tokenizer.load(shared_data / "tokenizers" / request.param)


def hostile(seed: int, pieces: int, tokenizer: Tokenizer) -> str:
    choose = random.Random(seed).choice
    words = HOSTILE if tokenizer.name == "unigram" else (*HOSTILE, LONG_WORD)
    return " " + "".join(choose(words) + choose(["", " ", " ", "\n"]) for _ in range(pieces)) + "  "


def joined(blocks, number):
    blocks = [block for block in blocks if block.text == number]
    return np.concatenate([block.ids for block in blocks]), np.concatenate([block.offsets for block in blocks])


@pytest.mark.parametrize("characters", [1300, 4096])
def test_blocks_join_to_the_encoding(tokenizer, monkeypatch, characters):
    monkeypatch.setattr("jaxencoder.text.windows._CHARACTERS", characters)
    texts = [
        "",
        hostile(characters, 900, tokenizer),
        "the cat",
        "猫" * 5000,
        " " * 3000,
        hostile(1, 40, tokenizer),
        "ab" * 700 + " end",
    ]
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
    monkeypatch.setattr("jaxencoder.text.windows._CHARACTERS", 1300)
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
    monkeypatch.setattr("jaxencoder.text.windows._CHARACTERS", 1300)
    monkeypatch.setattr("jaxencoder.text.windows._MAX_PIECE", 5000)
    tokenizer, encoded, sizes = Tokenizer.load(shared_data / "tokenizers" / name), _encode_piece, []

    def counted(tokenizer, text, start, end):
        sizes.append(end - start)
        return encoded(tokenizer, text, start, end)

    monkeypatch.setattr("jaxencoder.text.windows._encode_piece", counted)
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


def test_the_documented_windows():
    assert list(sliding_windows([7], 4, 2)) == [(0, 4, 0, 3), (2, 6, 3, 5), (4, 7, 5, 7)]


@pytest.mark.parametrize("room", [1, 2, 5, 10])
@pytest.mark.parametrize("tokens", [0, 1, 4, 5, 6, 10, 11, 23])
def test_tokens_belong_to_the_window_with_most_context(room, tokens):
    for stride in range(1, room + 1):
        spans = list(sliding_windows([tokens], room, stride))
        for sizes in ([1] * tokens, [0, tokens, 0]):
            assert list(sliding_windows(sizes, room, stride)) == spans
        assert [span.start for span in spans] == [i * stride for i in range(len(spans))]
        assert all(span.end == min(span.start + room, tokens) for span in spans)
        assert len({span.end for span in spans}) == len(spans)  # each adds something
        owners = [i for i, span in enumerate(spans) for _ in range(span.first, span.last)]
        # As run_squad.py has it, without its bonus for a longer window.
        expected = []
        for token in range(tokens):
            context = [min(token - s.start, s.end - 1 - token) if s.start <= token < s.end else -1 for s in spans]
            expected.append(context.index(max(context)))
        assert owners == expected
        assert max_context_windows([(span.start, span.end) for span in spans]) == spans
    assert max_context_windows([]) == []


def test_blocks_are_read_lazily():
    asked = []

    def sizes():
        for size in (3, 3, 3, 3):
            asked.append(size)
            yield size

    spans = sliding_windows(sizes(), 4, 2)
    assert (next(spans), len(asked)) == (TokenWindow(0, 4, 0, 3), 2)
    assert (next(spans), len(asked)) == (TokenWindow(2, 6, 3, 5), 3)


@pytest.mark.parametrize(("room", "stride", "message"), [(4, 5, "stride is 5"), (4, 0, "1 to 4"), (0, 1, "room for 0")])
def test_bad_strides(room, stride, message):
    with pytest.raises(ValueError, match=message):
        list(sliding_windows([9], room, stride))


@pytest.mark.parametrize("stride", [None, 7, 20])
def test_windows_join_to_the_encoding(tokenizer, monkeypatch, stride):
    monkeypatch.setattr("jaxencoder.text.windows._CHARACTERS", 1500)
    around = sum(map(len, special_tokens(tokenizer)))
    word = "" if tokenizer.name == "unigram" else "x" * 10_000  # see LONG_WORD
    texts = ["", "the cat", " ", hostile(3, 300, tokenizer), word, " the  cat \n sat ", "the cat " * 2000]
    all_windows = list(text_windows(tokenizer, texts, 20 + around, stride, offsets=True))
    expected = tokenizer.encode_batch(texts, offsets=True)
    for number, (text, encoding) in enumerate(zip(texts, expected, strict=True)):
        windows = [window for window in all_windows if window.text == number]
        assert np.concatenate([w.ids[w.first : w.last] for w in windows]).tolist() == encoding.ids.tolist()
        assert np.concatenate([w.offsets for w in windows]).tolist() == encoding.offsets.tolist()
        assert [w.is_last for w in windows] == [False] * (len(windows) - 1) + [True]
        before, behind = special_tokens(tokenizer)
        for w in windows:
            assert len(w.ids) <= 20 + around
            assert w.ids[: len(before)].tolist() == before.tolist()
            assert w.ids[len(w.ids) - len(behind) :].tolist() == behind.tolist()
            assert (w.offsets <= len(text)).all() and (w.offsets[:, 0] <= w.offsets[:, 1]).all()


def test_offsets_refer_to_the_original_text(shared_data):
    """A tokenizer that lowercases and strips accents, on a text that it changes."""
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased")
    text = "  Éte\u0301 ﬁ 🐈 İSTANBUL Ελλάδα \n naïve  "
    windows = list(text_windows(tokenizer, [text], 8, offsets=True))
    assert len(windows) > 2
    pieces = [(tokenizer.token(w.ids[i]), text[a:b]) for w in windows for i, (a, b) in enumerate(w.offsets, w.first)]
    assert (tokenizer.token(tokenizer.cls_id), "") == pieces[0] and pieces[-1][1] == ""
    written = [piece for _, piece in pieces[1:-1]]
    assert "".join(written).replace("\u0301", "") == "".join(text.split()).replace("\u0301", "")
    assert "Éte" in "".join(written[:3]) and "🐈" in written


@pytest.mark.parametrize(("tokens", "windows"), [(6, 1), (7, 2), (9, 2), (10, 3)])
def test_number_of_windows(shared_data, tokens, windows):
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased")
    assert len(list(text_windows(tokenizer, ["the " * tokens], 8))) == windows


def test_prompt_is_in_every_window_and_belongs_to_the_first(tokenizer):
    prompt, text = "query: ", "the cat sat on a mat while men walked slowly"
    (expected,) = tokenizer.encode_batch([prompt + text])
    windows = list(text_windows(tokenizer, [text], 10, prompt=prompt, offsets=True))
    assert len(windows) > 2
    assert np.concatenate([w.ids[w.first : w.last] for w in windows]).tolist() == expected.ids.tolist()
    plain = next(text_windows(tokenizer, [text], 100, offsets=True)).offsets.tolist()
    offsets = np.concatenate([w.offsets for w in windows]).tolist()
    assert [x for x in offsets if x != [0, 0]][1:] == [x for x in plain if x != [0, 0]][1:]
    assert all(w.first > 3 for w in windows[1:])  # [CLS] and the prompt count in the first window alone
    assert {len(w.ids) for w in windows[:-1]} == {10} and {tuple(w.ids[:3]) for w in windows} == {
        tuple(expected.ids[:3])
    }
    with pytest.raises(ValueError, match="leaves none of 4 for a text"):
        list(text_windows(tokenizer, [text], 4, prompt="a long prompt: "))
    with pytest.raises(ValueError, match="leaves none of 4"):
        list(text_windows(tokenizer, [], 4, prompt="a long prompt: "))


def test_errors(tokenizer):
    with pytest.raises(ValueError, match="stride is 7; windows with room for 6"):
        list(text_windows(tokenizer, ["a"], 8, 7))
    with pytest.raises(ValueError, match="stride is 0"):
        list(text_windows(tokenizer, [], 8, 0))
    with pytest.raises(ValueError, match="not a list of strings"):
        list(text_windows(tokenizer, "the cat", 8))
    with pytest.raises(ValueError, match=r"text 1 has a lone surrogate \(U\+D800\) at character 2,"):
        list(text_windows(tokenizer, ["the cat", "ab\ud800"], 8, prompt="query: "))


def test_special_tokens_without_letters_in_the_vocabulary():
    tokenizer = train_tokenizer(["猫 犬 鳥"] * 3, TokenizerConfig(vocab_size=16, kind="unigram"))
    before, behind = special_tokens(tokenizer)
    assert (before.tolist(), behind.tolist()) == ([tokenizer.cls_id], [tokenizer.sep_id])
