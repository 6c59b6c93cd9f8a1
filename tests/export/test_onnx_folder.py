"""Models of each kind as ONNX: files, values on texts, precisions, and files that differ."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
import onnxruntime

from jaxencoder.export import onnx_folder
from jaxencoder.export.onnx_folder import export_onnx
from jaxencoder.export.program import program
from jaxencoder.inference.rerank import score_pairs
from jaxencoder.model.cross_encoder import CrossEncoderConfig
from jaxencoder.model.sentence import Dense, SentenceConfig
from jaxencoder.model.sparse import SparseConfig
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.token_classification.objective import TokenClassification
from tests.inference.conftest import SENTENCES

TEXTS = [SENTENCES[0], *SENTENCES[60:64]]


def run(file: Path, model: Any, texts: list[str], pairs: list[str] | None = None) -> dict[str, np.ndarray]:
    """The outputs of a file for padded texts."""
    encodings = model.tokenizer.encode_batch(texts, pairs)
    longest = max(len(x.ids) for x in encodings)
    columns = {
        "input_ids": [np.pad(x.ids, (0, longest - len(x.ids))) for x in encodings],
        "attention_mask": [np.arange(longest) < len(x.ids) for x in encodings],
        "token_type_ids": [np.pad(x.type_ids, (0, longest - len(x.ids))) for x in encodings],
    }
    session = onnxruntime.InferenceSession(file)
    names = [x.name for x in session.get_outputs()]
    inputs = {x.name: np.array(columns[x.name], np.int64) for x in session.get_inputs()}
    return dict(zip(names, session.run(names, inputs), strict=True)) | {"mask": inputs["attention_mask"]}


def test_an_embedding_model(make_model, tmp_path: Path) -> None:
    settings = SentenceConfig(("cls", "mean"), modules=(Dense(64, 24),), normalize=True)
    random = np.random.default_rng(0)
    modules = {"0": {"kernel": random.normal(0, 0.3, (64, 24)), "bias": random.normal(0, 1, 24)}}
    model = make_model()
    params = model.params | {"sentence": {n: {k: np.float32(x) for k, x in m.items()} for n, m in modules.items()}}
    model = dataclasses.replace(model, sentence=settings, params=params)
    exported = export_onnx(model, tmp_path / "new")
    assert exported.file == tmp_path / "new" / "onnx" / "model.onnx" and exported.task == "feature-extraction"
    assert max(exported.differences.values()) < 1e-5
    out = run(exported.file, model, TEXTS)
    np.testing.assert_allclose(out["sentence_embedding"], model.embed(TEXTS), atol=1e-5)
    for text, vectors, mask in zip(TEXTS, out["last_hidden_state"], out["mask"], strict=True):
        np.testing.assert_allclose(vectors[mask == 1], model.tokens([text])[0][0], atol=1e-4)


def test_a_prompt_that_is_not_pooled_leaves_the_pooling_to_the_reader(make_model, tmp_path: Path, caplog) -> None:
    settings = SentenceConfig(prompts=(("query", "the cat "),), include_prompt=False)
    model = make_model()
    exported = export_onnx(dataclasses.replace(model, sentence=settings), tmp_path / "new")
    assert exported.differences.keys() == {"last_hidden_state"} and "does not pool" in caplog.text
    without_prompts = dataclasses.replace(settings, prompts=(("query", ""),))
    exported = export_onnx(dataclasses.replace(model, sentence=without_prompts), tmp_path / "other")
    assert "sentence_embedding" in exported.differences


def test_a_classifier(make_model, tmp_path: Path) -> None:
    model = make_model(Classification(labels=3, class_names=("bad", "fair", "good")))
    exported = export_onnx(model, tmp_path / "new")
    assert exported.task == "text-classification"
    scores = run(exported.file, model, TEXTS)["logits"]
    expected = [[x.probabilities[name] for name in ("bad", "fair", "good")] for x in model.classify(TEXTS)]
    odds = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(odds / odds.sum(-1, keepdims=True), expected, atol=1e-5)


def test_a_token_classifier(make_model, tmp_path: Path) -> None:
    model = make_model(TokenClassification(tags=("O", "B-place", "I-place")))
    exported = export_onnx(model, tmp_path / "new")
    assert exported.task == "token-classification"
    assert run(exported.file, model, TEXTS)["logits"].shape[-1] == 3


def test_a_reranker(make_model, tmp_path: Path) -> None:
    pairs = make_model(Classification(labels=1))
    data = dataclasses.replace(pairs.config.data, pair_field="pair")
    config = dataclasses.replace(pairs.config, data=data)
    model = dataclasses.replace(pairs, config=config, cross_encoder=CrossEncoderConfig("identity"))
    exported = export_onnx(model, tmp_path / "new")
    assert exported.task == "text-classification" and (tmp_path / "new" / "modules.json").exists()
    queries = [TEXTS[0]] * 4
    scores = run(exported.file, model, queries, TEXTS[1:])["logits"][:, 0]
    expected = score_pairs(model, queries, TEXTS[1:])
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_a_sparse_model_is_its_masked_language_model(make_model, tmp_path: Path) -> None:
    model = dataclasses.replace(make_model(), sentence=SentenceConfig(similarity="dot", sparse=SparseConfig()))
    exported = export_onnx(model, tmp_path / "new")
    assert exported.task == "fill-mask"
    out = run(exported.file, model, TEXTS)
    weights = np.where(out["mask"][..., None] == 1, np.log1p(np.maximum(out["logits"], 0)), 0).max(1)
    np.testing.assert_allclose(weights, model.embed(TEXTS).toarray(), atol=1e-4)


def test_precisions(make_model, tmp_path: Path) -> None:
    model = dataclasses.replace(make_model(hidden_size=64, mlp_size=256), sentence=SentenceConfig(normalize=True))
    expected = model.embed(TEXTS)
    sizes = {}
    for precision in ("float32", "float16", "int8"):
        file = export_onnx(model, tmp_path / precision, precision).file
        sizes[precision] = file.stat().st_size
        cosines = (run(file, model, TEXTS)["sentence_embedding"] * expected).sum(-1)
        assert cosines.min() > {"float32": 1 - 1e-6, "float16": 1 - 1e-4, "int8": 0.97}[precision]
    assert sizes["int8"] < sizes["float16"] < sizes["float32"]
    weights = onnx.load(tmp_path / "int8" / "onnx" / "model.onnx").graph.initializer
    assert {64, 256} <= {x.dims[0] for x in weights if x.name.endswith("_scale") and x.dims}  # for each output
    with pytest.raises(ValueError, match="precision is 'int4'; give one of float32, float16, int8"):
        export_onnx(model, tmp_path / "int4", "int4")


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_large_models_have_their_weights_in_a_second_file(make_model, tmp_path: Path, monkeypatch, precision) -> None:
    monkeypatch.setattr(onnx_folder, "_LARGEST", 1000)
    model = make_model()
    file = export_onnx(model, tmp_path / "new", precision).file
    assert {x.name for x in file.parent.iterdir()} == {"model.onnx", "model.onnx_data"}
    assert run(file, model, TEXTS)["logits"].shape[-1] == model.config.model.vocab_size


def test_a_file_that_differs_is_refused(make_model, tmp_path: Path, monkeypatch) -> None:
    from jaxencoder.export import onnx_conversion

    def wrong(graph: Any, jaxpr: Any, x: Any) -> Any:
        return graph.add("Relu", x, shape=x.shape, dtype=x.dtype)

    monkeypatch.setitem(onnx_conversion._FUNCTIONS, "gelu", wrong)
    with pytest.raises(ValueError, match=r"onnxruntime computes logits with an error of \d.*; give float32"):
        export_onnx(make_model(), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_file_with_values_that_are_not_finite_is_refused(make_model, tmp_path: Path) -> None:
    model = dataclasses.replace(make_model(), sentence=SentenceConfig(normalize=True))
    up = model.params["encoder"]["layers"]["block_0"]["mlp"]["up"]
    up["kernel"] = up["kernel"] * 1e5  # more than float16 holds
    with pytest.raises(ValueError, match="onnxruntime computes last_hidden_state with an error of nan"):
        export_onnx(model, tmp_path / "new", "float16")
    export_onnx(model, tmp_path / "new")


def test_differences_are_relative_and_of_long_rows_too(make_model, tmp_path: Path, monkeypatch) -> None:
    lengths, random_rows = [], onnx_folder._random_rows

    def recorded(*arguments: Any) -> dict[str, np.ndarray]:
        lengths.append(arguments[-1])
        return random_rows(*arguments)

    monkeypatch.setattr(onnx_folder, "_random_rows", recorded)
    model = dataclasses.replace(make_model(), sentence=SentenceConfig(normalize=True))
    file = export_onnx(model, tmp_path / "new").file
    exported = program(model, gives_vectors=True)

    def larger(*arguments: Any) -> dict[str, Any]:
        return {name: x * 1.01 for name, x in exported.function(*arguments).items()}

    differences = onnx_folder.compare(file, dataclasses.replace(exported, function=larger))
    assert differences == pytest.approx(dict.fromkeys(differences, 0.01 / 1.01), rel=1e-3)
    assert max(lengths) == model.config.model.max_length


def test_without_the_extra(make_model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"export to ONNX needs onnxruntime; install jaxencoder\[export\]"):
        export_onnx(make_model(), tmp_path / "new")
