"""What a command line names, opened without its weights: a recipe, a run, or a published model."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder import config_io
from jaxencoder.adapters.lora import NAME as LORA
from jaxencoder.checkpoints import sentence_transformers
from jaxencoder.checkpoints.adapter import base_of, is_adapter
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.initial import TOKENIZER_FOLDER, saved_config, shortened, with_architecture
from jaxencoder.checkpoints.tokenizer import published_tokenizer
from jaxencoder.checkpoints.transformers import read_model, read_settings
from jaxencoder.config import DataConfig, RunConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

Kind = Literal["recipe", "run", "transformers", "sentence-transformers"]
_ROLES = ("pad", "unk", "cls", "sep", "mask")


@dataclass(frozen=True)
class Target:
    """What is known of it.

    Attributes:
        kind: what it is.
        config: of the run; of a published model, its architecture and its row length, and nothing else that counts.
        shapes: of its parameters, as ShapeDtypeStructs.
        heads: name -> settings; the masked-language-model head's are the encoder's.
        tokenizer: name -> value; empty if there is none.
        sentence: how a vector is made of a text; empty unless the folder says it.
        family: the model_type that it is published under.
        notes: what could not be known, in words.
    """

    kind: Kind
    config: RunConfig
    shapes: Params
    heads: Mapping[str, Mapping[str, Any]]
    tokenizer: Mapping[str, Any]
    sentence: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None
    notes: tuple[str, ...] = ()


def open_target(target: str, overrides: Sequence[str] = (), verb: str = "inspect") -> Target:
    """Find out what a target is, and read its settings.

    Args:
        target: folder of a run, of transformers or of sentence-transformers, a name of the hub (whose weights are not
            fetched), or a recipe as `train` takes it.
        overrides: command-line words for a recipe.
        verb: of the command line, which the help on a recipe's settings names.

    Raises:
        ValueError: none of these, or a setting that cannot be read.
        OSError: a file is missing or cannot be read.
    """
    path, recipes = Path(target), config_io.recipes()
    if path.suffix == ".py" or (target in recipes and not path.is_dir()):
        return _recipe(config_io.load(target, overrides, prog=f"jaxencoder {verb}"))
    if overrides:
        raise ValueError(f"{overrides[0]} is no option of {verb}, and {target} is no recipe with settings to change")
    if not path.exists() and "/" not in target:
        known = ", ".join(recipes)
        raise ValueError(f"{target} is neither a folder nor a recipe ({known}); a name of the hub has a slash")
    folder = resolve(target, weights=False)
    if (folder / sentence_transformers.MODULES_FILE).is_file():
        return _sentence_folder(folder)
    if is_adapter(folder):
        raise ValueError(f"{folder} is an adapter without its base; {verb} {base_of(folder)}")
    if "model_type" in read_settings(folder):
        return _published(folder)
    return _run(folder)


def _recipe(config: RunConfig) -> Target:
    notes = []
    if config.init_from:
        source = open_target(config.init_from)
        asked, config = config, with_architecture(config, source.config.model)
        tokenizer = source.tokenizer
        notes += filter(None, [shortened(asked, config)])
    elif config.tokenizer.path:
        tokenizer = _described(Tokenizer.load(config.tokenizer.path))
    else:
        tokenizer = {"kind": config.tokenizer.kind, "vocab_size": config.tokenizer.vocab_size}
        notes.append("the tokenizer is not trained yet; it may get fewer tokens")
    if not config.model.vocab_size:
        model = dataclasses.replace(config.model, vocab_size=tokenizer["vocab_size"])
        config = dataclasses.replace(config, model=model)
    if config.is_supervised:
        objective = config.objective.with_assumed_labels(config.data.labels)
        if objective != config.objective and not config.data.labels:
            notes.append("the data decides how many classes there are; two are counted here")
        config = dataclasses.replace(config, objective=objective)
    return _trained(config, "recipe", tokenizer, tuple(notes))


def _run(folder: Path) -> Target:
    config = saved_config(folder)
    return _trained(config, "run", _described(Tokenizer.load(folder / TOKENIZER_FOLDER)))


def _trained(config: RunConfig, kind: Kind, tokenizer: Mapping[str, Any], notes: tuple[str, ...] = ()) -> Target:
    vocabulary = AnyVocabulary(config.model.vocab_size)
    shapes = jax.eval_shape(config.build(vocabulary).init, jax.random.key(0))
    settings = dataclasses.asdict(config.objective)
    heads = {name: {} if name == "mlm_head" else settings for name in shapes if name not in ("encoder", LORA)}
    return Target(kind, config, shapes, heads, tokenizer, notes=notes)


class AnyVocabulary(NamedTuple):
    """Stands for a tokenizer where an objective is built and never computed."""

    vocab_size: int
    mask_id: int = 0
    special_ids: tuple[int, ...] = ()

    def word_starts(self) -> np.ndarray:
        return np.ones(self.vocab_size, bool)


def _published(folder: Path, max_length: int = 0) -> Target:
    found = read_model(folder, weights=False)
    length = min(max_length or found.config.max_length, found.config.max_length)
    config = RunConfig(model=found.config, data=DataConfig(row_length=length))
    tokenizer = published_tokenizer(folder, found.config.vocab_size)
    heads = {name: dataclasses.asdict(head) for name, head in found.published.heads.items()}
    heads = {"mlm_head": {}} | heads if "mlm_head" in found.params else heads
    notes = () if found.has_weights else ("no weights are here: its heads are those that config.json names",)
    described = {} if tokenizer is None else _described(tokenizer)
    family = found.published.family.model_type
    return Target("transformers", config, found.params, heads, described, family=family, notes=notes)


def _sentence_folder(folder: Path) -> Target:
    found = sentence_transformers.read(folder, weights=False)
    model = _published(found.transformer, found.max_length)
    modules = {
        str(number): {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in module.shapes().items()}
        for number, module in enumerate(found.settings.modules)
        if module.shapes()
    }
    settings = dataclasses.asdict(found.settings)
    settings["modules"] = [{"kind": type(m).__name__} | dataclasses.asdict(m) for m in found.settings.modules]
    settings |= {"prompts": dict(found.settings.prompts), "max_length": model.config.data.row_length}
    settings |= {"size": min(found.settings.size(found.hidden_size), found.settings.dimensions or 2**31)}
    shapes = model.shapes | ({"sentence": modules} if modules else {})
    return dataclasses.replace(model, kind="sentence-transformers", shapes=shapes, sentence=settings)


def _described(tokenizer: Tokenizer) -> dict[str, Any]:
    special = {role: tokenizer.token(getattr(tokenizer, f"{role}_id")) for role in _ROLES}
    return {"kind": tokenizer.name, "vocab_size": tokenizer.vocab_size, "special": special}
