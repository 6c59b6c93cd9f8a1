"""Documents held out for validation: a fraction of the training text, chosen by a hash, when no source is named."""

import hashlib
from collections.abc import Sequence


def text_digest(text: str | Sequence[str], pair: str) -> int:
    """Return a 64-bit hash; equal texts, or equal lists of words, land on the same side of the split."""
    content = f"{text if isinstance(text, str) else ' '.join(text)}\0{pair}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def is_held_out(digest: int, fraction: float) -> bool:
    """Whether a document with this digest is in the held-out fraction."""
    return digest < fraction * 2**64
