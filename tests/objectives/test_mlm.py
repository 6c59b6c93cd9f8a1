"""Masked language modelling: the corruption's distribution, and a loss that packing does not change."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.objectives import mlm as mlm_module
from jaxencoder.objectives.mlm import Masked, MaskedLM, mask_tokens
from tests.model import examples
from tests.model.examples import SMALL, VOCABULARY, Vocabulary, assert_trees_close, rows

SPECIAL = 4  # ids 0 ... 3
mask = jax.jit(partial(mask_tokens, vocabulary=Vocabulary()), static_argnums=3)


def many(B: int = 2000, T: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Two documents and padding in each row, of lengths that differ, and a special token inside a text."""
    rng = np.random.default_rng(seed)
    batch = rows([[int(n), int(rng.integers(2, 12))] for n in rng.integers(3, 25, B)], T, seed)
    batch["token_ids"][:, 1] = 1
    return batch


def chosen(masked: Masked, T: int) -> np.ndarray:
    """bool [B, T]: the tokens to predict. Each slot of weight 1 must be another token."""
    out = np.zeros((len(masked.slots), T), int)
    np.add.at(out, (np.arange(len(out))[:, None], np.asarray(masked.slots)), np.asarray(masked.weights).astype(int))
    assert out.max() <= 1
    return out > 0


def draw(batch: dict, seed: int = 0, **settings) -> tuple[Masked, np.ndarray, np.ndarray]:
    masked = mask(batch["token_ids"], batch["segment_ids"], jax.random.key(seed), MaskedLM(**settings))
    ordinary = (batch["segment_ids"] > 0) & (batch["token_ids"] >= SPECIAL)
    return masked, chosen(masked, ordinary.shape[1]), ordinary


def chi_square(counts: np.ndarray) -> float:
    """Standard deviations by which counts are less even than chance makes them."""
    counts = np.asarray(counts, float)
    expected = counts.mean()
    return (((counts - expected) ** 2 / expected).sum() - (len(counts) - 1)) / np.sqrt(2 * (len(counts) - 1))


@pytest.mark.parametrize("whole_word", [False, True])
def test_rate_and_split(whole_word: bool) -> None:
    batch = many()
    masked, picked, ordinary = draw(batch, whole_word=whole_word)
    ids, shown = batch["token_ids"], np.asarray(masked.token_ids)
    n, total = picked.sum(), ordinary.sum()
    assert n / total == pytest.approx(0.15, abs=4 * np.sqrt(0.15 * 0.85 / total))
    assert not picked[~ordinary].any(), "special tokens and padding are never predicted"
    np.testing.assert_array_equal(shown[~picked], ids[~picked])
    used = np.asarray(masked.weights) > 0
    original = np.take_along_axis(ids, np.asarray(masked.slots), 1)
    np.testing.assert_array_equal(np.asarray(masked.targets)[used], original[used])

    hidden = (shown == 3)[picked].mean()
    assert hidden == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / n))
    # A random token is the old one once in V - 4 draws.
    other = ((shown != 3) & (shown != ids))[picked].mean()
    share = 0.1 * (1 - 1 / (VOCABULARY - SPECIAL))
    assert other == pytest.approx(share, abs=4 * np.sqrt(share / n))
    assert shown[picked & (shown != 3)].min() >= SPECIAL, "no random token is special"


