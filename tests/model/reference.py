"""Models of transformers (torch) with random weights, and the table of their names in our parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch
import transformers

from tests.model.examples import CONFIGS

# Ours -> theirs; "@i/n" takes the i-th of n equal parts. Layers stand for all layers.
BERT_NAMES = {
    "encoder/embeddings/token_embedding": "bert.embeddings.word_embeddings.weight",
    "encoder/embeddings/position_embedding": "bert.embeddings.position_embeddings.weight",
    "encoder/embeddings/token_type_embedding": "bert.embeddings.token_type_embeddings.weight",
    "encoder/embeddings/norm": "bert.embeddings.LayerNorm",
    "layer/attention/query": "bert.encoder.layer.{}.attention.self.query",
    "layer/attention/key": "bert.encoder.layer.{}.attention.self.key",
    "layer/attention/value": "bert.encoder.layer.{}.attention.self.value",
    "layer/attention/output": "bert.encoder.layer.{}.attention.output.dense",
    "layer/attention_norm": "bert.encoder.layer.{}.attention.output.LayerNorm",
    "layer/mlp/up": "bert.encoder.layer.{}.intermediate.dense",
    "layer/mlp/down": "bert.encoder.layer.{}.output.dense",
    "layer/mlp_norm": "bert.encoder.layer.{}.output.LayerNorm",
    "mlm_head/dense": "cls.predictions.transform.dense",
    "mlm_head/norm": "cls.predictions.transform.LayerNorm",
    "mlm_head/bias": "cls.predictions.bias",
    "classifier/dense": "bert.pooler.dense",
    "classifier/classifier": "classifier",
    "token_head/output": "classifier",
    "span_head/output": "qa_outputs",
}
MODERNBERT_NAMES = {
    "encoder/embeddings/token_embedding": "model.embeddings.tok_embeddings.weight",
    "encoder/embeddings/norm": "model.embeddings.norm",
    "encoder/final_norm": "model.final_norm",
    "layer/attention/query": "model.layers.{}.attn.Wqkv@0/3",
    "layer/attention/key": "model.layers.{}.attn.Wqkv@1/3",
    "layer/attention/value": "model.layers.{}.attn.Wqkv@2/3",
    "layer/attention/output": "model.layers.{}.attn.Wo",
    "layer/attention_norm": "model.layers.{}.attn_norm",
    "layer/mlp/gate": "model.layers.{}.mlp.Wi@0/2",
    "layer/mlp/up": "model.layers.{}.mlp.Wi@1/2",
    "layer/mlp/down": "model.layers.{}.mlp.Wo",
    "layer/mlp_norm": "model.layers.{}.mlp_norm",
    "mlm_head/dense": "head.dense",
    "mlm_head/norm": "head.norm",
    "mlm_head/bias": "decoder.bias",
}
NAMES = {"bert": BERT_NAMES, "modernbert": MODERNBERT_NAMES}


def torch_config(family: str) -> transformers.PreTrainedConfig:
    c = CONFIGS[family]
    sizes = dict(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads, intermediate_size=c.mlp_size, pad_token_id=0,
    )  # fmt: skip
    if family == "bert":
        return transformers.BertConfig(
            **sizes, max_position_embeddings=c.max_length, hidden_dropout_prob=0, attention_probs_dropout_prob=0
        )
    special = dict(bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2)
    return transformers.ModernBertConfig(
        **sizes, **special, local_attention=16, global_attn_every_n_layers=3, attn_implementation="eager"
    )


def randomized(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every weight drawn anew, norms and biases too, large enough that each part matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(0.25 * torch.randn(weight.shape, generator=generator) + ("norm.weight" in name.lower()))
    return model.eval()


def weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: weight.detach().numpy() for name, weight in model.named_parameters()}


def gradients(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: weight.grad.numpy() for name, weight in model.named_parameters() if weight.grad is not None}


def converted(family: str, theirs: Mapping[str, np.ndarray], shapes: Any, missing: float) -> Any:
    """Their arrays as a tree like ours.

    Args:
        theirs: name -> weight or gradient.
        shapes: a tree of our parameters or of their shapes.
        missing: value of arrays that they lack: the first layer's norm without `first_attention_norm`.
    """
    names, windows = NAMES[family], CONFIGS[family].windows
    repeats = CONFIGS[family].repeats

    def find(name: str, layer: int | None, shape: tuple[int, ...]) -> np.ndarray:
        torch_name = names.get(name)
        if torch_name is None:  # a module: in torch its leaf is called weight or bias
            module, leaf = name.rsplit("/", 1)
            path, _, part = names[module].partition("@")
            torch_name = f"{path}.{'bias' if leaf == 'bias' else 'weight'}@{part}"
        torch_name, _, part = torch_name.format(layer).partition("@")
        if torch_name not in theirs and layer == 0 and name == "layer/attention_norm/scale":
            return np.full(shape, missing, np.float32)
        x = theirs[torch_name]
        if part:
            i, n = map(int, part.split("/"))
            x = np.split(x, n)[i]
        return (x.T if name.endswith("kernel") else x).reshape(shape)

    def leaf(path: tuple, like: jax.Array) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        parts = name.split("/")
        if parts[1] not in ("layers", "last"):
            return find(name, None, like.shape)
        block, rest = int(parts[2].removeprefix("block_")), "layer/" + "/".join(parts[3:])
        if parts[1] == "last":
            return find(rest, repeats * len(windows) + block, like.shape)
        return np.stack([find(rest, r * len(windows) + block, like.shape[1:]) for r in range(repeats)])

    return jax.tree.map_with_path(leaf, shapes)
