"""The corruption of masked language modeling: distributions, groups, and tokens that stay unchanged."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxencoder.objectives.masking import Masked, Masking, mask_tokens
from tests.model.examples import VOCABULARY, Vocabulary, rows

SPECIAL = 4  # ids 0 ... 3
mask = jax.jit(partial(mask_tokens, vocabulary=Vocabulary()), static_argnums=2)


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
    masked = mask(batch, jax.random.key(seed), Masking(**settings))
    ordinary = (batch["segment_ids"] > 0) & (batch["token_ids"] >= SPECIAL)
    return masked, chosen(masked, ordinary.shape[1]), ordinary


def chi_square(counts: np.ndarray) -> float:
    """Standard deviations by which counts are less even than chance makes them."""
    counts = np.asarray(counts, float)
    expected = counts.mean()
    return (((counts - expected) ** 2 / expected).sum() - (len(counts) - 1)) / np.sqrt(2 * (len(counts) - 1))


GROUPS = {
    "tokens": {},
    "words": {"whole_words": True},
    "spans": {"spans": "geometric"},
    "spans of words": {"spans": "geometric", "whole_words": True, "max_span_length": 5},
    "ngrams": {"spans": "ngram", "max_span_length": 3},
}


@pytest.mark.parametrize("settings", GROUPS.values(), ids=GROUPS)
def test_rate_and_split(settings: dict) -> None:
    batch = many()
    masked, picked, ordinary = draw(batch, **settings)
    ids, shown = batch["token_ids"], np.asarray(masked.token_ids)
    n, total = picked.sum(), ordinary.sum()
    rows_apart = picked.sum(1) - 0.15 * ordinary.sum(1)  # its spread is that of groups, not of tokens
    assert n / total == pytest.approx(0.15, abs=4 * rows_apart.std() * np.sqrt(len(rows_apart)) / total)
    assert not picked[~ordinary].any(), "special tokens and padding are never predicted"
    np.testing.assert_array_equal(shown[~picked], ids[~picked])
    used = np.asarray(masked.weights) > 0
    original = np.take_along_axis(ids, np.asarray(masked.slots), 1)
    np.testing.assert_array_equal(np.asarray(masked.targets)[used], original[used])

    n /= 4 if settings.get("spans") == "geometric" else 1  # all tokens of a span are shown in the same way
    hidden = (shown == 3)[picked].mean()
    assert hidden == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / n))
    # A random token is the old one once in V - 4 draws.
    other = ((shown != 3) & (shown != ids))[picked].mean()
    share = 0.1 * (1 - 1 / (VOCABULARY - SPECIAL))
    assert other == pytest.approx(share, abs=4 * np.sqrt(share / n))
    assert shown[picked & (shown != 3)].min() >= SPECIAL, "no random token is special"


@pytest.mark.parametrize(("mask_probability", "random_probability"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_extreme_splits(mask_probability: float, random_probability: float) -> None:
    batch = many(500)
    masked, picked, _ = draw(batch, rate=0.3, mask_probability=mask_probability, random_probability=random_probability)
    shown, ids = np.asarray(masked.token_ids)[picked], batch["token_ids"][picked]
    assert (shown == 3).all() == (mask_probability == 1) and ((shown == 3).any() == (mask_probability > 0))
    assert (shown == ids).all() == (mask_probability + random_probability == 0)


def test_uniform() -> None:
    batch = rows([[42]] * 4000, 42)  # 40 ordinary tokens
    masked, picked, _ = draw(batch, rate=0.3, mask_probability=0.0, random_probability=1.0)
    assert abs(chi_square(picked.sum(0)[1:41])) < 5, "every place is equally likely"
    tokens = np.bincount(np.asarray(masked.token_ids)[picked], minlength=VOCABULARY)
    assert not tokens[:SPECIAL].any() and abs(chi_square(tokens[SPECIAL:])) < 5, "so is every random token"
    pairs = (picked[:, 1:40] & picked[:, 2:41]).mean()  # neighbors: 12 of 40, without replacement
    assert pairs == pytest.approx(12 / 40 * 11 / 39, abs=0.003)


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize(("tokens", "rate"), [(1, 0.15), (2, 0.15), (5, 0.15), (7, 0.4), (3, 0.9)])
def test_share_is_exact_in_short_rows(tokens: int, rate: float, whole_words: bool) -> None:
    B = 4000
    batch = rows([[tokens + 2]] * B, 16, seed=tokens)
    _, picked, ordinary = draw(batch, rate=rate, whole_words=whole_words)
    counts = picked.sum(1)
    assert counts.mean() == pytest.approx(rate * tokens, abs=4.5 * counts.std() / np.sqrt(B) + 1e-9)
    assert ordinary.sum(1).max() == tokens
    if not whole_words:
        assert set(counts) <= {int(rate * tokens), int(np.ceil(rate * tokens))}


def test_words_are_whole() -> None:
    batch = many()
    masked, picked, ordinary = draw(batch, whole_words=True, rate=0.3)
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
    masked = mask({"token_ids": ids, "segment_ids": segments}, jax.random.key(0), Masking(rate=0.5, whole_words=True))
    picked = chosen(masked, 6)
    assert (picked[:, :3].all(1) | ~picked[:, :3].any(1)).all() and (picked[:, 3:].all(1) | ~picked[:, 3:].any(1)).all()
    assert (picked[:, 0] != picked[:, 3]).all(), "half of two equal words is one of them"


def test_a_word_too_long_for_the_slots_stays() -> None:
    ids = np.full((50, 100), 6)
    masked = mask({"token_ids": ids, "segment_ids": np.ones_like(ids)}, jax.random.key(0), Masking(whole_words=True))
    assert not np.asarray(masked.weights).any() and (np.asarray(masked.token_ids) == 6).all()


def test_follows_the_key() -> None:
    batch = many(50)
    a, again, b = (draw(batch, seed)[0] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, again)
    assert not np.array_equal(a.token_ids, b.token_ids)
    assert not np.array_equal(chosen(a, 40)[0] ^ chosen(a, 40)[1], np.zeros(40)), "rows are masked independently"


@pytest.mark.parametrize(
    ("spans", "longest", "expected"),
    [("geometric", 4, 0.8 ** np.arange(4)), ("geometric", 10, 0.8 ** np.arange(10)), ("ngram", 3, 1 / np.arange(1, 4))],
)
def test_span_lengths(spans: str, longest: int, expected: np.ndarray) -> None:
    """At so low a rate a row has one span at most, and a span of n with the probability 0.2 / n."""
    B, T = 10_000, 202
    settings = {"rate": 0.001, "spans": spans, "max_span_length": longest}
    np.testing.assert_allclose(Masking(**settings).span_lengths(), expected / expected.sum())
    _, picked, _ = draw(rows([[T]] * B, T), **settings)
    assert ((picked[:, 1:] & ~picked[:, :-1]).sum(1) <= 1).all()
    picked = picked[~picked[:, T - 2]]  # the row's last span may be truncated
    counts = np.bincount(picked.sum(1), minlength=longest + 1)[1:]
    scaled = expected / np.arange(1, longest + 1)
    scaled *= counts.sum() / scaled.sum()
    assert counts.sum() > 800 and ((counts - scaled) ** 2 / scaled).sum() < longest + 5 * np.sqrt(2 * longest)


def test_spans_are_shown_alike_and_stay_inside_documents() -> None:
    batch = many()
    masked, picked, ordinary = draw(batch, rate=0.3, spans="geometric", mask_probability=0.5, random_probability=0.0)
    shown = np.asarray(masked.token_ids) == 3
    changes = (shown[:, 1:] != shown[:, :-1]) & picked[:, 1:] & picked[:, :-1]
    together = (picked[:, 1:] & picked[:, :-1]).sum()
    assert 0 < changes.sum() / together < 0.3  # 0.5 where each token is shown by itself; here only where spans meet
    assert not picked[~ordinary].any()


def test_spans_of_words_are_whole() -> None:
    batch = many()
    _, picked, ordinary = draw(batch, rate=0.3, spans="ngram", max_span_length=3, whole_words=True)
    goes_on = ordinary[:, 1:] & ordinary[:, :-1] & ~Vocabulary().word_starts()[batch["token_ids"][:, 1:]]
    assert (picked[:, 1:] == picked[:, :-1])[goes_on].all() and picked[:, 1:][goes_on].any()


def test_static_masks_follow_the_row() -> None:
    batch = many(50)
    batch["row_ids"] = np.arange(50, dtype=np.uint32)
    first = draw(batch, seed=0, static=True)[0]
    order = np.random.default_rng(0).permutation(50)
    later = draw({name: x[order] for name, x in batch.items()}, seed=1, static=True)[0]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), *map(jax.device_get, (first, later)))
    other = draw(batch | {"row_ids": batch["row_ids"] + 50}, static=True)[0]
    assert not np.array_equal(other.token_ids, first.token_ids)


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.3), (0.5, 0.225), (1.0, 0.15), (None, 0.15)])
def test_rate_moves(progress: float | None, rate: float) -> None:
    batch = rows([[42]] * 500, 42)
    if progress is not None:
        batch["progress"] = np.full(500, progress, np.float32)
    masked, picked, ordinary = draw(batch, rate=0.3, final_rate=0.15)
    assert picked.sum() / ordinary.sum() == pytest.approx(rate, abs=0.005)
    assert masked.slots.shape[1] == Masking(rate=0.3).slots(42)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, "objective.masking.rate must lie between 0 and 1, got 0.0"),
        ({"final_rate": 1.0}, "objective.masking.final_rate must be 0 or lie between 0 and 1, got 1.0"),
        ({"mask_probability": 0.9, "random_probability": 0.2}, "add up to more than 1, got 0.9 and 0.2"),
        ({"random_probability": -0.1}, "must not be negative"),
        ({"max_span_length": 0}, "max_span_length must be at least 1, got 0"),
    ],
)
def test_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Masking(**settings)
