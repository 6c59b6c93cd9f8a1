"""Examples of rare classes are repeated, each as often as others of its class or once more."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from jaxencoder.text import balance
from jaxencoder.text.balance import Example, oversample
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.row_cache import prepare
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer

from .test_rows import WORDS, config, pieces, write

SIZES = (600, 90, 7)
DIGESTS = np.random.default_rng(0).integers(0, 2**63, sum(SIZES)).tolist()  # the upper half is held out
EXAMPLES = [
    Example((f"text {i}", ""), label, 2 * digest)
    for i, (label, digest) in enumerate(zip(np.repeat([0, 1, 2], SIZES).tolist(), DIGESTS, strict=True))
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([" ".join(WORDS)] * 5, TokenizerConfig(vocab_size=120))


@pytest.mark.parametrize("kept", [0, 7, 1000])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_grow_towards_the_largest(power: float, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "_MAX_BUFFERED", kept)
    reads = []
    oversampled = list(oversample(lambda: reads.append(1) or iter(EXAMPLES), power))
    times = Counter(example.texts[0] for example in oversampled)
    for label, size in enumerate(SIZES):
        of_class = [times[example.texts[0]] for example in EXAMPLES if example.label == label]
        expected = (600 / size) ** power
        assert set(of_class) <= {int(expected), int(np.ceil(expected))}
        # Which examples have one more is by chance: 4 standard deviations of a binomial.
        part = expected - int(expected)
        assert abs(sum(of_class) - size * expected) <= 4 * (size * part * (1 - part)) ** 0.5 + 1e-6
    # One to count, one for each repetition until those that are still to be repeated are few.
    rounds = [1, *(int(np.ceil((600 / size) ** power)) for size in SIZES)]
    assert len(reads) == 1 + {0: rounds[3], 7: rounds[2], 1000: 1}[kept]
    assert oversampled[: len(EXAMPLES)] == EXAMPLES  # each once before any twice


def test_nothing_to_balance() -> None:
    assert list(oversample(lambda: iter(()), 1.0)) == []


def test_training_rows_are_balanced_and_validation_rows_are_not(tmp_path, tokenizer) -> None:
    records = [
        {"text": " ".join(np.random.default_rng(i).choice(WORDS, 3)), "label": "rare" if i % 10 == 0 else "common"}
        for i in range(200)
    ]
    data = config(write(tmp_path / "t.jsonl", records), label_field="label", validation_fraction=0.2)
    plain, even = (
        prepare(settings, tokenizer, split)
        for settings, split in ((data, "train"), (replace(data, balance=1.0), "train"))
    )
    common, rare = plain[0].label_counts()
    times = common / rare
    assert even[0].label_counts()[0] == common and rare * int(times) <= even[0].label_counts()[1] <= rare * (times + 1)
    assert set(pieces(even)) == set(pieces(plain))
    held_out = [prepare(settings, tokenizer, "validation") for settings in (data, replace(data, balance=1.0))]
    assert held_out[0][0].path == held_out[1][0].path and even[0].path != plain[0].path


def test_errors(tmp_path, tokenizer) -> None:
    source = write(tmp_path / "t.jsonl", [{"text": "alpha", "label": 0.5}, {"text": "beta", "label": 1.5}])
    with pytest.raises(ValueError, match="balance is 1.0, but the labels of .* are values; set it to 0"):
        prepare(config(source, label_field="label", balance=1.0, validation_fraction=0.0), tokenizer, "train")
    with pytest.raises(ValueError, match="data.balance is 0.5; it needs data.label_field"):
        DataConfig(balance=0.5)
    with pytest.raises(ValueError, match="data.balance"):
        DataConfig(balance=1.5, label_field="label")
