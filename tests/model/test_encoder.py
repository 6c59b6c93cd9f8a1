"""The encoder: equal to transformers in torch, unchanged by remat and packing, with stacked layers."""

import dataclasses
import operator
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder, first_layers
from jaxencoder.model.heads import MlmHead
from jaxencoder.objectives import mlm as mlm_module
from jaxencoder.objectives.mlm import Masked
from tests.model import examples
from tests.model.examples import BERT, COMBINED, CONFIGS, FLOAT32, LONGFORMER, MODERNBERT, assert_trees_close, rows

T = 33  # longer than a window of 8 to either side, and no multiple of a block
FAMILIES = sorted(CONFIGS)


def encode(config: EncoderConfig, params: dict, batch: dict, compute: ComputeConfig = FLOAT32, seed: int | None = None):
    """Contextual embeddings [B, T, D]; with a seed, in training mode."""
    return np.asarray(_encode(config, compute, seed is not None, params, batch, jax.random.key(seed or 0)))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _encode(config: EncoderConfig, compute: ComputeConfig, train: bool, params: dict, batch: dict, key: jax.Array):
    inputs = (batch["token_ids"], batch["segment_ids"], batch["positions"], batch.get("token_type_ids"), train)
    return Encoder(config, compute).apply({"params": params}, *inputs, batch.get("global_slots"), rngs={"dropout": key})


@partial(jax.jit, static_argnums=0)
def init(config: EncoderConfig, seed: int = 0) -> dict:
    one = jnp.ones((1, 1), jnp.int32)
    return Encoder(config, FLOAT32).init(jax.random.key(seed), one, one, one * 0)["params"]


def random_params(config: EncoderConfig) -> dict:
    one = jnp.ones((1, 1), jnp.int32)
    return examples.linen_params(Encoder(config, FLOAT32), one, one, one * 0)


def test_first_layers_of_shared_sets() -> None:
    """Three layers of two sets, of which the first two have one."""
    config = dataclasses.replace(BERT, num_layers=3, num_layer_groups=2)
    params, batch = random_params(config), rows([[T], [20, 9]], T)
    first = params | {"layers": jax.tree.map(operator.itemgetter(slice(1)), params["layers"])}
    smaller = dataclasses.replace(config, num_layers=2, num_layer_groups=1)
    inputs = (batch["token_ids"], batch["segment_ids"], batch["positions"])
    outputs = jax.jit(lambda x: first_layers(Encoder(config, FLOAT32), x, (2, 0), *inputs))(params)
    expected = [encode(config, params, batch), encode(smaller, first, batch)]
    is_token = batch["segment_ids"] > 0
    for actual, of_model in zip(outputs[:2], expected, strict=True):
        np.testing.assert_allclose(actual[is_token], of_model[is_token], atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_equals_transformers(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tests.model import reference

    config = CONFIGS[family]
    kind = {"bert": transformers.BertForMaskedLM, "modernbert": transformers.ModernBertForMaskedLM}[family]
    theirs = reference.randomized(kind(reference.torch_config(family)))
    objective = examples.mlm(config)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    params = reference.converted(family, reference.weights(theirs), shapes, missing=1.7)
    batch = rows([[T], [20], [3]], T)
    is_token = batch["segment_ids"] > 0
    inputs = {"input_ids": torch.tensor(batch["token_ids"]).long(), "attention_mask": torch.tensor(is_token).long()}
    if config.token_types:
        batch["token_type_ids"] = (batch["positions"] > 7).astype(np.int32)
        inputs["token_type_ids"] = torch.tensor(batch["token_type_ids"]).long()

    hidden = encode(config, params["encoder"], batch)
    expected = (theirs.bert if family == "bert" else theirs.model)(**inputs).last_hidden_state.detach().numpy()
    np.testing.assert_allclose(hidden[is_token], expected[is_token], atol=1e-4)

    slots = np.array([[1, 5, 32, 9], [2, 19, 3, 0], [1, 0, 0, 0]])
    used = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]], np.float32)
    targets = np.random.default_rng(0).integers(4, examples.VOCABULARY, slots.shape)
    labels = np.full(is_token.shape, -100)
    for b, k in np.argwhere(used):
        labels[b, slots[b, k]] = targets[b, k]
    output = theirs(**inputs, labels=torch.tensor(labels))
    output.loss.backward()

    head, bias = MlmHead(config).apply({"params": params["mlm_head"]}, hidden)
    logits = np.asarray(head) @ params["encoder"]["embeddings"]["token_embedding"].T + np.asarray(bias)
    np.testing.assert_allclose(logits[is_token], output.logits.detach().numpy()[is_token], atol=1e-4)

    masked = Masked(*map(jnp.asarray, (batch["token_ids"], slots, targets, used)))
    monkeypatch.setattr(mlm_module, "mask_tokens", lambda *_: masked)
    gradient = jax.jit(jax.value_and_grad(objective.loss, has_aux=True), static_argnums=3)
    (loss, _), gradients = gradient(params, batch, jax.random.key(0), True)
    assert float(loss) == pytest.approx(output.loss.item(), rel=1e-5)
    expected = reference.converted(family, reference.gradients(theirs), shapes, missing=0.0)
    if family == "modernbert":  # ... and the unused norm has no gradient at all
        assert not np.any(gradients["encoder"]["layers"]["block_0"]["attention_norm"]["scale"][0])
    # Biases of keys shift all scores of a query equally: their gradients are 0 up to rounding.
    for tree in (gradients, expected):
        for block in tree["encoder"]["layers"].values():
            block["attention"]["key"].pop("bias", None)
    assert_trees_close(gradients, expected, 1e-4)


