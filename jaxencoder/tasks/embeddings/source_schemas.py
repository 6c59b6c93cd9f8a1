"""Records of several sources, each with the fields and labels that its own loss needs."""

import dataclasses
from collections.abc import Sequence

from jaxencoder.tasks.embeddings.data import EmbeddingSchema
from jaxencoder.text.config import DataConfig
from jaxencoder.text.schema import Schema
from jaxencoder.text.sources.fields import infer_fields


class SourceSchemas(EmbeddingSchema):
    """A schema for each training source; held-out sources have those of the training sources in the same order."""

    by_source = True

    def __init__(self, schemas: Sequence[EmbeddingSchema], losses: Sequence[str]):
        super().__init__()
        self._schemas, self._losses = tuple(schemas), tuple(losses)
        self.names_classes = any(schema.names_classes for schema in schemas)

    def check(self, data: DataConfig) -> None:
        losses = f"objective.losses has {len(self._losses)} losses"
        if data.batch_sources != "one":
            raise ValueError(f"{losses}, one for each source, but batches mix sources; set data.batch_sources to one")
        for name in ("train", "validation"):
            sources = getattr(data, name)
            if len(sources) != len(self._losses) and (sources or name == "train"):
                raise ValueError(f"{losses}, but data.{name} has {len(sources)} sources; give a loss for each")
        if len({schema.single_texts for schema in self._schemas}) > 1:
            problem = f"objective.losses is {' '.join(self._losses)}, of single texts and of pairs"
            raise ValueError(f"{problem}; train them one after the other")
        names = " ".join(self._losses)
        if data.labels and not self.names_classes:
            problem = f"data.labels is {', '.join(data.labels)}, but objective.losses {names} have no classes"
            raise ValueError(f"{problem}; leave it out")
        if data.label_field and not any(schema.reads_labels for schema in self._schemas):
            problem = f"data.label_field is {data.label_field!r}, but objective.losses {names} read no labels"
            raise ValueError(f"{problem}; leave it out, or set another loss")
        for number in range(len(self._schemas)):
            schema, settings = self._of_source(data, number)
            schema.check(settings)

    def of_source(self, data: DataConfig, number: int) -> tuple[Schema, DataConfig]:
        schema, settings = self._of_source(data, number)
        return schema, infer_fields(settings, schema)

    def _of_source(self, data: DataConfig, number: int) -> tuple[EmbeddingSchema, DataConfig]:
        """A source's schema, and the settings of a run on it alone."""
        schema = self._schemas[number]
        settings = dataclasses.replace(
            data,
            train=data.train[number : number + 1],
            validation=data.validation[number : number + 1],
            weights=(),
            temperature=1.0,
            batch_sources="mixed",
            labels=data.labels if schema.names_classes else (),
            label_field=(data.label_field or "label") if schema.reads_labels else "",
        )
        return schema, settings
