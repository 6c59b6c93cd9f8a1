"""Arguments that every attention backend takes: the arrays of one device, and the options compiled into the program."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax

from jaxencoder.kernels.relative import RelativeTerms

Name = Literal["dense", "banded", "chunked", "splash", "tiled", "triton"]
Backend = Literal["auto", Name]

# Name, for remat policies, of the results that backends without all scores in memory keep for the backward pass.
ATTENDED = "attended"


class AttentionInputs(NamedTuple):
    """The queries of one device and the keys that they may see.

    Attributes:
        q: [B, T, N, H] float32 or bfloat16, already scaled.
        k, v: [B, S, N, H] in the dtype of q.
        relative: terms of the scores by distance, tables of T + S - 1 rows, already scaled; or None.
        q_segments, k_segments: [B, T] and [B, S] int32, the document of each token, 0 for padding. A query sees the
            keys with its own number. Tokens of segment -1 are seen by no one.
        offset: index of the key at the first query's position; a number in a layer with a window.
        seed: uint32 [4] for dropout, from `random_seed`; or None.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    relative: RelativeTerms | None
    q_segments: jax.Array
    k_segments: jax.Array
    offset: int | jax.Array = 0
    seed: jax.Array | None = None


@dataclass(frozen=True)
class AttentionOptions:
    """Static options of an attention layer; hashable.

    Attributes:
        window: tokens to either side that a query sees; 0 for its whole document.
        dropout: probability that an attention weight is dropped.
        backend: requested backend, see `choose_backend`.
        defer_normalization: divide by the softmax's sum after the product with v, as flash attention does (Dao et al.
            2022, arXiv:2205.14135). The same up to rounding and twice as fast on a CPU. Only `dense` without dropout
            reads it.
    """

    window: int = 0
    dropout: float = 0.0
    backend: Backend = "auto"
    defer_normalization: bool = False


PLAIN = AttentionOptions()