def assert_documents_equal(batch: dict, hidden: np.ndarray, alone: np.ndarray, origins: list[tuple[int, int]]) -> None:
    for i, (b, s) in enumerate(origins):
        here = batch["segment_ids"][b] == s
        np.testing.assert_allclose(hidden[b, here], alone[i, : here.sum()], atol=2e-5)


@pytest.mark.parametrize("config", (CONFIGS | COMBINED).values(), ids=CONFIGS | COMBINED)
def test_documents_of_a_row_do_not_interact(config: EncoderConfig) -> None:
    params, batch = random_params(config), rows([[9, 12, 7], [28, 2, 1]], T)
    hidden = encode(config, params, batch)
    single, origins = examples.one_per_row(batch, 28)
    assert_documents_equal(batch, hidden, encode(config, params, single), origins)

    changed = batch | {"token_ids": np.where(batch["segment_ids"] == 2, 5, batch["token_ids"])}
    other = encode(config, params, changed)
    unchanged = (batch["segment_ids"] > 0) & (batch["segment_ids"] != 2)
    np.testing.assert_array_equal(other[unchanged], hidden[unchanged])
    assert np.abs(other - hidden)[batch["segment_ids"] == 2].max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_has_no_effect(family: str) -> None:
    config, batch = CONFIGS[family], rows([[20]], T)
    params = random_params(config)
    noise = batch | {"token_ids": np.where(batch["segment_ids"] > 0, batch["token_ids"], 7)}
    hidden = encode(config, params, batch)
    np.testing.assert_array_equal(encode(config, params, noise)[:, :20], hidden[:, :20])


@pytest.mark.parametrize("config", [*examples.SMALL.values(), examples.EXPERTS], ids=[*examples.SMALL, "experts"])
def test_remat_changes_nothing(config: EncoderConfig) -> None:
    config = dataclasses.replace(config, dropout=0.2)
    params, batch = random_params(config), rows([[9, 12]], T)

    @partial(jax.jit, static_argnums=1)
    def gradient(params: dict, remat: str) -> tuple[jax.Array, dict]:
        def loss(params: dict) -> jax.Array:
            hidden = _encode(config, ComputeConfig("float32", remat), True, params, batch, jax.random.key(3))
            return jnp.square(hidden * (batch["segment_ids"] > 0)[..., None]).mean()

        return jax.value_and_grad(loss)(params)

    value, expected = gradient(params, "none")
    for remat in ("dots", "full"):
        again, gradients = gradient(params, remat)
        assert float(again) == pytest.approx(float(value), rel=1e-6)
        assert_trees_close(gradients, expected, 2e-5)


def saved_bytes(config: EncoderConfig, remat: str) -> int:
    """Bytes that the forward pass keeps for the backward pass, without parameters."""
    params, batch = random_params(config), rows([[T]], T)
    inputs = (batch["token_ids"], batch["segment_ids"], batch["positions"])
    encoder = Encoder(config, ComputeConfig("float32", remat))
    pullback = jax.eval_shape(lambda p: jax.vjp(lambda p: encoder.apply({"params": p}, *inputs), p)[1], params)
    return sum(x.size * 4 for x in jax.tree.leaves(pullback)) - sum(x.nbytes for x in jax.tree.leaves(params))


