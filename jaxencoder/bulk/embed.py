"""Embed the files of a source into a folder of shards, which a later command continues."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from jaxencoder.bulk import engines
from jaxencoder.bulk.config import BulkConfig, identity
from jaxencoder.bulk.embedder import Embedder
from jaxencoder.bulk.plan import Part, Plan, make_plan
from jaxencoder.bulk.shards import EXTENSION, OutputFolder, Shard
from jaxencoder.bulk.worker import Job, check_identity
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.text.sources import is_files
from jaxencoder.text.sources.files import finds

log = logging.getLogger(__name__)

_READERS = 16  # shards whose metadata is read at once


@dataclass(frozen=True)
class Report:
    """What a command has done: all texts of the folder, and those that it embedded; the same of shards."""

    texts: int
    new_texts: int
    shards: int
    new_shards: int


def embed_folder(
    model: str | Path,
    input: str,
    output: str | Path,
    options: EmbedOptions = DEFAULT_OPTIONS,
    config: BulkConfig = BulkConfig(),  # noqa: B008 - frozen
) -> Report:
    """Embed the texts of a source into a folder of Parquet files, or continue to.

    A shard holds ids, the kept columns and "embedding" of consecutive records of one file: fixed-size lists of float32;
    of a multi-vector model lists of these, of a sparse model lists of {"token", "weight"}. Shards appear complete, and
    _manifest.json, which lists them in order, once all do. Their bytes depend on the input, the model, the options and
    the kind of device alone. Shards of records that have not changed are kept.

    Args:
        model: anything that `jaxencoder.load` takes; each worker opens it.
        input: source of records, as in `jaxencoder.text.sources`.
        output: a folder, local or an address that fsspec supports.

    Raises:
        ValueError: the input is invalid or has an id twice, or the folder holds shards of another model, of other
            settings or of records that are no longer in the input.
        OSError: the input cannot be read, the output cannot be written, or a worker dies again and again.
    """
    folder = OutputFolder(str(output))
    _check_apart(input, folder)
    with folder.locked():
        plan = make_plan(input, config)
        settings = identity(plan.config, options)
        parts, model_identity = _unfinished(folder, plan, settings)
        done = plan.records - sum(part.size for part in parts)
        # With nothing to do, one shard is compared with the model, so that the folder is surely that of the command.
        job = Job(Embedder(model).model, options, plan.config, plan.schema, folder.url, model_identity)
        if parts:
            folder.remove_manifest()
        made = truncated = new = 0
        with tqdm(total=plan.records, initial=done, unit=" texts", desc="Embedding", disable=None) as bar:
            for result in engines.run(job, parts or [_compared(folder, plan.parts[0])]):
                check_identity(job.model, folder.url, model_identity, result.model_identity)
                model_identity = result.model_identity
                made, new = made + result.is_new, new + result.is_new * result.part.size
                truncated += result.truncated
                bar.update(result.part.size if parts else 0)
        folder.write_manifest(_manifest(plan, settings, model_identity))
    if truncated:
        log.warning("%d of %d texts are longer than the model's limit and were truncated.", truncated, new)
    return Report(plan.records, new, len(plan.parts), made)


def _check_apart(input: str, folder: OutputFolder) -> None:
    """ValueError for an output within the input, where the shards would be read as texts by the next command."""
    input = re.sub(r"\[:[0-9]+\]$", "", input)  # the first records of files
    if is_files(input) and finds(input, f"{folder.url}/part{EXTENSION}"):
        problem = f"the output folder {folder.url} is within the input {input}, which would find its shards"
        raise ValueError(f"{problem}; give another folder")


def _unfinished(folder: OutputFolder, plan: Plan, settings: dict[str, Any]) -> tuple[list[Part], str | None]:
    """The parts without a valid shard, and the model that made the shards that are there, if any."""
    planned = {part.shard: part for part in plan.parts}
    names = folder.shards()
    with ThreadPoolExecutor(_READERS) as pool:
        shards = dict(zip(names, pool.map(folder.read, names), strict=True))
    identities: dict[str, str] = {}
    for name, shard in shards.items():
        where = f"{folder.url}/{name}"
        if shard is None and name not in planned:
            raise ValueError(f"{where} is not a shard of this command; give another folder, or move that file")
        if shard is None:
            continue
        _check_settings(where, shard.origin["settings"], settings)
        if name not in planned:
            source = shard.origin["source"]
            problem = f"{where} holds records of {source['name']} from {source['start']}, which the input lacks"
            raise ValueError(f"{problem}; delete that file, or give another folder")
        identities[shard.origin["model"]] = name
    if len(identities) > 1:
        first, second = list(identities.values())[:2]
        raise ValueError(f"{folder.url}: {first} and {second} are of different models or devices; delete one kind")
    states = ((part, shards.get(part.shard)) for part in plan.parts)
    checked = (_checked(part, shard, plan.schema) for part, shard in states)
    return [part for part in checked if part is not None], next(iter(identities), None)


def _check_settings(where: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    for name, value in new.items():
        if (other := old.get(name)) != value:
            problem = f"{where} was made with {name} {other!r}, not {value!r}"
            raise ValueError(f"{problem}; give another folder, or the same settings to continue this one")


def _checked(part: Part, shard: Shard | None, schema: pa.Schema) -> Part | None:
    """None if a part has its shard; else the part, with the shard's content if its records may be the same."""
    if shard is None or shard.rows != part.size or shard.schema.names[:-1] != schema.names:
        return part
    if any(shard.schema.field(name).type != schema.field(name).type for name in schema.names):
        return part
    if shard.origin["source"]["version"] == part.file.version:
        return None
    return part._replace(content=shard.origin["content"])


def _compared(folder: OutputFolder, part: Part) -> Part:
    """A part with its shard's content, so that a worker compares them and writes nothing."""
    shard = folder.read(part.shard)
    return part if shard is None else part._replace(content=shard.origin["content"])


def _manifest(plan: Plan, settings: dict[str, Any], model_identity: str | None) -> dict[str, Any]:
    shards = [
        {"file": part.shard, "source": part.file.name, "start": part.start, "records": part.size} for part in plan.parts
    ]
    return {"records": plan.records, "model": model_identity, "settings": settings, "shards": shards}
