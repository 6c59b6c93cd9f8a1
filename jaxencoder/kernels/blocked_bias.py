"""`RelativeTerms` in the parts that blocks of queries meet, and their gradients: by products and copies alone."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.kernels.relative import RelativeTerms, skew, unskew

_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


class BlockedBias(NamedTuple):
    """Tables for queries in blocks, heads first, or what one block meets of them.

    Attributes:
        keys: [N, H, T + S], row T - 1 + j - i of `RelativeTerms`, and one more for `skew`.
        queries: [N, W, H, block + K], backwards: what a block of queries and a tile of K keys meet, for each of the W
            ways in which they lie to each other. All keys at once would meet twice as many distances as they have to.
        bias: [N, T + S].
        tiles: [N, Y, B, K, H], the keys, for `queries`.
    """

    keys: jax.Array | None
    queries: jax.Array | None
    bias: jax.Array | None
    tiles: jax.Array | None

    def _places(self, i: jax.Array, blocks: int, block: int) -> dict[str, tuple[jax.Array, int, int]]:
        """Where block i of so many meets each table: from, how many, on which axis."""
        away, places = blocks - 1 - i, {}
        for name, x in (("keys", self.keys), ("bias", self.bias)):
            if x is not None:
                places[name] = (away * block, x.shape[-1] - (blocks - 1) * block, x.ndim - 1)
        if self.queries is not None:
            places["queries"] = (away * (block // self.tiles.shape[3]), self.tiles.shape[1], 1)
        return places

    def met(self, i: jax.Array, blocks: int, block: int) -> "BlockedBias":
        """What block i meets."""
        places = self._places(i, blocks, block).items()
        return self._replace(
            **{name: jax.lax.dynamic_slice_in_dim(getattr(self, name), *place) for name, place in places}
        )

    def plus(self, met: "BlockedBias", i: jax.Array, blocks: int, block: int) -> "BlockedBias":
        """With `met` added to what block i meets, in place: a whole table's sum would cost more than the products."""
        sums = {} if self.tiles is None else {"tiles": self.tiles + met.tiles}
        for name, (start, size, axis) in self._places(i, blocks, block).items():
            table = getattr(self, name)
            part = jax.lax.dynamic_slice_in_dim(table, start, size, axis) + getattr(met, name)
            sums[name] = jax.lax.dynamic_update_slice_in_dim(table, part, start, axis)
        return self._replace(**sums)

    def scores(self, q: jax.Array, S: int) -> jax.Array:
        """What is added to the scores of a block, from what it meets: [N, B, T, H] -> [N, B, T, S] float32."""
        N, B, T, _ = q.shape
        added = jnp.zeros((), jnp.float32)
        if self.keys is not None:
            added += skew(_product("NBTH,NHR->NBTR", q, self.keys))
        if self.bias is not None:
            added += skew(jnp.broadcast_to(self.bias[:, None], (N, T, T + S)))[:, None]
        if self.queries is not None:
            # Seen from the keys, the distances run the other way.
            y = skew(_product("NYBKH,NYHR->NYBKR", self.tiles, self.queries))
            added += jnp.transpose(y, (0, 2, 4, 1, 3)).reshape(N, B, T, -1)[..., :S]
        return added

    def gradients(self, d: jax.Array, q: jax.Array) -> tuple[jax.Array, "BlockedBias"]:
        """Those of q and of what a block meets, float32, from that of `scores`."""
        N, B, T, S = d.shape
        bias = None if self.bias is None else unskew(d).sum((1, 2))
        d = d.astype(q.dtype)
        dq, keys, queries, tiles = jnp.zeros((), jnp.float32), None, None, None
        if self.keys is not None:
            y = unskew(d)
            dq, keys = _product("NBTR,NHR->NBTH", y, self.keys), _product("NBTH,NBTR->NHR", q, y)
        if self.queries is not None:
            Y, K = self.tiles.shape[1], self.tiles.shape[3]
            d = jnp.pad(d, ((0, 0), (0, 0), (0, 0), (0, Y * K - S))).reshape(N, B, T, Y, K)
            y = unskew(jnp.transpose(d, (0, 3, 1, 4, 2)))
            tiles = _product("NYBKR,NYHR->NYBKH", y, self.queries)
            queries = _product("NYBKH,NYBKR->NYHR", self.tiles, y)
        return dq, BlockedBias(keys, queries, bias, tiles)


def blocked_bias(relative: RelativeTerms, k: jax.Array, T: int, block: int) -> BlockedBias:
    """The tables of T queries, filled up to whole blocks at their end, and of keys [N, B, S, H]."""
    N, B, S, H = k.shape

    def filled(x: jax.Array | None) -> jax.Array | None:
        """[R, N, ...] -> [N, ..., T + S]"""
        if x is None:
            return None
        return jnp.moveaxis(jnp.pad(x, [(T + S - 1 - len(x), 1)] + [(0, 0)] * (x.ndim - 1)), 0, -1)

    keys, queries, bias = (filled(x) for x in relative)
    if queries is None:
        return BlockedBias(keys, None, bias, None)
    K = block // 2 if block % 2 == 0 else block
    Y, more = -(-S // K), block // K
    W = T // K + Y - more
    parts = jnp.pad(queries[..., :-1], ((0, 0), (0, 0), (1, Y * K - S))).reshape(N, H, W + more, K)
    parts = jnp.moveaxis(parts, 2, 1)
    queries = jnp.concatenate([parts[:, n : n + W] for n in range(more + 1)], axis=-1)[..., ::-1]
    tiles = jnp.pad(k, ((0, 0), (0, 0), (0, Y * K - S), (0, 0))).reshape(N, B, Y, K, H)
    return BlockedBias(keys, queries, bias, jnp.moveaxis(tiles, 2, 1))
