"""`RelativeTerms` split into the parts that blocks of queries need, and their gradients: products and copies only."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.kernels.relative import RelativeTerms, skew, unskew

_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


class BlockedBias(NamedTuple):
    """Tables for queries in blocks, heads first; or the parts of them that one block needs.

    `queries` holds, reversed, the distances between a block of queries and a tile of K keys, for each of their W
    relative positions. Without tiles, a block would need twice as many distances.
    """

    keys: jax.Array | None  # [N, H, T + S]: row T - 1 + j - i of `RelativeTerms`, and one more for `skew`
    queries: jax.Array | None  # [N, W, H, block + K]
    bias: jax.Array | None  # [N, T + S]
    tiles: jax.Array | None  # [N, Y, B, K, H]: the keys, for `queries`

    def _slices(self, i: jax.Array, blocks: int, block: int) -> dict[str, tuple[jax.Array, int, int]]:
        """Start, size and axis of the part of each table that block i needs."""
        away, slices = blocks - 1 - i, {}
        for name, x in (("keys", self.keys), ("bias", self.bias)):
            if x is not None:
                slices[name] = (away * block, x.shape[-1] - (blocks - 1) * block, x.ndim - 1)
        if self.queries is not None and self.tiles is not None:
            slices["queries"] = (away * (block // self.tiles.shape[3]), self.tiles.shape[1], 1)
        return slices

    def at_block(self, i: jax.Array, blocks: int, block: int) -> "BlockedBias":
        """The parts that block i needs."""
        slices = self._slices(i, blocks, block).items()
        return self._replace(**{name: jax.lax.dynamic_slice_in_dim(getattr(self, name), *at) for name, at in slices})

    def add_at_block(self, part: "BlockedBias", i: jax.Array, blocks: int, block: int) -> "BlockedBias":
        """Add `part` to that of block i, in place: summing full tables would cost more than the products."""
        sums = {} if self.tiles is None or part.tiles is None else {"tiles": self.tiles + part.tiles}
        for name, (start, size, axis) in self._slices(i, blocks, block).items():
            table = getattr(self, name)
            added = jax.lax.dynamic_slice_in_dim(table, start, size, axis) + getattr(part, name)
            sums[name] = jax.lax.dynamic_update_slice_in_dim(table, added, start, axis)
        return self._replace(**sums)

    def scores(self, q: jax.Array, S: int) -> jax.Array:
        """Terms of one block's scores from its parts: [N, B, T, H] queries -> [N, B, T, S] float32."""
        N, B, T, _ = q.shape
        scores = jnp.zeros((), jnp.float32)
        if self.keys is not None:
            scores += skew(_product("NBTH,NHR->NBTR", q, self.keys))
        if self.bias is not None:
            scores += skew(jnp.broadcast_to(self.bias[:, None], (N, T, T + S)))[:, None]
        if self.queries is not None and self.tiles is not None:
            # Seen from the keys, distances run in the other direction.
            y = skew(_product("NYBKH,NYHR->NYBKR", self.tiles, self.queries))  # [N, Y, B, K, T]
            scores += jnp.transpose(y, (0, 2, 4, 1, 3)).reshape(N, B, T, -1)[..., :S]  # [N, B, T, Y K] up to S
        return scores

    def gradients(self, d: jax.Array, q: jax.Array) -> tuple[jax.Array, "BlockedBias"]:
        """Gradients of q and of the parts, float32, from d [N, B, T, S], that of `scores`."""
        N, B, T, S = d.shape
        bias = None if self.bias is None else unskew(d).sum((1, 2))
        d = d.astype(q.dtype)
        dq, keys, queries, tiles = jnp.zeros((), jnp.float32), None, None, None
        if self.keys is not None:
            y = unskew(d)
            dq, keys = _product("NBTR,NHR->NBTH", y, self.keys), _product("NBTH,NBTR->NHR", q, y)
        if self.queries is not None and self.tiles is not None:
            Y, K = self.tiles.shape[1], self.tiles.shape[3]
            d = jnp.pad(d, ((0, 0), (0, 0), (0, 0), (0, Y * K - S))).reshape(N, B, T, Y, K)
            y = unskew(jnp.transpose(d, (0, 3, 1, 4, 2)))  # [N, Y, B, K, block + K]
            tiles = _product("NYBKR,NYHR->NYBKH", y, self.queries)
            queries = _product("NYBKH,NYBKR->NYHR", self.tiles, y)
        return dq, BlockedBias(keys, queries, bias, tiles)


def blocked_bias(relative: RelativeTerms | None, k: jax.Array, T: int, block: int) -> BlockedBias:
    """Tables of at most T queries in blocks, T a multiple of `block`, and keys k [N, B, S, H]."""
    N, B, S, H = k.shape

    def heads_first(x: jax.Array | None) -> jax.Array | None:
        """[R, N, ...] -> [N, ..., T + S]"""
        if x is None:
            return None
        return jnp.moveaxis(jnp.pad(x, [(T + S - 1 - len(x), 1)] + [(0, 0)] * (x.ndim - 1)), 0, -1)

    keys, queries, bias = (heads_first(x) for x in relative or RelativeTerms())
    if queries is None:
        return BlockedBias(keys, None, bias, None)
    K = block // 2 if block % 2 == 0 else block
    Y, more = -(-S // K), block // K
    W = T // K + Y - more
    # Parts of K distances [N, W + more, H, K], of which `more` + 1 neighbors make up one relative position.
    parts = jnp.pad(queries[..., :-1], ((0, 0), (0, 0), (1, Y * K - S))).reshape(N, H, W + more, K)
    parts = jnp.moveaxis(parts, 2, 1)
    queries = jnp.concatenate([parts[:, n : n + W] for n in range(more + 1)], axis=-1)[..., ::-1]
    tiles = jnp.pad(k, ((0, 0), (0, 0), (0, Y * K - S), (0, 0))).reshape(N, B, Y, K, H)
    return BlockedBias(keys, queries, bias, jnp.moveaxis(tiles, 2, 1))
