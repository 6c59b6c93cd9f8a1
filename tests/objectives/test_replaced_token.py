"""Replaced-token detection: equal to ELECTRA's loss written in torch, and the gradients of each kind of sharing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.model.encoder import Encoder
from jaxencoder.objectives import replaced_token
from jaxencoder.objectives.masking import Masked, Masking
from jaxencoder.objectives.objective import mean
from jaxencoder.objectives.replaced_token import ReplacedToken, fill
from tests.model import examples
from tests.model.examples import FLOAT32, SMALL, Vocabulary, assert_trees_close, rows

CONFIG = dataclasses.replace(SMALL["bert"], num_layers=1)  # 3 heads of 8
BATCH = rows([[9, 12, 7], [28, 2], [5, 5, 5, 5, 5, 5]], 33)


def build(sharing: str = "shared", **settings: Any):
    settings = {"generator_width": 1 / 3, "sharing": sharing, "chunk": 7} | settings
    objective = ReplacedToken(**settings).build(CONFIG, FLOAT32, Vocabulary())
    return objective, examples.randomized_params(objective.init)


def gradients(objective, params: dict, key: int = 0, batch: dict = BATCH) -> tuple[dict, dict]:
    run = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, batch, jax.random.key(key), True), has_aux=True))
    (_, metrics), grads = run(params)
    return metrics, grads


def test_equals_the_papers_loss_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """ELECTRA, section 2: min L_MLM(x, G) + 50 L_Disc(x, D); torch differentiates the losses after the encoders.

    The encoders are those of tests/model (equal to torch's); here both hidden states go to torch, whose losses and
    gradients come back through them.
    """
    torch = pytest.importorskip("torch")
    objective, params = build()
    states: dict[str, jax.Array] = {}
    seen: dict[str, Any] = {}
    encode, predict = replaced_token.encode, replaced_token.predict

    def kept(module: Encoder, part: dict, batch: dict, key: jax.Array, train: bool) -> jax.Array:
        hidden = encode(module, part, batch, key, train)
        name = "generator" if "generator" not in states else "discriminator"
        states[name] = hidden
        seen[f"{name} tokens"] = batch["token_ids"]
        return hidden + deltas[name]

    def predicted(head, part: dict, hidden: jax.Array, masked: Masked, chunk: int, uniforms: jax.Array) -> Any:
        seen["masked"], result = masked, predict(head, part, hidden, masked, chunk, uniforms)
        seen["samples"] = result[1].samples
        return result

    monkeypatch.setattr(replaced_token, "encode", kept)
    monkeypatch.setattr(replaced_token, "predict", predicted)
    B, T = BATCH["token_ids"].shape
    deltas = {"generator": jnp.zeros((B, T, 8)), "discriminator": jnp.zeros((B, T, 24))}

    def loss(params: dict, moved: dict) -> Any:
        states.clear()
        deltas.update(moved)
        value, metrics = objective.loss(params, BATCH, jax.random.key(0), True)
        return value, (metrics, dict(states), dict(seen))

    (value, (_, hidden, captured)), (d_params, d_hidden) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
        params, dict(deltas)
    )

    t = lambda x: torch.tensor(np.asarray(x))  # noqa: E731
    leaf = {name: t(x).requires_grad_() for name, x in hidden.items()}
    table = t(params["encoder"]["embeddings"]["token_embedding"]).requires_grad_()
    head = {k: {n: t(x).requires_grad_() for n, x in v.items()} for k, v in params["generator"]["mlm_head"].items()
            if isinstance(v, dict)}  # fmt: skip
    out_bias = t(params["generator"]["mlm_head"]["bias"]).requires_grad_()
    rtd = {k: {n: t(x).requires_grad_() for n, x in v.items()} for k, v in params["rtd_head"].items()}

    masked = captured["masked"]
    used = np.argwhere(np.asarray(masked.weights) > 0)
    at = np.asarray(masked.slots)[used[:, 0], used[:, 1]]
    truth = t(BATCH["token_ids"]).long()
    x = leaf["generator"][used[:, 0], at]
    x = torch.nn.functional.gelu(x @ head["dense"]["kernel"] + head["dense"]["bias"])
    norm = head["norm"]
    x = torch.nn.functional.layer_norm(x, x.shape[-1:], norm["scale"], norm["bias"], CONFIG.norm_epsilon)
    mlm = torch.nn.functional.cross_entropy(x @ table.T + out_bias, truth[used[:, 0], at])

    filled = truth.clone()
    filled[used[:, 0], at] = t(captured["samples"]).long()[used[:, 0], used[:, 1]]
    assert torch.equal(filled, t(captured["discriminator tokens"]).long())
    assert (t(captured["generator tokens"])[used[:, 0], at] == 3).all()
    y = torch.nn.functional.gelu(leaf["discriminator"] @ rtd["dense"]["kernel"] + rtd["dense"]["bias"])
    scores = (y @ rtd["output"]["kernel"] + rtd["output"]["bias"])[..., 0]
    is_token = t(BATCH["segment_ids"] > 0)
    disc = torch.nn.functional.binary_cross_entropy_with_logits(scores[is_token], (filled != truth)[is_token].float())
    total = mlm + 50 * disc
    assert float(value) == pytest.approx(total.item(), rel=1e-5)
    total.backward()
    for name, tensor in leaf.items():
        np.testing.assert_allclose(d_hidden[name], tensor.grad, atol=1e-5, err_msg=name)
    assert_trees_close(d_params["rtd_head"], jax.tree.map(lambda x: x.grad.numpy(), rtd), 1e-4)
    head_gradients = {name: d_params["generator"]["mlm_head"][name] for name in head}  # dense and norm
    assert_trees_close(head_gradients, jax.tree.map(lambda x: x.grad.numpy(), head), 1e-4)


def test_no_gradient_flows_through_the_samples() -> None:
    """With no weight on the discriminator, its gradients are 0, and the generator's are those with a weight."""
    metrics, with_weight = gradients(*build("none"))
    _, without = gradients(*build("none", weight=0.0))
    assert not any(np.any(x) for x in jax.tree.leaves((without["encoder"], without["rtd_head"])))
    assert_trees_close(with_weight["generator"], without["generator"], 1e-6)
    total = metrics["mlm_loss"][0] / metrics["mlm_loss"][1] + 50 * metrics["rtd_loss"][0] / metrics["rtd_loss"][1]
    assert float(mean(metrics)) == pytest.approx(float(total), rel=1e-6)


def test_gradient_disentangled_sharing() -> None:
    """DeBERTa-v3, section 3.3: E_D = sg(E_G) + E_delta; E_G learns from the generator's loss alone, E_delta from 50
    times the discriminator's, and the models are those of the sum."""
    objective, params = build("gdes")
    _, apart = build("none")
    together = objective.models(params)
    table = params["generator"]["encoder"]["embeddings"]["token_embedding"]
    delta = params["encoder"]["embeddings"]["token_embedding"]
    np.testing.assert_array_equal(together["discriminator"]["encoder"]["embeddings"]["token_embedding"], table + delta)

    _, grads = gradients(objective, params)
    _, generator_alone = gradients(build("gdes", weight=0.0)[0], params)
    ours = grads["generator"]["encoder"]["embeddings"]["token_embedding"]
    assert_trees_close(ours, generator_alone["generator"]["encoder"]["embeddings"]["token_embedding"], 1e-6)
    assert not np.any(generator_alone["encoder"]["embeddings"]["token_embedding"])

    # The same models with separate tables: the difference gets the gradient of the discriminator's table.
    apart = params | {"encoder": together["discriminator"]["encoder"]}
    _, independent = gradients(build("none")[0], apart)
    assert_trees_close(grads["encoder"], independent["encoder"], 1e-5)
    fresh = objective.init(jax.random.key(0))
    assert not np.any(fresh["encoder"]["embeddings"]["token_embedding"])
    assert np.any(fresh["generator"]["encoder"]["embeddings"]["token_embedding"])


def test_shared_embeddings_learn_from_both() -> None:
    objective, params = build("shared")
    assert set(params["generator"]["encoder"]["embeddings"]) == {"projection"}
    both = objective.models(params)
    _, grads = gradients(objective, params)
    apart = {**both["discriminator"], "generator": both["generator"]}
    _, independent = gradients(build("none")[0], apart)
    for name in ("token_embedding", "position_embedding"):
        parts = [tree["embeddings"][name] for tree in (independent["encoder"], independent["generator"]["encoder"])]
        assert_trees_close(grads["encoder"]["embeddings"][name], parts[0] + parts[1], 1e-4)


def test_the_generators_shape() -> None:
    small = ReplacedToken(generator_width=1 / 3, generator_depth=0.5).generator(SMALL["bert"])
    assert (small.num_heads, small.hidden_size, small.head_size, small.mlp_size, small.num_layers) == (1, 8, 8, 13, 1)
    assert small.embedding_size == CONFIG.hidden_size
    assert ReplacedToken(generator_width=1.0).generator(CONFIG) == CONFIG


def test_fill() -> None:
    ids, replaced = fill(
        jnp.array([[5, 6, 7, 8]]), jnp.array([[2, 1, 0]]), jnp.array([[1.0, 1.0, 0.0]]), jnp.array([[9, 6, 30]])
    )
    assert ids.tolist() == [[5, 6, 9, 8]]
    assert replaced.tolist() == [[False, False, True, False]]  # a sample that is the true token replaces nothing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generator_width": 0.0}, "objective.generator_width is 0.0; use a fraction above 0"),
        ({"generator_depth": 5.0}, "objective.generator_depth is 5.0"),
        ({"weight": -1.0}, "objective.weight is -1.0"),
        ({"chunk": 0}, "objective.chunk must be at least 1, got 0"),
    ],
)
def test_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReplacedToken(**settings)


def test_masks_are_all_masks_by_default() -> None:
    assert ReplacedToken().masking == Masking(mask_probability=1.0, random_probability=0.0)
