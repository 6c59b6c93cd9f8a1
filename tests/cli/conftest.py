"""Stand-ins for what a verb calls, so that its words are tested without a model."""

import importlib
from typing import Any

import pytest


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch):
    """`calls("training.loop", "train")` replaces that function and returns the list of its calls (args, kwargs)."""

    def stand_in(module: str, function: str, result: Any = None, error: BaseException | None = None) -> list:
        record = []

        def call(*args, **kwargs):
            record.append((args, kwargs))
            if error is not None:
                raise error
            return result

        monkeypatch.setattr(importlib.import_module(f"jaxencoder.{module}"), function, call)
        return record

    return stand_in
