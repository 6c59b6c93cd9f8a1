"""Settings of bulk embedding."""

import json
from dataclasses import asdict, dataclass
from typing import Any, get_args

from jaxencoder.inference.options import COLUMN, EmbedOptions
from jaxencoder.text.config import Engine

ID = "id"  # the field of ids, unless a setting names another
FORMAT = 1  # of shards; a change of it means that older ones are not continued


@dataclass(frozen=True)
class BulkConfig:
    """Which records are embedded, into which shards, and by whom.

    Attributes:
        text_field: field of a record that holds the text.
        id_field: field of a text or whole number that no other record has. "": ids "FILE:NUMBER" are made, of the
            file's path in the input and the record's number in it, from 0. None: "id" if the first record has it, or
            else made.
        columns: other fields to keep. None by default: texts often outweigh vectors, and ids join what is left out.
        shard_records: most records of a shard, which is embedded at once, and is what a stop may lose of a worker.
        engine: "process", this one, or "ray", workers on the machine or the cluster of Ray.
        workers: number of workers of Ray; None: one for each GPU or TPU chip, or else for each CPU.
    """

    text_field: str = "text"
    id_field: str | None = None
    columns: tuple[str, ...] = ()
    shard_records: int = 8192
    engine: Engine = "process"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise ValueError(f"engine is {self.engine!r}; give one of {', '.join(get_args(Engine))}")
        for name in ("shard_records", "workers"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; give at least 1")
        if self.workers is not None and self.engine == "process":
            raise ValueError(f"workers is {self.workers}, but engine 'process' is this process alone; give engine ray")
        if COLUMN in (self.id_field, *self.columns):
            raise ValueError(f"the vectors are the column {COLUMN!r}; rename that field of the records")
        if self.id_field == "" and ID in self.columns:
            raise ValueError(f"the ids that are made are the column {ID!r}; leave that field out of columns")


def identity(config: BulkConfig, options: EmbedOptions) -> dict[str, Any]:
    """What the content of shards depends on besides the model and the input, in what JSON holds.

    Engine and workers change nothing, and neither does `batch_tokens` but for rounding.
    """
    settings = asdict(config) | asdict(options)
    kept = {name: value for name, value in settings.items() if name not in ("engine", "workers", "batch_tokens")}
    return json.loads(json.dumps({"format": FORMAT} | kept))
