"""Tiny models, batches and comparisons that the tests of model, objectives, kernels and training share."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.masking import Masking
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.objectives.objective import Objective

FLOAT32 = ComputeConfig(dtype="float32")
VOCABULARY = 41  # of which 0 ... 3 are special

BERT = EncoderConfig(
    vocab_size=VOCABULARY, num_layers=3, hidden_size=24, mlp_size=40, num_heads=3, max_length=37,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
MODERNBERT = dataclasses.replace(
    BERT, positions="rotary", rope_theta=160_000.0, windows=(0, 8, 8), num_layers=5, token_types=0, norm_epsilon=1e-5,
    norm_placement="pre", first_attention_norm=False, gated_mlp=True,
    attention_bias=False, mlp_bias=False, norm_bias=False, head_bias=False,
)  # fmt: skip
LONGFORMER = dataclasses.replace(BERT, num_layers=3, windows=(3, 5), global_tokens=True)
DEBERTA = dataclasses.replace(
    BERT, positions="none", disentangled=("c2p", "p2c"), position_buckets=6, max_distance=20,
    relative_embedding_norm=True, conv_kernel_size=3, token_types=0,
)  # fmt: skip
CONFIGS = {"bert": BERT, "modernbert": MODERNBERT, "deberta": DEBERTA}
# Combinations of no published family.
COMBINED = {
    "alibi": dataclasses.replace(MODERNBERT, positions="alibi"),
    "deberta in windows": dataclasses.replace(DEBERTA, windows=(0, 4)),
    "mpnet in windows": dataclasses.replace(BERT, relative_bias_buckets=8, windows=(5,)),
}
GEMMA = dataclasses.replace(
    MODERNBERT, windows=(4, 0), num_layers=3, head_dim=10, num_kv_heads=1, qk_norm=True, attention_scale=0.4,
    norm="rms", norm_placement="sandwich", norm_unit_offset=True, embedding_norm=False, scaled_embeddings=True,
    first_attention_norm=True,
)  # fmt: skip
ESM = dataclasses.replace(
    BERT, positions="rotary", rope_half_precision=True, zeroed_token=5, norm_placement="pre", embedding_norm=False
)
UMT5 = dataclasses.replace(BERT, relative_bias_buckets=8, relative_bias_by_layer=True, positions="none")
EXPERTS = dataclasses.replace(BERT, num_layers=4, windows=(0, 5, 0), num_experts=5, expert_layers=(1, 2))
COMBINED |= {"experts": EXPERTS, "gated experts": dataclasses.replace(EXPERTS, gated_mlp=True, mlp_bias=False)}
COMBINED |= {"esm": ESM, "umt5": UMT5} | {"gemma": GEMMA, "causal gemma": dataclasses.replace(GEMMA, causal=True)}
# For tests that differentiate, which compile slowly: a stack, and layers outside it.
SMALL = {
    "bert": dataclasses.replace(BERT, num_layers=2),
    "modernbert": dataclasses.replace(MODERNBERT, windows=(0, 8), num_layers=3),
    "deberta": dataclasses.replace(DEBERTA, num_layers=2),
}


class Vocabulary:
    """A fake tokenizer: ids 0 ... 3 are special, and two of three other ids begin a word."""

    def __init__(self, vocab_size: int = VOCABULARY) -> None:
        self.vocab_size = vocab_size
        self.special_ids = (0, 1, 2, 3)
        self.mask_id = 3

    def token_id(self, token: str) -> int | None:
        return None

    def word_starts(self) -> np.ndarray:
        ids = np.arange(self.vocab_size)
        return (ids < 4) | (ids % 3 > 0)


def mlm(config: EncoderConfig, compute: ComputeConfig = FLOAT32, **settings: Any) -> Objective:
    """Masked language modeling; settings that it does not have go to its masking."""
    objective_settings = {name: settings.pop(name) for name in ("pairs", "chunk") if name in settings}
    return MaskedLM(Masking(**settings), **objective_settings).build(config, compute, Vocabulary(config.vocab_size))


def rows(lengths: list[list[int]], T: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch whose row b holds documents of `lengths[b]` tokens: [CLS] (1) ... [SEP] (2), packed from the left."""
    rng = np.random.default_rng(seed)
    batch = {key: np.zeros((len(lengths), T), np.int32) for key in ("token_ids", "segment_ids", "positions")}
    for b, row in enumerate(lengths):
        start = 0
        for segment, n in enumerate(row, 1):
            at = np.s_[b, start : start + n]
            batch["token_ids"][at] = [1, *rng.integers(4, VOCABULARY, max(n - 2, 0)), 2][:n]
            batch["segment_ids"][at] = segment
            batch["positions"][at] = np.arange(n)
            start += n
    return batch


def one_per_row(batch: dict[str, np.ndarray], T: int) -> tuple[dict[str, np.ndarray], list[tuple[int, int]]]:
    """The documents of a packed batch, one per row, and the (row, segment) that each came from."""
    segments = batch["segment_ids"]
    origins = [(b, s) for b in range(len(segments)) for s in range(1, segments[b].max() + 1)]
    keys = [key for key in batch if batch[key].shape == segments.shape]
    out = {key: np.full((len(origins), T), -(key == "token_labels"), batch[key].dtype) for key in keys}
    for i, (b, s) in enumerate(origins):
        here = segments[b] == s
        for key in keys:
            out[key][i, : here.sum()] = batch[key][b, here]
    out["segment_ids"] = (out["segment_ids"] > 0).astype(np.int32)
    return out, origins


def randomized_params(init: Any, seed: int = 0) -> Any:
    """Parameters drawn larger than any model starts from, norms and biases too, so that each part matters."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    leaves, tree = jax.tree.flatten_with_path(shapes)
    rng = np.random.default_rng(seed)
    draw = lambda path, x: 0.25 * rng.standard_normal(x.shape) + ("scale" in str(path[-1]))  # noqa: E731
    return jax.tree.unflatten(tree, [jnp.asarray(draw(path, x), jnp.float32) for path, x in leaves])


def assert_trees_close(ours: Any, theirs: Any, tolerance: float) -> None:
    """Assert that every leaf is within `tolerance` of the leaf's largest value; name the first that is not."""

    def check(path: tuple, a: Any, b: Any) -> None:
        a, b = np.asarray(a), np.asarray(b)
        worst, size = np.abs(a - b).max(), max(np.abs(b).max(), 1e-3)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert a.shape == b.shape and worst <= tolerance * size, f"{name}: {worst:.2e} of {size:.2e}"

    jax.tree.map_with_path(check, ours, theirs)


def linen_params(module: nn.Module, *inputs: Any, **options: Any) -> Any:
    return randomized_params(lambda key: module.init(key, *inputs, **options)["params"])
