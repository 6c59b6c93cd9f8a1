"""The description of a recipe, a run or a published model, made without its weights."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxencoder import config_io
from jaxencoder.adapters.lora import NAME as LORA
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.initial import row_length_note, with_architecture
from jaxencoder.checkpoints.kind import PEFT_CONFIG, kind_of
from jaxencoder.checkpoints.opening import base_name, open_sentence_transformers
from jaxencoder.checkpoints.run import TOKENIZER_FOLDER, saved_config
from jaxencoder.checkpoints.sentence_transformers import encoder_folder
from jaxencoder.checkpoints.task_adapters import task_names
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.checkpoints.weights import has_weights
from jaxencoder.config import RunConfig
from jaxencoder.model.sentence import QUERY_TOWER
from jaxencoder.objectives.objective import Params
from jaxencoder.tasks.task import TaskObjective
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

Kind = Literal["recipe", "run", "transformers", "sentence-transformers"]


@dataclass(frozen=True)
class ModelDescription:
    """A model's settings and the shapes of its parameters."""

    kind: Kind
    config: RunConfig  # for a published model only `model`, `name` and `data.row_length` are meaningful
    shapes: Params  # ShapeDtypeStructs of its parameters; for a run those in training, with a low-rank adapter apart
    heads: Mapping[str, Mapping[str, Any]]  # name -> settings; none for mlm_head, whose settings are the encoder's
    tokenizer: Mapping[str, Any]  # name -> value; empty if there is none
    sentence: Mapping[str, Any] = field(default_factory=dict)  # the same for embeddings
    family: str | None = None  # the model_type of a published model
    notes: tuple[str, ...] = ()  # what could not be determined, one sentence each


class PlaceholderVocabulary(NamedTuple):
    """A vocabulary to build an objective with that is never computed."""

    vocab_size: int
    mask_id: int = 0
    special_ids: tuple[int, ...] = ()

    def token_id(self, token: str) -> int | None:
        return self.mask_id

    def word_starts(self) -> np.ndarray:
        return np.ones(self.vocab_size, bool)

    def encode_batch(self, texts: Sequence[str]) -> list[Any]:
        """Nothing, so that prompts have no tokens."""
        return [SimpleNamespace(ids=np.zeros(0, np.int32)) for _ in texts]


def describe_model(target: str, overrides: Sequence[str] = (), verb: str = "inspect") -> ModelDescription:
    """Describe a model from its settings; arguments and errors are those of `inspect`, and `verb` is for messages."""
    path, recipes = Path(target), config_io.recipes()
    if path.suffix == ".py" or (target in recipes and not path.is_dir()):
        return _recipe(config_io.load(target, overrides, prog=f"jaxencoder {verb}"))
    if overrides:
        raise ValueError(f"{overrides[0]} is not an option of {verb}; only a recipe has settings, not {target}")
    if not path.exists() and "/" not in target:
        names = ", ".join(recipes)
        raise ValueError(f"{target} is neither a folder nor a recipe ({names}); a name on the hub has a slash")
    folder = resolve(target, weights=False)
    match kind_of(folder):
        case "run":
            return _trained(saved_config(folder), "run", _tokenizer(Tokenizer.load(folder / TOKENIZER_FOLDER)))
        case "transformers":
            return _published(folder, "transformers", open_transformers(folder, weights=False))
        case "sentence_transformers":
            return _published(folder, "sentence-transformers", open_sentence_transformers(folder, weights=False))
        case "adapter" | "peft":
            raise ValueError(f"{folder} is an adapter without its base; {verb} {base_name(folder)}")


def _recipe(config: RunConfig) -> ModelDescription:
    notes = []
    if config.init_from:
        source = describe_model(config.init_from)
        requested, config = config, with_architecture(config, source.config.model)
        tokenizer = source.tokenizer
        notes += filter(None, [row_length_note(requested, config)])
    elif config.tokenizer.path:
        tokenizer = _tokenizer(Tokenizer.load(config.tokenizer.path))
    else:
        tokenizer = {"kind": config.tokenizer.kind, "vocab_size": config.tokenizer.vocab_size}
        notes.append("the tokenizer is not trained yet; it may have fewer tokens")
    if not config.model.vocab_size:
        model = dataclasses.replace(config.model, vocab_size=tokenizer["vocab_size"])
        config = dataclasses.replace(config, model=model)
    if isinstance(config.objective, TaskObjective):
        objective = config.objective.with_assumed_labels(config.data.labels)
        if objective != config.objective and not config.data.labels:
            notes.append("the number of classes depends on the data; this assumes two")
        config = dataclasses.replace(config, objective=objective)
    return _trained(config, "recipe", tokenizer, tuple(notes))


def _trained(
    config: RunConfig, kind: Kind, tokenizer: Mapping[str, Any], notes: tuple[str, ...] = ()
) -> ModelDescription:
    objective = config.build(PlaceholderVocabulary(config.model.vocab_size))
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    settings = dataclasses.asdict(config.objective)
    names = (name for name in shapes if name not in ("encoder", LORA))
    heads = {name: {} if name in ("mlm_head", QUERY_TOWER) else settings for name in names}
    return ModelDescription(kind, config, shapes, heads, tokenizer, notes=notes)


def _published(folder: Path, kind: Kind, checkpoint: Checkpoint) -> ModelDescription:
    heads = {"mlm_head": {}} if "mlm_head" in checkpoint.params else {}
    heads |= {name: dataclasses.asdict(head) for name, head in checkpoint.heads.items()}
    if checkpoint.cross_encoder is not None:
        heads["sequence_head"] |= dataclasses.asdict(checkpoint.cross_encoder)
    encoder, _ = encoder_folder(folder)
    is_complete = has_weights(encoder) or (encoder / PEFT_CONFIG).is_file()
    notes = [] if is_complete else ["the folder has no weights; the heads are those of the class in config.json"]
    if tasks := checkpoint.published and task_names(encoder, checkpoint.published):
        notes.append(f"adapters, not counted, for the tasks {', '.join(tasks)}; the name of a prompt chooses one")
    if checkpoint.queries is not None:
        notes.append("this is the tower for documents; another one, not counted, embeds queries")
    return ModelDescription(
        kind=kind,
        config=checkpoint.config,
        shapes=checkpoint.params,
        heads=heads,
        tokenizer={} if checkpoint.tokenizer is None else _tokenizer(checkpoint.tokenizer),
        sentence=_sentence(checkpoint) if kind == "sentence-transformers" and not checkpoint.cross_encoder else {},
        family=checkpoint.published and checkpoint.published.family.model_type,
        notes=tuple(notes),
    )


def _sentence(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.sentence
    size = config.size(checkpoint.config.model.hidden_size)
    return dataclasses.asdict(config) | {
        "modules": [{"kind": type(module).__name__} | dataclasses.asdict(module) for module in config.modules],
        "prompts": dict(config.prompts),
        "max_length": checkpoint.config.data.row_length,
        "size": min(size, config.dimensions or size),
    }


def _tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    return {"kind": tokenizer.name, "vocab_size": tokenizer.vocab_size, "special": tokenizer.special_tokens}
