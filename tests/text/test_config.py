"""Settings of text refuse values out of range, by name."""

import dataclasses

import pytest

from jaxencoder.text.config import DataConfig, TokenizerConfig


@pytest.mark.parametrize(
    ("maker", "field", "value", "message"),
    [
        (TokenizerConfig, "kind", "wordpieces", "give one of wordpiece, bpe"),
        (TokenizerConfig, "vocab_size", 3, "at least 16"),
        (TokenizerConfig, "vocab_size", True, "whole number"),
        (TokenizerConfig, "lowercase", "yes", "True or False"),
        (TokenizerConfig, "character_coverage", float("nan"), "give a finite number"),
        (TokenizerConfig, "character_coverage", 0.5, r"give a number from 0\.9 to 1\.0"),
        (TokenizerConfig, "byte_fallback", True, "needs a sentencepiece kind"),
        (TokenizerConfig, "training_characters", -1, "at least 0"),
        (DataConfig, "train", (), "is empty"),
        (DataConfig, "train", "pydocs", "tuple of non-empty strings"),
        (DataConfig, "weights", (1.0, 2.0), "2 numbers for 1 training sources"),
        (DataConfig, "weights", (0.0,), "one of them above 0"),
        (DataConfig, "weights", (float("inf"),), "finite"),
        (DataConfig, "temperature", 0.0, "at least 0.001"),
        (DataConfig, "validation_fraction", 1.0, "from 0.0 to 0.9"),
        (DataConfig, "text_field", "", "is empty"),
        (DataConfig, "pair_field", "text", "as is text_field"),
        (DataConfig, "label_field", "text", "also a text field"),
        (DataConfig, "labels", ("a", "b"), "label_field is empty"),
        (DataConfig, "text_unit", "word", "give one of line, paragraph, file"),
        (DataConfig, "row_length", 2, "at least 3"),
        (DataConfig, "workers", -1, "at least 0"),
    ],
)
def test_settings_are_checked(maker, field, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        maker(**{field: value})
    assert field in str(caught.value)
    assert dataclasses.replace(maker()) == maker()


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="give weights of at least 0"):
        DataConfig(train=("a", "b"), weights=(2.0, -1.0))
