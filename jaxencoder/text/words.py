"""Words with their tags to tokens with labels, and back: the first token of a word speaks for it.

Devlin et al. 2019 (BERT), arXiv:1810.04805, section 5.3.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from jaxencoder.text.pieces import Pieces, counts
from jaxencoder.text.tokenizer import Tokenizer


class WordTokens(NamedTuple):
    """The tokens of a list of words, without special ones.

    ids: int32 [n]. word: int64 [n], which word a token is of, ascending. first: bool [n], whether it is the first.
    """

    ids: np.ndarray
    word: np.ndarray
    first: np.ndarray


def encode_words(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> list[WordTokens]:
    """The tokens of each text, whose words are written with a space between, as the tokenizer knows them from training.

    A word that the tokenizer drops, such as one of control characters alone, has no token.

    Raises:
        ValueError: a word is not valid Unicode.
    """
    encoded = tokenizer.encode_batch([" ".join(words) for words in texts], special=False, offsets=True)
    found = []
    for words, encoding in zip(texts, encoded, strict=True):
        # A word ends one before the space after it: a token that begins with that space is the next one's.
        ends = np.array([end - 1 for end in accumulate(len(word) + 1 for word in words)], np.int64)
        first, last = encoding.offsets[:, 0], encoding.offsets[:, 1] - 1
        # Its last character says whose it is, for it may begin with several spaces; unless that is a space too.
        place = np.where(np.isin(last, ends), first, np.maximum(first, last))
        word = np.searchsorted(ends, place, side="right").clip(max=max(len(words) - 1, 0))
        found.append(WordTokens(encoding.ids, word, np.diff(word, prepend=-1) > 0))
    return found


def words(tokenizer: Tokenizer, texts: list[list[str]], tags: list[list[int]], row_length: int) -> Pieces:
    """Each text as pieces [CLS] ... [SEP] of at most row_length tokens, cut between words where it is longer.

    A word's tag is the label of its first token; other tokens have none. A word longer than a row is cut within.

    With words "a", "bcd" of tags 3 and 4, where "bcd" is two tokens: ids [CLS a b ##cd SEP], labels [-1 3 4 -1 -1].
    """
    ids, lengths, labels = [], [], []
    for tokens, own in zip(encode_words(tokenizer, texts), tags, strict=True):
        label = np.where(tokens.first, np.array(own or [0], np.int32)[tokens.word], -1)
        for start, end in word_windows(tokens, row_length - 2):
            ids.append([tokenizer.cls_id, *tokens.ids[start:end].tolist(), tokenizer.sep_id])
            labels.append([-1, *label[start:end].tolist(), -1])
            lengths.append(end - start + 2)
    flat = np.array([i for piece in ids for i in piece], np.uint32)
    token_labels = np.array([label for piece in labels for label in piece], np.int32)
    return Pieces(flat, np.array(lengths, np.int64), None, counts(flat, tokenizer), None, token_labels)


def word_windows(tokens: WordTokens, room: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Where pieces of at most `room` tokens begin and end: before a word, if one fits.

    Args:
        overlap: tokens that a piece has in common with the one before it, at least if words allow, and at most half.
    """
    starts, parts, start, n = np.flatnonzero(tokens.first), [], 0, len(tokens.ids)
    while start < n:
        end = n
        if n - start > room:
            before = starts[(starts > start) & (starts <= start + room)]
            end = int(before[-1]) if len(before) else start + room
        parts.append((start, end))
        if end == n:
            break
        following = starts[starts > end]
        reach = (int(following[0]) if len(following) else n) - room  # from before it, the next word would not fit
        again = starts[(starts > start) & (starts >= reach) & (starts <= end - min(overlap, room // 2))]
        start = int(again[-1]) if overlap and len(again) else end
    return parts
