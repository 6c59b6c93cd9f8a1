"""JinaBERT, which transformers does not have, against torch functions of the published names and shapes.

The reference follows Günther et al. 2023 (arXiv:2310.19923, section 3) and the published config.json and weights.
"""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.families.bert import BERT
from jaxencoder.families.jina_bert import JINA_BERT
from jaxencoder.families.published import family_of, parse_settings
from jaxencoder.families.tables import to_tensors
from jaxencoder.inference.model import outputs
from tests.families.peers import ours, padded_batch
from tests.model.examples import assert_trees_close

PUBLISHED = {
    "model_type": "bert", "architectures": ["JinaBertForMaskedLM"], "vocab_size": 67, "pad_token_id": 0,
    "position_embedding_type": "alibi", "feed_forward_type": "geglu", "emb_pooler": "mean", "layer_norm_eps": 1e-12,
}  # fmt: skip
MODELS = [
    dict(hidden_size=24, num_attention_heads=4, num_hidden_layers=2, intermediate_size=40),
    dict(hidden_size=24, num_attention_heads=6, num_hidden_layers=1, intermediate_size=7, type_vocab_size=3),
    dict(hidden_size=20, num_attention_heads=2, num_hidden_layers=3, intermediate_size=16, feed_forward_type="reglu")
    | {"hidden_act": "silu", "layer_norm_eps": 1e-5},
]
SLOPES = {4: [1 / 4, 1 / 16, 1 / 64, 1 / 256], 2: [1 / 16, 1 / 256]}
SLOPES[6] = [*SLOPES[4], 1 / 2, 1 / 8]  # the last two of the eight heads' 1/2, 1/4, 1/8, ...


def weights(settings: dict[str, Any]) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    D, F, V = settings["hidden_size"], settings["intermediate_size"], settings["vocab_size"]
    linears = {"attention.self.query": (D, D), "attention.self.key": (D, D), "attention.self.value": (D, D)}
    linears |= {"attention.output.dense": (D, D), "mlp.wo": (D, F)}
    layers = [f"bert.encoder.layer.{i}." for i in range(settings["num_hidden_layers"])]
    matrices = {layer + name: shape for layer in layers for name, shape in linears.items()}
    norms = [layer + name for layer in layers for name in ("attention.output.LayerNorm", "mlp.layernorm")]
    norms += ["bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (V, D),
        "bert.embeddings.token_type_embeddings.weight": (settings.get("type_vocab_size", 2), D),
        "cls.predictions.bias": (V,),
        **{f"{layer}mlp.gated_layers.weight": (2 * F, D) for layer in layers},
        **{f"{name}.{end}": (D,) for name in norms for end in ("weight", "bias")},
    }
    for name, shape in (matrices | {"cls.predictions.transform.dense": (D, D)}).items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        mean = float("norm" in name.lower() and name.endswith("weight"))
        tensors[name] = (0.2 * torch.randn(shape, generator=generator) + mean).requires_grad_()
    return tensors


