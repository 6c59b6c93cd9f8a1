"""Texts of any length: what windows give is that of the text where it fits, and in memory that does not grow."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from jaxencoder.inference import embed as embed_module
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.search import search
from jaxencoder.inference.windows import WindowPooler, run_windows
from jaxencoder.model.sentence import Dense
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.text.config import WindowConfig
from jaxencoder.text.windows import TextWindow, text_windows

from .conftest import SENTENCES, WORDS

LENGTH = 16
LONG = " ".join(WORDS * 5)
HOSTILE = [
    "",
    " ",
    LONG,
    "the cat",
    "a" * 10_000,
    "  É 猫🐈\u200d \n",
    "\0\x07",
    "[MASK] [SEP] " * 20,
    " the " * 14,
    "the " * 15,
]


@pytest.fixture(scope="module")
def learned(make_model):
    return make_model(Classification(labels=2, pooling="learned"), row_length=LENGTH)


def of_tokens(model, texts, pooling, stride):
    """What a pooling of all tokens of a text makes of the stitched ones."""
    hidden, mask = model.tokens(texts, windows=WindowConfig(stride))
    if pooling == "mean":
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    if pooling == "max":
        return np.where(mask[..., None], hidden, -np.inf).max(1)
    scores = np.where(mask, hidden @ model.params["classifier"]["pooling_query"], -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return np.einsum("BT,BTD->BD", weights / weights.sum(1, keepdims=True), hidden)


@pytest.mark.parametrize(("pooling", "windows"), [("mean", "length"), ("max", "max"), ("learned", "learned")])
@pytest.mark.parametrize("stride", [None, 5])
def test_pooled_windows_are_the_pooled_tokens(learned, pooling, windows, stride):
    found = learned.embed(HOSTILE, pooling=pooling, windows=WindowConfig(stride, windows))
    expected = of_tokens(learned, HOSTILE, pooling, stride)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_learned_pooling_under_every_pooling_of_windows(learned):
    texts = [HOSTILE[0], LONG]
    found = {way: learned.embed(texts, pooling="learned", windows=WindowConfig(pooling=way)) for way in WAYS}
    assert all(np.isfinite(x).all() and x.shape == found["learned"].shape for x in found.values())
    assert not np.allclose(found["learned"][1], found["max"][1], atol=1e-3)


WAYS = ("mean", "max", "length", "first", "learned")


@pytest.mark.parametrize("way", ["mean", "max", "length", "first", None])
def test_what_fits_is_the_same_either_way(model, way):
    texts = ["", " ", *SENTENCES[::9], "the cat sat " * 20]
    for options in ({}, {"pooling": "cls", "normalize": True}, {"prompt": "paris and "}, {"pooling": ("mean", "max")}):
        found = model.embed(texts, windows=WindowConfig(pooling=way), **options)
        np.testing.assert_allclose(found, model.embed(texts, **options), atol=2e-5)


def test_ways_to_pool_windows_by_hand(make_model):
    model = make_model(row_length=LENGTH)
    windows = list(text_windows(model.tokenizer, [LONG], LENGTH))
    alone = np.concatenate([model(w.ids[None])["hidden"] for w in windows[:-1]])
    last = np.asarray(model(windows[-1].ids[None])["hidden"])
    hidden = [*alone, *last]
    means = np.stack([x[w.first : w.last].mean(0) for x, w in zip(hidden, windows, strict=True)])
    expected = {"mean": means.mean(0), "max": means.max(0)}
    expected["length"] = np.average(means, axis=0, weights=[w.last - w.first for w in windows])
    for way, vector in expected.items():
        np.testing.assert_allclose(model.embed([LONG], windows=WindowConfig(pooling=way))[0], vector, atol=2e-5)
    first = model.embed([LONG], windows=WindowConfig(pooling="first"))
    assert first.tolist() == model.embed([LONG]).tolist()
    cls = np.average([x[0] for x in hidden], axis=0, weights=[w.last - w.first for w in windows])
    np.testing.assert_allclose(model.embed([LONG], pooling="cls", windows=WindowConfig())[0], cls, atol=2e-5)
    for pooling, weights in (("weightedmean", lambda n: 2 * np.arange(1, n + 1) / (n + 1)), ("mean_sqrt_len", np.sqrt)):
        kept = [x[w.first : w.last] for x, w in zip(hidden, windows, strict=True)]
        each = [(x.T * weights(len(x))).mean(1) for x in kept]
        vector = np.average(each, axis=0, weights=[w.last - w.first for w in windows])
        np.testing.assert_allclose(model.embed([LONG], pooling=pooling, windows=WindowConfig())[0], vector, atol=2e-5)
    assert len(windows) > 5 and np.abs(expected["mean"] - expected["length"]).max() > 4e-4


def test_a_prompt_stands_in_each_window_and_modules_come_last(make_model):
    model = make_model(row_length=LENGTH)
    settings = dataclasses.replace(model.sentence, modules=(Dense(32, 8),), include_prompt=False)
    kernel = np.random.default_rng(1).normal(size=(32, 8)).astype(np.float32)
    params = model.params | {"sentence": {"0": {"kernel": kernel, "bias": np.ones(8, np.float32)}}}
    prompted = dataclasses.replace(model, params=params, sentence=settings)
    prompt = "paris and rome "
    found = prompted.embed([LONG, "the cat"], windows=WindowConfig(), prompt=prompt, dimensions=6)
    np.testing.assert_allclose(found[1], prompted.embed(["the cat"], prompt=prompt, dimensions=6)[0], atol=2e-5)
    windows = list(text_windows(model.tokenizer, [LONG], LENGTH, prompt=prompt))
    skip = 4  # [CLS] and the three words
    kept = [np.asarray(model(w.ids[None])["hidden"])[0, max(w.first, skip) : w.last] for w in windows]
    weights = list(map(len, kept))
    pooled = np.average([x.mean(0) for x in kept], axis=0, weights=weights)
    np.testing.assert_allclose(found[0], np.tanh(pooled @ kernel + 1)[:6], atol=2e-5)


def test_order_company_and_groups_change_nothing(model, monkeypatch):
    texts = [LONG * 3, "the cat", LONG * 9, *SENTENCES[:20]]
    together = model.embed(texts, windows=WindowConfig(20))
    monkeypatch.setattr(embed_module, "GROUP_TOKENS", 100)
    np.testing.assert_allclose(model.embed(texts[::-1], windows=WindowConfig(20))[::-1], together, atol=2e-5)


def test_files_and_searches_read_long_texts(model, tmp_path):
    texts = ["the cat sat " * 40 + "rome " * 60, "the cat sat " * 40, "a mat"]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    options = EmbedOptions(windows=WindowConfig(30, "max"))
    assert embed_module.embed_file(model, str(tmp_path / "in.txt"), tmp_path / "out.npy", options=options) == 3
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), model.embed([t.strip() for t in texts], windows=options.windows), atol=2e-5
    )
    results = [search(model, str(tmp_path / "in.txt"), "rome", 3, options=x) for x in (EmbedOptions(), options)]
    scores = [{record["text"][-6:]: score for score, record in result} for result in results]
    assert scores[0] != pytest.approx(scores[1])


def test_windows_alive_do_not_grow_with_the_text(make_model):
    """The windows of a text are made when the model asks for them, and dropped when it has read them."""
    model = make_model(row_length=LENGTH)

    def peak(words: int) -> tuple[int, int]:
        text = "the cat sat " * words
        largest = count = 0
        tracemalloc.start()
        windows = text_windows(model.tokenizer, [text], LENGTH)
        for group, plan, _ in run_windows(model, lambda params, rows: rows["segment_ids"], windows, 4096):
            largest, count = max(largest, len(group)), count + len(plan.texts)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count > words * 3 / LENGTH and largest <= 4096 // LENGTH + 1
        return found, count

    peak(2_000)
    (small, few), (large, many) = peak(25_000), peak(100_000)
    assert many > 3.9 * few and large < 1.25 * small


def test_pooled_in_any_order():
    random = np.random.default_rng(0)
    vectors, weights = random.normal(size=(6, 3)).astype(np.float32), np.array([4, 1, 9, 2, 5, 3])
    windows = [TextWindow(i % 2, np.zeros(1), 0, int(n), None, False) for i, n in enumerate(weights)]
    for way in ("mean", "length", "max", "learned"):
        pooled = WindowPooler(3, 3, way)
        for i in random.permutation(6):
            pooled.add(windows[i], np.append(vectors[i], 800 + np.log(weights[i])) if way == "learned" else vectors[i])
        for text in (0, 1):
            own = np.arange(6) % 2 == text
            by = {"mean": np.ones(3)}.get(way, weights[own])
            expected = vectors[own].max(0) if way == "max" else np.average(vectors[own], axis=0, weights=by)
            np.testing.assert_allclose(pooled.vectors[text], expected, atol=1e-6)
        assert not pooled.vectors[2].any()


@pytest.mark.parametrize(
    ("words", "windows", "message"),
    [
        ({}, {"stride": 63}, "stride is 63; windows with room for 62"),
        ({}, {"stride": 5, "pooling": "first"}, "stride is 5, but window pooling 'first'"),
        ({}, {"stride": 0}, "stride is 0"),
        ({}, {"pooling": "cls"}, "window pooling is 'cls'; give one of mean, max, first"),
        ({}, {"pooling": "learned"}, "'learned', but pooling is mean"),
        ({"prompt": "the cat " * 40}, {}, "leaves none of 64 for a text"),
    ],
)
def test_mistakes(model, words, windows, message):
    for texts in (["the cat"], []):
        with pytest.raises(ValueError, match=message):
            model.embed(texts, windows=WindowConfig(**windows), **words)
    with pytest.raises(ValueError, match="not a list of strings"):
        model.embed("the cat", windows=WindowConfig())
    with pytest.raises(ValueError, match="text 1 is None"):
        model.embed(["the cat", None], windows=WindowConfig())


@pytest.mark.parametrize("windows", [None, WindowConfig()])
def test_a_mistake_in_a_text_is_found_behind_a_prompt(model, windows):
    with pytest.raises(ValueError, match="text 1 has a lone surrogate .* at character 4,"):
        model.embed(["the cat", "a ma\udc00t"], prompt="paris and ", windows=windows)
    with pytest.raises(ValueError, match="text 1 is None"):
        model.embed(["the cat", None], prompt="paris and ", windows=windows)


@pytest.mark.parametrize("windows", [None, WindowConfig()])
def test_no_texts(model, windows):
    vectors = model.embed([], windows=windows)
    assert vectors.shape == (0, 32) and vectors.dtype == np.float32
    hidden, mask, offsets = model.tokens([], windows=windows, offsets=True)
    assert hidden.shape == (0, 0, 32) and mask.shape == (0, 0) and offsets.shape == (0, 0, 2)
