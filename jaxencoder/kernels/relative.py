"""Terms that the distance between two tokens adds to their attention score, from tables with a row per distance.

`skew` reads the scores of all T x S pairs from a product with the R = T + S - 1 distances, by copies and without a
gather. Disentangled attention: He et al. 2021 (DeBERTa, arXiv:2006.03654); biases: Raffel et al. 2020 (T5,
arXiv:1910.10683), Press et al. 2022 (ALiBi, arXiv:2108.12409).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class RelativeTerms(NamedTuple):
    """Terms of the score of query i and key j, from row T - 1 + j - i of tables with R = T + S - 1 rows."""

    keys: jax.Array | None = None  # [R, N, H] in the dtype of q: the term q_i . keys[row], content to position
    queries: jax.Array | None = None  # [R, N, H] in the dtype of q: queries[row] . k_j, position to content
    bias: jax.Array | None = None  # [R, N] float32: bias[row]

    def rows(self, start: jax.typing.ArrayLike, size: int) -> "RelativeTerms":
        """Rows start, ..., start + size - 1 of each table; 0 outside of it."""

        def slice_rows(x: jax.Array) -> jax.Array:
            if not isinstance(start, int):
                return jax.lax.dynamic_slice_in_dim(x, start, size)
            before, after = max(-start, 0), max(start + size - len(x), 0)
            x = jnp.pad(x, [(before, after)] + [(0, 0)] * (x.ndim - 1))
            return jax.lax.slice_in_dim(x, start + before, start + before + size)

        return RelativeTerms(*(None if x is None else slice_rows(x) for x in self))

    def scores(self, q: jax.Array, k: jax.Array) -> jax.Array:
        """Sum of the terms, [..., N, T, S] float32, for q [..., T, N, H] and k [..., S, N, H]."""
        T, N = q.shape[-3], q.shape[-2]
        scores = jnp.zeros((), jnp.float32)
        if self.keys is not None:
            y = jnp.einsum("...TNH,RNH->...NTR", q, _append_row(self.keys), preferred_element_type=jnp.float32)
            scores += skew(y)  # [..., N, T, R + 1] -> [..., N, T, S]
        if self.queries is not None:
            # Seen from the keys, distances run in the other direction.
            table = _append_row(self.queries[::-1])
            y = jnp.einsum("...SNH,RNH->...NSR", k, table, preferred_element_type=jnp.float32)
            scores += jnp.swapaxes(skew(y), -1, -2)  # [..., N, S, T] -> [..., N, T, S]
        if self.bias is not None:
            bias = _append_row(self.bias).T[:, None]  # [N, 1, R + 1]
            scores += skew(jnp.broadcast_to(bias, (N, T, bias.shape[-1])))
        return scores


def _append_row(table: jax.Array) -> jax.Array:
    """One row of zeros more: the column that `skew` does not read."""
    return jnp.pad(table, [(0, 1)] + [(0, 0)] * (table.ndim - 1))


@jax.custom_vjp
def skew(x: jax.Array) -> jax.Array:
    """[..., T, T + S] -> [..., T, S] where item (i, j) is x[i, T - 1 + j - i]; the last column is not read.

    Read in rows that are one shorter, every row begins one item earlier: no gather.
    [[a b c d .], [e f g h .]] with T 2, S 3: [[b c d], [e f g]].
    """
    *rest, T, R = x.shape
    # Not by indices, which jax turns into a gather where T is symbolic.
    x = jax.lax.slice_in_dim(x.reshape(*rest, T * R), T - 1, T - 1 + T * (R - 1), axis=-1)
    return jax.lax.slice_in_dim(x.reshape(*rest, T, R - 1), 0, R - T, axis=-1)


def unskew(y: jax.Array) -> jax.Array:
    """The transpose of `skew`: [..., T, S] -> [..., T, T + S], zeros where `skew` reads nothing.

    The transpose that jax derives takes three times as long on a CPU.
    """
    *rest, T, S = y.shape

    def zeros(*shape: int) -> jax.Array:
        return jnp.zeros((*rest, *shape), y.dtype)

    # The barrier keeps XLA from fusing the two copies.
    rows = jax.lax.optimization_barrier(jnp.concatenate([y, zeros(T, T - 1)], axis=-1))
    flat = jnp.concatenate([zeros(T - 1), rows.reshape(*rest, T * (T + S - 1)), zeros(1)], axis=-1)
    return flat.reshape(*rest, T, T + S)


skew.defvjp(lambda x: (skew(x), None), lambda _, y: (unskew(y),))
