"""A model whose methods may be called by many threads at once, which share the batches of an engine."""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from jaxencoder.api import Model
from jaxencoder.inference.model import OpenedModel
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.serving.engine import Engine, Program
from jaxencoder.text.buckets import BatchPlan

_FOR_PROMPT = threading.Lock()


@dataclass(frozen=True, eq=False)
class ServedModel(Model):
    """A model that runs its batches in an engine."""

    kept_tasks: ClassVar[int] = 1000  # all: requests are for any of them
    row_step: ClassVar[int] = 2  # batches of requests are rarely full, and all programs are compiled before

    engine: Engine = field(kw_only=True, repr=False)

    def for_prompt(self, name: str | None) -> OpenedModel:
        """As `OpenedModel.for_prompt`, for one thread at a time."""
        with _FOR_PROMPT:
            return super().for_prompt(name)

    def run(
        self,
        function: Callable[[Params, Batch], Any],
        ids: Sequence[np.ndarray],
        batch_tokens: int | None = None,
        max_length: int | None = None,
        extra: Callable[[BatchPlan], Batch] | None = None,
    ) -> Iterator[tuple[BatchPlan, Any]]:
        """As `OpenedModel.run`, in batches of the engine's size."""
        return self.engine.run(Program(self, function, self.limit(max_length), extra), ids)


def served(model: OpenedModel, engine: Engine) -> ServedModel:
    """The model, and the models in it, with an engine; they share the arrays on the devices."""
    values: dict[str, Any] = {item.name: getattr(model, item.name) for item in dataclasses.fields(OpenedModel)}
    values |= {name: served(x, engine) for name, x in values.items() if isinstance(x, OpenedModel) and name != "base"}
    values |= {"base": model, "engine": engine}
    return ServedModel(**values)
