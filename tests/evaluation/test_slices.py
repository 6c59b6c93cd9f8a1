import numpy as np
import pytest

from jaxencoder.evaluation.slices import slice_metrics
from jaxencoder.tasks.classification.metrics import metrics_of_classes
from jaxencoder.tasks.classification.predict import Predictions


def predicted(records: list[dict], tokens: list[int], labels: list[float], scores: list, names="ab") -> Predictions:
    scores = np.eye(2)[scores] if names else np.array(scores, float)[:, None]
    return Predictions(records, scores, np.array(labels), np.array(tokens), tuple(names), 0)


def test_quarters_of_the_lengths():
    tokens = [9, 1, 2, 3, 4, 5, 6, 100]
    actual = slice_metrics(predicted([{}] * 8, tokens, [0, 1] * 4, [0] * 8))["length in tokens"]
    assert list(actual) == ["1 to 2", "3 to 4", "5 to 6", "9 to 100"]
    assert all(part["examples"] == 2 for part in actual.values())
    assert [part["accuracy"] for part in actual.values()] == [0.5, 0.5, 0.5, 0.5]
    same = slice_metrics(predicted([{}] * 4, [7] * 4, [0, 1, 0, 1], [0, 1, 0, 0]))["length in tokens"]
    assert same == {"7": {"examples": 4} | {k: v for k, v in same["7"].items() if k != "examples"}}


@pytest.mark.parametrize("seed", range(5))
def test_lengths_are_shared_out(seed):
    tokens = np.random.default_rng(seed).lognormal(3, 1, 400).astype(int).tolist()
    actual = slice_metrics(predicted([{}] * 400, tokens, [0, 1] * 200, [0] * 400))["length in tokens"]
    assert len(actual) == 4 and sum(part["examples"] for part in actual.values()) == 400
    assert all(70 <= part["examples"] <= 130 for part in actual.values())


def test_fields_of_records():
    records = [{"lang": "de"}, {"lang": "en"}, {"lang": "de"}, {"lang": None}, {}, {"lang": "de"}]
    labels, chosen = [0, 1, 1, 0, 1, 1], [0, 1, 0, 0, 0, 1]
    actual = slice_metrics(predicted(records, [1] * 6, labels, chosen), ["lang"])["lang"]
    assert {name: part["examples"] for name, part in actual.items()} == {"de": 3, "(none)": 2, "en": 1}
    metrics = metrics_of_classes(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    expected = {"examples": 3, **{name: metrics[name] for name in ("accuracy", "macro_f1", "matthews")}}
    assert actual["de"] == pytest.approx(expected)


def test_many_values():
    names = [{"id": f"n{i // 2}" if i < 40 else f"x{i}", "number": i / 10} for i in range(100)]
    actual = slice_metrics(predicted(names, [1] * 100, [0, 1] * 50, [0] * 100), ["id", "number"])
    assert len(actual["id"]) == 30 and actual["id"]["(others)"]["examples"] == 100 - 20 * 2 - 9
    assert list(actual["number"]) == ["0 to 2.4", "2.5 to 4.9", "5 to 7.4", "7.5 to 9.9"]

    seconds = [{"at": 1_700_000_000 + i} for i in range(100)]
    actual = slice_metrics(predicted(seconds, [1] * 100, [0, 1] * 50, [0] * 100), ["at"])["at"]
    assert sum(part["examples"] for part in actual.values()) == 100 and "1700000000 to 1700000024" in actual


def test_values():
    records = [{"part": i // 4} for i in range(8)]
    values = predicted(records, [1] * 8, [1, 2, 3, 4, 1, 2, 3, 4], [1, 2, 3, 4, 4, 3, 2, 1], "")
    metrics = {sign: pytest.approx({"examples": 4, "pearson": sign, "spearman": sign}) for sign in (1, -1)}
    assert slice_metrics(values, ["part"])["part"] == {"0": metrics[1], "1": metrics[-1]}


def test_a_field_that_is_not_there():
    with pytest.raises(ValueError, match="no record has the field 'lnag', but lang, text; did you mean 'lang'"):
        slice_metrics(predicted([{"lang": "de", "text": ""}], [1], [0], [0]), ["lnag"])
