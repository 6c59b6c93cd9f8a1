"""Losses of classes as settings: wired to the functions, and their runs measured and used."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxencoder.config import DataConfig, Embeddings, SparseEmbeddings
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.inference.predict import predict
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.model.similarity import unit
from jaxencoder.objectives.objective import mean
from jaxencoder.tasks.embeddings import triplets
from jaxencoder.tasks.embeddings.pairs import pair_classification
from jaxencoder.tasks.task import TrainingLabels
from tests.model.examples import FLOAT32, SMALL, Vocabulary
from tests.objectives.comparisons import KEY
from tests.tasks.conftest import run_on_records
from tests.tasks.embeddings.test_objective import SCORES, batch_of, examples

LOSSES = ("batch_all_triplet", "batch_hard_triplet", "batch_semi_hard_triplet", "batch_hard_soft_margin_triplet")
COLORS = {"warm": ["red", "orange", "yellow"], "cold": ["blue", "green", "white"]}


@pytest.mark.parametrize("loss", LOSSES)
def test_texts_with_classes(loss: str) -> None:
    """All texts of all examples count, with the labels of their segments."""
    batch = batch_of()
    classes = np.random.default_rng(1).integers(0, 3, (4, 6)).astype(np.float32)
    batch["labels"] = np.where(batch["segment_ids"].max(1, keepdims=True) > np.arange(6), classes, np.nan)
    vectors = np.random.default_rng(0).standard_normal((4, 6, 16)).astype(np.float32)
    is_text = ~np.isnan(batch["labels"])
    texts, labels = vectors[is_text][:, None], classes[is_text].astype(int)
    settings = {} if "soft" in loss else {"margin": 0.3}
    function = jax.jit(partial(getattr(triplets, loss), distance="cosine", **settings))
    value, weight = function(texts, np.ones((len(texts), 1), bool), labels)
    metrics = jax.jit(Embeddings(loss=loss, **settings).metrics)(vectors, batch)
    assert mean(metrics) == pytest.approx(float(value / weight), rel=1e-5)
    cosines = unit(texts[:, 0]) @ unit(texts[:, 0]).T - 2 * np.eye(len(texts))
    assert mean(metrics, "accuracy") == pytest.approx((labels[cosines.argmax(1)] == labels).mean())


def test_softmax() -> None:
    """Loss and accuracy by the classifier, which is trained too."""
    batch, objective = batch_of(), Embeddings(loss="softmax", class_names=("a", "b"))
    batch["labels"] = np.where(np.isnan(batch["labels"]), np.nan, batch["labels"] > 1).astype(np.float32)
    shapes = jax.eval_shape(objective.build(SMALL["bert"], FLOAT32, Vocabulary()).init, KEY)["pair_classifier"]
    assert shapes["kernel"].shape == (3 * SMALL["bert"].hidden_size, 2) and shapes["bias"].shape == (2,)
    random = np.random.default_rng(0)
    vectors, classes = random.standard_normal((4, 6, 16)).astype(np.float32), (np.array(SCORES).ravel() > 1).astype(int)
    head = {"kernel": random.standard_normal((48, 2)).astype(np.float32), "bias": np.float32([0.1, 0.2])}
    x, mask, _ = examples(vectors, batch)
    total, weight = pair_classification(x, mask, classes, lambda x: x @ head["kernel"] + head["bias"])

    def loss(head):
        metrics = objective.metrics(vectors, batch | {"pair_classifier": head})
        return mean(metrics), metrics

    (value, metrics), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(head)
    assert float(value) == pytest.approx(float(total / weight), rel=1e-5) and weight == 8
    assert np.abs(gradients["kernel"]).max() > 0
    features = np.concatenate([x[:, 0], x[:, 1], np.abs(x[:, 0] - x[:, 1])], axis=1)
    predicted = (features @ head["kernel"] + head["bias"]).argmax(1)
    assert mean(metrics, "accuracy") == pytest.approx((predicted == classes).mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "batch_hard_soft_margin_triplet", "margin": 1.0}, "objective.margin is 1.0, but objective.loss bat"),
        ({"loss": "batch_hard_triplet", "similarity": "dot"}, "batch_hard_triplet compares distances, and dot is none"),
        ({"loss": "softmax", "scale": 2.0}, "objective.scale is 2.0, but objective.loss softmax has none"),
        ({"loss": "softmax", "dimensions": (8,)}, "objective.dimensions is .*, but objective.loss softmax classifies"),
        ({"class_names": ("a", "b")}, "objective.class_names is .*, but only softmax has"),
    ],
)
def test_unused_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Embeddings(**settings)


def test_settings_and_data() -> None:
    labels = TrainingLabels("label", "tuple", ("a", "b"))
    assert Embeddings(loss="softmax").with_labels(labels).class_names == ("a", "b")
    assert Embeddings(loss="batch_all_triplet").with_labels(labels).class_names == ()
    with pytest.raises(ValueError, match="objective.class_names is b, a, but the data has a, b; leave it out"):
        Embeddings(loss="softmax", class_names=("b", "a")).with_labels(labels)
    with pytest.raises(ValueError, match="objective.loss is softmax, which is for dense embeddings"):
        SparseEmbeddings(loss="softmax")
    stored = SentenceConfig(prompts=(("query", "a: "), ("document", "b: ")))
    started = Embeddings(loss="batch_all_triplet").started_from(stored)  # texts have no roles
    assert started.prompts == ("b: ", "b: ") and started.started_from(started.sentence) == started
    with pytest.raises(ValueError, match="objective.query_prompt is 'a: ', but batch_all_triplet learns single texts"):
        Embeddings(loss="batch_all_triplet", query_prompt="a: ")
    with pytest.raises(ValueError, match=r"but batch_hard_triplet .*; give objective.document_prompts"):
        Embeddings(losses=("batch_hard_triplet",) * 2, query_prompts=("none", "a: "))


def test_a_run_on_texts(home, tmp_path) -> None:
    """The accuracy of nearest texts, here and by the vectors; pairs need the names of their fields."""

    def make(random):
        name = random.choice(list(COLORS))
        return {"text": " ".join(random.choice(COLORS[name], 3)), "label": str(name)}

    objective, recipe = Embeddings(loss="batch_hard_triplet"), DataConfig(text_field="anchor", pair_field="positive")
    trained = run_on_records(home / "colors", objective, recipe, make, steps=0)
    metrics = evaluate(trained.folder, output=tmp_path / "results.json")
    assert metrics["examples"] == 40 and 0.4 < metrics["accuracy"] <= 1
    with pytest.raises(ValueError, match="trained on single texts; name the field of the second text by pair_field"):
        list(predict(trained.folder, [{"text": "red"}]))


def test_a_run_on_pairs_with_classes(home, tmp_path) -> None:
    """The accuracy of the classifier on its vectors."""

    def make(random):
        name = random.choice(["same", "other"])
        first, second = random.choice(["red", "orange", "yellow"], 2, replace=False)
        return {"premise": str(first), "hypothesis": str(first if name == "same" else second), "label": str(name)}

    objective, recipe = Embeddings(loss="softmax"), DataConfig(text_field="anchor", pair_field="positive")
    trained = run_on_records(home / "classes", objective, recipe, make, steps=0)
    metrics = evaluate(trained.folder, output=tmp_path / "results.json")
    assert metrics["examples"] == 40 and 0 <= metrics["accuracy"] <= 1
    (record,) = predict(trained.folder, [{"premise": "red", "hypothesis": "red"}])
    assert record["similarity"] == pytest.approx(1, abs=1e-3)
