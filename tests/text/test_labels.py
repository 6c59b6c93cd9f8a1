"""What labels are taken for: classes, values, or a mistake that is named."""

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
        (["nan", "inf", "none"], Labels("class", ("inf", "nan", "none"))),  # words like others
        (["1", "x"], Labels("class", ("1", "x"))),
        (["2_1", "1_1", "1_2"], Labels("class", ("1_1", "1_2", "2_1"))),
    ],
)
def test_kinds(labels, want):
    assert kinds(*labels) == want


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
    for value in ("x", 2, "2", "-1", 1.0, None):
        with pytest.raises(ValueError, match="record 4: label"):
            names.encode(value, "record 4")
    with pytest.raises(ValueError, match="record 4: label '7' is not among the classes 2, 3"):
        Labels("class", ("2", "3")).encode("7", "record 4")
    for value in ("nan", 10**400, -(10**400), 1e300, "-1e39", None, [0.5]):
        expected = "record 4: label .* is not a finite number of float32; drop the record"
        with pytest.raises(ValueError, match=expected) as error:
            Labels("value", ()).encode(value, "record 4")
        assert len(str(error.value)) < 150


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
