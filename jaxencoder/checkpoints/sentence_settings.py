"""The settings of a folder of sentence-transformers: its modules, its prompts, and how its Transformer reads texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from jaxencoder.checkpoints.kind import MODULES_FILE
from jaxencoder.checkpoints.sentence_keys import check_keys, flag, positive
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.families.family import Tasks
from jaxencoder.families.published import matching_family
from jaxencoder.files import read_json, write_json
from jaxencoder.text.messages import listed

SETTINGS_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILE = "sentence_bert_config.json"
# Where older versions wrote the settings of the Transformer. The first file that is not empty counts.
_TRANSFORMER_FILES = (
    TRANSFORMER_FILE,
    *(f"sentence_{name}_config.json" for name in ("roberta", "distilbert", "camembert", "albert")),
    *(f"sentence_{name}_config.json" for name in ("xlm-roberta", "xlnet")),
)
# ColBERT is that of PyLate.
MODEL_TYPES = ("SentenceTransformer", "SparseEncoder", "CrossEncoder", "MultiVectorEncoder", "ColBERT")
# Modules that we write -> their classes, from version 6 on.
CLASSES = {
    **{
        kind: f"sentence_transformers.base.modules.{kind.lower()}.{kind}"
        for kind in ("Transformer", "Router", "Dense", "Normalize")
    },
    **{
        kind: f"sentence_transformers.{package}.{kind}"
        for kind, package in (
            ("SpladePooling", "sparse_encoder.modules.splade_pooling"),
            ("SparseStaticEmbedding", "sparse_encoder.modules.sparse_static_embedding"),
            ("MultiVectorMask", "multi_vector_encoder.modules.multi_vector_mask"),
            ("HierarchicalTokenPooling", "multi_vector_encoder.modules.token_pooling"),
        )
    },
}
_PYLATE_DENSE = "pylate.models.Dense.Dense"
_TOKENIZER_FILE = "tokenizer_config.json"
_TASK_CODE = "custom_st.Transformer"  # the class, in a file of the folder, that applies adapters for tasks

Task = Literal["feature-extraction", "sequence-classification", "fill-mask"]
# Task -> the output of transformers' class, and its name for the next module.
_OUTPUTS = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
    "fill-mask": ("logits", "token_embeddings"),
}
# Arguments for transformers -> their older name, and the file whose keys they override.
_ARGUMENTS = {
    "model_kwargs": ("model_args", CONFIG_FILE),
    "config_kwargs": ("config_args", CONFIG_FILE),
    "processor_kwargs": ("tokenizer_args", _TOKENIZER_FILE),
}


class TextLimits(NamedTuple):
    """How the Transformer reads a text."""

    max_length: int  # limit on its tokens; 0: that of the tokenizer or the encoder
    lowercase: bool  # whether it is lowercased before tokenization


class ModuleEntry(NamedTuple):
    """An entry of modules.json."""

    kind: str  # name of the class, such as "Pooling"
    path: str  # of the class, for messages
    folder: Path


def model_type(folder: Path) -> str:
    """The class of sentence-transformers that a folder with a modules.json is of."""
    file = folder / SETTINGS_FILE
    config = read_json(file, dict) if file.is_file() else {}
    value = config.get("model_type", "SentenceTransformer")
    if value not in MODEL_TYPES:
        raise ValueError(f"{file} has model_type {value!r}; supported are {', '.join(MODEL_TYPES)}")
    return value


def read_modules(folder: Path, first_kinds: tuple[str, ...] = ("Transformer",)) -> list[ModuleEntry]:
    """The entries of modules.json, all of sentence-transformers' own classes; the first is one of `first_kinds`."""
    file = folder / MODULES_FILE
    entries = []
    for module in read_json(file, list):
        if not isinstance(module, dict) or not isinstance(module.get("path"), str):
            raise ValueError(f"{file} has {module!r} for a module; an object with a type and a path is needed")
        name, path = str(module.get("type", "")), module["path"]
        package, _, kind = name.rpartition(".")
        if name == _TASK_CODE and tasks_of(folder / path):
            package, module = "sentence_transformers", {key: x for key, x in module.items() if key != "kwargs"}
        check_keys(module, "module", file)
        if package.partition(".")[0] != "sentence_transformers" and name != _PYLATE_DENSE:
            raise ValueError(f"{file} has a module {kind!r} ({name}), which is not of sentence-transformers itself")
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{file} has a module in {path!r}, which is outside the folder")
        entries.append(ModuleEntry(kind, name, folder / path))
    if not entries:
        raise ValueError(f"{file} has no modules; check the file")
    if entries[0].kind not in first_kinds:
        first = f"{entries[0].kind!r} ({entries[0].path})"
        raise ValueError(f"{file} has a module {first}; only {' or '.join(first_kinds)} is supported there")
    return entries


