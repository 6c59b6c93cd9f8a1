"""What we write, as people load it: AutoTokenizer, AutoModel, pipeline, SentenceTransformer and CrossEncoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxencoder
from jaxencoder.api import Model
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer
from tests.families import peers
from tests.inference.conftest import SENTENCES
from tests.inference.published import published

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LONG = "the cat sat on a mat " * 40
TEXTS = ["old men walked", LONG, "naïve 🙂 {mask}, \u00a0 rome", "paris {pad} bread", "seven"]
PAIRS = ["through rome", "bread", "looking for bread", "a cat {mask}", LONG]
# Decoders have a classifier alone, and T5 no head; the ids of ESM's vocabulary are fixed. See tests/families.
FAMILIES = [x for x in peers.MODELS if x not in {*peers.ENCODERS, *peers.DECODERS, "esm"}]
CASES = [(family, kind) for family in FAMILIES for kind in peers.kinds(family) or ["ForSequenceClassification"]]


@pytest.fixture(scope="module")
def exported(tokenizer: Tokenizer, tmp_path_factory):
    """(family, class) -> a published model, and the folder to which it was saved."""
    models = {}

    def export(family: str, kind: str) -> tuple[Model, Path]:
        if (family, kind) not in models:
            home = tmp_path_factory.mktemp(f"{family}_{kind}")
            published(family, kind, tokenizer, home / "published")
            model = jaxencoder.load(home / "published", dtype="float32")
            model.save(home / "saved")
            models[family, kind] = model, home / "saved"
        return models[family, kind]

    return export


def with_special_tokens(texts: list[str], model: Model) -> list[str]:
    assert model.tokenizer is not None
    mask, pad = (model.tokenizer.token(index) for index in (model.tokenizer.mask_id, model.tokenizer.pad_id))
    return [text.format(mask=mask, pad=pad) for text in texts]


def auto_model(kind: str, folder: Path) -> Any:
    auto = getattr(transformers, f"Auto{'Model' if kind == 'Model' else 'ModelFor' + kind.removeprefix('For')}")
    return auto.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_pairs_through_the_auto_classes(exported, family: str, kind: str) -> None:
    """Token types, lengths, positions and special tokens are those that transformers takes from the folder."""
    model, folder = exported(family, kind)
    texts, pairs = with_special_tokens(TEXTS, model), with_special_tokens(PAIRS, model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, pairs, truncation=True, padding=True, return_tensors="np")
    assert inputs["input_ids"].shape[1] == model.max_length
    batch = dict(inputs)
    if kind == "ForMultipleChoice":
        batch = {name: x[None] for name, x in batch.items()}
    expected = peers.theirs(auto_model(kind, folder), batch, kind)
    encoded = model.tokenizer.encode_batch(texts, pairs, max_length=model.max_length)
    ours = {name: np.zeros_like(inputs["input_ids"]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for i, (ids, types, *_) in enumerate(encoded):
        for name, values in zip(ours, (ids, np.ones_like(ids), types), strict=True):
            ours[name][i, : len(ids)] = values
    if model.config.model.token_types < 2:
        ours.pop("token_type_ids")
    if kind == "ForMultipleChoice":
        ours = {name: x[None] for name, x in ours.items()}
    peers.assert_outputs(peers.ours(model, ours), expected, ours["attention_mask"], 1e-4)


@pytest.mark.parametrize("family", [*FAMILIES, *sorted(peers.DECODERS)])
def test_classifier_in_a_pipeline(exported, family: str) -> None:
    model, folder = exported(family, "ForSequenceClassification")
    classifier = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    texts, pairs = with_special_tokens(TEXTS, model), with_special_tokens(PAIRS, model)
    rows = [{"text": a, "text_pair": b} for a, b in zip(texts, pairs, strict=True)]
    for inputs, arguments in ((texts, (texts,)), (rows, (texts, pairs))):
        for theirs, ours in zip(classifier(inputs, truncation=True), model.classify(*arguments), strict=True):
            shares = {answer["label"]: answer["score"] for answer in theirs}
            assert shares == pytest.approx(ours.probabilities, abs=1e-5)


@pytest.mark.parametrize("family", sorted({*FAMILIES} - peers.RELATED))
def test_masks_in_a_pipeline(exported, family: str) -> None:
    model, folder = exported(family, "ForMaskedLM")
    text = f"old {model.tokenizer.mask_token} walked 🙂"
    fill = transformers.pipeline("fill-mask", model=str(folder), top_k=model.tokenizer.vocab_size)
    shares = {answer["token_str"].strip(): answer["score"] for answer in fill(text)}
    ((best, *_),) = model.fill_mask(text)
    assert shares[best.token] == pytest.approx(best.probability, abs=1e-5)


@pytest.mark.parametrize("family", [family for family in peers.MODELS if family != "esm"])
def test_vectors_in_sentence_transformers(exported, family: str, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model, _ = exported(family, "ForSequenceClassification")
    model.save(tmp_path, "sentence-transformers")
    texts = with_special_tokens(TEXTS, model)
    theirs = library.SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs.max_seq_length == model.max_length
    np.testing.assert_allclose(theirs.encode(texts), model.embed(texts), atol=1e-4)
    np.testing.assert_allclose(jaxencoder.load(tmp_path, dtype="float32").embed(texts), model.embed(texts), atol=1e-5)


def test_pairs_of_a_run(make_model, tmp_path: Path) -> None:
    """A run is truncated at its rows, which are shorter than the model's positions."""
    library = pytest.importorskip("sentence_transformers")
    run = make_model(Classification(labels=2, class_names=("bad", "good")), row_length=24)
    run.save(tmp_path)
    texts, pairs = with_special_tokens(TEXTS, run), with_special_tokens(PAIRS, run)
    classifier = transformers.pipeline("text-classification", model=str(tmp_path), top_k=None)
    rows = [{"text": a, "text_pair": b} for a, b in zip(texts, pairs, strict=True)]
    ours = run.classify(texts, pairs)
    for theirs, prediction in zip(classifier(rows, truncation=True), ours, strict=True):
        shares = {answer["label"]: answer["score"] for answer in theirs}
        assert shares == pytest.approx(prediction.probabilities, abs=1e-5)
    scores = library.CrossEncoder(str(tmp_path), device="cpu").predict(
        list(zip(texts, pairs, strict=True)), apply_softmax=True
    )
    np.testing.assert_allclose(scores[:, 1], [prediction.probabilities["good"] for prediction in ours], atol=1e-5)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).model_max_length == 24


