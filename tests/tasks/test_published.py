"""Published models used directly for tasks, as transformers computes them, and runs that are as good in its format."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import scipy.special

from jaxencoder.api import load
from jaxencoder.cli.main import main
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.inference.predict import predict
from jaxencoder.tasks.question_answering.predict import answer_questions
from jaxencoder.tasks.token_classification.predict import tag_words
from jaxencoder.text.sources import read
from tests.inference.published import published, torch_outputs

from .conftest import write_data, write_records

NAMES = ["classifier", "multi_label_classifier", "token_classifier", "question_answering_model", "regressor"]


def records_of(folder: Path) -> list[dict]:
    """What a run has held out, texts short enough for one window: of several, a run has an overlap of its own."""
    config = load(folder).config
    records = [record for _, record in config.schema.validation_records(config.data)]
    return [x | {"context": x["context"][:60]} for x in records] if "context" in records[0] else records


@pytest.fixture(scope="module")
def converted(request, tmp_path_factory):
    """Runs, and each as transformers loads it."""
    home = tmp_path_factory.mktemp("transformers")
    runs = [request.getfixturevalue(name) for name in NAMES]
    for run in runs:
        assert main(["convert", str(run.folder), str(home / run.folder.name), "--to", "transformers"]) == 0
    return {run.folder.name: (run.folder, home / run.folder.name) for run in runs}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_predictions_as_the_run(converted, name: str) -> None:
    run, hf = converted[name]
    data = load(run).config.data
    fields = {"text_field": data.text_field}
    fields |= {"pair_field": data.pair_field} if name == "question_answering_model" else {}
    records = [{key: x for key, x in record.items() if key != "tags"} for record in records_of(run)[:20]]
    ours, theirs = (list(predict(folder, records, **fields)) for folder in (run, hf))
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert b[key] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)
    assert load(hf).labels == load(run).labels or name == "regressor"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_metrics_as_the_run(converted, name: str, tmp_path: Path) -> None:
    run, hf = converted[name]
    before = sorted(hf.iterdir())
    output, data = tmp_path / "all.json", write_records(tmp_path / "data.jsonl", records_of(run))
    found = evaluate(hf, data=data, output=output)  # the usual names of the fields
    expected = evaluate(run, data=data)
    expected.pop("report", None)
    for metric, value in expected.items():
        if isinstance(value, float):
            assert found[metric] == pytest.approx(value, abs=1e-5), metric
    assert found.keys() == expected.keys() and sorted(hf.iterdir()) == before
    written = json.loads(output.read_text())
    assert written["model"] == str(hf) and written[data] == found
    with pytest.raises(ValueError, match=r"all\.json holds results of .*; give another --output"):
        evaluate(run, output=output)


def test_labels_under_other_names(converted, tmp_path: Path, capsys) -> None:
    """Fields of other names, numbers of classes, and a report where it is wanted."""
    _, hf = converted["classifier"]
    source = write_data(tmp_path / "a.jsonl", 20, lambda positive, i: int(positive), seed=3)
    renamed = [{"body": record["text"], "class": record["label"]} for record in read(source)]
    data = write_records(tmp_path / "b.jsonl", renamed)
    words = ["--data", data, "--text-field", "body", "--label-field", "class"]
    assert main(["evaluate", str(hf), *words, "--report", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert f"report                   {tmp_path / 'report'}" in said and (tmp_path / "report" / "report.md").is_file()
    accuracy = evaluate(hf, data=source)["accuracy"]
    assert f"accuracy                 {accuracy:.4f}" in said
    assert evaluate(hf, data=data)["accuracy"] == accuracy  # usual names
    write_records(tmp_path / "b.jsonl", [{"a": x["body"], "b": x["class"]} for x in renamed])
    assert main(["evaluate", str(hf), "--data", data, "--text-field", "a"]) == 2
    assert "no field 'label' among a, b" in capsys.readouterr().err
    assert main(["predict", str(hf), "--input", source, "--output", str(tmp_path / "c.jsonl")]) == 0
    assert next(read(str(tmp_path / "c.jsonl")))["prediction"] in ("no", "yes")


def test_what_has_no_head(masked, tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        load(masked.folder).save(tmp_path / "transformers")
    assert not caplog.records
    data = write_data(tmp_path / "a.jsonl", 5, lambda positive, i: i % 2, seed=3)
    with pytest.raises(ValueError, match="has no head of a task; try evaluate similarity"):
        evaluate(tmp_path / "transformers", data=data)
    with pytest.raises(ValueError, match="has no head for it and predicts nothing of a record"):
        list(predict(tmp_path / "transformers", data))


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_token_classifier_as_transformers_has_it(token_classifier, family: str, tmp_path: Path) -> None:
    records, tokenizer = records_of(token_classifier.folder)[:8], load(token_classifier.folder).tokenizer
    theirs = published(family, "ForTokenClassification", tokenizer, tmp_path)
    texts = [record["tokens"] for record in records]
    encodings = tokenizer.encode_batch([" ".join(words) for words in texts])
    found = torch_outputs(theirs, encodings, "ForTokenClassification")
    for words, tagged, out, encoding in zip(texts, tag_words(load(tmp_path), texts), found, encodings, strict=True):
        assert len(encoding.ids) == len(words) + 2  # each of these words is one token
        shares = scipy.special.softmax(out["logits"][1 : len(words) + 1], axis=-1)
        assert tagged.tags == [f"LABEL_{i}" for i in shares.argmax(-1)]
        np.testing.assert_allclose(tagged.probabilities, shares.max(-1), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "longformer"])
def test_a_question_answering_model_as_transformers_has_it(question_answering_model, family, tmp_path: Path) -> None:
    """The best span of each text; Longformer's question is global in packed rows too."""
    theirs = published(family, "ForQuestionAnswering", load(question_answering_model.folder).tokenizer, tmp_path)
    model, records = load(tmp_path), records_of(question_answering_model.folder)[:6]
    questions, texts = ["which one", "of", "in"] * 2, [record["context"] for record in records]
    encodings = model.tokenizer.encode_batch(questions, texts, offsets=True)
    found = torch_outputs(theirs, encodings, "ForQuestionAnswering")
    answered = answer_questions(model, questions, texts)
    for answers, out, encoding, text in zip(answered, found, encodings, texts, strict=True):
        inside = np.flatnonzero(encoding.sequence == 1)
        sums = out["start_logits"][inside][:, None] + out["end_logits"][inside]
        sums[np.tril_indices(len(inside), -1)] = -np.inf
        sums[np.triu_indices(len(inside), 30)] = -np.inf
        first, last = np.unravel_index(sums.argmax(), sums.shape)
        assert answers[0].score == pytest.approx(sums.max(), abs=1e-4)
        start, end = encoding.offsets[inside[first], 0], encoding.offsets[inside[last], 1]
        assert answers[0].text == text[start:end]
