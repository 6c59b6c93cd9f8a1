"""What labels are taken for: classes, values, or a mistake that is named."""

from dataclasses import replace

import pytest

from jaxencoder.text.labels import Labels, infer


def kinds(*labels):
    return infer((label, f"record {i}") for i, label in enumerate(labels, 1))


@pytest.mark.parametrize(
    ("labels", "want"),
    [
        (["b", "a", "b"], Labels("class", ("a", "b"))),
        ([10, 2, True], Labels("class", ("1", "2", "10"))),
        (["10", "2", "1"], Labels("class", ("1", "2", "10"))),  # as CSV has them
        (["1.5", "2", "-3"], Labels("value", ())),
        ([0.5, 1, 2], Labels("value", ())),
        (["1", 2], Labels("class", ("1", "2"))),
        (["inf", "none", "NA"], Labels("class", ("NA", "inf", "none"))),  # words like others
        (["1", "x"], Labels("class", ("1", "x"))),
        (["2_1", "1_1", "1_2"], Labels("class", ("1_1", "1_2", "2_1"))),
        ([1.0, 0.0], Labels("class", ("0", "1"))),  # as in scikit-learn
        (["1.0", "0.0"], Labels("class", ("0", "1"))),  # pandas writes integers so if some are missing
        (["1e3", "2e3"], Labels("value", ())),
        (["01", "02"], Labels("class", ("01", "02"))),
        (["+1", "-1"], Labels("class", ("-1", "+1"))),
        ([" 0", "1", "1 "], Labels("class", ("0", "1"))),
        (["pos ", "pos", "neg"], Labels("class", ("neg", "pos"))),
        (["True", "False"], Labels("class", ("False", "True"))),
        (["NA", "None", "null"], Labels("class", ("NA", "None", "null"))),
        ([["a"], [], ["b", "a"]], Labels("classes", ("a", "b"))),
        ([[0], [1, 2]], Labels("classes", ("0", "1", "2"))),
        ([[0, 1], [1, 0]], Labels("classes", ("0", "1"), indicators=True)),
        ([[0.0, 1.0, 1.0], [0, False, True]], Labels("classes", ("0", "1", "2"), indicators=True)),
        ([[0, 1], []], Labels("classes", ("0", "1"))),  # numbers of classes after all
    ],
)
def test_kinds(labels, want):
    assert kinds(*labels) == want


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 2, -1, 1], ("0", "1", "2")),  # SNLI
        (["1", "-1", "0", "2"], ("0", "1", "2")),
        ([0.0, 1.0, 2.0, -1.0], ("0", "1", "2")),
        ([1, -100, 0], ("0", "1")),
        (["yes", -1, "no"], ("no", "yes")),  # names of the metadata
        (["entailment", "-", "neutral"], ("entailment", "neutral")),
        (["nan", "pos", "neg"], ("neg", "pos")),
        (["<NA>", "pos", "neg"], ("neg", "pos")),
        (["+", "-"], ("+", "-")),  # a class after all
        ([-1, 1], ("-1", "1")),
        ([-2, -1, 0, 1, 2], ("-2", "-1", "0", "1", "2")),
    ],
)
def test_marks_of_no_label(labels, names):
    found = kinds(*labels)
    assert found == Labels("class", names)
    assert all(
        (found.encode(x, "") is None) == (x in (-1, -100, "-1", "-", "nan", "<NA>") and str(x) not in names)
        for x in labels
    )


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0.0, 1.0], "binary"),
        ([1, 2, 3, 5], "multiclass"),
        ([1.0, 2.0, 3.0], "multiclass"),
        ([0.5, 1.0, 2.0], "continuous"),
        (["a", "b"], "binary"),
        ([[0, 1], [1, 1]], "multilabel-indicator"),
        ([[0.0, 1.0], [1.0, 0.0]], "multilabel-indicator"),
    ],
)
def test_kinds_are_those_of_scikit_learn(labels, kind):
    from sklearn.utils.multiclass import type_of_target

    assert type_of_target(labels) == kind
    ours = {"continuous": "value", "multilabel-indicator": "classes"}.get(kind, "class")
    assert kinds(*labels).kind == ours


@pytest.mark.parametrize("labels", [[5.0, 0.0], ["5.0", "0.0"]])
def test_scores_may_be_whole(labels, caplog):
    assert kinds(*labels).kind == "class"
    assert "are taken as classes; if they are values to predict, set objective.labels to 1" in caplog.text


