"""Models made to read longer texts: what stays as it was, what is written, and what goes on from it."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.api import Model
from jaxencoder.checkpoints.extend import extend, extended
from jaxencoder.checkpoints.initial import initial_params, open_initial_model, with_architecture
from jaxencoder.checkpoints.run import write_run
from jaxencoder.cli.main import main
from jaxencoder.config import Embeddings, RunConfig
from jaxencoder.training.config import Phase, TrainingConfig
from tests.inference.published import published, torch_outputs
from tests.model.examples import assert_trees_close

LONG = "rome bread paris cat " * 40  # 160 words
KINDS = {
    "learned": {},
    "rotary": {"positions": "rotary", "windows": (0, 4)},
    "distances": {"positions": "none", "disentangled": ("c2p", "p2c"), "position_buckets": 8, "max_distance": 64},
    "buckets": {"positions": "none", "relative_bias_buckets": 8},
    "alibi": {"positions": "alibi"},
}


@pytest.fixture(scope="module")
def short(make_model) -> dict[str, Model]:
    """Trained on 64 tokens."""
    return {kind: make_model(**settings) for kind, settings in KINDS.items()}


def embedding(model: Model) -> np.ndarray:
    return model.params["encoder"]["embeddings"]["position_embedding"]


@pytest.mark.parametrize(
    ("kind", "method", "factor"),
    [
        *(("learned", method, None) for method in ("interpolate", "tile")),
        *(("rotary", method, 3.0) for method in ("linear", "ntk", "dynamic", "yarn")),
        *(("rotary", "none", None), ("distances", "none", None), ("distances", "interpolate", None)),
        *(("buckets", "none", None), ("alibi", "none", None)),
    ],
)
def test_reads_longer_texts(short, kind: str, method: str, factor: float | None) -> None:
    model = extended(short[kind], 200, method, factor)
    assert model.max_length == model.limit(None) == 200
    ids = model.tokenize([LONG])
    assert len(short[kind].tokenize([LONG[:20]])[0]) < 64 < len(ids[0]) <= 200
    assert np.isfinite(model.embed([LONG])).all()
    # Text after the trained length counts.
    other = LONG.rsplit("rome", 1)
    assert np.abs(model.tokens([LONG])[0][0, 70] - model.tokens(["walked".join(other)])[0][0, 70]).max() > 1e-6
    with pytest.raises(ValueError, match="max_length is 64, but the model was trained on 64 tokens; give more"):
        extended(short[kind], 64, method, factor)


@pytest.mark.parametrize(("kind", "method"), [("learned", "tile"), ("rotary", "dynamic"), ("rotary", "none")])
def test_short_texts_are_as_they_were(short, kind: str, method: str) -> None:
    texts = ["the cat sat on a mat", "rome " * 30]
    np.testing.assert_allclose(extended(short[kind], 200, method).embed(texts), short[kind].embed(texts), atol=1e-6)


def test_tables(short) -> None:
    table = embedding(short["learned"])
    longer = embedding(extended(short["learned"], 127, "interpolate"))
    assert longer.shape == (127, 32) and longer.dtype == np.float32
    np.testing.assert_allclose(longer[[0, 1, 126]], table[[0, 1, 63]], atol=1e-6)
    np.testing.assert_allclose(longer[5], table[2] + (table[3] - table[2]) * (1 + 4 * 62 / 125 - 2), atol=1e-5)
    copies = embedding(extended(short["learned"], 130, "tile"))
    np.testing.assert_array_equal(copies[:64], table)
    np.testing.assert_array_equal(copies[64:127], table[1:])
    np.testing.assert_array_equal(copies[127:], table[1:4])


def test_rows_that_training_never_reached_are_left_out(make_model) -> None:
    model = make_model(row_length=20)
    np.testing.assert_array_equal(embedding(extended(model, 40, "tile"))[20:39], embedding(model)[1:20])


def test_the_longest_rows_of_all_phases_count(short) -> None:
    phases = tuple(Phase(steps=5, row_length=length) for length in (24, 48, 32))
    config = dataclasses.replace(short["learned"].config, phases=phases, training=TrainingConfig(steps=0))
    model = dataclasses.replace(short["learned"], config=config)
    longer = extended(model, 95, "tile")
    table = embedding(model)[:48]
    np.testing.assert_array_equal(embedding(longer), np.concatenate([table, table[1:]]))
    assert longer.config.phases == () and longer.max_length == 95


def test_the_texts_of_a_row_count(short) -> None:
    config = short["learned"].config
    data = dataclasses.replace(config.data, pair_field="positive", row_length=96, text_length=24)
    config = dataclasses.replace(config, data=data, objective=Embeddings())
    model = dataclasses.replace(short["learned"], config=config)
    longer = extended(model, 47, "tile")
    table = embedding(model)[:24]
    np.testing.assert_array_equal(embedding(longer), np.concatenate([table, table[1:]]))
    assert longer.max_length == 47


def test_architectures(short) -> None:
    def changed(kind: str, *words, **settings) -> dict:
        models = (short[kind], extended(short[kind], *words, **settings))
        old, new = (dataclasses.asdict(model.config.model) for model in models)
        return {name: value for name, value in new.items() if value != old[name]}

    scaled = {"max_length": 256, "rope_scaling": "linear", "rope_factor": 4.0}
    assert changed("rotary", 256, "linear") == scaled
    assert changed("rotary", 256, "yarn", 8) == scaled | {
        "rope_scaling": "yarn", "rope_factor": 8.0, "rope_original_length": 64,
    }  # fmt: skip
    assert changed("rotary", 256, "ntk") == {"max_length": 256, "rope_theta": pytest.approx(10_000 * 4 ** (8 / 6))}
    assert changed("distances", 256, "interpolate") == {"max_length": 256, "max_distance": 256}
    assert changed("rotary", 256, "none", window=9) == {"max_length": 256, "windows": (9, 4)}
    assert changed("learned", 256, "tile", window=9, global_tokens=True) == {
        "max_length": 256, "windows": (9,), "global_tokens": True,
    }  # fmt: skip


def test_windows_of_the_whole_text_change_nothing(short) -> None:
    """Nor does a token that is global, as long as it sees by the same projections."""
    ids = np.random.default_rng(0).integers(5, 90, (2, 100))
    plain = extended(short["learned"], 100, "tile")(ids)["hidden"]
    seen = extended(short["learned"], 100, "tile", window=100, global_tokens=True)
    chosen = np.broadcast_to(np.arange(100) == 3, ids.shape)
    np.testing.assert_allclose(seen(ids, global_attention_mask=chosen)["hidden"], plain, atol=1e-4)
    narrow = extended(short["learned"], 100, "tile", window=5)(ids)["hidden"]
    assert np.abs(narrow - plain).max() > 1e-2


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("learned", (128, "yarn"), "has learned positions, which yarn does not extend; give interpolate or tile"),
        ("learned", (128, "none"), "give interpolate or tile"),
        ("rotary", (128, "tile"), "rotary positions, which tile does not extend; give linear or ntk or dynamic"),
        ("distances", (128, "linear"), "relative positions only, which linear .* give none or interpolate"),
        ("buckets", (128, "interpolate"), "give none$"),
        ("alibi", (128, "linear"), "has alibi positions, which linear does not extend; give none$"),
        ("rotary", (128, "stretch"), "method 'stretch' is unknown; give one of interpolate, tile"),
        ("rotary", (128, "none", 2.0), "factor is 2.0, but none takes none here"),
        ("learned", (128, "interpolate", 2.0), "factor is 2.0, but interpolate takes none here"),
        ("rotary", (128, "linear", 0.5), "factor is 0.5; give at least 1"),
        ("rotary", (128, "none", None, -3), "window is -3"),
        ("rotary", (128, "none", None, 5, True), "global_tokens needs a window in every layer .* learned positions"),
    ],
)
def test_one_clear_sentence(short, kind: str, words: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extended(short[kind], *words)


def test_what_is_scaled_is_not_scaled_again(short) -> None:
    model = extended(short["rotary"], 128, "yarn")
    with pytest.raises(ValueError, match=r"scaled already \(yarn\); give none"):
        extended(model, 256, "linear")
    assert extended(model, 256, "none").config.model.rope_factor == 2


def test_other_bases_of_local_layers_are_no_windows_for_global_ones(make_model) -> None:
    model = make_model(positions="rotary", windows=(0, 4), rope_theta=500.0)
    with pytest.raises(ValueError, match=r"other angles \(rope_theta 500\) than layers with a window \(10000\)"):
        extended(model, 128, "none", window=8)
    whole = make_model(positions="rotary", rope_theta=500.0)
    assert extended(whole, 128, "ntk", window=8).config.model.rope_theta_local == 500
    # Layers that have learned scaled angles keep them behind a window.
    learned = extended(extended(whole, 128, "linear"), 256, "none", window=8)
    assert learned.config.model.rope_scaling_local


@pytest.mark.parametrize(("kind", "method"), [("learned", "interpolate"), ("rotary", "yarn")])
def test_a_run_goes_on(short, kind: str, method: str, tmp_path: Path, capsys) -> None:
    write_run(short[kind], tmp_path / "run")
    words = [str(tmp_path / "run"), str(tmp_path / "long"), "--max-length", "200", "--method", method]
    assert main(["extend", *words]) == 0
    assert "for 200 tokens in" in capsys.readouterr().out
    model = jaxencoder.load(tmp_path / "long")
    expected = extended(short[kind], 200, method)
    assert model.config.model == expected.config.model and model.max_length == 200
    np.testing.assert_allclose(model.embed([LONG]), expected.embed([LONG]), atol=1e-6)
    start = open_initial_model(str(tmp_path / "long"))
    recipe = RunConfig(init_from=str(tmp_path / "long"))  # the rest comes from what it starts from
    config = dataclasses.replace(with_architecture(recipe, start.model), data=model.config.data)
    assert dataclasses.replace(config.model, dropout=0.1, attention_dropout=0.1) == model.config.model
    fresh = jax.tree.map(np.zeros_like, model.params)
    assert_trees_close(initial_params(str(tmp_path / "long"), fresh, config.objective), model.params, 0)
    assert main(["extend", *words]) == 2
    assert "exists already; name a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("family", "method", "options", "kind"),
    [
        ("bert", "interpolate", {}, "bert"),
        ("eurobert", "yarn", {}, "eurobert"),
        ("deberta-v2", "interpolate", {}, "deberta-v2"),
        ("roberta", "tile", {"window": 8, "global_tokens": True}, "longformer"),
        ("eurobert", "dynamic", {"factor": 5.0}, None),  # of which config.json says another length
    ],
)
def test_a_published_model_stays_one_where_it_can(
    family: str, method: str, options: dict, kind: str | None, tokenizer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    published(family, "ForMaskedLM", tokenizer, tmp_path / "short")
    form = extend(tmp_path / "short", tmp_path / "long", 200, method, **options)
    model = jaxencoder.load(tmp_path / "long", dtype="float32")
    assert form == ("transformers" if kind else "run") and model.max_length == 200
    before = extended(jaxencoder.load(tmp_path / "short", dtype="float32"), 200, method, **options)
    assert model.config.model == before.config.model
    np.testing.assert_allclose(model.embed([LONG]), before.embed([LONG]), atol=1e-6)
    if kind:
        assert model.published.family.model_type == kind
        theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "long", attn_implementation="eager")
        encodings = model.tokenizer.encode_batch([LONG], max_length=195)
        expected = torch_outputs(theirs.eval(), encodings, "ForMaskedLM")[0]["hidden"]
        hidden = model(encodings[0].ids[None])["hidden"][0]
        np.testing.assert_allclose(hidden, expected[: len(hidden)], atol=1e-4)


def test_berts_padding_and_heads_are_not_longformers(short, tmp_path: Path) -> None:
    short["learned"].save(tmp_path / "bert")
    options = {"window": 8, "global_tokens": True}
    assert extend(tmp_path / "bert", tmp_path / "long", 200, "tile", **options) == "run"
    expected = extended(short["learned"], 200, "tile", **options).embed([LONG])
    np.testing.assert_allclose(jaxencoder.load(tmp_path / "long").embed([LONG]), expected, atol=1e-6)
