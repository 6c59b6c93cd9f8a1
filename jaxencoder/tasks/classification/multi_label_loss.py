"""The loss and the metrics of documents that have any number of classes: each class is a yes or no of its own.

The focal loss of Lin et al. 2017, arXiv:1708.02002, is of this kind.
"""

import jax
import jax.numpy as jnp

from jaxencoder.objectives.objective import Metrics


def multi_label_metrics(scores: jax.Array, labels: jax.Array, weights: jax.Array, focal_gamma: float = 0.0) -> Metrics:
    """Sums over the documents of packed rows.

    Args:
        scores: [B, E, C] float32, logits.
        labels: [B, E, C] int, 1 for a class that a document has and 0 for others, -1 where there is no document.
        weights: [C] float32, of the classes.
        focal_gamma: how little is lost on what is all but sure, see `Classification`.

    Returns:
        loss: cross-entropy in nats, of each document the mean over the classes times their weights; micro_f1, over all
        decisions together; accuracy, of documents whose classes are found exactly. A class is found where its logit
        is above 0.
    """
    there = labels[..., 0] >= 0  # [B, E]
    true, found = labels > 0, scores > 0
    log_p = jax.nn.log_sigmoid(jnp.where(true, scores, -scores))
    losses = -log_p
    if focal_gamma:
        losses *= jnp.exp(focal_gamma * (log_p - jnp.where(true, scores, -scores)))  # 1 - p is p / exp(logit)
    losses = jnp.where(there, (losses * weights).mean(-1), 0)
    found &= there[..., None]
    exact = there & (found == true).all(-1)
    hits, said, wanted, right, documents = (
        x.sum().astype(jnp.float32) for x in (found & true, found, true, exact, there)
    )
    return {
        "loss": (losses.sum(), documents),
        "micro_f1": (2 * hits, said + wanted),
        "accuracy": (right, documents),
    }
