"""The three outputs of bge-m3: a vector of a text, weights of its tokens, and vectors of its tokens.

Chen et al. 2024 (M3-Embedding), arXiv:2402.03216; the formulas are those of FlagEmbedding.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from jaxencoder.inference.embed import embed
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.multi_vector import LEXICAL
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.multi_vector.token_vectors import pair_scores
from jaxencoder.tasks.running import encoder_output
from jaxencoder.text.buckets import require_tokenizer
from jaxencoder.text.tokenizers.encoding import as_list

_WITHOUT_WEIGHT = ("cls", "sep", "pad", "unk")  # roles of tokens


def lexical_weights(model: OpenedModel, texts: Sequence[str], batch_tokens: int | None = None) -> sparse.csr_array:
    """The weights float32 [N, V] of the tokens of texts; see `Model.lexical_weights`."""
    if LEXICAL not in model.params:
        raise ValueError("this model has no lexical weights; give one with bge-m3's sparse_linear.pt")
    tokenizer, ids = require_tokenizer(model.tokenizer), model.tokenize(texts)
    skipped = [tokenizer.role_ids[role] for role in _WITHOUT_WEIGHT if role in tokenizer.role_ids]
    vectors = sparse.lil_array((len(ids), model.config.model.vocab_size), dtype=np.float32)
    function = partial(_row_weights, model.config.model, model.compute)
    for plan, values in model.run(function, ids, batch_tokens):
        for i, row, start in zip(plan.texts.tolist(), plan.row, plan.start, strict=True):
            tokens, positions = np.unique(ids[i], return_inverse=True)
            weights = np.zeros(len(tokens), np.float32)
            np.maximum.at(weights, positions, values[row, start : start + len(ids[i])])
            weights[np.isin(tokens, skipped)] = 0
            vectors[i, tokens] = weights
    return sparse.csr_array(vectors)


@partial(jax.jit, static_argnums=(0, 1))
def _row_weights(encoder: EncoderConfig, compute: ComputeConfig, params: Params, rows: Batch) -> jax.Array:
    """The weights [B, T] float32 of all tokens of packed rows, at least 0."""
    hidden, head = encoder_output(encoder, compute, params, rows).astype(jnp.float32), params[LEXICAL]
    return jax.nn.relu(hidden @ head["kernel"] + head["bias"])[..., 0]


def hybrid_scores(
    model: OpenedModel,
    queries: Sequence[str],
    texts: Sequence[str],
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    batch_tokens: int | None = None,
) -> dict[str, np.ndarray]:
    """The similarities float64 [N] of each query and its text; see `Model.hybrid_scores`."""
    queries, texts = as_list(queries, "queries"), as_list(texts)
    if len(queries) != len(texts):
        raise ValueError(f"{len(queries)} queries but {len(texts)} texts; give one text for each query")
    if len(weights) != 3 or min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"weights are {weights}; give three numbers of at least 0, not all 0")
    options = EmbedOptions(normalize=True, batch_tokens=batch_tokens)
    distinct = list(dict.fromkeys([*queries, *texts]))  # a reranker repeats its query
    numbers = {text: i for i, text in enumerate(distinct)}
    rows = [[numbers[text] for text in x] for x in (queries, texts)]
    weights_of, vectors = lexical_weights(model, distinct, batch_tokens), embed(model, distinct, options)
    lexical, dense = [weights_of[x] for x in rows], [vectors[x].astype(np.float64) for x in rows]
    scores = {
        "dense": (dense[0] * dense[1]).sum(1),
        "lexical": np.asarray((lexical[0] * lexical[1]).sum(1), np.float64),
        "tokens": pair_scores(model, queries, texts, batch_tokens),
    }
    hybrid = np.average(np.stack(list(scores.values())), axis=0, weights=weights)
    return scores | {"hybrid": hybrid}
