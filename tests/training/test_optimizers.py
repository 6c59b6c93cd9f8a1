"""Optimizers against references: torch, the papers in numpy, and the same optimizer on unstacked layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxencoder.parameters import flatten, map_with_paths
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.optimizers import decay_mask, make_optimizer
from jaxencoder.training.schedules import learning_rate_schedule

LAYERS, D, N, H, F, V = 3, 12, 2, 6, 20, 17
STEPS = 20


def tree(seed: int, scale: float = 1.0) -> dict:
    """Parameters (or gradients) of a small encoder; the scale of layers differs a hundredfold, to detect mixing."""
    rng = np.random.default_rng(seed)
    sizes = np.array([0.01, 1.0, 1.0], np.float32)

    def draw(*shape: int) -> jnp.ndarray:
        x = scale * rng.standard_normal(shape).astype(np.float32)
        return jnp.asarray(x * sizes.reshape(-1, *[1] * (len(shape) - 1)) if shape[0] == LAYERS else x)

    attention = {
        "query": {"kernel": draw(LAYERS, D, N, H), "bias": draw(LAYERS, N, H)},
        "output": {"kernel": draw(LAYERS, N, H, D), "bias": draw(LAYERS, D)},
    }
    block = {
        "attention": attention,
        "mlp": {"up": {"kernel": draw(LAYERS, D, F), "bias": draw(LAYERS, F)}, "down": {"kernel": draw(LAYERS, F, D)}},
        "attention_norm": {"scale": draw(LAYERS, D)},
    }
    last = {"attention": {"output": {"kernel": draw(N, H, D)}}, "mlp": {"up": {"kernel": draw(D, F), "bias": draw(F)}}}
    encoder = {"embeddings": {"token_embedding": draw(V, D)}, "layers": {"block_0": block}, "last": {"block_0": last}}
    return {"encoder": encoder, "mlm_head": {"dense": {"kernel": draw(D, D), "bias": draw(D)}}}


def config(**changes: object) -> OptimizerConfig:
    plain = {"learning_rate": 0.05, "schedule": "constant", "warmup_ratio": 0.0, "clip_norm": 0.0, "weight_decay": 0.1}
    return OptimizerConfig(**plain | {"min_dim_size_to_factor": 8} | changes)


def gradients(step: int) -> dict:
    # Growing gradients, so that StableAdamW and Adafactor have to clip.
    return tree(100 + step, 0.1 * 1.5 ** (step % 7))


def run(optimizer: optax.GradientTransformation, params: dict, grads, steps: int = STEPS) -> dict:
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(grads(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def unstack(tree: dict, matrices: bool) -> dict:
    """Each layer under its own name without a layer axis; kernels optionally as matrices."""
    out = {}
    for name, leaf in flatten(tree).items():
        layers = dict(enumerate(leaf)) if "/layers/" in name else {"last": leaf}
        for layer, x in layers.items():
            if matrices and name.endswith("kernel"):
                x = x.reshape(-1, D) if "output" in name or "down" in name else x.reshape(D, -1)
            out[name.replace("/layers/", f"/layer_{layer}/").replace("/last/", "/layer_last/")] = x
    return out


def unstacked_reference(cfg: OptimizerConfig) -> optax.GradientTransformation:
    def mask(params: dict) -> dict:
        return {name: not name.endswith(("bias", "scale")) for name in params}

    adam = optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)
    decay = optax.add_decayed_weights(cfg.weight_decay, mask)
    rate = optax.scale_by_learning_rate(cfg.learning_rate)
    if cfg.name == "adamw":
        return optax.adamw(cfg.learning_rate, cfg.b1, cfg.b2, cfg.eps, weight_decay=cfg.weight_decay, mask=mask)
    if cfg.name == "lamb":
        return optax.chain(adam, decay, optax.masked(optax.scale_by_trust_ratio(), mask), rate)
    if cfg.name == "adafactor":
        plain = optax.adafactor(None, min_dim_size_to_factor=cfg.min_dim_size_to_factor)
        return optax.chain(plain, optax.scale(-1), decay, rate)
    assert cfg.name == "muon"
    labels = lambda p: {n: "muon" if "/layer_" in n and n.endswith("kernel") else "adam" for n in p}  # noqa: E731
    muon = optax.contrib.muon(1.0, beta=cfg.muon_momentum, consistent_rms=0.2, muon_weight_dimension_numbers=None)
    both = optax.partition({"muon": muon, "adam": optax.chain(adam, optax.scale(-1))}, labels)
    return optax.chain(both, optax.scale(-1), decay, rate)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "muon"])
def test_stack_equals_layers_apart(name: str) -> None:
    cfg = config(name=name)
    stacked = run(make_optimizer(cfg, STEPS), tree(0), gradients)
    apart = run(unstacked_reference(cfg), unstack(tree(0), True), lambda step: unstack(gradients(step), True))
    moved = unstack(stacked, True)
    # Newton-Schulz on another shape adds up in another order; its steep polynomial widens the difference.
    tolerance = 2e-3 if name == "muon" else 2e-6
    for path, expected in apart.items():
        np.testing.assert_allclose(moved[path], expected, rtol=2e-4, atol=tolerance, err_msg=path)


@pytest.mark.parametrize("name", ["lamb", "adafactor", "muon", "stable_adamw"])
def test_a_layer_does_not_depend_on_its_neighbors(name: str) -> None:
    def louder(tree: dict) -> dict:
        return map_with_paths(lambda path, x: x.at[1:].multiply(30.0) if "/layers/" in path else x, tree)

    optimizer = make_optimizer(config(name=name), STEPS)
    quiet = run(optimizer, tree(0), gradients, 5)
    loud = run(optimizer, louder(tree(0)), lambda step: louder(gradients(step)), 5)
    layer = lambda tree: jax.tree.map(lambda x: x[0], tree["encoder"]["layers"])  # noqa: E731
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), layer(quiet), layer(loud))


def numpy_reference(cfg: OptimizerConfig, params: dict, grads, steps: int) -> dict:
    """LAMB (arXiv:1904.00962, algorithm 2) and StableAdamW (arXiv:2304.13013, algorithm 2), in float64."""
    params = {name: np.asarray(x, np.float64) for name, x in params.items()}
    first, second = ({name: np.zeros_like(x) for name, x in params.items()} for _ in range(2))
    for t in range(1, steps + 1):
        for name, x in params.items():
            g, decayed = np.asarray(grads(t - 1)[name], np.float64), not name.endswith(("bias", "scale"))
            decay = cfg.weight_decay * decayed
            if cfg.name == "stable_adamw":
                b1 = cfg.b1 * (1 - cfg.b1 ** (t - 1)) / (1 - cfg.b1**t)
                b2 = cfg.b2 * (1 - cfg.b2 ** (t - 1)) / (1 - cfg.b2**t)
                first[name] = b1 * first[name] + (1 - b1) * g
                second[name] = b2 * second[name] + (1 - b2) * g**2
                rms = np.sqrt(np.mean(g**2 / np.maximum(second[name], cfg.eps**2)))
                rate = cfg.learning_rate / max(1.0, rms)
                params[name] = x - rate * decay * x - rate * first[name] / (np.sqrt(second[name]) + cfg.eps)
                continue
            first[name] = cfg.b1 * first[name] + (1 - cfg.b1) * g
            second[name] = cfg.b2 * second[name] + (1 - cfg.b2) * g**2
            ratio = first[name] / (1 - cfg.b1**t) / (np.sqrt(second[name] / (1 - cfg.b2**t)) + cfg.eps)
            step = ratio + decay * x
            trust = np.linalg.norm(x) / np.linalg.norm(step) if decayed else 1.0
            params[name] = x - cfg.learning_rate * trust * step
    return params


@pytest.mark.parametrize("name", ["lamb", "stable_adamw"])
def test_equals_the_paper(name: str) -> None:
    cfg = config(name=name, weight_decay=0.2)
    ours = unstack(run(make_optimizer(cfg, STEPS), tree(0), gradients), False)
    theirs = numpy_reference(cfg, unstack(tree(0), False), lambda step: unstack(gradients(step), False), STEPS)
    for path, expected in theirs.items():
        np.testing.assert_allclose(ours[path], expected, rtol=2e-4, atol=2e-5, err_msg=path)


def test_stable_adamw_clips_only_loud_tensors() -> None:
    params = {"quiet": {"kernel": jnp.ones((4, 4))}, "loud": {"kernel": jnp.ones((4, 4))}}
    grads = lambda step: {  # noqa: E731
        "quiet": {"kernel": jnp.full((4, 4), 0.1)},
        "loud": {"kernel": jnp.full((4, 4), 0.1 if step < 5 else 100.0)},
    }
    stable = run(make_optimizer(config(name="stable_adamw"), 6), params, grads, 6)
    plain = run(make_optimizer(config(name="adamw"), 6), params, grads, 6)
    np.testing.assert_allclose(stable["quiet"]["kernel"], plain["quiet"]["kernel"], rtol=1e-6)
    assert np.all(stable["loud"]["kernel"] > plain["loud"]["kernel"] + 0.01)


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_adamw_equals_torch(clip_norm: float) -> None:
    torch = pytest.importorskip("torch")
    cfg = config(clip_norm=clip_norm, learning_rate=1e-2, schedule="linear", warmup_ratio=0.2)
    start = unstack(tree(0), False)
    tensors = {name: torch.nn.Parameter(torch.tensor(np.asarray(x))) for name, x in start.items()}
    plain = [x for name, x in tensors.items() if name.endswith(("bias", "scale"))]
    decayed = [x for name, x in tensors.items() if not name.endswith(("bias", "scale"))]
    groups = [{"params": decayed, "weight_decay": cfg.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(cfg.b1, cfg.b2), eps=cfg.eps)
    rate = learning_rate_schedule(cfg, STEPS)
    for step in range(STEPS):
        for name, grad in unstack(gradients(step), False).items():
            tensors[name].grad = torch.tensor(np.asarray(grad))
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(tensors.values(), clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = float(rate(step))
        optimizer.step()
    ours = unstack(run(make_optimizer(cfg, STEPS), tree(0), gradients), False)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(ours[name], tensor.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("linear", {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 55: 0.55, 100: 0.1, 1000: 0.1}),
        ("cosine", {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.55, 100: 0.1}),
        ("wsd", {0: 0.1, 9: 1.0, 50: 1.0, 80: 1.0, 85: 0.1 + 0.9 * 0.5, 100: 0.1}),
        ("constant", {0: 0.1, 9: 1.0, 50: 1.0, 100: 1.0}),
    ],
)
def test_schedule_points(name: str, points: dict[int, float]) -> None:
    cfg = OptimizerConfig(learning_rate=2.0, schedule=name, warmup_ratio=0.1, decay_ratio=0.2, final_lr_ratio=0.1)
    rate = learning_rate_schedule(cfg, 100)
    for step, share in points.items():
        assert float(rate(step)) == pytest.approx(2.0 * share, rel=1e-5), step


def test_schedule_of_one_step_moves() -> None:
    assert float(learning_rate_schedule(OptimizerConfig(learning_rate=1.0), 1)(0)) == 1.0


def test_peaks_of_phases_scale_one_schedule() -> None:
    cfg = config(schedule="wsd", warmup_ratio=0.2, decay_ratio=0.4)
    peaks = ((3, 0.5), (3, 2.0), (4, 0.25))
    scaled, plain = (np.array([learning_rate_schedule(cfg, 10, p)(step) for step in range(11)]) for p in (peaks, ()))
    assert scaled == pytest.approx(plain / cfg.learning_rate * np.repeat([0.5, 2.0, 0.25], [3, 3, 5]), rel=1e-6)
    params = {"kernel": jnp.ones((2, 2))}

    def last(optimizer: optax.GradientTransformation) -> np.ndarray:
        state = optimizer.init(params)
        for _ in range(4):
            updates, state = optimizer.update(params, state, params)
        return np.asarray(updates["kernel"])

    plain = last(make_optimizer(cfg, 10))
    assert last(make_optimizer(cfg, 10, peaks)) == pytest.approx(plain * 2.0 / cfg.learning_rate)


def test_decay_mask() -> None:
    flat = flatten(decay_mask(OptimizerConfig())(tree(0)))
    assert {path.split("/")[-1] for path, decayed in flat.items() if decayed} == {"kernel", "token_embedding"}
    assert {path.split("/")[-1] for path, decayed in flat.items() if not decayed} == {"bias", "scale"}
    without = decay_mask(OptimizerConfig(no_decay=("embedding",)))(tree(0))
    assert not without["encoder"]["embeddings"]["token_embedding"] and without["mlm_head"]["dense"]["bias"]


def test_clip_norm_bounds_the_gradient() -> None:
    cfg = config(name="adamw", clip_norm=1.0, eps=10.0, learning_rate=1.0, weight_decay=0.0, b1=0.0, b2=0.0)
    params, optimizer = tree(0), make_optimizer(cfg, 1)
    updates, _ = optimizer.update(tree(1, 1e3), optimizer.init(params), params)
    # With eps far above the clipped gradient the update is gradient / eps, so its norm tells the gradient's.
    assert float(optax.tree.norm(updates)) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "muon", "stable_adamw"])
def test_state_keeps_the_paths_of_parameters(name: str) -> None:
    params = jax.eval_shape(lambda: tree(0))
    shapes = {path: x.shape for path, x in flatten(params).items()}
    state = jax.eval_shape(make_optimizer(config(name=name), STEPS).init, params)
    seen = set()
    for path, leaf in flatten(state).items():
        owners = [name for name in shapes if path.endswith("/" + name)]
        if leaf.ndim == 0 or path.endswith("ns_coeffs"):
            continue
        assert len(owners) == 1, path
        seen.add(owners[0])
        if name != "adafactor":
            assert leaf.shape == shapes[owners[0]]
    assert seen == set(shapes)


def test_adafactor_factors_attention_kernels() -> None:
    params = jax.eval_shape(lambda: tree(0))
    state = jax.eval_shape(make_optimizer(config(name="adafactor"), STEPS).init, params)
    moments = [leaf.size for path, leaf in flatten(state).items() if path.endswith("query/kernel")]
    assert sum(moments) == LAYERS * (D + N * H + 1)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"name": "sgd"}, "sgd"),
        ({"schedule": "step"}, "step"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"b1": 1.0}, "b1"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"clip_norm": float("nan")}, "clip_norm"),
        ({"eps": 0.0}, "eps"),
        ({"warmup_ratio": 1.5}, "warmup_ratio"),
        ({"schedule": "wsd", "warmup_ratio": 0.6, "decay_ratio": 0.6}, "together"),
        ({"no_decay": ("(",)}, "regular expression"),
        ({"trainable": ("[",)}, "trainable holds .*regular expression"),
        ({"frozen_layers": -1}, "frozen_layers"),
        ({"layer_decay": 0.0}, "layer_decay"),
    ],
)
def test_bad_settings(changes: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word) as error:
        OptimizerConfig(**changes)
    assert "\n" not in str(error.value)


def test_no_steps() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        learning_rate_schedule(OptimizerConfig(), 0)
