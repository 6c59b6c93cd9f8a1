"""Results as lines of text: each name has its own line, whatever characters it holds."""

import pytest

from jaxencoder.evaluation.tables import format_mean, format_results, markdown_table, mean_and_sd


def test_means() -> None:
    mean = mean_and_sd([0.5, 0.7, 0.9])
    assert mean == {"mean": pytest.approx(0.7), "sd": pytest.approx(0.2), "runs": 3}
    assert format_mean(mean, 100, 1) == "70.0 ± 20.0"
    assert format_mean(mean_and_sd([0.25])) == "0.2500" and format_mean(None) == ""
    inf, nan = float("inf"), float("nan")
    assert [format_mean(mean_and_sd(x)) for x in ([0.5, nan], [0.5, inf], [inf, -inf])] == ["nan", "inf", "nan"]
    assert mean_and_sd([0.5, inf]) == {"mean": inf, "sd": None, "runs": 2}


def test_table():
    actual = {"a/test": {"pairs": 12, "spearman": 0.82034, "fields": ["x", "y"]}}
    actual["b"] = {"pairs": 3, "spearman": -1.0, "fields": ["text", "y"]}
    assert format_results(actual).splitlines() == [
        "        pairs  spearman   fields",
        "a/test     12     82.03     x, y",
        "b           3   -100.00  text, y",
    ]


def test_a_table_has_a_line_for_each_name():
    names = ("line\nbreak", "\0nul", "\x1b[2Jescape", "tab\tand\u2028line", "سلام\u200cها")
    actual = format_results({name: {"f1": 0.5, "fields": [name]} for name in names}).split("\n")[1:]
    shown = ("line break", "nul", "[2Jescape", "tab and line", "سلام\u200cها")  # what joins letters stays
    assert actual == [f"{name:<12}  50.00  {name:>12}" for name in shown]


def test_markdown_table():
    assert markdown_table(["a", "metric"], [["one", "1.5"], ["three", "22"]]).splitlines() == [
        "| a     | metric |",
        "| ----- | -----: |",
        "| one   |    1.5 |",
        "| three |     22 |",
    ]


def test_metrics_that_only_some_sets_have():
    actual = format_results({"a": {"f1": 0.5}, "b": {"f1": 0.25, "ap": 1.0}}).splitlines()
    assert [line.split() for line in actual] == [["f1", "ap"], ["a", "50.00"], ["b", "25.00", "100.00"]]
