"""NeoBERT, which transformers does not have, against torch modules with the published names and shapes.

The reference follows Le Breton et al. 2025 (arXiv:2502.19587, section 3) and the published config.json and weights.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.families.neobert import NEOBERT
from jaxencoder.families.published import family_of
from jaxencoder.families.tables import Weight, to_tensors
from jaxencoder.inference.model import outputs
from tests.families.peers import ours, padded_batch
from tests.model.examples import assert_trees_close

PUBLISHED = {"model_type": "neobert", "architectures": ["NeoBERTLMHead"], "vocab_size": 67, "pad_token_id": 0}
SIZES = [
    dict(hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=40, norm_eps=1e-5),
    dict(hidden_size=20, num_attention_heads=5, num_hidden_layers=3, intermediate_size=96),
    dict(hidden_size=18, num_attention_heads=1, num_hidden_layers=1, intermediate_size=10, dim_head=18, max_length=20),
]
MLP = [32, 64, 8]  # two thirds of intermediate_size, up to a multiple of 8


def reference(settings: dict[str, Any], mlp_size: int, top: dict[str, tuple[int, int]]):
    """Torch modules of the published names; `top` are the layers on the encoder, (inputs, outputs) of each."""
    torch = pytest.importorskip("torch")
    nn, D, N = torch.nn, settings["hidden_size"], settings["num_attention_heads"]
    eps = settings.get("norm_eps", 1e-6)

    def linear(inputs: int, outputs: int) -> Any:
        return nn.Linear(inputs, outputs, bias=False)

    def block() -> Any:
        return nn.ModuleDict(
            dict(
                qkv=linear(D, 3 * D), wo=linear(D, D), attention_norm=nn.RMSNorm(D, eps), ffn_norm=nn.RMSNorm(D, eps),
                ffn=nn.ModuleDict(dict(w12=linear(D, 2 * mlp_size), w3=linear(mlp_size, D))),
            )
        )  # fmt: skip

    blocks = nn.ModuleList([block() for _ in range(settings["num_hidden_layers"])])
    tokens = nn.Embedding(settings["vocab_size"], D)
    body = dict(encoder=tokens, transformer_encoder=blocks, layer_norm=nn.RMSNorm(D, eps))
    heads = {name: nn.Linear(*shape) for name, shape in top.items()}
    model = nn.ModuleDict(dict(model=nn.ModuleDict(body), **heads))
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        mean = float("norm" in name)
        weight.data.copy_(0.2 * torch.randn(weight.shape, generator=generator) + mean)

    def turned(x: Any) -> Any:
        """Neighbouring dimensions are the parts of a complex number, which a position turns."""
        frequencies = 10_000.0 ** (-torch.arange(0, D // N, 2) / (D // N))
        angles = torch.arange(x.shape[1])[:, None, None] * frequencies
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    def encode(ids: Any, mask: Any) -> Any:
        body = model["model"]
        x = body["encoder"](ids)
        for layer in body["transformer_encoder"]:
            heads = layer["qkv"](layer["attention_norm"](x)).unflatten(-1, (N, 3, D // N))
            q, k, v = turned(heads[..., 0, :]), turned(heads[..., 1, :]), heads[..., 2, :]
            scores = torch.einsum("btnh,bsnh->bnts", q, k) / (D // N) ** 0.5
            weights = scores.masked_fill(mask[:, None, None, :] == 0, -torch.inf).softmax(-1)
            x = x + layer["wo"](torch.einsum("bnts,bsnh->btnh", weights, v).flatten(-2))
            gate, up = layer["ffn"]["w12"](layer["ffn_norm"](x)).chunk(2, -1)
            x = x + layer["ffn"]["w3"](nn.functional.silu(gate) * up)
        return body["layer_norm"](x)

    return model, encode


def folder_of(model: Any, settings: dict[str, Any], folder: Path) -> Path:
    folder.mkdir()
    save_weights({name: weight.detach().numpy() for name, weight in model.named_parameters()}, folder)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("number", range(3))
def test_outputs_and_gradients_equal_torchs(number: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    settings = PUBLISHED | SIZES[number]
    model, encode = reference(settings, MLP[number], {"decoder": (settings["hidden_size"], 67)})
    batch = padded_batch(settings)
    del batch["token_type_ids"]  # the model has none
    ids, mask = (torch.tensor(batch[name]) for name in ("input_ids", "attention_mask"))
    hidden = encode(ids, mask)
    logits = model["decoder"](hidden)
    loaded = jaxencoder.load(folder_of(model, settings, tmp_path / "theirs"), dtype="float32")
    got, mask = ours(loaded, batch), batch["attention_mask"] > 0
    np.testing.assert_allclose(got["hidden"][mask], hidden.detach().numpy()[mask], atol=1e-4)
    np.testing.assert_allclose(got["mlm_logits"][mask], logits.detach().numpy()[mask], atol=1e-4)

    weights = np.random.default_rng(1).standard_normal(logits.shape) * mask[..., None]
    (logits * torch.tensor(weights)).sum().backward()
    positions = np.broadcast_to(np.arange(17), mask.shape)
    rows = {"token_ids": batch["input_ids"], "segment_ids": batch["attention_mask"], "positions": positions}
    rows = {name: jnp.asarray(x) for name, x in rows.items()}
    config = loaded.config.model

    @jax.grad
    def gradient(params):
        return (outputs(config, loaded.compute, (), params, rows)["mlm_logits"] * weights).sum()

    table = [*NEOBERT.encoder(config), *NEOBERT.mlm_head(config), Weight(("mlm_head/table",), "decoder.weight")]
    expected = {name: weight.grad.numpy() for name, weight in model.named_parameters()}
    assert_trees_close(to_tensors(table, gradient(loaded.params), config), expected, 1e-4)


@pytest.mark.parametrize(
    ("architecture", "top"),
    [("NeoBERT", {}), ("NeoBERTForSequenceClassification", {"dense": (24, 24), "classifier": (24, 5)})],
)
def test_other_classes(architecture: str, top: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    settings = PUBLISHED | SIZES[0] | {"architectures": [architecture], "num_labels": 5}
    model, encode = reference(settings, MLP[0], top)
    # The encoder alone is saved without its prefix.
    folder_of(model if top else model["model"], settings, tmp_path / "theirs")
    batch = padded_batch(settings)
    del batch["token_type_ids"]  # the model has none
    hidden = encode(*(torch.tensor(batch[name]) for name in ("input_ids", "attention_mask")))
    loaded = jaxencoder.load(tmp_path / "theirs", dtype="float32")
    got = ours(loaded, batch)
    np.testing.assert_allclose(got["hidden"][0], hidden.detach().numpy()[0], atol=1e-4)
    assert got.keys() == ({"hidden", "logits"} if top else {"hidden"})
    if top:
        logits = model["classifier"](torch.tanh(model["dense"](hidden[:, 0])))
        np.testing.assert_allclose(got["logits"], logits.detach().numpy(), atol=1e-4)
    same_when_written(loaded, tmp_path)


def same_when_written(loaded: Any, tmp_path: Path) -> dict[str, Any]:
    """A folder written back holds the same tensors and describes the same model; its config.json."""
    loaded.save(tmp_path / "ours")
    before, after = open_weights(tmp_path / "theirs"), open_weights(tmp_path / "ours")
    assert set(before) == set(after)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    again = open_transformers(tmp_path / "ours")
    assert again.config.model == loaded.config.model and again.published.heads == loaded.published.heads
    return again.published.settings


@pytest.mark.parametrize("number", range(3))
def test_written_back(number: int, tmp_path: Path) -> None:
    settings = PUBLISHED | SIZES[number]
    model, _ = reference(settings, MLP[number], {"decoder": (settings["hidden_size"], 67)})
    loaded = jaxencoder.load(folder_of(model, settings, tmp_path / "theirs"))
    written = same_when_written(loaded, tmp_path)
    assert written["architectures"] == ["NeoBERTLMHead"] and written["dim_head"] == loaded.config.model.head_size
    assert written["auto_map"]["AutoModel"] == "chandar-lab/NeoBERT--model.NeoBERT"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tie_word_embeddings": True}, "has tie_word_embeddings True"),
        ({"rms_norm": False}, "has rms_norm False"),
        ({"rope": False}, "has rope False"),
        ({"rope_theta": 500.0}, r"has rope_theta 500\.0"),
        ({"ngpt": True}, "has ngpt True"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'; known are SwiGLU, swiglu"),
        ({"dim_head": 16}, "dim_head 16; only the implied 8"),
    ],
)
def test_unsupported_settings_are_named(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED | SIZES[0] | wrong))
    with pytest.raises(ValueError, match=message):
        jaxencoder.load(tmp_path)


def test_a_run_of_this_architecture_is_written_as_neobert() -> None:
    config = NEOBERT.encoder_config(PUBLISHED | SIZES[1] | {"hidden_act": "SwiGLU", "dropout": 0.1})
    assert config.dropout == config.attention_dropout == 0.1
    assert family_of(config) is NEOBERT
