"""Base of objectives that compare each example with all texts of a batch, and the check of their label field.

The batch is that of all devices: its vectors are one array under jit, so that every text is compared with the texts of
all devices and hosts. With `parts`, texts are embedded a part of the batch at a time, see `in_parts`.
"""

from dataclasses import dataclass

import jax
import numpy as np

from jaxencoder.objectives.objective import Batch
from jaxencoder.tasks.embeddings.distillation import check_temperatures
from jaxencoder.tasks.embeddings.duplicates import text_numbers
from jaxencoder.tasks.embeddings.examples import text_mask
from jaxencoder.tasks.task import TaskObjective


@dataclass(frozen=True)
class BatchObjective(TaskObjective):
    """Base of objectives whose loss compares the texts of a batch; ValueError for a setting outside its range."""

    loss: str = "ranking"
    """Name of the loss."""
    scale: float = 1.0
    """Factor of similarities, the inverse of a temperature."""
    mask_duplicates: bool = True
    """Leave the anchors and positives of examples that have an anchor or a positive in common, which are equal texts,
    out of each other's negatives in ranking. False: they are negatives, as in sentence-transformers."""
    student_temperature: float = 1.0
    """Divides the similarities of kl."""
    teacher_temperature: float = 1.0
    """Divides the teacher's scores of kl."""
    parts: int = 1
    """Parts of a batch that are embedded one after another. More parts take less memory and give the same loss."""

    def __post_init__(self) -> None:
        self.check_at_least({"parts": 1})
        check_temperatures(self.student_temperature, self.teacher_temperature)

    @property
    def batch_multiple(self) -> int:
        return self.parts

    @property
    def compares_examples(self) -> bool:
        return True

    @property
    def label_array(self) -> tuple[tuple[int, ...], type]:
        return (), np.float32

    def texts(self, batch: Batch) -> jax.Array:
        """The texts of the examples [N, C]: which there are, bool, or with `mask_duplicates` their numbers, int."""
        return text_numbers(batch) if self.mask_duplicates else text_mask(batch)


def check_label_field(loss: str, field: str, content: str, use: str = "takes all pairs as similar") -> None:
    """ValueError if a loss lacks the field of its labels, or a field is named that it does not read.

    Args:
        loss: of objective.loss.
        field: of data.label_field; empty for none.
        content: what the loss needs in this field; empty if it reads no labels.
        use: what a loss does that reads no labels, for the message.
    """
    if content and not field:
        raise ValueError(f"objective.loss is {loss}, which needs {content}; name data.label_field.")
    if field and not content:
        problem = f"objective.loss is {loss}, which {use}, whatever their scores"
        raise ValueError(f"{problem}; leave out data.label_field, {field}, or set another loss.")
