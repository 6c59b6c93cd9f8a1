"""Arguments that every attention backend takes: the arrays of one device, and the options compiled into the program.

A backend maps them to softmax(q k^T + relative + mask) v, [B, T, N, H] in the dtype of v. Pallas kernels also take
`interpret`, which runs them on any device, slowly.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax

from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.kernels.rotary import Table

Name = Literal["dense", "banded", "chunked", "single_pass", "splash", "tiled", "triton"]
Backend = Literal["auto", Name]

# Name, for remat policies, of the results that backends without all scores in memory keep for the backward pass.
ATTENDED = "attended"


class Segments(NamedTuple):
    """Documents of the tokens of a row, [B, T] int32 each, where keys have others than queries."""

    queries: jax.Array
    keys: jax.Array  # -1 at tokens that no query sees


class AttentionInputs(NamedTuple):
    """The queries of one device and the keys that they may see.

    Segments are documents: a query sees the keys with its own number. Padding has 0; segment -1 is seen by no one.
    """

    q: jax.Array  # [B, T, N, H] float32 or bfloat16, already scaled, but for `single_pass`
    k: jax.Array  # [B, S, N, H] in the dtype of q, as v
    v: jax.Array
    relative: RelativeTerms | None  # terms of the scores by distance, tables of T + S - 1 rows, already scaled
    q_segments: jax.Array  # [B, T] int32
    k_segments: jax.Array  # [B, S] int32
    offset: int | jax.Array = 0  # index of the key at the first query's position; a number in a layer with a window
    seed: jax.Array | None = None  # uint32 [4] for dropout, from `random_seed`
    rotary: Table | None = None  # angles by which `single_pass` rotates q and k; for others they are rotated already


@dataclass(frozen=True)
class AttentionOptions:
    """Static options of an attention layer; hashable."""

    window: int = 0
    """Tokens to either side that a query sees; 0 for its whole document."""
    dropout: float = 0.0
    """Probability that an attention weight is dropped."""
    backend: Backend = "auto"
    """Requested backend, see `choose_backend`."""
    defer_normalization: bool = False
    """Divide by the softmax's sum after the product with v, as flash attention does (Dao et al. 2022,
    arXiv:2205.14135): the same up to rounding, twice as fast on a CPU. Only `dense` without dropout reads it."""
    causal: bool = False
    """A query sees no keys after it."""
    scale: float = 0.0
    """Factor of the products of queries and keys, applied by `attention`; 0 for 1 / sqrt(H). For `single_pass`, which
    applies it itself, 0 is for queries that are scaled already."""


PLAIN = AttentionOptions()
