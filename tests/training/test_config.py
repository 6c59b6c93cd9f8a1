"""Epochs, examples and evaluations converted to steps and rows."""

from dataclasses import replace

import pytest

from jaxencoder.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("settings", "shares", "counted"),
    [
        ({"epochs": 3, "batch_size": 8}, 1, (38, 8, 500)),  # 300 rows in updates of 8
        ({"epochs": 0.1, "batch_size": 10}, 1, (1, 10, 500)),  # 0.1 * 100 is a little more than 10 rows in floats
        ({"epochs": 0.001}, 1, (1, 32, 500)),
        ({"epochs": 1, "batch_examples": 32}, 1, (20, 5, 500)),  # 7 a row: 4.6 rows
        ({"epochs": 1, "batch_examples": 32}, 4, (25, 4, 500)),
        ({"steps": 9, "batch_examples": 2, "accumulation": 3}, 2, (9, 6, 500)),
        ({"steps": 9, "num_evaluations": 2}, 1, (9, 32, 5)),
        ({"steps": 2, "num_evaluations": 7}, 1, (2, 32, 1)),
        ({"steps": 9, "eval_every": 0}, 1, (9, 32, 0)),
    ],
)
def test_counted(settings: dict, shares: int, counted: tuple[int, int, int]) -> None:
    given, (steps, size, every) = TrainingConfig(**settings), counted
    resolved = given.resolve(100, 700, shares)
    assert resolved == replace(given, steps=steps, batch_size=size, eval_every=every, epochs=0.0, num_evaluations=0)
    assert resolved.resolve(100, 700, shares) == resolved


def test_examples_need_labels() -> None:
    with pytest.raises(ValueError, match="batch_examples is 32, but no example has a label"):
        TrainingConfig(batch_examples=32).resolve(100, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1.0}, "epochs must be 0 or a positive number, got -1.0"),
        ({"epochs": float("inf")}, "epochs must be 0 or a positive number"),
        ({"epochs": 2, "steps": 5}, "epochs is 2 and training.steps 5; set one of them to 0"),
        ({"patience": 2, "keep_best": False}, "patience is 2, which needs the best result: set keep_best"),
        ({"patience": -1}, "patience must not be negative"),
        ({"num_evaluations": -1}, "num_evaluations must not be negative"),
    ],
)
def test_mistakes(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)
