"""Reports of classes and values: every file is complete, and the plots are images without warnings."""

import contextlib
import json

import matplotlib.image
import numpy as np
import pytest

from jaxencoder.config import RunConfig
from jaxencoder.evaluation import report
from jaxencoder.evaluation.calibration import reliability_bins
from jaxencoder.evaluation.report import confusion_matrix, prediction_records, write_report
from jaxencoder.tasks.classification.predict import Predictions
from jaxencoder.text.config import DataConfig

CONFIG = RunConfig(data=DataConfig(label_field="label", row_length=16))


def predicted(names: str = "ab") -> Predictions:
    texts = ["sure and right", "sure and\0| wrong\n<b>", "unsure and wrong", "long " * 100]
    records = [{"text": text, "id": i} for i, text in enumerate(texts)]
    if not names:
        scores, labels = np.array([[1.0], [9.0], [3.5], [4.0]]), np.array([1.0, 2.0, 3.0, 4.0])
    else:
        scores, labels = np.array([[5.0, 0], [9, 0], [0, 1], [0, 3]]), np.array([0, 1, 0, 1])
    return Predictions(records, scores, labels, np.array([5, 7, 5, 102]), tuple(names), 1)


def result(names: str = "ab") -> dict:
    values = {"loss": 0.25, "examples": 4, "slices": {"lang": {"de": {"examples": 3, "f1": 1.0}}}}
    if not names:
        return values
    classes = {name: {"f1": 0.5} for name in names}
    tuned = {"classes": {"b": {"threshold": 0.3}}, "accuracy": 0.75, "on": "dev.jsonl"}
    return values | {"classes": classes, "calibration": {"ece": 0.125, "fitted_on": "dev.jsonl"}, "tuned": tuned}


def test_classes(tmp_path):
    write_report(tmp_path / "new" / "report", predicted(), result(), "run on data", CONFIG, "latest")
    folder = tmp_path / "new" / "report"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["confusion.png", "predictions.jsonl", "reliability.png", "report.md"]
    text = (folder / "report.md").read_text()
    assert text.startswith("# run on data\n\n4 records, 2 classes; checkpoint: latest. Texts: text; labels: label.\n")
    assert "1 records are longer than the 16 tokens of a row: 1 truncated." in text
    for line in ("| loss | 0.2500 |", "| a | 0.5000 |", "| ece | 0.1250 |", "| de | 3 | 1.0000 |", "| b | 0.3000 |"):
        assert line in text.splitlines()
    assert "fitted on dev.jsonl" in text and "| accuracy | 0.7500 |" in text
    rows = text.split("## Most confidently wrong")[1].splitlines()[4:]
    assert rows[0] == "| b | a | 0.9999 | sure and \\| wrong \\<b> |" and len(rows) == 2
    assert rows[1].startswith("| a | b | 0.7311 | unsure")
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == prediction_records(predicted())


def test_values(tmp_path):
    write_report(tmp_path, predicted(""), result(""), "run on data", CONFIG, 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.jsonl", "report.md", "scatter.png"]
    text = (tmp_path / "report.md").read_text()
    rows = text.split("## Furthest from the truth")[1].splitlines()[4:]
    assert [row[:30] for row in rows] == ["| 2.0000 | 9.0000 | 7.0000 | s", "| 3.0000 | 3.5000 | 0.5000 | u"]
    assert "Confusion" not in text and prediction_records(predicted(""))[1] == {
        "record": {"text": "sure and\0| wrong\n<b>", "id": 1},
        "truth": 2.0,
        "prediction": 9.0,
    }


def test_lines_and_confusions():
    actual = prediction_records(predicted())
    assert [(line["truth"], line["prediction"]) for line in actual] == [("a", "a"), ("b", "a"), ("a", "b"), ("b", "b")]
    assert actual[2]["probabilities"] == pytest.approx({"a": 0.2689, "b": 0.7311}, abs=1e-4)
    assert actual[2]["probability"] == actual[2]["probabilities"]["b"]
    assert confusion_matrix(predicted()).tolist() == [[1, 1], [1, 1]]


def test_nothing_is_wrong(tmp_path):
    actual = predicted()._replace(labels=np.array([0, 0, 1, 1]))
    write_report(tmp_path, actual, result(), "run", CONFIG, "best")
    assert (tmp_path / "report.md").read_text().endswith("## Most confidently wrong\n\nNone.\n")


def test_a_report_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "report.md").write_text("old")

    def broken(*args):
        raise OSError("no space")

    monkeypatch.setattr("jaxencoder.evaluation.report.plot_reliability", broken)
    with pytest.raises(OSError, match="no space"):
        write_report(tmp_path, predicted(), result(), "run", CONFIG, "best")
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "old"


