"""Losses on the leading dimensions of vectors as well: a modifier of any loss of this package."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxencoder.model.vectors import unit
from jaxencoder.tasks.embeddings.vectors import Loss, sum_of_means, zero_absent


def matryoshka(
    loss: Callable[..., Loss], dims: Sequence[int], weights: Sequence[float] | None = None
) -> Callable[..., Loss]:
    """The weighted sum of a loss on truncated vectors of length 1, for several sizes: MatryoshkaLoss of ST.

    Kusupati et al. 2022, arXiv:2205.13147. The full size D counts only if `dims` has it.

    Args:
        loss: a function of vectors [N, C, D], the mask [N, C] and other arguments.
        dims: the numbers of leading dimensions.
        weights: of each of them; None: all 1.

    Returns:
        A function of the same arguments, whose quotient is the weighted sum of the quotients of `loss`; its weight is
        the greatest of them. The argument `teacher_vectors`, given by name and of size D, is truncated too, but not
        scaled.

    Raises:
        ValueError: there are no sizes, one is not positive, or the weights are of another number; from the function: a
            size exceeds D.
    """
    weights = [1.0] * len(dims) if weights is None else weights
    if not dims or min(dims) < 1:
        raise ValueError(f"dims must be one or more positive numbers, got {list(dims)}.")
    if len(weights) != len(dims):
        raise ValueError(f"weights has {len(weights)} numbers for {len(dims)} dims; give one for each.")

    def on_truncated(vectors: jax.Array, mask: jax.Array, *arguments: Any, **named: Any) -> Loss:
        size = vectors.shape[-1]
        if max(dims) > size:
            raise ValueError(f"dims has {max(dims)}, but the vectors have size {size}; leave out what is greater.")
        vectors = zero_absent(vectors, mask)
        teacher = named.get("teacher_vectors")
        sums, counts = [], []
        for dim in dims:
            if teacher is not None and teacher.shape[-1] == size:
                named["teacher_vectors"] = teacher[..., :dim]
            total, count = loss(unit(vectors[..., :dim]), mask, *arguments, **named)
            sums.append(total)
            counts.append(count)
        return sum_of_means(sums, counts, weights)

    return on_truncated
