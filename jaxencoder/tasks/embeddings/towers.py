"""Two towers: an encoder for queries, which are the anchors, and one for all other texts.

Karpukhin et al. 2020 (DPR), arXiv:2004.04906. Texts of both kinds share rows, so that both towers embed all rows of a
batch, and each text takes the vector of its own: twice the work of one encoder.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxencoder.model.sentence import QUERY_TOWER
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.embeddings.examples import is_anchor
from jaxencoder.tasks.task import Network

Towers = Literal["shared", "separate"]


def with_query_tower(network: Network) -> Network:
    """The functions of two towers, which start equal, from those of one.

    With the parameters of one tower alone, as in an opened model, all texts are embedded by that.
    """
    init_one, embed_one = network

    def init(key: jax.Array) -> Params:
        params = init_one(key)
        return params | {QUERY_TOWER: jax.tree.map(jnp.copy, params)}

    def embed(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
        vectors = embed_one(params, batch, key, train)
        if QUERY_TOWER not in params:
            return vectors
        queries = embed_one(params[QUERY_TOWER], batch, jax.random.fold_in(key, 2), train)
        return jnp.where(is_anchor(batch)[..., None], queries, vectors)

    return init, embed