def test_of_several_classes_the_decision_that_is_furthest_off(tmp_path):
    scores = np.array([[5.0, -1.0], [3.0, 4.0], [-2.0, -2.0]])  # the second has no b, the third has both
    actual = predicted()._replace(scores=scores, labels=np.array([[1, 0], [1, 0], [1, 1]]))
    actual = actual._replace(records=actual.records[:3], tokens=actual.tokens[:3])
    several = {name: value for name, value in result().items() if name != "tuned"}
    write_report(tmp_path, actual, several, "run", CONFIG, "best")
    text = (tmp_path / "report.md").read_text()
    wrong = text[text.index("Most confidently wrong") :]
    assert "sure and \\| wrong" in wrong and "unsure and wrong" in wrong and "sure and right" not in wrong


def drawn(path) -> np.ndarray:
    image = matplotlib.image.imread(path)[..., :3]
    assert np.ptp(image) > 0.5
    return image


def axes_of(monkeypatch, draw):
    """What a function draws on."""
    kept, figure = [], report._figure

    @contextlib.contextmanager
    def keeping(*given):
        with figure(*given) as axes:
            kept.append(axes)
            yield axes

    with monkeypatch.context() as patch:
        patch.setattr(report, "_figure", keeping)
        draw()
    return kept[0]


@pytest.mark.parametrize("names", [("a", "b"), ("$x^$", "良い", "very " * 20), tuple(f"class {i}" for i in range(77))])
def test_confusion(tmp_path, names):
    matrix = np.random.default_rng(0).integers(50, size=(len(names),) * 2)
    matrix[0] = 0  # a class without examples
    report.plot_confusion(tmp_path / "a.png", matrix, names)
    image = drawn(tmp_path / "a.png")
    assert max(image.shape) <= 18 * 120


def test_true_classes_are_rows(monkeypatch, tmp_path):
    """Of two true a, one is taken for b; the three b are right."""
    shown = axes_of(monkeypatch, lambda: report.plot_confusion(tmp_path / "a.png", np.array([[1, 1], [0, 3]]), "ab"))
    assert shown.images[0].get_array().tolist() == [[0.5, 0.5], [0, 1]]
    assert shown.images[0].get_cmap().name == "Blues" and shown.images[0].get_clim() == (0, 1)  # 1 is darkest
    assert (shown.get_xlabel(), shown.get_ylabel()) == ("predicted", "true")
    numbers = {text.get_position(): text.get_text() for text in shown.texts}  # at (predicted, true)
    assert numbers == {(0, 0): "1", (1, 0): "1", (0, 1): "0", (1, 1): "3"}


def test_bars_are_accuracies_and_points_true_values(monkeypatch, tmp_path):
    probabilities = np.array([[0.7, 0.3]] * 4)
    actual = reliability_bins(probabilities, np.array([0, 1, 1, 1]))  # sure to 70%, right in 25%
    shown = axes_of(monkeypatch, lambda: report.plot_reliability(tmp_path / "a.png", actual))
    (bar,) = shown.containers[0]
    assert bar.get_height() == 0.25 and bar.get_x() <= 0.7 <= bar.get_x() + bar.get_width()
    shown = axes_of(monkeypatch, lambda: report.plot_values(tmp_path / "a.png", np.array([1.0, 2]), np.array([5.0, 6])))
    assert shown.lines[0].get_xdata().tolist() == [1, 2] and shown.lines[0].get_ydata().tolist() == [5, 6]


@pytest.mark.parametrize("classes", [2, 5])
def test_reliability_diagram(tmp_path, classes):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), 100)
    report.plot_reliability(tmp_path / "a.png", reliability_bins(probabilities, np.arange(100) % classes))
    drawn(tmp_path / "a.png")
    report.plot_reliability(tmp_path / "b.png", reliability_bins(probabilities[:1], np.zeros(1, int)))
    drawn(tmp_path / "b.png")


@pytest.mark.parametrize("number", [1, 500])
def test_scatter(tmp_path, number):
    report.plot_values(tmp_path / "a.png", np.zeros(number), np.arange(number) / 2)
    drawn(tmp_path / "a.png")
