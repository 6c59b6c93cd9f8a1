"""Opening a folder of any kind, or a name of the Hugging Face hub."""

from pathlib import Path
from typing import TypeVar

from jaxencoder.checkpoints.adapter import add_adapter
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.kind import ADAPTER_FILE, PEFT_CONFIG, kind_of
from jaxencoder.checkpoints.peft import add_peft
from jaxencoder.checkpoints.run import Step, open_run, saved_config
from jaxencoder.checkpoints.sentence_transformers import open_sentence_transformers
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.files import read_json

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
            return open_transformers(folder)
        case "sentence_transformers":
            return open_sentence_transformers(folder)
        case "adapter" | "peft":
            return with_adapter(open_base(folder), folder)


def open_base(folder: Path) -> Checkpoint:
    """Open the model that an adapter's folder names as its base."""
    name = base_name(folder)
    try:
        return open_checkpoint(name)
    except OSError as error:
        advice = f"if it is elsewhere, load it from there and call its with_adapter({str(folder)!r})"
        raise FileNotFoundError(f"{folder} adapts {name}, which cannot be opened ({error}); {advice}") from None


def base_name(folder: Path) -> str:
    """The model that an adapter's folder names as its base; ValueError if it names none."""
    if kind_of(folder) == "adapter":
        return saved_config(folder).init_from
    name = read_json(folder / PEFT_CONFIG, dict).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{folder} does not name its base; load the base, and call with_adapter({str(folder)!r})")
    return name


def with_adapter(model: M, folder: str | Path) -> M:
    """The model with the adapter in a folder, ours or PEFT's; see `jaxencoder.api.Model.with_adapter`."""
    folder = resolve(folder)
    match kind_of(folder):
        case "adapter":
            return add_adapter(model, folder)
        case "peft":
            return add_peft(model, folder)
        case _:
            raise ValueError(f"{folder} holds no adapter: neither {ADAPTER_FILE} nor {PEFT_CONFIG}")