def start_folder(folder: Path) -> None:
    """Make a folder, or remove the files that complete an older one, so that an interrupted save opens as nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_FILE, MODULES_FILE):
        (folder / name).unlink(missing_ok=True)


def write_modules(folder: Path, classes: Mapping[str, str]) -> None:
    """Write modules.json, from the folder of each module, "" for `folder` itself, to its class."""
    entries = [{"idx": i, "name": str(i), "path": path, "type": name} for i, (path, name) in enumerate(classes.items())]
    write_json(folder / MODULES_FILE, entries)


def tasks_of(folder: Path) -> Tasks | None:
    """How the folder of a Transformer holds adapters for tasks, if its family has any."""
    file = folder / CONFIG_FILE
    family = matching_family(read_json(file, dict)) if file.is_file() else None
    return family and family.tasks


def read_prompts(
    config: Mapping[str, Any], file: Path, implied: tuple[str, ...] = ()
) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """The stored prompts, (name, text) of each, and the name of the default one.

    A default prompt of an `implied` name need not be stored, and is empty then.
    """
    prompts, default = config.get("prompts", {}), config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ValueError(f"{file} has prompts {prompts!r}; names and texts are needed")
    if default in implied and default not in prompts:
        prompts = prompts | {default: ""}
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ValueError(f"{file} has default_prompt_name {default!r}, but its prompts are {listed(prompts)}")
    return tuple((name, text or "") for name, text in prompts.items()), default


def transformer_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file of the Transformer's settings in a folder, and its content."""
    files = [
        (folder / name, read_json(folder / name, dict)) for name in _TRANSFORMER_FILES if (folder / name).is_file()
    ]
    return next((pair for pair in files if pair[1]), (folder / TRANSFORMER_FILE, {}))


def text_limits(
    folder: Path, task: Task, keys: str = "Transformer", default: Task = "feature-extraction"
) -> TextLimits:
    """How the Transformer in a folder reads texts; ValueError for another task, or a setting that is not supported.

    `keys` is the kind of file, see `check_keys`; `default` is the task of a file that names none.
    """
    file, config = transformer_settings(folder)
    check_keys(config, keys, file)
    output, output_name = _OUTPUTS[task]
    expected = {
        "transformer_task": task,
        "modality_config": {"text": {"method": "forward", "method_output_name": output}},
        "module_output_name": output_name,
    }
    if task != "feature-extraction":
        config = {"transformer_task": default} | config
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise ValueError(f"{file} has {name} {config[name]!r}; only {value!r} is supported")
    arguments = {name: _arguments(config, name, file) for name in _ARGUMENTS}
    lengths = (("model_max_length", arguments["processor_kwargs"]), ("max_seq_length", config))
    return TextLimits(_max_length(lengths, file), flag(config, "do_lower_case", file, False))


def _max_length(lengths: Sequence[tuple[str, Mapping[str, Any]]], file: Path) -> int:
    """The first length that is given among (key, settings) of a file; 0 if none is."""
    for key, settings in lengths:
        if (length := settings.get(key)) is not None:
            if length != 0 and positive(length, file, key) < 3:
                raise ValueError(f"{file} has {key} {length}; texts need at least 3 tokens: [CLS], one, [SEP]")
            return int(length)
    return 0


def _arguments(config: Mapping[str, Any], name: str, file: Path) -> Mapping[str, Any]:
    """Arguments for transformers; ValueError for one that changes what the folder's other files say."""
    older_name, overridden = _ARGUMENTS[name]
    key = older_name if older_name in config else name
    arguments = config.get(key, {})
    if not isinstance(arguments, dict):
        raise ValueError(f"{file} has {key} {arguments!r}; a JSON object is needed")
    target = file.parent / overridden
    stored = read_json(target, dict) if target.is_file() else {}
    changed = {x: value for x, value in arguments.items() if x not in stored or stored[x] != value}
    check_keys(changed, name, f"{key} in {file}")
    return arguments
