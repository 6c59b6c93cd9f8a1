"""Nomic's mixture of experts, which transformers does not have, against torch functions of the published names.

The reference follows Nussbaum and Duderstadt 2025 (arXiv:2502.07972) and the published config.json and weights.
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
from jaxencoder.families.nomic_bert import NOMIC_BERT
from jaxencoder.families.nomic_moe import NOMIC_MOE
from jaxencoder.families.published import family_of, parse_settings
from jaxencoder.families.tables import to_tensors
from jaxencoder.inference.model import outputs
from tests.families.peers import ours, padded_batch
from tests.model.examples import assert_trees_close

PUBLISHED = {
    "model_type": "nomic_bert", "architectures": ["NomicBertModel"], "activation_function": "gelu", "vocab_size": 67,
    "pad_token_id": 1, "type_vocab_size": 1, "rotary_emb_base": 10_000, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None, "n_positions": 2048,
    "max_trained_positions": 2048, "layer_norm_epsilon": 1e-5, "prenorm": False, "parallel_block": False,
    "causal": False, "use_rms_norm": False, "qkv_proj_bias": True, "mlp_fc1_bias": True, "mlp_fc2_bias": True,
    "pad_vocab_size_multiple": 1, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.1, "moe_resid_pdrop": 0.0,
    "num_experts": 8, "moe_top_k": 2, "moe_every_n_layers": 2, "moe_normalize_expert_weights": False,
    "expert_choice_router": False, "num_shared_experts": 0, "ffn_div": 1, "moe_impl": "megablocks",
    "router_aux_loss_coef": 0.1, "n_embd": 24, "n_head": 6, "n_layer": 4, "n_inner": 40,
}  # fmt: skip
MODELS: list[dict[str, Any]] = [
    {},
    dict(n_embd=20, n_head=2, n_layer=3, n_inner=7, num_experts=3, moe_top_k=1, type_vocab_size=2, mlp_fc1_bias=False),
    dict(n_layer=5, num_experts=5, moe_top_k=3, moe_every_n_layers=3, rotary_emb_base=77.0, qkv_proj_bias=False),
]


def has_experts(settings: dict[str, Any], layer: int) -> bool:
    return layer % settings["moe_every_n_layers"] == 1


def weights(settings: dict[str, Any]) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    D, F, E = settings["n_embd"], settings["n_inner"], settings["num_experts"]
    names = ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias")
    attention, first, second = (settings[name] for name in names)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (settings["vocab_size"], D),
        "embeddings.token_type_embeddings.weight": (settings["type_vocab_size"], D),
    }
    linears, norms = {}, ["emb_ln"]
    for i in range(settings["n_layer"]):
        layer = f"encoder.layers.{i}."
        norms += [f"{layer}norm1", f"{layer}norm2"]
        linears |= {f"{layer}attn.Wqkv": (3 * D, D, attention), f"{layer}attn.out_proj": (D, D, attention)}
        if has_experts(settings, i):
            shapes |= {f"{layer}mlp.experts.mlp.{name}": (E * F, D) for name in ("w1", "w2")}
            shapes |= {f"{layer}mlp.router.layer.weight": (E, D), f"{layer}mlp.experts.bias": (D,)}
        else:
            linears |= {f"{layer}mlp.fc1": (F, D, first), f"{layer}mlp.fc2": (D, F, second)}
    for name, (rows, columns, bias) in linears.items():
        shapes |= {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}
    shapes |= {f"{name}.{end}": (D,) for name in norms for end in ("weight", "bias")}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        mean = float(name.removesuffix(".weight") in norms)
        tensors[name] = (0.3 * torch.randn(shape, generator=generator) + mean).requires_grad_()
    return tensors


def experts(settings: dict[str, Any], w: dict[str, Any], layer: str, x: Any) -> Any:
    torch = pytest.importorskip("torch")
    E, K = settings["num_experts"], settings["moe_top_k"]
    shares, chosen = (x @ w[f"{layer}router.layer.weight"].T).softmax(-1).topk(K)
    first, second = (w[f"{layer}experts.mlp.{name}"].unflatten(0, (E, -1)) for name in ("w1", "w2"))
    every = torch.einsum("btef,efd->bted", torch.nn.functional.gelu(torch.einsum("btd,efd->btef", x, first)), second)
    best = every.gather(2, chosen[..., None].expand(*chosen.shape, x.shape[-1]))
    return (best * shares[..., None]).sum(2) + w[f"{layer}experts.bias"]


def reference(settings: dict[str, Any], w: dict[str, Any], batch: dict[str, np.ndarray]) -> Any:
    """The last layer."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    ids, mask, types = (torch.tensor(batch[name]) for name in ("input_ids", "attention_mask", "token_type_ids"))

    def linear(x: Any, name: str) -> Any:
        return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: Any, name: str) -> Any:
        epsilon = settings["layer_norm_epsilon"]
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], epsilon)

    H = settings["n_embd"] // settings["n_head"]
    angles = torch.arange(ids.shape[1])[:, None] * settings["rotary_emb_base"] ** (-torch.arange(0, H, 2) / H)
    cos, sin = (torch.cat([f(angles)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))

    def rotate(x: Any) -> Any:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    tables = (w[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type"))
    x = norm(sum(table[index] for table, index in zip(tables, (ids, types), strict=True)), "emb_ln")
    for i in range(settings["n_layer"]):
        layer = f"encoder.layers.{i}."
        q, k, v = (part.unflatten(-1, (-1, H)) for part in linear(x, f"{layer}attn.Wqkv").chunk(3, -1))
        scores = torch.einsum("btnh,bsnh->bnts", rotate(q), rotate(k)) / math.sqrt(H)
        shares = scores.masked_fill(mask[:, None, None, :] == 0, -torch.inf).softmax(-1)
        attended = torch.einsum("bnts,bsnh->btnh", shares, v).flatten(-2)
        x = norm(x + linear(attended, f"{layer}attn.out_proj"), f"{layer}norm1")
        if has_experts(settings, i):
            y = experts(settings, w, f"{layer}mlp.", x)
        else:
            y = linear(functional.gelu(linear(x, f"{layer}mlp.fc1")), f"{layer}mlp.fc2")
        x = norm(x + y, f"{layer}norm2")
    return x


@pytest.mark.parametrize("number", range(3))
def test_outputs_gradients_and_export_equal_torchs(number: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    settings = PUBLISHED | MODELS[number]
    tensors, batch = weights(settings), padded_batch(settings)
    batch["token_type_ids"] %= settings["type_vocab_size"]
    hidden = reference(settings, tensors, batch)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    save_weights({name: tensor.detach().numpy() for name, tensor in tensors.items()}, theirs)
    (theirs / "config.json").write_text(json.dumps(settings))
    loaded = jaxencoder.load(theirs, dtype="float32")
    assert loaded.published and loaded.published.family is NOMIC_MOE
    mask = batch["attention_mask"] > 0
    np.testing.assert_allclose(ours(loaded, batch)["hidden"][mask], hidden.detach().numpy()[mask], atol=1e-4)

    factors = np.random.default_rng(1).standard_normal(hidden.shape) * mask[..., None]
    (hidden * torch.tensor(factors)).sum().backward()
    rows = {"token_ids": batch["input_ids"], "segment_ids": batch["attention_mask"]}
    rows |= {"positions": np.broadcast_to(np.arange(17), mask.shape), "token_type_ids": batch["token_type_ids"]}
    rows = {name: jnp.asarray(x) for name, x in rows.items()}
    config = loaded.config.model

    @jax.grad
    def gradient(params):
        return (outputs(config, loaded.compute, (), params, rows)["hidden"] * factors).sum()

    got = to_tensors(NOMIC_MOE.encoder(config), gradient(loaded.params), config)
    got = {name.removeprefix("bert."): value for name, value in got.items()}
    assert_trees_close(got, {name: tensor.grad.numpy() for name, tensor in tensors.items()}, 1e-4)

    loaded.save(tmp_path / "ours")
    before, after = open_weights(theirs), open_weights(tmp_path / "ours")
    assert set(before) == set(after) and all(np.array_equal(after[name], x) for name, x in before.items())
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert NOMIC_MOE.encoder_config(saved) == config and saved["architectures"] == ["NomicBertModel"]
    assert saved["auto_map"]["AutoModel"].startswith("nomic-ai/nomic-bert-2048--")
    unchanged = settings.keys() - {"embd_pdrop", "max_trained_positions", "moe_impl", "router_aux_loss_coef"}
    assert {name: saved[name] for name in unchanged} == {name: settings[name] for name in unchanged}


def test_the_family_is_told_by_its_activation() -> None:
    family, config = parse_settings(PUBLISHED, "folder")
    assert family is NOMIC_MOE and family_of(config) is NOMIC_MOE
    assert config.expert_layers == (1,) and config.windows == (0, 0)
    dense = {"num_experts": 0, "moe_every_n_layers": 0}
    assert parse_settings(PUBLISHED | dense, "folder")[1].expert_layers == ()
    gated = {"activation_function": "swiglu", "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False}
    assert parse_settings(PUBLISHED | dense | gated, "folder")[0] is NOMIC_BERT
    with pytest.raises(ValueError, match="num_experts 8; only 0 can be loaded"):
        parse_settings(PUBLISHED | gated, "folder")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"moe_normalize_expert_weights": True}, "moe_normalize_expert_weights True; only False"),
        ({"expert_choice_router": True}, "expert_choice_router True; only False"),
        ({"num_shared_experts": 1}, "num_shared_experts 1; only 0"),
        ({"ffn_div": 2}, "ffn_div 2; only 1"),
        ({"moe_every_n_layers": 1}, "moe_every_n_layers 1 with 8 experts; an integer of at least 2"),
        ({"moe_top_k": 9}, "experts_per_token must be 1 to model.num_experts 8, got 9"),
        ({"moe_resid_pdrop": 0.1}, "moe_resid_pdrop 0.1; only the implied 0.0"),
        ({"mlp_fc2_bias": False}, "mlp_fc2_bias false with mlp_fc1_bias true"),
        ({"mlp_fc1_bias": False, "mlp_fc2_bias": False}, "mlp_fc2_bias false with num_experts"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'; only default"),
    ],
)
def test_unsupported_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_settings(PUBLISHED | wrong, "folder")
