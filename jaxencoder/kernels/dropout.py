"""Dropout (Srivastava et al. 2014, JMLR 15:1929-1958) by 16 random bits a value, or by a hash of a value's place."""

import jax
import jax.numpy as jnp
import numpy as np

_LEVELS = 1 << 16


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Set each value to 0 with probability `rate` and divide the others by 1 - rate.

    A Bernoulli draw spends 64 bits of the generator on a value: two values a word make the step of a small encoder 5%
    faster on a CPU. The probability is `rate` rounded to 1/65536, and the scale is that of the rounded one.

    Args:
        x: [..., X]; equal keys and shapes drop the same places on any number of devices.
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
    seed: jax.Array, batch: jax.Array, head: jax.Array, query: jax.Array, key: jax.Array, rate: float
) -> jax.Array:
    """Which attention weights dropout keeps: a function of their place alone.

    Every block of a backend that never holds all weights works out its own part, twice if it must, and backends that
    cut them differently drop the same ones. Integer arithmetic on 32 bits only, so that it runs inside Pallas kernels.

    Args:
        seed: uint32, another one for every layer and step.
        batch, head, query, key: integer arrays that broadcast against each other: places in the whole batch, of all
            heads and in the whole row, wherever the arrays are cut over devices.
        rate: the probability of being dropped, in [0, 1), rounded to 2**-24.

    Returns:
        bool in the broadcast shape. What is kept is to be divided by 1 - rate.
    """
    # Each coordinate is hashed before it is added, so that no row of weights is a shifted copy of another. Rows and
    # columns have few hashes: only the last is worked out for every weight.
    row = _mix(_mix(_mix(_mix(_word(seed)) + _mix(_word(batch))) + _mix(_word(head) ^ _ODD)) + _mix(_word(query)))
    bits = _mix(row + _mix(_word(key) ^ _ODD))
    # Compared as signed numbers: the vector units of TPUs compare no unsigned ones.
    return (bits >> np.uint32(8)).astype(jnp.int32) >= np.int32(round(rate * (1 << 24)))


def hashed_dropout(weights: jax.Array, rate: float, seed: jax.Array, *places: jax.Array) -> jax.Array:
    """`dropout` of attention weights, by `hashed_keep` with seed[0] at the places batch, head, query and key."""
    return jnp.where(hashed_keep(seed[0], *places, rate), weights / (1 - rate), 0)


def random_seed(key: jax.Array | None, *first: jax.typing.ArrayLike) -> jax.Array | None:
    """What dropout by places needs to know, uint32 [4]: a number drawn with a PRNG key; and the row of the batch, the
    head and the query that come first in what is computed here (0, 0, 0 if they are left out)."""
    if key is None:
        return None
    return jnp.stack([jax.random.bits(key, (), jnp.uint32), *map(_word, first or (0, 0, 0))])


_ODD = np.uint32(0x9E3779B9)


def _word(x: jax.Array) -> jax.Array:
    return jnp.asarray(x).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which every bit of x moves about half of the result's (Wellons 2018, lowbias32)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