def test_classes_that_differ_only_in_case(caplog):
    assert kinds("pos", "Pos", "neg") == Labels("class", ("Pos", "neg", "pos"))
    assert "The labels 'Pos' and 'pos' differ only in case; they count as two classes" in caplog.text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["1.5", "2.0", "nan"], "record 3: label 'nan' is not a finite number like the other labels"),
        (["0", "NaN", "1"], "record 2: label 'NaN' is not a finite number"),
        (["0", "nan", "0"], "record 2: label 'nan' is not a finite number"),
        ([0.5, float("nan")], "record 2: label nan is not a finite number"),
        ([1, "x"], "record 2: label 'x' is text, but other labels are numbers"),
        (["a", None], "record 2: label None is not a class"),
        (["a", ""], "record 2: label '' is not a class"),
        ([-1, 0, 1], "the labels are -1, 0, 1, of which -1 may be a class .*; name the classes in data.labels"),
        (["-1", "0"], "the labels are -1, 0, of which -1 may be a class"),
        ([-1, -1], "no label is a class; name another data.label_field"),
        (["-"], "no label is a class"),
        ([[], []], "the lists of labels hold nothing"),
        ([[0.5, 0.5]], "the lists of labels hold fractional numbers, no classes"),
        (["3", "2,5"], "record 2: label '2,5' has a decimal comma; write 2.5"),
        (["1", "01"], "record 2: labels '1' and '01' are one number; spell them alike"),
        ([1, "+1"], r"record 2: labels '1' and '\+1' are one number"),
    ],
)
def test_mistakes(labels, message):
    with pytest.raises(ValueError, match=message):
        kinds(*labels)


def test_encode():
    assert Labels("value", ()).encode("2.5", "") == 2.5 and Labels("value", ()).encode(2, "") == 2.0
    numbers = Labels("class", ("0", "1"))
    assert [numbers.encode(x, "") for x in ("1", 1, "01")] == [1, 1, 1]
    names = Labels("class", ("neg", "pos"))
    assert names.encode("pos", "") == names.encode(1, "") == names.encode("1", "") == names.encode("01", "") == 1
    assert Labels("class", ("1", "neg")).encode("1", "") == 0  # a name before a number
    assert names.encode(1.0, "") == names.encode(" Pos", "") == names.encode("1.0", "") == names.encode([0, 1], "") == 1
    assert names.encode("-1", "") is None and names.encode("nan", "") is None
    for value in ("x", 2, "2", 0.5, None, "", [1, 1], [1]):
        with pytest.raises(ValueError, match="record 4: label"):
            names.encode(value, "record 4")
    with pytest.raises(ValueError, match="record 4: label '7' is not among the classes 2, 3"):
        Labels("class", ("2", "3")).encode("7", "record 4")
    for value in ("nan", 10**400, -(10**400), 1e300, "-1e39", None, [0.5]):
        expected = "record 4: label .* is not a finite number of float32; drop the record"
        with pytest.raises(ValueError, match=expected) as error:
            Labels("value", ()).encode(value, "record 4")
        assert len(str(error.value)) < 150


def test_case_and_spelling_of_names():
    assert Labels("class", ("Pos", "pos")).encode("pos", "") == 1
    with pytest.raises(ValueError, match="label 'POS' is not among the classes Pos, pos"):
        Labels("class", ("Pos", "pos")).encode("POS", "")
    assert Labels("class", (" neg", " pos")).encode("pos", "") == 1
    assert Labels("class", ("01", "02")).encode(2, "") == Labels("class", ("-1", "+1")).encode("1", "") == 1
    assert [Labels("class", ("yes", "True", "false")).encode(x, "") for x in (True, False)] == [1, 2]
    assert [Labels("class", ("no", "yes")).encode(x, "") for x in (True, False)] == [1, 0]
    assert Labels("class", ("-1", "0", "1")).encode(-1, "") == 0  # named by the settings


def test_lists():
    names = Labels("classes", ("a", "b", "c"))
    assert names.encode(["c", "A"], "") == (0, 2) and names.encode([2, 1], "") == (1, 2) and names.encode([], "") == ()
    indicators = replace(names, indicators=True)
    assert indicators.encode([0, 1, 1.0], "") == (1, 2) and indicators.encode([0, 0, 0], "") == ()
    for labels, value, message in (
        (names, ["a", "A"], "name a class more than once"),
        (names, [-1], "hold a mark of no class; give"),
        (names, "a", "is not a list of classes"),
        (indicators, [0, 1], "does not hold 0 or 1 for each of the 3 classes"),
        (indicators, [0, 2, 1], "does not hold 0 or 1 for each of the 3 classes"),
    ):
        with pytest.raises(ValueError, match=f"record 4: .*{message}"):
            labels.encode(value, "record 4")


def test_numbers_that_are_taken_as_ids():
    names = Labels("class", ("neg", "pos"))
    assert all(map(names.are_ids, (1, "0", 1.0))) and not any(map(names.are_ids, ("pos", "-", [0, 1])))
    assert not Labels("class", ("0", "1")).are_ids(1) and not Labels("value", ()).are_ids(1)
    several = Labels("classes", ("a", "b"))
    assert several.are_ids([1]) and not several.are_ids(["a"]) and not replace(several, indicators=True).are_ids([1, 0])


def test_names_in_a_line():
    """Whatever the names hold, it stays one line that says where one ends and the next begins."""
    names = Labels("class", ("a b", "c, d", "e\nf", "g\0", "h\u2028", "é", "می\u200cخواهم"))
    listed = r"a b, 'c, d', 'e\nf', 'g\x00', 'h\u2028', é, می" + "\u200cخواهم"
    assert names.describe() == f"labels are one of 7 classes: {listed}"
    with pytest.raises(ValueError) as error:
        names.encode("x", "record 4")
    assert f"among the classes {listed};" in str(error.value)
    many = Labels("classes", tuple(map(str, range(21)))).describe()
    assert many.startswith("labels are any of 21 classes: 0, 1, ") and many.endswith(", 18, 19, ...")
