import numpy as np
import pytest

from jaxencoder.inference.load import load
from jaxencoder.tasks.classification import class_metrics, per_class, predict, value_metrics
from jaxencoder.text.rows import prepare


def auprc_by_hand(scores, positive):
    """The sum over thresholds of precision times the recall gained."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        recall = (found & positive).sum() / positive.sum()
        total += (recall - before) * (found & positive).sum() / found.sum()
        before = recall
    return total


def test_class_metrics_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    predictions = np.array([0, 0, 1, 1, 1, 1, 0, 0])  # class 1: 3 of 5 found, 1 of 4 wrong
    scores = np.where(np.eye(2, dtype=bool)[predictions], 2.0, 0.0)
    result = class_metrics(scores, labels)
    tp, tn, fp, fn = 3, 2, 1, 2
    f1_of_1, f1_of_0 = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
    right, wrong = np.log1p(np.exp(-2)), np.log1p(np.exp(2))
    matthews = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    expected = {
        "loss": (5 * right + 3 * wrong) / 8,
        "accuracy": 5 / 8,
        "macro_f1": (f1_of_0 + f1_of_1) / 2,
        "matthews": matthews,
        "auprc": auprc_by_hand(scores[:, 1] - scores[:, 0], labels == 1),
        "f1": f1_of_1,
        "examples": 8,
    }
    assert result == pytest.approx(expected)


def test_class_metrics_of_three_classes_and_of_one():
    scores = np.eye(3)[[0, 1, 2, 1]]
    perfect = class_metrics(scores, np.array([0, 1, 2, 1]))
    assert (perfect["accuracy"], perfect["macro_f1"], perfect["matthews"]) == (1, 1, 1) and "f1" not in perfect
    assert class_metrics(scores[[0, 0]], np.array([0, 0]))["matthews"] == 0  # not defined, and no warning
    assert class_metrics(scores[:, :2], np.zeros(4, np.int32))["auprc"] == 0  # that of class 1, which is not there


def test_each_class_by_hand():
    scores = np.random.default_rng(0).standard_normal((40, 4))
    labels = np.random.default_rng(1).choice([0, 1, 3], 40)
    predictions, classes = scores.argmax(-1), per_class(scores, labels)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    for c, found in enumerate(classes):
        right = ((labels == c) & (predictions == c)).sum()
        assert found["examples"] == (labels == c).sum()
        assert found["precision"] == pytest.approx(right / max((predictions == c).sum(), 1))
        assert found["recall"] == pytest.approx(right / max((labels == c).sum(), 1))
        assert found["auprc"] == pytest.approx(auprc_by_hand(shares[:, c], labels == c) if c != 2 else 0)
    assert classes[2]["examples"] == 0  # named, but true nowhere: left out of the mean
    assert class_metrics(scores, labels)["auprc"] == pytest.approx(np.mean([classes[c]["auprc"] for c in (0, 1, 3)]))


def test_huge_scores_have_a_finite_loss():
    result = class_metrics(np.array([[1e4, -1e4]], np.float32), np.array([1]))
    assert result["loss"] == pytest.approx(2e4)


def test_value_metrics_by_hand():
    labels = np.array([1.0, 2.0, 3.0, 4.0])
    result = value_metrics(np.exp(labels), labels)
    assert result["spearman"] == pytest.approx(1)
    assert result["pearson"] == pytest.approx(np.corrcoef(np.exp(labels), labels)[0, 1])
    assert result["loss"] == pytest.approx(np.square(np.exp(labels) - labels).mean())


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [1.0, 1.0 + 1e-16, 1.0]])
def test_constant_predictions_correlate_with_nothing(scores):
    result = value_metrics(np.array(scores), np.array([1.0, 2.0, 3.0]))
    assert (result["pearson"], result["spearman"]) == (0, 0)
    assert value_metrics(np.ones(1), np.ones(1))["pearson"] == 0


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_every_example_once_whatever_the_batch(classifier, batch_size):
    model = load(classifier.folder)
    stores = prepare(model.config.data, model.tokenizer, "validation", progress=False)
    scores, labels = predict(model, stores, batch_size)
    assert scores.shape == (53, 2) and set(labels.tolist()) == {0, 1}
    reference, same = predict(model, stores, 8)
    np.testing.assert_allclose(scores, reference, atol=1e-5)
    assert labels.tolist() == same.tolist()


def test_a_masked_language_model_predicts_no_labels(masked):
    with pytest.raises(ValueError, match="trained for MaskedLM and has no classifier"):
        predict(load(masked.folder), [])