def reference(settings: dict[str, Any], w: dict[str, Any], batch: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """The last layer and the scores of all tokens."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    ids, mask, types = (torch.tensor(batch[name]) for name in ("input_ids", "attention_mask", "token_type_ids"))
    N, T = settings["num_attention_heads"], ids.shape[1]

    def linear(x: Any, name: str) -> Any:
        return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: Any, name: str) -> Any:
        return functional.layer_norm(
            x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], settings["layer_norm_eps"]
        )

    distance = (torch.arange(T)[:, None] - torch.arange(T)).abs()
    bias = -torch.tensor(SLOPES[N])[:, None, None] * distance
    tables = (w[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "token_type"))
    x = norm(sum(table[index] for table, index in zip(tables, (ids, types), strict=True)), "bert.embeddings.LayerNorm")
    for i in range(settings["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}."
        q, k, v = (
            linear(x, f"{layer}attention.self.{name}").unflatten(-1, (N, -1)) for name in ("query", "key", "value")
        )
        scores = torch.einsum("btnh,bsnh->bnts", q, k) / math.sqrt(q.shape[-1]) + bias
        shares = scores.masked_fill(mask[:, None, None, :] == 0, -torch.inf).softmax(-1)
        attended = torch.einsum("bnts,bsnh->btnh", shares, v).flatten(-2)
        x = norm(x + linear(attended, f"{layer}attention.output.dense"), f"{layer}attention.output.LayerNorm")
        gate, up = linear(x, f"{layer}mlp.gated_layers").chunk(2, -1)
        gate = functional.relu(gate) if settings["feed_forward_type"] == "reglu" else functional.gelu(gate)
        x = norm(x + linear(gate * up, f"{layer}mlp.wo"), f"{layer}mlp.layernorm")
    activation = functional.silu if settings.get("hidden_act") == "silu" else functional.gelu
    y = norm(activation(linear(x, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
    return x, y @ w["bert.embeddings.word_embeddings.weight"].T + w["cls.predictions.bias"]


@pytest.mark.parametrize("number", range(3))
def test_outputs_gradients_and_export_equal_torchs(number: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    settings = PUBLISHED | MODELS[number]
    tensors, batch = weights(settings), padded_batch(settings)
    hidden, logits = reference(settings, tensors, batch)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    save_weights({name: tensor.detach().numpy() for name, tensor in tensors.items()}, theirs)
    (theirs / "config.json").write_text(json.dumps(settings))
    loaded = jaxencoder.load(theirs, dtype="float32")
    assert loaded.published.family is JINA_BERT
    got, mask = ours(loaded, batch), batch["attention_mask"] > 0
    np.testing.assert_allclose(got["hidden"][mask], hidden.detach().numpy()[mask], atol=1e-4)
    np.testing.assert_allclose(got["mlm_logits"][mask], logits.detach().numpy()[mask], atol=1e-4)

    factors = np.random.default_rng(1).standard_normal(logits.shape) * mask[..., None]
    (logits * torch.tensor(factors)).sum().backward()
    rows = {"token_ids": batch["input_ids"], "segment_ids": batch["attention_mask"]}
    rows |= {"positions": np.broadcast_to(np.arange(17), mask.shape), "token_type_ids": batch["token_type_ids"]}
    rows = {name: jnp.asarray(x) for name, x in rows.items()}
    config = loaded.config.model

    @jax.grad
    def gradient(params):
        return (outputs(config, loaded.compute, (), params, rows)["mlm_logits"] * factors).sum()

    table = [*JINA_BERT.encoder(config), *JINA_BERT.mlm_head(config)]
    got = to_tensors(table, gradient(loaded.params), config)
    expected = {name: tensor.grad.numpy() for name, tensor in tensors.items() if not name.endswith("key.bias")}
    assert_trees_close({name: got[name] for name in expected}, expected, 1e-4)

    loaded.save(tmp_path / "ours")
    before, after = open_weights(theirs), open_weights(tmp_path / "ours")
    assert set(before) == set(after) and all(np.array_equal(after[name], x) for name, x in before.items())
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert JINA_BERT.encoder_config(written) == config and written["architectures"] == ["JinaBertForMaskedLM"]
    assert written["auto_map"]["AutoModel"].startswith("jinaai/jina-bert-implementation--")


def test_the_family_is_told_by_its_positions() -> None:
    family, config = parse_settings(PUBLISHED | MODELS[0], "folder")
    assert family is JINA_BERT and family_of(config) is JINA_BERT
    assert parse_settings(PUBLISHED | MODELS[0] | {"position_embedding_type": "absolute"}, "folder")[0] is BERT
    with pytest.raises(ValueError, match="position_embedding_type 'relative_key'; only 'absolute'"):
        parse_settings(PUBLISHED | MODELS[0] | {"position_embedding_type": "relative_key"}, "folder")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"feed_forward_type": "original"}, "feed_forward_type 'original'; known are geglu, reglu"),
        ({"feed_forward_type": None}, "feed_forward_type None"),
    ],
)
def test_unsupported_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_settings(PUBLISHED | MODELS[0] | wrong, "folder")
