"""Opening a folder of any kind, or a name of the Hugging Face hub."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jaxencoder.checkpoints.adapter import add_adapter
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.cross_encoder import with_activation
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.kind import ADAPTER_FILE, PEFT_CONFIG, kind_of
from jaxencoder.checkpoints.m3 import with_m3_heads
from jaxencoder.checkpoints.multi_vector import of_stanford
from jaxencoder.checkpoints.peft import add_peft
from jaxencoder.checkpoints.run import Step, open_run, saved_config
from jaxencoder.checkpoints.sentence_transformers import Folder, SentenceFolder, assembled, encoder_folder, read_folder
from jaxencoder.checkpoints.task_adapters import add_tasks
from jaxencoder.checkpoints.transformers import has_tokenizer, open_transformers
from jaxencoder.files import read_json
from jaxencoder.model.sentence import SentenceConfig

M = TypeVar("M", bound=Checkpoint)


def open_checkpoint(name_or_folder: str | Path, step: Step = "latest", revision: str | None = None) -> Checkpoint:
    """Open a model on disk, whatever its kind. An adapter is added to the base that it names.

    Args:
        name_or_folder: a folder, or a name on the Hugging Face hub.
        step: which checkpoint of a run; "best" by its `training.best_metric`.
        revision: branch, tag or commit of a name on the hub.

    Raises:
        FileNotFoundError: no such folder, name or checkpoint.
        ValueError: no model, one that is not supported, or a damaged one.
    """
    folder = resolve(name_or_folder, revision)
    match kind_of(folder):
        case "run":
            return open_run(folder, step)
        case "transformers":
            model = add_tasks(_with_pooling(open_transformers(folder)), folder)
            return with_m3_heads(of_stanford(with_activation(model, folder), folder), folder)
        case "sentence_transformers":
            return open_sentence_transformers(folder)
        case "adapter" | "peft":
            return with_adapter(open_base(folder), folder)


def _with_pooling(model: Checkpoint) -> Checkpoint:
    """A model of transformers with the pooling of sentence-transformers: of a causal language model the last token."""
    settings = {} if model.published is None else model.published.settings
    if model.published is not None and (tasks := model.published.family.tasks) and tasks.pools_last:
        return dataclasses.replace(model, sentence=SentenceConfig(("lasttoken",), normalize=True))
    architectures = settings.get("architectures")
    class_name = architectures[0] if isinstance(architectures, list) and architectures else ""
    is_causal = str(class_name).endswith("ForCausalLM") and settings.get("is_causal", True)
    return dataclasses.replace(model, sentence=SentenceConfig(("lasttoken",))) if is_causal else model


def open_sentence_transformers(folder: Path, weights: bool = True) -> Checkpoint:
    """Open a folder with a modules.json. Its Transformer may be an adapter of PEFT, which is added to its base.

    Without weights, `params` are ShapeDtypeStructs, and of an adapter those of the base.
    """
    contents = read_folder(folder, weights)
    encoder = _open_encoder(contents, weights)
    model = assembled(folder, contents, encoder)
    if isinstance(contents, SentenceFolder) and (tower := contents.queries) is not None:
        is_shared = tower.transformer == contents.transformer
        queries = assembled(folder, tower, encoder if is_shared else _open_encoder(tower, weights))
        return dataclasses.replace(model, queries=queries)
    return add_tasks(with_m3_heads(model, folder), contents.transformer) if weights else model


def _open_encoder(contents: Folder, weights: bool) -> Checkpoint:
    if (contents.transformer / PEFT_CONFIG).is_file():
        return _adapted(contents.transformer, weights, contents.max_length)
    return open_transformers(contents.transformer, weights, contents.max_length)


def _adapted(folder: Path, weights: bool, max_length: int) -> Checkpoint:
    """The encoder of an adapter's base, without the base's own pooling and prompts, with the adapter's tokenizer."""
    tokenizer_folder = folder if has_tokenizer(folder) else None

    def open_encoder(name: str) -> Checkpoint:
        base, _ = encoder_folder(resolve(name, weights=weights))
        return open_transformers(base, weights, max_length, tokenizer_folder=tokenizer_folder)

    base = open_base(folder, open_encoder)
    return add_peft(base, folder) if weights else base


def open_base(folder: Path, open_model: Callable[[str], Checkpoint] = open_checkpoint) -> Checkpoint:
    """Open the model that an adapter's folder names as its base."""
    name = base_name(folder)
    try:
        return open_model(name)
    except OSError as error:
        advice = f"if it is elsewhere, load it from there and call its with_adapter({str(folder)!r})"
        raise FileNotFoundError(f"{folder} adapts {name}, which cannot be opened ({error}); {advice}") from None


def base_name(folder: Path) -> str:
    """The model that an adapter's folder names as its base; ValueError if it names none."""
    if (folder / ADAPTER_FILE).is_file():
        return saved_config(folder).init_from
    settings = read_json(folder / PEFT_CONFIG, dict)
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{folder} does not name its base; load the base, and call with_adapter({str(folder)!r})")
    if revision not in (None, "main") and not Path(name).is_dir():
        advice = f"load {name} with it, and call with_adapter({str(folder)!r})"
        raise ValueError(f"{folder} has revision {revision!r}, of its base; {advice}")
    return name


def with_adapter(model: M, folder: str | Path) -> M:
    """The model with the adapter in a folder, ours or PEFT's; see `jaxencoder.api.Model.with_adapter`."""
    folder = resolve(folder)
    if model.queries is not None:
        raise ValueError(f"{folder} adapts one encoder, but this model has one for queries and one for documents")
    if model.tasks:  # their adapters are of the model without another one
        model = dataclasses.replace(model, tasks={})
    if (folder / ADAPTER_FILE).is_file():
        return add_adapter(model, folder)
    if (folder / PEFT_CONFIG).is_file():
        return add_peft(model, folder)
    raise ValueError(f"{folder} holds no adapter: neither {ADAPTER_FILE} nor {PEFT_CONFIG}")
