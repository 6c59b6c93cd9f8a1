"""The tokenizer of ESM: amino acids, one character each."""

import re

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers


def protein(vocab: dict[str, int], unk: str) -> tokenizers.Tokenizer:
    """EsmTokenizer: the longest tokens found in a text from left to right; what lies between two of them is unknown."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=unk))
    longest_first = sorted(vocab, key=lambda token: (-len(token), token))
    tokens = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), tokens])
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
