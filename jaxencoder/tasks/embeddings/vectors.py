"""Similarities and distances of vectors for losses: float32, with finite gradients at zero and at equal vectors."""

from collections.abc import Callable, Sequence
from typing import get_args

import jax
import jax.numpy as jnp

from jaxencoder.model.sentence import Similarity
from jaxencoder.model.vectors import length, root, unit

# (sum, weight), float32 scalars: their quotient is the mean loss, and they add up over batches. The weight is 0 where
# a batch holds nothing that the loss is defined for, and then the sum is 0 too.
Loss = tuple[jax.Array, jax.Array]

_BLOCK = 512  # rows that are compared with all others at once
_EXACT = jax.lax.Precision.HIGHEST


def zero_absent(vectors: jax.Array, mask: jax.Array) -> jax.Array:
    """The vectors [..., D] as float32, with zeros in place of any content, NaN too, where `mask` [...] is False."""
    return jnp.where(mask[..., None], vectors.astype(jnp.float32), 0)


def similarities(similarity: Similarity, queries: jax.Array, documents: jax.Array) -> jax.Array:
    """The similarities [Q, ...] of each of the queries [Q, D] with each of the documents [..., D]."""
    check_choice("similarity", similarity, get_args(Similarity))
    if similarity == "cosine":
        queries, documents = unit(queries), unit(documents)
    if similarity in ("cosine", "dot"):
        return jnp.einsum("QD,...D->Q...", queries, documents, precision=_EXACT)
    term = jnp.square if similarity == "euclidean" else jnp.abs
    sums = _sum_over_components(term, queries, documents)
    return -(root(sums) if similarity == "euclidean" else sums)


def _sum_over_components(term: Callable[[jax.Array], jax.Array], a: jax.Array, b: jax.Array) -> jax.Array:
    """The sums [Q, ...] over components d of term(a_d - b_d), for a [Q, D] with b [..., D].

    One component after the other: the gradient of the obvious form holds all Q * N * D differences in memory.
    """

    @jax.checkpoint
    def part(a: jax.Array, b: jax.Array) -> jax.Array:
        return term(a.reshape(-1, *(1,) * b.ndim) - b)

    def add(total: jax.Array, components: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + part(*components), None

    start = jnp.zeros((a.shape[0], *b.shape[:-1]))
    return jax.lax.scan(add, start, (a.T, jnp.moveaxis(b, -1, 0)), unroll=8)[0]


def pair_similarities(similarity: Similarity, a: jax.Array, b: jax.Array) -> jax.Array:
    """The similarities [...] of vectors a [..., D] and b [..., D], one by one; other axes are broadcast."""
    check_choice("similarity", similarity, get_args(Similarity))
    match similarity:
        case "cosine":
            return (unit(a) * unit(b)).sum(-1)
        case "dot":
            return (a * b).sum(-1)
        case "euclidean":
            return -length(a - b)
        case "manhattan":
            return -jnp.abs(a - b).sum(-1)


def query_scores(similarity: Similarity, vectors: jax.Array, mask: jax.Array) -> jax.Array:
    """The similarities float32 [N, C - 1] of each query with its own texts.

    `vectors` [N, C, D] have the queries in column 0; texts that are False in `mask` [N, C] count as zero vectors.
    """
    vectors = zero_absent(vectors, mask)
    return pair_similarities(similarity, vectors[:, :1], vectors[:, 1:])


def to_distances(similarity: Similarity, values: jax.Array) -> jax.Array:
    """Distances from similarities: 1 - cosine, or the Euclidean or Manhattan distance. ValueError for "dot"."""
    check_choice("distance", similarity, ("cosine", "euclidean", "manhattan"))
    return 1 - values if similarity == "cosine" else -values


def by_blocks(function: Callable[..., jax.Array], *rows: jax.Array) -> jax.Array:
    """function(*rows) float [N] for rows [N, ...], which it treats one by one, with the memory of 512 rows at a time.

    A comparison of each row with all of N others then takes memory that grows as N, not as its square. The backward
    pass computes each block again.
    """
    count = len(rows[0])
    blocks = -(-count // _BLOCK)
    if blocks == 1:
        return function(*rows)

    def split(x: jax.Array) -> jax.Array:
        """[blocks, n, ...], interleaved, so that each device already holds its rows of every block."""
        padded = jnp.pad(x, [(0, -count % blocks), *[(0, 0)] * (x.ndim - 1)])
        return jnp.moveaxis(padded.reshape(-1, blocks, *x.shape[1:]), 1, 0)

    results = jax.lax.map(lambda block: jax.checkpoint(function)(*block), tuple(map(split, rows)))
    return results.T.reshape(-1)[:count]


def masked_log_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """log softmax over the last axis among the entries of `mask`; 0 in the others, also if a row has no entry."""
    scores = jnp.where(mask, scores, -jnp.inf)
    scores = jnp.where(mask.any(-1, keepdims=True), scores, 0)
    return jnp.where(mask, jax.nn.log_softmax(scores), 0)


def masked_sum(values: jax.Array, mask: jax.Array) -> Loss:
    """The sum of the values of `mask`, and their number."""
    return jnp.where(mask, values, 0).sum(), mask.sum().astype(jnp.float32)


def sum_of_means(sums: Sequence[jax.Array], counts: Sequence[jax.Array], weights: Sequence[float]) -> Loss:
    """The loss whose mean is the weighted sum of the means of several, and whose weight is the greatest of theirs.

    The weights of losses of the same batch differ where they depend on the distances, as of `batch_all_triplet`.
    """
    greatest = jnp.stack(counts).max()
    parts = zip(weights, sums, counts, strict=True)
    scaled = [weight * total * (greatest / jnp.maximum(count, 1)) for weight, total, count in parts]
    return jnp.stack(scaled).sum(), greatest


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ValueError if the value of an argument is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")