def test_remat_saves_memory() -> None:
    config = dataclasses.replace(BERT, num_layers=8)
    none, dots, full = (saved_bytes(config, remat) for remat in ("none", "dots", "full"))
    assert full < dots < none and full < none / 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_layers": 1}, {"True"}),
        ({"num_layers": 8}, {"False"}),
        ({"num_layers": 5, "windows": (0, 8)}, {"True", "False"}),
        ({"num_layers": 3, "num_layer_groups": 1}, {"False"}),
    ],
)
def test_rematerialized_layers_outside_a_loop_are_guarded(changes: dict, expected: set[str]) -> None:
    """XLA would merge them with the originals, and keep what they should recompute."""
    config, batch = dataclasses.replace(BERT, **changes), rows([[T]], T)

    def loss(params: dict) -> jax.Array:
        return _encode(config, ComputeConfig("float32", "full"), True, params, batch, jax.random.key(0)).sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(random_params(config)))
    assert set(re.findall(r"prevent_cse=(\w+)", program)) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_close(family: str) -> None:
    config, batch = CONFIGS[family], rows([[T], [9, 12]], T)
    params = init(config)
    exact = encode(config, params, batch)
    rough = encode(config, params, batch, ComputeConfig("bfloat16"))
    assert rough.dtype == jnp.bfloat16
    error = np.abs(rough.astype(np.float32) - exact)[batch["segment_ids"] > 0]
    assert 0 < error.mean() < 0.02 * np.abs(exact).mean()


@pytest.mark.parametrize("config", [MODERNBERT, *COMBINED.values()], ids=["modernbert", *COMBINED])
def test_backends_agree_in_the_model(config: EncoderConfig) -> None:
    params, batch = random_params(config), rows([[T], [9, 12]], T)
    is_token = (batch["segment_ids"] > 0)[..., None]
    dense, *outputs = (
        is_token * encode(config, params, batch, dataclasses.replace(FLOAT32, attention=backend))
        for backend in ("dense", "banded", "chunked")
    )
    for other in outputs:
        np.testing.assert_allclose(other, dense, atol=5e-5)


def test_global_tokens_reach_all_of_their_document_and_no_other() -> None:
    config = dataclasses.replace(LONGFORMER, num_layers=1, windows=(3,))
    params = random_params(config)
    slots = np.array([[0, 14, -1], [12, 32, -1]])  # of the two documents; of the second alone, and padding
    batch = rows([[14, 17], [10, 20]], T) | {"global_slots": slots}
    hidden = encode(config, params, batch)
    single, origins = examples.one_per_row(batch, 20)
    alone = encode(config, params, single | {"global_slots": np.array([[0], [0], [-1], [2]])})
    assert_documents_equal(batch, hidden, alone, origins)
    banded = encode(config, params, batch, dataclasses.replace(FLOAT32, attention="banded"))
    is_token = batch["segment_ids"] > 0
    np.testing.assert_allclose(banded[is_token], hidden[is_token], atol=2e-5)

    def moved(at: int) -> list[int]:
        """The tokens of row 0 that see this one, by a single layer."""
        ids = batch["token_ids"].copy()
        ids[0, at] += 1
        other = encode(config, params, batch | {"token_ids": ids})
        return np.flatnonzero(np.abs(other - hidden)[0].max(-1) > 1e-4).tolist()

    assert moved(0) == list(range(14)) and moved(9) == [0, *range(6, 13)]
    assert moved(14) == list(range(14, 31)) and moved(25) == [14, *range(22, 29)]


def test_causal_tokens_do_not_see_later_ones() -> None:
    config, batch = COMBINED["causal gemma"], rows([[T]], T)
    params = random_params(config)
    changed = batch | {"token_ids": np.where(batch["positions"] == 20, 5, batch["token_ids"])}
    before, after = encode(config, params, batch), encode(config, params, changed)
    np.testing.assert_array_equal(after[:, :20], before[:, :20])
    assert np.abs(after - before)[:, 20:].max(-1).min() > 1e-3


def test_global_tokens_are_refused_by_models_without_them() -> None:
    with pytest.raises(ValueError, match=r"global_slots are given, but model\.global_tokens is false"):
        encode(BERT, random_params(BERT), rows([[T]], T) | {"global_slots": np.zeros((1, 1), np.int32)})


