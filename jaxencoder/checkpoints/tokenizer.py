"""The tokenizer in a published folder."""

from pathlib import Path

from jaxencoder.text.tokenizers.tokenizer import Tokenizer

_FILES = ("tokenizer.json", "vocab.txt", "merges.txt", "*.model")


def published_tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    """The tokenizer in a published folder, None if it has none; ValueError for one with too many tokens."""
    if not any(any(folder.glob(name)) for name in _FILES):
        return None
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"{folder} has a tokenizer of {tokenizer.vocab_size} tokens, "
            f"but a model of {vocab_size}; it belongs to another model"
        )
    return tokenizer
