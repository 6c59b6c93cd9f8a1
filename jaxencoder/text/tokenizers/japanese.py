"""The tokenizer of Japanese BERTs, as far as it needs no dictionary of words."""

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from jaxencoder.text.tokenizers.huggingface import wordpiece
from jaxencoder.text.tokenizers.settings import TokenizerSettings

# Settings -> the values that the steps here have.
_SUPPORTED = {"do_word_tokenize": True, "do_subword_tokenize": True, "never_split": []}
_DICTIONARIES = ("mecab", "sudachi", "jumanpp")


def japanese(vocab: dict[str, int], unk: str, settings: TokenizerSettings) -> tokenizers.Tokenizer:
    """BertJapaneseTokenizer: single characters, or the pieces of words between spaces and punctuation.

    Characters do not depend on the words, whatever dictionary splits them. ValueError for pieces of such words.
    """
    options = settings.options
    for key, value in _SUPPORTED.items():
        if options.get(key, value) != value:
            raise ValueError(f"{settings.source} has {key} {options[key]!r}; only {value!r} is supported")
    words, pieces = options.get("word_tokenizer_type"), options.get("subword_tokenizer_type", "wordpiece")
    lowercase = options.get("do_lower_case", False)
    if pieces == "character" and words in ("basic", *_DICTIONARIES):
        if any(kwargs for key, kwargs in options.items() if key.endswith("_kwargs") and "normalize_text" in kwargs):
            raise ValueError(f"{settings.source} sets normalize_text of {words}, which is not supported")
        return _characters(vocab, unk, lowercase)
    if pieces == "wordpiece" and words == "basic":
        normalizer = normalizers.BertNormalizer(handle_chinese_chars=False, lowercase=lowercase)
        return wordpiece(vocab, unk, normalizer)
    if pieces not in ("wordpiece", "character"):
        raise ValueError(f"{settings.source} has subword_tokenizer_type {pieces!r}, which is not supported")
    problem = f"{settings.source} is of BertJapaneseTokenizer with word_tokenizer_type {words!r}"
    advice = "supported are 'basic', and any type with subword_tokenizer_type 'character'"
    raise ValueError(f"{problem}, whose dictionary splits the words; {advice}")


def _characters(vocab: dict[str, int], unk: str, lowercase: bool) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=unk))
    steps = [normalizers.NFKC(), *([normalizers.Lowercase()] if lowercase else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    characters = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), characters])
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
