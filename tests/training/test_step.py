"""The train step: accumulation, moving average and flags against plain optax, and any mesh against one device."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params, mean
from jaxencoder.training.step import TrainState, eval_step, init_state, train_step
from tests.devices import results_on_eight
from tests.model.examples import LONGFORMER, mlm, rows

B, D = 8, 5
KEY = jax.random.key(0)


def init(key: jax.Array) -> Params:
    return {"w": jax.random.normal(key, (D,)), "b": jnp.zeros(())}


def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
    """Weighted least squares; the key moves the targets when `noise` is in the batch."""
    target = batch["y"] + (jax.random.normal(key, ()) * batch["noise"] if "noise" in batch else 0)
    error = batch["x"] @ params["w"] + params["b"] - target
    metrics = {
        "loss": ((batch["weight"] * error**2).sum(), batch["weight"].sum()),
        "sign": ((error > 0).sum().astype(jnp.float32), jnp.float32(error.size)),
    }
    return mean(metrics), metrics


OBJECTIVE = Objective(init, loss)


def batch(seed: int = 0, **more) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    data = {"x": rng.standard_normal((B, D)), "y": rng.standard_normal(B), "weight": np.array([3, 0, 1, 7, 2, 0, 5, 0])}
    data = {name: np.asarray(x, np.float32) for name, x in (data | more).items()}
    return data | {"segment_ids": np.repeat([[1, 1, 2, 0]], B, 0)}


def stepper(optimizer: optax.GradientTransformation, **options):
    return jax.jit(partial(train_step, OBJECTIVE, optimizer, **options))


def test_equals_plain_optax() -> None:
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))
    state = init_state(OBJECTIVE, optimizer, KEY)
    params, inner = state.params, optimizer.init(state.params)
    run = stepper(optimizer)
    for step in range(3):
        data = batch(step)
        state, metrics = run(state, data, KEY)
        gradients = jax.grad(lambda p: loss(p, data, KEY, True)[0])(params)  # noqa: B023
        updates, inner = optimizer.update(gradients, inner, params)
        params = optax.apply_updates(params, updates)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), state.params, params)
        assert float(metrics["gradient_norm"][0]) == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-5)
    assert int(state.step) == 3 and state.ema is None
    assert [float(x) for x in metrics["filled"]] == [3 * B, 4 * B] and float(metrics["finite"][0]) == 1


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_gives_the_update_of_the_whole_batch(parts: int) -> None:
    # Rows 1 and 5 (of 4 parts: part 1) weigh nothing at all.
    optimizer = optax.sgd(0.1)
    state = init_state(OBJECTIVE, optimizer, KEY)
    full, metrics = stepper(optimizer)(state, batch(), KEY)
    split, parts_metrics = stepper(optimizer, accumulation=parts)(state, batch(), KEY)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), split.params, full.params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), parts_metrics, metrics)
    assert float(jnp.abs(full.params["w"] - state.params["w"]).max()) > 0.01


def test_projections_of_global_tokens_wait_for_some() -> None:
    objective, optimizer = mlm(replace(LONGFORMER, num_layers=2, windows=(3,))), optax.sgd(0.1)
    state = init_state(objective, optimizer, KEY)
    data = rows([[9, 12], [20]], 33)
    step = jax.jit(partial(train_step, objective, optimizer))

    def changed(data: dict[str, np.ndarray]) -> dict[str, bool]:
        after, metrics = step(state, data, KEY)
        assert float(metrics["finite"][0]) == 1
        blocks = (x.params["encoder"]["layers"]["block_0"]["attention"] for x in (after, state))
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), *blocks)
        return {name: moved[name]["kernel"] for name in ("query", "global_query", "global_value")}

    assert changed(data) == {"query": True, "global_query": False, "global_value": False}
    assert all(changed(data | {"global_slots": np.array([[0, 9], [5, -1]])}).values())


def test_parts_and_steps_have_keys_of_their_own() -> None:
    optimizer = optax.sgd(0.0)
    state = init_state(OBJECTIVE, optimizer, KEY)
    noisy = batch(noise=np.ones(B), weight=np.ones(B), x=np.zeros((B, D)), y=np.zeros(B))  # loss: the mean square noise
    run, split = stepper(optimizer), stepper(optimizer, accumulation=2)
    first, second = run(state, noisy, KEY), run(state._replace(step=jnp.int32(1)), noisy, KEY)
    values = [float(out[1]["loss"][0]) / B for out in (first, second, split(state, noisy, KEY))]
    assert len(set(values)) == 3 and float(run(state, noisy, KEY)[1]["loss"][0]) / B == values[0]
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, 0), i) for i in range(2)]
    assert values[2] == pytest.approx(np.mean([float(jax.random.normal(key, ())) ** 2 for key in keys]), rel=1e-5)


def test_moving_average() -> None:
    optimizer = optax.sgd(0.1)
    state = jax.jit(partial(init_state, OBJECTIVE, optimizer, ema=True))(KEY)
    expected = np.asarray(state.params["w"])
    run = jax.jit(partial(train_step, OBJECTIVE, optimizer, ema_decay=0.75), donate_argnums=0)
    for step in range(4):
        state, _ = run(state, batch(step), KEY)  # donated: parameters and average may not share a buffer
        expected = 0.75 * expected + 0.25 * np.asarray(state.params["w"])
        np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5)
    assert not np.allclose(state.ema["w"], state.params["w"])


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("place", ["loss", "gradient", "parameter"])
def test_what_is_not_finite_is_flagged(place: str, parts: int) -> None:
    data = batch()
    if place == "loss":
        data["y"][3] = np.inf
    if place == "gradient":
        data["x"][3] = 1e25  # its square is too large for float32
    optimizer = optax.sgd(np.inf if place == "parameter" else 0.1)
    state = init_state(OBJECTIVE, optimizer, KEY)
    _, metrics = stepper(optimizer, accumulation=parts)(state, data, KEY)
    assert float(metrics["finite"][0]) == 0
    assert float(stepper(optax.sgd(0.1), accumulation=parts)(state, batch(), KEY)[1]["finite"][0]) == 1


def test_evaluation_does_not_train() -> None:
    seen = []

    def spy(params: Params, data: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
        seen.append(train)
        return loss(params, data, key, train)

    params = init(KEY)
    metrics = eval_step(Objective(init, spy), params, batch(), KEY)
    assert seen == [False] and set(metrics) == {"loss", "sign"}
    assert isinstance(init_state(Objective(init, spy), optax.sgd(0.1), KEY), TrainState)


def test_any_mesh_trains_like_one_device() -> None:
    """Masks, losses of several steps with dropout, and parameters, in float32: see tests/training/eight_devices.py."""
    for case, results in results_on_eight("tests/training/eight_devices.py").items():
        one, eight = results["one"], results["eight"]
        assert one["losses"][-1] != one["losses"][0]
        np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-5, err_msg=case)
        np.testing.assert_allclose(eight["norms"], one["norms"], rtol=1e-4, err_msg=case)
        assert eight["masked"] == one["masked"], f"{case}: other tokens are masked"
        assert eight["distance"] < 1e-4 and eight["split"] >= 0.5, f"{case}: {eight}"
