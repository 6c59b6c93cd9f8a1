"""Words with labels as tokens with labels: the first token of a word carries its label.

Devlin et al. 2019 (BERT), arXiv:1810.04805, section 5.3.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from jaxencoder.text.tokenizers.tokenizer import Tokenizer


class WordTokens(NamedTuple):
    """The tokens of a list of words, without special tokens."""

    ids: np.ndarray  # int32 [n]
    word: np.ndarray  # int64 [n], index of the token's word, ascending
    first: np.ndarray  # bool [n], whether the token is the first of its word


def encode_words(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> list[WordTokens]:
    """Tokenize lists of words, joined by spaces, as the tokenizer saw words in training.

    A word that the tokenizer drops, such as one of control characters only, has no token.
    """
    encodings = tokenizer.encode_batch([" ".join(words) for words in texts], special=False, offsets=True)
    results = []
    for words, encoding in zip(texts, encodings, strict=True):
        # A word ends one before the space after it: a token that begins with that space belongs to the next word.
        ends = np.array([end - 1 for end in accumulate(len(word) + 1 for word in words)], np.int64)
        first, last = encoding.offsets[:, 0], encoding.offsets[:, 1] - 1
        # The last character decides, since a token may begin with several spaces; unless that is a space as well.
        position = np.where(np.isin(last, ends), first, np.maximum(first, last))
        word = np.searchsorted(ends, position, side="right").clip(max=max(len(words) - 1, 0))
        results.append(WordTokens(encoding.ids, word, np.diff(word, prepend=-1) > 0))
    return results


def word_windows(tokens: WordTokens, room: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Split tokens into windows [start, end) of at most `room` tokens that begin at a word, if one fits.

    A window shares at least `overlap` tokens with the one before if words allow, and at most half.
    """
    starts, windows, start, n = np.flatnonzero(tokens.first), [], 0, len(tokens.ids)
    while start < n:
        end = n
        if n - start > room:
            inside = starts[(starts > start) & (starts <= start + room)]
            end = int(inside[-1]) if len(inside) else start + room
        windows.append((start, end))
        if end == n:
            break
        following = starts[starts > end]
        # A window from before `reach` would end before the next word and so add nothing.
        reach = (int(following[0]) if len(following) else n) - room
        shared = starts[(starts > start) & (starts >= reach) & (starts <= end - min(overlap, room // 2))]
        start = int(shared[-1]) if overlap and len(shared) else end
    return windows
