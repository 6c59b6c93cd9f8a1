"""Labels of words move to their first tokens with every tokenizer; short rows drop no token."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxencoder.tasks.token_classification.data import word_pieces
from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer
from jaxencoder.text.words import encode_words, word_windows

TEXT = ["the soldier was killed in Sonmarg , said a spokesman .", "über Größe 你好 世界"] * 5
KINDS = ["wordpiece", "bpe", "unigram", "sentencepiece-unigram"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request) -> Tokenizer:
    config = TokenizerConfig(kind=request.param, vocab_size=300 if "bpe" in request.param else 80)
    return train_tokenizer(TEXT * 4, config)


def test_tokens_of_words(tokenizer):
    words = ["Sonmarg", ",", "said", "the", "soldier", "Größe", "."]
    (encoded_words,) = encode_words(tokenizer, [words])
    assert encoded_words.word[encoded_words.first].tolist() == list(range(len(words)))
    assert encoded_words.ids.tolist() == tokenizer.encode_batch([" ".join(words)], special=False)[0].ids.tolist()
    for i, word in enumerate(words):
        written = tokenizer.decode(encoded_words.ids[encoded_words.word == i]).replace(" ", "")
        assert written.lower() in (word.lower(), word.lower().replace("ö", "o").replace("ß", "ß"))


def test_equals_pretokenized_words_of_transformers(shared_data):
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "tokenizers" / "bert-base-cased"
    theirs = transformers.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False)
    words = ["@paulwalk", "It", "'s", "Zürich", "", "a\u200bb", "\u0007", "你好", "U.S."]
    (encoded_words,) = encode_words(Tokenizer.load(folder), [words])
    encoded = theirs(words, is_split_into_words=True, add_special_tokens=False)
    assert encoded_words.ids.tolist() == encoded["input_ids"] and encoded_words.word.tolist() == encoded.word_ids()


def test_blank_words_take_no_tokens(tokenizer):
    """SentencePiece makes one space of several, and its token may begin with all of them."""
    for words in (["the", "", "soldier"], ["", "said", " ", "", "a"]):
        (encoded_words,) = encode_words(tokenizer, [words])
        for i, word in enumerate(words):
            assert tokenizer.decode(encoded_words.ids[encoded_words.word == i]).strip() == word.strip()


def test_space_tokens_belong_to_no_word(shared_data):
    """If a space is a separate token, the first token of the word is the next one."""
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "modernbert")
    (encoded_words,) = encode_words(tokenizer, [["Anna", "", "Smith"]])
    assert tokenizer.tokens(encoded_words.ids) == ["Anna", "  ", "Smith"] and encoded_words.word.tolist() == [0, 1, 2]
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "bigbird")
    assert encode_words(tokenizer, [["Anna", "", "Smith"]])[0].word.tolist() == [0, 2]


def test_first_tokens_carry_labels():
    tokenizer = train_tokenizer(["ab abc abcd"] * 3, TokenizerConfig(vocab_size=20))
    pieces = word_pieces(tokenizer, [["ab", "xab", "abcd"], [], ["abc"]], [[3, 4, 5], [], [6]], 32)
    assert len(pieces.lengths) == 2  # of no words there is nothing to learn
    first = pieces.token_labels[: pieces.lengths[0]]
    assert first[first >= 0].tolist() == [3, 4, 5] and first[0] == first[-1] == -1
    assert pieces.token_labels[pieces.lengths[0] :][1] == 6


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30), room=st.integers(1, 12), overlap=st.integers(0, 12))
def test_pieces_cover_all_tokens(sizes, room, overlap):
    class Tokens:
        ids = np.arange(sum(sizes))
        first = np.zeros(sum(sizes), bool)

    Tokens.first[np.cumsum(sizes) - sizes] = True
    parts = word_windows(Tokens, room, overlap)
    assert parts[0][0] == 0 and parts[-1][1] == sum(sizes)
    for (a, b), (c, d) in pairwise(parts):
        assert a < c <= b < d and (overlap or c == b)
        assert b - c <= max(room // 2, overlap) + 8  # back to the start of a word
    assert all(0 < b - a <= room for a, b in parts)
    if max(sizes) <= room:
        assert all(Tokens.first[a] for a, _ in parts)