@pytest.mark.parametrize(
    ("layers", "windows", "stacked", "last"), [(1, (0,), 1, 0), (5, (0, 8), 2, 1), (2, (0, 8, 8), 0, 2)]
)
def test_layers_are_stacked(layers: int, windows: tuple[int, ...], stacked: int, last: int) -> None:
    config = dataclasses.replace(MODERNBERT, num_layers=layers, windows=windows)
    params = random_params(config)
    assert len(params.get("last", {})) == last
    kernels = [block["mlp"]["up"]["kernel"] for block in params.get("layers", {}).values()]
    assert [kernel.shape for kernel in kernels] == [(stacked, 24, 40)] * (len(windows) if stacked else 0)

    # The scan runs the layers in the order 0, 1, 2 ...: equal to a pattern written out in full, which is no scan.
    batch = rows([[T]], T)
    order = [(r, i) for r in range(stacked) for i in range(len(windows))]
    blocks = [jax.tree.map(operator.itemgetter(r), params["layers"][f"block_{i}"]) for r, i in order]
    blocks += [params["last"][f"block_{i}"] for i in range(last)]
    flat = {"last": {f"block_{n}": block for n, block in enumerate(blocks)}}
    unrolled = {k: v for k, v in params.items() if k not in ("layers", "last")} | flat
    long = dataclasses.replace(config, windows=(*(windows * layers)[:layers], 0))  # one window more: nothing repeats
    np.testing.assert_allclose(encode(config, params, batch), encode(long, unrolled, batch), atol=1e-5)


def test_layers_start_differently() -> None:
    config = dataclasses.replace(BERT, num_layers=4, hidden_size=48, mlp_size=96, vocab_size=200)
    params = init(config)
    kernels = [np.asarray(x) for path, x in jax.tree.leaves_with_path(params["layers"]) if "kernel" in str(path[-1])]
    matrices = [matrix.ravel() for kernel in kernels for matrix in kernel]
    assert len(matrices) == 4 * 6 and all(x.dtype == np.float32 for x in jax.tree.leaves(params))
    for i, a in enumerate(matrices):
        # A normal distribution of 0.02 truncated at two deviations has a deviation of 0.0176.
        assert a.std() == pytest.approx(0.0176, rel=0.1) and np.abs(a).max() <= 0.04
        for b in matrices[:i]:
            if a.size == b.size:
                assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    assert params["embeddings"]["token_embedding"].std() == pytest.approx(0.0176, rel=0.1)
    assert not np.array_equal(init(config, 1)["embeddings"]["token_embedding"], params["embeddings"]["token_embedding"])


@pytest.mark.parametrize("share", ["dropout", "attention_dropout"])
def test_dropout_follows_the_key(share: str) -> None:
    config = dataclasses.replace(MODERNBERT, **{share: 0.5})
    params, batch = random_params(config), rows([[T]], T)
    a, again, b = (encode(config, params, batch, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(a, again) and not np.allclose(a, b)
    assert np.array_equal(encode(config, params, batch), encode(MODERNBERT, params, batch))


def test_dropout_differs_by_layer() -> None:
    # Only the MLPs' last biases are not 0, so x is the sum of five layers' dropout of ones, each 0 or 2: a variance of
    # 5 if the masks are independent, 7 or more if two layers share one. The huge epsilon makes the last norm x - mean.
    settings = {"num_layers": 5, "windows": (0, 8), "norm_placement": "pre", "norm_epsilon": 1e8, "dropout": 0.5}
    config = dataclasses.replace(BERT, **settings)

    def fill(path: tuple, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return x * 0 + (1 if name.endswith("down/bias") else 1e4 if name == "final_norm/scale" else 0)

    params = jax.tree.map_with_path(fill, random_params(config))
    x = encode(config, params, rows([[T]] * 4, T), seed=0)
    assert x.var() * 24 / 23 == pytest.approx(5, abs=0.7)
    assert np.unique(np.round(x[0, 0] - x[0, 0].min(), 2)).size >= 4


def test_rows_longer_than_the_positions_are_refused() -> None:
    params = random_params(BERT)
    with pytest.raises(ValueError, match="Rows of 38 tokens do not fit the model's 37 learned positions; shorten"):
        encode(BERT, params, rows([[38]], 38))
    assert encode(MODERNBERT, random_params(MODERNBERT), rows([[38]], 38)).shape == (1, 38, 24)