def test_a_run_with_a_sentencepiece_model(make_model, tmp_path: Path, caplog) -> None:
    """Its tokenizer.json gives the same ids for usual texts, and a warning names those for which it does not."""
    settings = TokenizerConfig(kind="sentencepiece-unigram", vocab_size=120)
    run = make_model(Classification(labels=2), tokenizer=train_tokenizer(SENTENCES, settings))
    run.save(tmp_path / "saved")
    assert "tokenizer.json alone, which imitates SentencePiece" in caplog.text
    classifier = transformers.pipeline("text-classification", model=str(tmp_path / "saved"), top_k=None)
    texts, pairs = ["old men walked", "naïve [MASK] bread"], ["through rome", "a cat"]
    rows = [{"text": a, "text_pair": b} for a, b in zip(texts, pairs, strict=True)]
    for theirs, prediction in zip(classifier(rows), run.classify(texts, pairs), strict=True):
        shares = {answer["label"].removeprefix("LABEL_"): answer["score"] for answer in theirs}
        assert shares == pytest.approx(prediction.probabilities, abs=1e-5)
    again, odd = jaxencoder.load(tmp_path / "saved"), ["ｶﾞ ﬁ\u0301 \u1100\u1161\u200b"]
    np.testing.assert_allclose(again.embed(texts + odd), run.embed(texts + odd), atol=1e-6)


def test_a_sentencepiece_model_that_no_tokenizer_json_holds(make_model, tmp_path: Path) -> None:
    settings = TokenizerConfig(kind="sentencepiece-bpe", vocab_size=120)
    run = make_model(tokenizer=train_tokenizer(SENTENCES, settings))
    for form in ("transformers", "sentence-transformers"):
        with pytest.raises(ValueError, match="is a sentencepiece-bpe, which no tokenizer.json can hold"):
            run.save(tmp_path / form, form)
        assert not (tmp_path / form).exists()
