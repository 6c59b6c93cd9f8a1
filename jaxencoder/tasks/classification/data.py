"""Texts or pairs of texts with a value to predict, such as a score of similarity."""

from typing import Any

from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels
from jaxencoder.text.schema import Schema


class ValueSchema(Schema):
    """Labels that are values even if all are whole numbers."""

    name = "value"
    names_classes = False
    has_values = True

    def find_labels(self, data: DataConfig) -> Labels:
        return Labels("value", ())

    def encode_label(self, label: Any, texts: tuple[str, str], labels: Labels, where: str) -> Any:
        try:
            return labels.encode(label, where)
        except ValueError as error:
            raise ValueError(f"{error}, or set objective.labels to 0 if the labels are classes") from None


VALUES = ValueSchema()
