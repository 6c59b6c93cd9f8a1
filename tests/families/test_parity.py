"""Every family and every head in transformers: the golden fixtures, the folders that we write, and gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.checkpoints.weights import open_weights
from jaxencoder.families.tables import Weight, renamed, to_tensors
from jaxencoder.inference.global_tokens import global_slots
from jaxencoder.inference.model import outputs
from tests.families import fixtures
from tests.families.make_golden import BUFFERS, rebuilt, reloaded
from tests.families.peers import (
    CASES,
    MODELS,
    accepted,
    assert_outputs,
    first_kind,
    padded_batch,
    saved,
    theirs,
    torch_model,
)

# Relative to the greatest gradient. Without a norm after its layers, this family's random model is so ill-conditioned
# that torch's own gradients in float32 differ from those in float64 by as much as ours, 6e-5 to 1e-4.
ROUNDING = {"roberta-prelayernorm": 3e-4}


@pytest.mark.parametrize(("family", "number", "kind"), CASES)
def test_transformers_computes_the_fixture(family: str, number: int, kind: str, tmp_path: Path, caplog) -> None:
    """`test_golden.py` compares what we compute with the fixture; here the other side is transformers."""
    pytest.importorskip("torch")
    case = fixtures.golden(family, number, kind)
    model, shapes = rebuilt(family, number, kind, tmp_path / "theirs")
    expected = theirs(model, case.batch, kind)
    stale = "transformers has changed: run python -m tests.families.make_golden"
    assert shapes == case.shapes, stale
    fixtures.assert_golden(expected, case, 2e-5, stale)

    loaded = jaxencoder.load(tmp_path / "theirs", dtype="float32")
    assert loaded.tokenizer is None
    assert "not used" not in caplog.text and "left out" not in caplog.text
    config, encoder_config = loaded.published.settings, loaded.published.family.encoder_config
    assert encoder_config(config) == encoder_config(case.config), stale

    loaded.save(tmp_path / "ours")
    again = reloaded(model, tmp_path / "ours")
    assert_outputs(theirs(again, case.batch, kind), expected, case.batch["attention_mask"], 1e-5)


@pytest.mark.parametrize(("family", "chosen"), [*((family, False) for family in MODELS), ("longformer", True)])
def test_gradients_equal_torchs(family: str, chosen: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    settings = MODELS[family][0]
    kind = first_kind(family)
    model = torch_model(family, settings, kind)
    batch = accepted(model, padded_batch(settings), kind)
    if chosen:  # three global tokens, one and none
        batch["global_attention_mask"] = (np.arange(17) % 7 == 2) * batch["attention_mask"]
        batch["global_attention_mask"][2] = 0
    mask = batch["attention_mask"][..., None]
    out = model(**{name: torch.tensor(x) for name, x in batch.items()})
    out, name = (out.last_hidden_state, "hidden") if kind == "Model" else (out.logits, "mlm_logits")
    weights = np.random.default_rng(1).standard_normal(out.shape) * mask
    (out * torch.tensor(weights)).sum().backward()

    loaded = open_transformers(saved(model, tmp_path))
    tensors, family_ = gradients(model, tmp_path / "gradients"), loaded.published.family
    expected = {name: tensors[other] for name, other in renamed(tensors, family_.prefix, family_.aliases).items()}
    T = batch["input_ids"].shape[1]
    rows = {
        "token_ids": jnp.asarray(batch["input_ids"]),
        "segment_ids": jnp.asarray(batch["attention_mask"]),
        "positions": jnp.broadcast_to(jnp.arange(T), batch["input_ids"].shape),
    }
    if "token_type_ids" in batch:
        rows["token_type_ids"] = jnp.asarray(batch["token_type_ids"])
    if chosen:
        rows["global_slots"] = global_slots(batch["global_attention_mask"])
    compute = jaxencoder.load(tmp_path, dtype="float32").compute

    @jax.jit
    @jax.grad
    def gradient(params):
        return (outputs(loaded.config.model, compute, (), params, rows)[name] * weights).sum()

    table = family_.encoder(loaded.config.model)
    if kind != "Model":
        table = [*table, *family_.mlm_head(loaded.config.model)]
    if not loaded.config.model.tied_output:
        table.append(Weight(("mlm_head/table",), family_.tied))
    got = to_tensors(table, gradient(loaded.params), loaded.config.model)
    embeddings = next(row.theirs for row in table if row.ours == ("encoder/embeddings/token_embedding",))
    if embeddings not in expected:  # torch names a tied table once
        expected[embeddings] = expected.pop(family_.tied)
    largest = max(np.abs(x).max() for x in expected.values())
    for name, value in got.items():
        if name.endswith(("key.bias", "key_global.bias", "k.bias", "k_lin.bias", "k_proj.bias")):
            continue  # shifts all scores of a query equally: the true gradient is 0, and both sides hold rounding
        error = np.abs(value - expected[name]).max()
        assert error <= ROUNDING.get(family, 1e-4) * max(np.abs(expected[name]).max(), 1e-2 * largest), (
            f"{name}: {error:.2e}"
        )
    unused = [name for name in expected.keys() - got.keys() if not BUFFERS.search(name)]
    assert not [name for name in unused if np.any(expected[name]) and not name.endswith("decoder.bias")], unused


def gradients(model, folder: Path) -> dict[str, np.ndarray]:
    """The gradients of a torch model by the published names of its tensors, which are not always those of modules."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.zeros_like(weight) if weight.grad is None else weight.grad)
    return dict(open_weights(saved(model, folder)))
