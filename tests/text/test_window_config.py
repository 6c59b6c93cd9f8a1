"""Options of windows that would do nothing are refused."""

import pytest

from jaxencoder.text.window_config import WindowConfig, parse_windows


def test_words_of_the_command_line():
    assert parse_windows("windows", 4, "max") == WindowConfig(4, "max")
    assert parse_windows("truncate", None, None) is None is parse_windows(None, None, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((None, 4, None), "--stride is 4, but long texts are truncated; give --long windows"),
        (("truncate", None, "max"), "--window-pooling is max, but long texts are truncated"),
        (("windows", 4, "first"), "stride is 4, but window pooling 'first' reads one window"),
        (("windows", None, "median"), "window pooling is 'median'; give one of mean, max, first, length, learned"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(ValueError, match=message):
        parse_windows(*words)
