"""Cross-encoders of sentence-transformers in every layout: the scores of theirs here, and of ours there."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.convert import convert
from jaxencoder.checkpoints.sentence_transformers import read_folder
from jaxencoder.model.cross_encoder import CrossEncoderConfig

from .peers import SHORT, save_peer

PEER = pytest.importorskip("sentence_transformers")
CROSS_ENCODER, SENTENCE_TRANSFORMER = PEER.CrossEncoder, PEER.SentenceTransformer
QUERY = "the man plays"
OLDER = "sbert_ce_default_activation_function"
PATHS = {
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.Tanh",
}


def classifier(folder: Path, family: str = "bert", labels: int = 1, **settings) -> Path:
    folder.mkdir()
    save_peer(family, folder, "AutoModelForSequenceClassification", num_labels=labels, **settings)
    segments = ["token_type_ids"] * (family == "bert")
    change(folder / "tokenizer_config.json", model_input_names=["input_ids", *segments, "attention_mask"])
    return folder


def change(file: Path, **settings) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def peer_scores(folder: Path, **options) -> np.ndarray:
    return CROSS_ENCODER(str(folder), device="cpu").predict([(QUERY, text) for text in SHORT], **options)


def scores(model, texts=SHORT, **options) -> list[float]:
    """In the order of the texts."""
    ranked = model.rerank(QUERY, texts, **options)
    assert [x.score for x in ranked] == sorted((x.score for x in ranked), reverse=True)
    return [x.score for x in sorted(ranked)]


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
def test_a_classifier_of_one_label(family: str, tmp_path: Path) -> None:
    folder = classifier(tmp_path / "model", family)
    np.testing.assert_allclose(scores(jaxencoder.load(folder)), peer_scores(folder), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "activation"),
    [
        ({"sentence_transformers": {"activation_fn": PATHS["identity"], "version": "4.0.0"}}, "identity"),
        ({"sentence_transformers": {"activation_fn": PATHS["tanh"]}}, "tanh"),
        (
            {"sentence_transformers": {"activation_fn": None}, "sbert_ce_default_activation_function": PATHS["tanh"]},
            None,
        ),
        ({"sentence_transformers": {"version": "4.0.0"}}, None),
        ({OLDER: PATHS["identity"]}, "identity"),
        ({OLDER: None}, None),
    ],
)
def test_the_activation_in_config_json(settings, activation: str | None, tmp_path: Path) -> None:
    folder = classifier(tmp_path / "model", "xlm-roberta", problem_type="multi_label_classification")
    change(folder / "config.json", **settings)
    model, expected = jaxencoder.load(folder), peer_scores(folder)
    assert model.cross_encoder == (activation and CrossEncoderConfig(activation))
    np.testing.assert_allclose(scores(model), expected, atol=1e-5)
    if activation:
        values = [x.prediction for x in model.classify([QUERY] * len(SHORT), SHORT)]
        np.testing.assert_allclose(values, expected, atol=1e-5)
        model.save(tmp_path / "again")
        np.testing.assert_allclose(peer_scores(tmp_path / "again"), expected, atol=1e-5)


@pytest.mark.parametrize("activation", PATHS)
def test_folders_with_modules(activation: str, tmp_path: Path) -> None:
    import torch

    path = classifier(tmp_path / "model", "xlm-roberta")
    functions = {"sigmoid": torch.nn.Sigmoid, "identity": torch.nn.Identity, "tanh": torch.nn.Tanh}
    prompts = {"ask": "query: ", "none": ""}
    theirs = CROSS_ENCODER(str(path), device="cpu", max_length=9, activation_fn=functions[activation]())
    theirs.prompts, theirs.default_prompt_name = prompts, "ask"
    theirs.save_pretrained(str(tmp_path / "theirs"))
    model, texts = jaxencoder.load(tmp_path / "theirs"), [*SHORT, SHORT[0] * 9]
    assert model.cross_encoder == CrossEncoderConfig(activation, tuple(prompts.items()), "ask")
    model.save(tmp_path / "ours", format="sentence-transformers")
    again = CROSS_ENCODER(str(tmp_path / "ours"), device="cpu")
    assert (again.prompts, again.default_prompt_name, again.max_seq_length) == (prompts, "ask", 9)
    reopened = jaxencoder.load(tmp_path / "ours")
    assert reopened.cross_encoder == model.cross_encoder and reopened.max_length == 9
    for ours, options in (({}, {}), ({"prompt": "none"}, {"prompt_name": "none"}), ({"prompt": "a b: "},) * 2):
        expected = theirs.predict([(QUERY, text) for text in texts], **options)
        np.testing.assert_allclose(scores(model, texts, **ours), expected, atol=1e-5)
        np.testing.assert_allclose(again.predict([(QUERY, text) for text in texts], **options), expected, atol=1e-5)


def test_its_encoder_alone(tmp_path: Path) -> None:
    """With a pooling, a cross-encoder is converted to a model that embeds."""
    folder = classifier(tmp_path / "model")
    change(folder / "config.json", **{OLDER: PATHS["tanh"]})
    convert(folder, tmp_path / "ours", "sentence-transformers", pooling="cls")
    theirs = SENTENCE_TRANSFORMER(str(tmp_path / "ours"), device="cpu")
    expected = jaxencoder.load(folder).embed(SHORT, pooling="cls")
    np.testing.assert_allclose(theirs.encode(SHORT), expected, atol=1e-5)


def test_several_labels(tmp_path: Path) -> None:
    folder, pairs = classifier(tmp_path / "model", labels=3), ([QUERY] * len(SHORT), SHORT)
    CROSS_ENCODER(str(folder), device="cpu").save_pretrained(str(tmp_path / "theirs"))
    model = jaxencoder.load(tmp_path / "theirs")
    expected = peer_scores(tmp_path / "theirs", apply_softmax=True)
    found = [list(x.probabilities.values()) for x in model.classify(*pairs)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="3 labels, which give no single score; use a model with one label"):
        model.rerank(QUERY, SHORT)
    change(tmp_path / "theirs" / "config_sentence_transformers.json", activation_fn=PATHS["sigmoid"])
    with pytest.raises(ValueError, match="activation_fn '.*Sigmoid' for 3 labels; .* set it to '.*Identity'"):
        jaxencoder.load(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config_sentence_transformers.json", {"activation_fn": "mine.Swish"}, "activation_fn 'mine.Swish'; supported"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "dot"}, "similarity_fn_name 'dot', a setting"),
        ("config.json", {"sentence_transformers": []}, r"sentence_transformers \[\]; a JSON object"),
        ("config.json", {OLDER: "mine.F"}, "_activation_function 'mine.F'; supported"),
        ("config.json", {"sentence_transformers": {"activation_fn": 1}}, "sentence_transformers.activation_fn 1; supp"),
        ("sentence_bert_config.json", {"transformer_task": "text-generation"}, "only 'sequence-classification' is"),
        ("sentence_bert_config.json", {"max_seq": 9}, "max_seq 9, a setting that is not supported"),
    ],
)
def test_what_is_not_supported(file: str, settings, message: str, tmp_path: Path) -> None:
    CROSS_ENCODER(str(classifier(tmp_path / "model")), device="cpu").save_pretrained(str(tmp_path / "theirs"))
    change(tmp_path / "theirs" / "config_sentence_transformers.json", activation_fn=None)
    change(tmp_path / "theirs" / file, **settings)
    with pytest.raises(ValueError, match=message):
        jaxencoder.load(tmp_path / "theirs")


def test_a_generative_reranker_is_named(tmp_path: Path) -> None:
    kinds = ("base.modules.transformer.Transformer", "cross_encoder.modules.logit_score.LogitScore")
    modules = [{"path": f"{i}", "type": f"sentence_transformers.{kind}"} for i, kind in enumerate(kinds)]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    with pytest.raises(ValueError, match=r"module 'LogitScore' \(.*\); only a Transformer is supported"):
        read_folder(tmp_path)
