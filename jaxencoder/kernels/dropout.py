"""Dropout (Srivastava et al. 2014, JMLR 15:1929-1958) by 16 random bits per value, or by a hash of a value's index."""

import jax
import jax.numpy as jnp
import numpy as np

_LEVELS = 1 << 16
_ODD = np.uint32(0x9E3779B9)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Set each value to 0 with probability `rate` and divide the others by 1 - rate.

    Two values share a 32-bit word; a Bernoulli draw takes 64 bits per value and makes the step of a small encoder 5%
    slower on a CPU. The probability is `rate` rounded to 1/65536, and the scale matches the rounded one.

    Args:
        x: [..., X]; equal keys and shapes drop the same values on any number of devices.
        rate: in [0, 1); at 0 the key is not used.
        key: a PRNG key, or None when rate is 0.

    Raises:
        ValueError: a rate above 0 without a key.
    """
    if not rate:
        return x
    if key is None:
        raise ValueError(f"Dropout {rate} needs a key.")
    dropped = min(round(rate * _LEVELS), _LEVELS - 1)
    *rest, size = x.shape
    words = jax.random.bits(key, (*rest, -(-size // 2)), jnp.uint32)
    bits = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*rest, -1)[..., :size]
    return jnp.where(bits >= dropped, x * jnp.asarray(_LEVELS / (_LEVELS - dropped), x.dtype), 0)


def hashed_keep(
    word: jax.Array, batch: jax.Array, head: jax.Array, query: jax.Array, key: jax.Array, rate: float
) -> jax.Array:
    """Mask (bool) of the attention weights that dropout keeps, a function of their indices alone.

    A backend that never holds all weights computes each block's part when it needs it, and all backends drop the same
    weights. Only 32-bit integer arithmetic, so that it runs inside Pallas kernels.

    Args:
        word: uint32, different for every layer and step.
        batch, head, query, key: integer arrays that broadcast against each other: indices in the global batch, over
            all heads and in the full row, however arrays are sharded.
        rate: the probability of being dropped, in [0, 1), rounded to 2**-24.
    """
    # Each index is hashed before it is added, so that no row of weights is a shifted copy of another. Rows and columns
    # have few hashes: only the last hash is computed for every weight.
    row = _mix(_mix(_mix(_mix(_word(word)) + _mix(_word(batch))) + _mix(_word(head) ^ _ODD)) + _mix(_word(query)))
    bits = _mix(row + _mix(_word(key) ^ _ODD))
    # Compared as signed integers: the vector units of TPUs cannot compare unsigned ones.
    return (bits >> np.uint32(8)).astype(jnp.int32) >= np.int32(round(rate * (1 << 24)))


def hashed_dropout(weights: jax.Array, rate: float, *indices: jax.Array) -> jax.Array:
    """`dropout` of attention weights by `hashed_keep`, whose first five arguments are `indices`."""
    return jnp.where(hashed_keep(*indices, rate=rate), weights / (1 - rate), 0)


def random_seed(key: jax.Array | None, *first: jax.typing.ArrayLike) -> jax.Array | None:
    """Seed of hashed dropout, uint32 [4]: a random word, then this device's first batch row, head and query (or 0)."""
    if key is None:
        return None
    return jnp.stack([jax.random.bits(key, (), jnp.uint32), *(_word(index) for index in first or (0, 0, 0))])


def weight_indices(
    seed: jax.Array | None, sizes: tuple[int, ...], offset: int | jax.Array = 0, first: int | jax.Array = 0
) -> tuple[jax.Array, ...]:
    """The seed's random word and the global indices of attention weights on this device, for `hashed_keep`.

    Args:
        seed: from `random_seed`; ValueError if it is None.
        sizes: (B, N, T, S).
        offset: index of the key at the device's first query.
        first: the device's index of query 0.

    Returns:
        word, batch [B, 1, 1, 1], head [N, 1, 1], query [T, 1] and key [S], uint32.
    """
    if seed is None:
        raise ValueError("Dropout of attention weights needs a seed.")
    batch, head, query, key = (jnp.arange(size) for size in sizes)
    # The key at the first query's position, `offset`, has the global index seed[3].
    batch, head = seed[1] + batch.astype(jnp.uint32), seed[2] + head.astype(jnp.uint32)
    query, key = seed[3] + (first + query).astype(jnp.uint32), seed[3] + (key - offset).astype(jnp.uint32)
    return seed[0], batch[:, None, None, None], head[:, None, None], query[:, None], key


def _word(x: jax.typing.ArrayLike) -> jax.Array:
    return jnp.asarray(x).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which every input bit flips about half of the output bits (Wellons 2018, lowbias32)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
