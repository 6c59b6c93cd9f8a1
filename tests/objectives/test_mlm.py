"""Masked language modeling: a loss that packing does not change, its parts, and pairs of texts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.model.encoder import Encoder
from jaxencoder.objectives import mlm as mlm_module
from jaxencoder.objectives.masking import Masked, Masking, mask_tokens
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.objectives.objective import mean
from tests.model import examples
from tests.model.examples import FLOAT32, SMALL, Vocabulary, rows
from tests.objectives.comparisons import assert_close, loss_and_gradients
from tests.objectives.test_masking import draw


def test_nothing_to_predict_is_no_nan() -> None:
    batch = rows([[2]], 8)
    objective = examples.mlm(SMALL["bert"])
    params = examples.randomized_params(objective.init)
    loss, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, jax.random.key(0), False)
    assert float(loss) == 0 and float(metrics["loss"][1]) == 0


@pytest.mark.parametrize("family", sorted(SMALL))
def test_packing_changes_neither_loss_nor_gradients(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    T = 33
    objective = examples.mlm(SMALL[family], chunk=9)
    params = examples.randomized_params(objective.init)
    packed = rows([[9, 12, 7], [28, 2], [5, 5, 5, 5, 5, 5]], T)
    masked, picked, _ = draw(packed, rate=0.3)
    single, origins = examples.one_per_row(packed, T)

    slots, targets, used = (np.zeros((len(origins), masked.slots.shape[1]), int) for _ in range(3))
    shown = single["token_ids"].copy()
    for i, (b, s) in enumerate(origins):
        here = packed["segment_ids"][b] == s
        shown[i, : here.sum()] = np.asarray(masked.token_ids)[b, here]
        at = np.flatnonzero(picked[b][here])
        slots[i, : len(at)], used[i, : len(at)] = at, 1
        targets[i, : len(at)] = single["token_ids"][i, at]
    alone = Masked(*map(jnp.asarray, (shown, slots, targets)), jnp.asarray(used, jnp.float32))

    results = []
    for batch, corruption in ((packed, masked), (single, alone)):
        monkeypatch.setattr(mlm_module, "mask_tokens", lambda *_, corruption=corruption: corruption)
        results.append(loss_and_gradients(objective, params, batch))
    assert_close(*results, 1e-5)
    metrics, metrics_alone = (result[1] for result in results)
    assert metrics["accuracy"] == metrics_alone["accuracy"] and float(metrics["loss"][1]) == picked.sum()


def test_loss_by_the_way_tokens_were_shown() -> None:
    objective = examples.mlm(SMALL["bert"], rate=0.5, mask_probability=0.4, random_probability=0.3)
    params = examples.randomized_params(objective.init)
    batch = rows([[33]] * 8, 33)
    _, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, jax.random.key(0), False)
    parts = [metrics[f"loss_{way}"] for way in ("masked", "random", "kept")]
    for i in range(2):
        assert float(sum(part[i] for part in parts)) == pytest.approx(float(metrics["loss"][i]), rel=1e-5)
    shares = [float(weight / metrics["loss"][1]) for _, weight in parts]
    np.testing.assert_allclose(shares, [0.4, 0.3, 0.3], atol=0.12)


def test_packed_pairs_equal_one_pair_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, pair loss and gradients, with one [CLS] a pair; a document without a pair does not count."""
    objective = examples.mlm(SMALL["bert"], pairs=True)
    params = examples.randomized_params(objective.init)
    packed = rows([[9, 12, 7], [28, 2]], 33)
    packed["token_type_ids"] = (packed["positions"] > 4).astype(np.int32)
    packed["labels"] = np.array([[1, 0, -1], [1, 0, -1]])
    single, origins = examples.one_per_row(packed, 33)
    single["labels"] = np.array([[packed["labels"][b, s - 1]] for b, s in origins])

    results = []
    for batch in (packed, single):
        nothing = jnp.zeros((len(batch["token_ids"]), 1), jnp.int32)
        first = Masked(batch["token_ids"], nothing, batch["token_ids"][:, :1], jnp.zeros(nothing.shape))
        monkeypatch.setattr(mlm_module, "mask_tokens", lambda *_, first=first: first)
        results.append(loss_and_gradients(objective, params, batch))
    assert_close(*results, 1e-5)
    (loss, metrics, gradients), (_, metrics_alone, _) = results
    assert loss > 0.1 and float(metrics["pair_loss"][1]) == 4
    assert metrics["pair_accuracy"] == metrics_alone["pair_accuracy"]
    assert np.any(gradients["pooler/dense/kernel"]) and np.any(gradients["nsp_head/output/bias"])


def test_pair_heads_are_berts() -> None:
    """The loss of a row is the cross-entropy of softmax(W tanh(P h)) at [CLS]."""
    objective = examples.mlm(SMALL["bert"], pairs=True)
    params = examples.randomized_params(objective.init)
    batch = rows([[20]], 33) | {"labels": np.array([[1]])}
    total, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, jax.random.key(0), False)
    (mask_key, _) = jax.random.split(jax.random.key(0))
    shown = mask_tokens(batch, mask_key, Masking(), Vocabulary()).token_ids
    module = Encoder(SMALL["bert"], FLOAT32)
    hidden = module.apply({"params": params["encoder"]}, shown, batch["segment_ids"], batch["positions"])[0, 0]
    pooled = np.tanh(hidden @ params["pooler"]["dense"]["kernel"] + params["pooler"]["dense"]["bias"])
    scores = pooled @ params["nsp_head"]["output"]["kernel"] + params["nsp_head"]["output"]["bias"]
    assert float(metrics["pair_loss"][0]) == pytest.approx(float(-jax.nn.log_softmax(scores)[1]), rel=1e-4)
    parts = [float(mean(metrics, name)) for name in ("mlm_loss", "pair_loss", "loss")]
    assert float(total) == pytest.approx(parts[0] + parts[1], rel=1e-5) == pytest.approx(parts[2], rel=1e-5)


def test_error() -> None:
    with pytest.raises(ValueError, match="objective.chunk must be at least 1, got 0"):
        dataclasses.replace(MaskedLM(), chunk=0)
