"""What happens to texts that are too long: which end is dropped, or that they are refused."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxencoder.inference.embed import TextEmbedder
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.sparse import SparseEmbedder
from jaxencoder.inference.token_vectors import TokenEmbedder
from jaxencoder.tasks.running import row_length
from jaxencoder.text.buckets import require_tokenizer


class Truncation(NamedTuple):
    """Whether texts that are too long are truncated or refused, and the end that is dropped."""

    is_allowed: bool = True
    side: Literal["left", "right"] = "right"


TRUNCATE = Truncation()


def check_embedded(
    truncation: Truncation, embedder: TextEmbedder | TokenEmbedder | SparseEmbedder, texts: Sequence[str]
) -> None:
    """ValueError for texts to embed that are too long and may not be truncated, or a prompt that would be dropped."""
    is_multi_vector = isinstance(embedder, TokenEmbedder)
    prompt = embedder.settings.prompt(embedder.role) if is_multi_vector else embedder.prompt
    if truncation.side == "left" and prompt:
        raise ValueError(f"truncation_direction is Left, which would drop the prompt {prompt!r}; give Right")
    reads_special = not (isinstance(embedder, SparseEmbedder) and embedder.reads_table)
    if not truncation.is_allowed:
        _check(embedder.model, [prompt + text for text in texts], None, embedder.limit, reads_special)


def check_classified(
    truncation: Truncation, model: OpenedModel, texts: Sequence[str], pairs: Sequence[str] | None
) -> None:
    """ValueError for texts or pairs to classify that are too long and may not be truncated, or not from the left."""
    if truncation.side == "left" and pairs is None:
        raise ValueError("truncation_direction is Left, but this model reads the beginning of texts; leave it out")
    if not truncation.is_allowed:
        _check(model, texts, pairs, row_length(model))


def _check(
    model: OpenedModel, texts: Sequence[str], pairs: Sequence[str] | None, limit: int, special: bool = True
) -> None:
    encoded = require_tokenizer(model.tokenizer).encode_batch(texts, pairs, special=special)
    if too_long := [len(encoding.ids) for encoding in encoded if len(encoding.ids) > limit]:
        raise ValueError(f"`inputs` must have at most {limit} tokens. Given: {too_long[0]}")
