"""What a run was fine-tuned for, in transformers: a class of its own with its labels, the same logits, or left out."""

import dataclasses
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.api import Model
from jaxencoder.config import DataConfig, RunConfig
from jaxencoder.model.config import ComputeConfig
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from jaxencoder.tasks.token_classification.objective import TokenClassification
from tests.families import peers

CLASSES = Classification(labels=3, class_names=("bad", "good", "so so"))
VALUES = Classification(labels=1)
TAGS = TokenClassification(tags=("O", "B-x", "I-x", "B-y"))
OBJECTIVES = {
    "ForSequenceClassification": CLASSES,
    "ForTokenClassification": TAGS,
    "ForQuestionAnswering": QuestionAnswering(),
}


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """(family, objective) -> a run that has started from transformers' encoder of that family."""
    folders = {}

    def make(family: str, objective, **settings) -> Model:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            peers.saved(peers.torch_model(family, peers.MODELS[family][0], "Model"), folders[family])
        start = jaxencoder.load(folders[family])
        data = DataConfig(row_length=24, label_field="label")
        if not isinstance(objective, Classification):
            pairs = {QuestionAnswering: "context", MultipleChoice: "choices"}
            data = dataclasses.replace(data, pair_field=pairs.get(type(objective), ""))
        model = dataclasses.replace(start.config.model, dropout=0.0, **settings)
        config = RunConfig(init_from=str(folders[family]), model=model, objective=objective, data=data)
        compute = ComputeConfig(dtype="float32")
        shapes = jax.eval_shape(objective.build(model, compute, None).init, jax.random.key(0))
        random = np.random.default_rng(0)
        params = jax.tree.map(lambda x: random.normal(0, 0.3, x.shape).astype(np.float32), shapes)
        return Model(config, params, None, compute=compute)

    return make


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize(("family", "name"), [("bert", "Bert"), ("roberta", "Roberta")])
def test_transformers_computes_the_same(make_run, family: str, name: str, kind: str, tmp_path: Path, caplog) -> None:
    transformers = pytest.importorskip("transformers")
    run = make_run(family, OBJECTIVES[kind])
    run.save(tmp_path)
    model = getattr(transformers, f"AutoModel{kind}").from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert type(model).__name__ == name + kind and not caplog.records
    batch = peers.accepted(model, peers.padded_batch(peers.MODELS[family][0]), kind)
    expected = peers.theirs(model, batch, kind)
    peers.assert_outputs(peers.of_a_run(run, batch), expected, batch["attention_mask"], 1e-5)
    again = jaxencoder.load(tmp_path)
    peers.assert_outputs(peers.ours(again, batch), expected, batch["attention_mask"], 1e-5)
    assert again.labels == run.labels
    if run.labels:
        assert [model.config.id2label[i] for i in range(model.num_labels)] == list(run.labels)
        assert model.config.label2id == {label: i for i, label in enumerate(run.labels)}
    kinds = {"ForSequenceClassification": "single_label_classification"}
    assert model.config.problem_type == kinds.get(kind)


def test_values(make_run, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = make_run("bert", VALUES)
    run.save(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager")
    assert (model.num_labels, model.config.problem_type) == (1, "regression")
    batch = peers.padded_batch(peers.MODELS["bert"][0])
    expected = peers.theirs(model.eval(), batch, "ForSequenceClassification")
    peers.assert_outputs(peers.of_a_run(run, batch), expected, batch["attention_mask"], 1e-5)


@pytest.mark.parametrize("family", ["deberta", "longformer", "albert"])
def test_other_classifiers_that_are_the_same(make_run, family: str, tmp_path: Path) -> None:
    """DeBERTa's pooler can be told another activation than its own, and Longformer's first token is global in a run."""
    transformers = pytest.importorskip("transformers")
    run = make_run(family, CLASSES)
    run.save(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager")
    batch = peers.accepted(model, peers.padded_batch(peers.MODELS[family][0]), "ForSequenceClassification")
    expected = peers.theirs(model.eval(), batch, "ForSequenceClassification")
    np.testing.assert_allclose(peers.of_a_run(run, batch)["logits"], expected["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("family", "objective", "head", "why"),
    [
        ("modernbert", TAGS, "token_head", "activation gelu instead of None, transform_bias False"),
        ("modernbert", CLASSES, "classifier", "activation gelu instead of tanh, transform_bias False"),
        ("bert", dataclasses.replace(CLASSES, pooling="mean"), "classifier", "inputs cls instead of mean"),
        ("roberta", dataclasses.replace(CLASSES, pooling="learned"), "classifier", "inputs cls instead of learned"),
        ("eurobert", QuestionAnswering(), "span_head", "no such head"),
        ("longformer", QuestionAnswering(), "span_head", "global_tokens question instead of none"),
    ],
)
def test_another_head_is_left_out(make_run, family, objective, head, why, tmp_path: Path, caplog) -> None:
    transformers = pytest.importorskip("transformers")
    run = make_run(family, objective)
    with caplog.at_level(logging.WARNING):
        run.save(tmp_path)
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("jaxencoder")]
    assert "left out, as no class of " in message and f"computes it: {head} ({why}" in message
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [run_class(family)] and "problem_type" not in config
    model = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    batch = peers.accepted(model, peers.padded_batch(peers.MODELS[family][0]), "Model")
    there = batch["attention_mask"].astype(bool)
    expected = peers.theirs(model, batch, "Model")["hidden"]
    np.testing.assert_allclose(peers.ours(run, batch)["hidden"][there], expected[there], atol=1e-5)
    assert not jaxencoder.load(tmp_path).heads.keys() - {"pooler"}


def run_class(family: str) -> str:
    return {"modernbert": "ModernBert", "eurobert": "EuroBert"}.get(family, family.title()) + "Model"


def test_the_family_of_the_start_if_it_is_there(make_run, tmp_path: Path) -> None:
    """RoBERTa's config.json can say XLM-RoBERTa's architecture too, and is what is left when the start is gone."""
    run = make_run("xlm-roberta", CLASSES)
    config = dataclasses.replace(run.config, init_from="gone")
    for model, name in ((run, "XLMRoberta"), (dataclasses.replace(run, config=config), "Roberta")):
        model.save(tmp_path / name)
        found = json.loads((tmp_path / name / "config.json").read_text())
        assert found["architectures"] == [f"{name}ForSequenceClassification"]


def test_choices_are_left_out(make_run, tmp_path: Path, caplog) -> None:
    make_run("bert", MultipleChoice()).save(tmp_path)
    assert len(caplog.records) == 1 and "multiple choice heads cannot be written yet" in caplog.text
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]