@pytest.mark.parametrize(("mask_share", "random_share"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_extreme_splits(mask_share: float, random_share: float) -> None:
    batch = many(500)
    masked, picked, _ = draw(batch, rate=0.3, mask_share=mask_share, random_share=random_share)
    shown, ids = np.asarray(masked.token_ids)[picked], batch["token_ids"][picked]
    assert (shown == 3).all() == (mask_share == 1) and ((shown == 3).any() == (mask_share > 0))
    assert (shown == ids).all() == (mask_share + random_share == 0)


def test_uniform() -> None:
    batch = rows([[42]] * 4000, 42)  # 40 ordinary tokens
    masked, picked, _ = draw(batch, rate=0.3, mask_share=0.0, random_share=1.0)
    assert abs(chi_square(picked.sum(0)[1:41])) < 5, "every place is equally likely"
    tokens = np.bincount(np.asarray(masked.token_ids)[picked], minlength=VOCABULARY)
    assert not tokens[:SPECIAL].any() and abs(chi_square(tokens[SPECIAL:])) < 5, "so is every random token"
    pairs = (picked[:, 1:40] & picked[:, 2:41]).mean()  # neighbours: 12 of 40, without replacement
    assert pairs == pytest.approx(12 / 40 * 11 / 39, abs=0.003)


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize(("tokens", "rate"), [(1, 0.15), (2, 0.15), (5, 0.15), (7, 0.4), (3, 0.9)])
def test_share_is_exact_in_short_rows(tokens: int, rate: float, whole_word: bool) -> None:
    B = 4000
    batch = rows([[tokens + 2]] * B, 16, seed=tokens)
    _, picked, ordinary = draw(batch, rate=rate, whole_word=whole_word)
    counts = picked.sum(1)
    assert counts.mean() == pytest.approx(rate * tokens, abs=4.5 * counts.std() / np.sqrt(B) + 1e-9)
    assert ordinary.sum(1).max() == tokens
    if not whole_word:
        assert set(counts) <= {int(rate * tokens), int(np.ceil(rate * tokens))}


def test_words_are_whole() -> None:
    batch = many()
    masked, picked, ordinary = draw(batch, whole_word=True, rate=0.3)
    starts = Vocabulary().word_starts()
    split = joined = 0
    for b, row in enumerate(batch["token_ids"]):
        for t in range(1, len(row)):
            if ordinary[b, t] and ordinary[b, t - 1] and not starts[row[t]]:  # a piece of the word before it
                split += picked[b, t] != picked[b, t - 1]
                joined += picked[b, t]
    assert split == 0 and joined > 500
    assert np.asarray(masked.token_ids)[~picked].tolist() == batch["token_ids"][~picked].tolist()


def test_words_end_with_their_document() -> None:
    # Row of two documents without special tokens: a continuation piece that opens the second is no part of the first.
    ids = np.tile([4, 6, 9, 6, 9, 12], (3000, 1))  # 6, 9, 12: continuations
    segments = np.tile([1, 1, 1, 2, 2, 2], (3000, 1))
    masked = mask(ids, segments, jax.random.key(0), MaskedLM(rate=0.5, whole_word=True))
    picked = chosen(masked, 6)
    assert (picked[:, :3].all(1) | ~picked[:, :3].any(1)).all() and (picked[:, 3:].all(1) | ~picked[:, 3:].any(1)).all()
    assert (picked[:, 0] != picked[:, 3]).all(), "half of two equal words is one of them"


def test_a_word_too_long_for_the_slots_stays() -> None:
    ids = np.full((50, 100), 6)
    masked = mask(ids, np.ones_like(ids), jax.random.key(0), MaskedLM(whole_word=True))
    assert not np.asarray(masked.weights).any() and (np.asarray(masked.token_ids) == 6).all()


def test_follows_the_key() -> None:
    batch = many(50)
    a, again, b = (draw(batch, seed)[0] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, again)
    assert not np.array_equal(a.token_ids, b.token_ids)
    assert not np.array_equal(chosen(a, 40)[0] ^ chosen(a, 40)[1], np.zeros(40)), "rows are masked independently"


def test_nothing_to_predict_is_no_nan() -> None:
    batch = rows([[2]], 8)
    objective = examples.mlm(SMALL["bert"])
    params = examples.randomised_params(objective.init)
    loss, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, jax.random.key(0), False)
    assert float(loss) == 0 and float(metrics["loss"][1]) == 0


@pytest.mark.parametrize("family", sorted(SMALL))
def test_packing_changes_neither_loss_nor_gradients(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    T = 33
    objective = examples.mlm(SMALL[family], chunk=9)
    params = examples.randomised_params(objective.init)
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

    def gradient(batch: dict, corruption: Masked) -> tuple:
        monkeypatch.setattr(mlm_module, "mask_tokens", lambda *_: corruption)
        run = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, batch, jax.random.key(0), True), has_aux=True))
        return run(params)

    (loss, metrics), gradients = gradient(packed, masked)
    (loss_alone, metrics_alone), gradients_alone = gradient(single, alone)
    assert float(loss) == pytest.approx(float(loss_alone), rel=1e-5)
    assert metrics["accuracy"] == metrics_alone["accuracy"] and float(metrics["loss"][1]) == picked.sum()
    for tree in (gradients, gradients_alone):  # a key's bias moves all scores of a query: its true gradient is 0
        for block in tree["encoder"]["layers"].values():
            for name in {"key", "distance_key"} & block["attention"].keys():
                block["attention"][name].pop("bias", None)
    assert_trees_close(gradients, gradients_alone, 1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, "objective.rate must lie between 0 and 1, got 0.0"),
        ({"mask_share": 0.9, "random_share": 0.2}, "add up to more than 1, got 0.9 and 0.2"),
        ({"random_share": -0.1}, "must not be negative"),
        ({"chunk": 0}, "objective.chunk must be at least 1, got 0"),
    ],
)
def test_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MaskedLM(), **settings)
