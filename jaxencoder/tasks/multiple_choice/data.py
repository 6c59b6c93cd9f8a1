"""A context and some choices of which one is right, as pieces [CLS] context [SEP] choice [SEP] that stay together.

The form of Radford et al. 2018 and of SWAG's task in Devlin et al. 2019 (BERT), arXiv:1810.04805, section 4.4.
"""

from collections.abc import Sequence

import numpy as np

from jaxencoder.text.pieces import Pieces, counts
from jaxencoder.text.tokenizer import Encoding, Tokenizer


def encode_choices(
    tokenizer: Tokenizer, contexts: Sequence[str], choices: Sequence[Sequence[str]], row_length: int
) -> tuple[list[list[Encoding]], int]:
    """The pieces of each example, all of which together fit into a row, and how many examples lost tokens for it.

    Pieces longer than what a row has for each are cut there, longer text first, and shorter ones stay as they are.

    Raises:
        ValueError: no room for so many choices in rows so short, or a text is not valid Unicode.
    """
    firsts = [context for context, own in zip(contexts, choices, strict=True) for _ in own]
    seconds = [choice for own in choices for choice in own]
    encoded = tokenizer.encode_batch(firsts, seconds)
    least = len(tokenizer.encode_batch([""], [""])[0].ids) + 2 if encoded else 0  # a token of each text
    found, end, cut = [], 0, 0
    for own in choices:
        start, end = end, end + len(own)
        lengths = [len(encoding.ids) for encoding in encoded[start:end]]
        if sum(lengths) > row_length:
            most = _share(lengths, row_length)
            if most < least:
                raise ValueError(f"rows of {row_length} tokens have no room for {len(own)} choices; make them longer")
            long = [i for i, n in enumerate(lengths, start) if n > most]
            shorter = tokenizer.encode_batch([firsts[i] for i in long], [seconds[i] for i in long], max_length=most)
            for i, encoding in zip(long, shorter, strict=True):
                encoded[i] = encoding
            cut += 1
        found.append(encoded[start:end])
    return found, cut


def choices(tokenizer: Tokenizer, contexts: list[str], choices: list[list[str]], row_length: int) -> Pieces:
    """What `encode_choices` gives as pieces, of which those of an example are a group."""
    groups, _ = encode_choices(tokenizer, contexts, choices, row_length)
    encoded = [encoding for group in groups for encoding in group]
    ids = np.concatenate([encoding.ids for encoding in encoded]).astype(np.uint32)
    types = np.concatenate([encoding.type_ids for encoding in encoded]).astype(np.uint8)
    lengths, sizes = (np.array(list(map(len, x)), np.int64) for x in ([e.ids for e in encoded], groups))
    return Pieces(ids, lengths, types, counts(ids, tokenizer), groups=sizes)


def _share(lengths: Sequence[int], room: int) -> int:
    """The most tokens that each may have, so that all fit: [9, 9, 2] with room 14 -> 6."""
    left = len(lengths)
    for n in sorted(lengths):
        if n * left > room:
            break
        room, left = room - n, left - 1
    return room // max(left, 1)
