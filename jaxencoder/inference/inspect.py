"""What a model or a recipe is made of, and what it takes: read from its settings, without its weights."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from jaxencoder import config as configs
from jaxencoder.adapters.lora import NAME as LORA
from jaxencoder.config import (
    Classification,
    DataConfig,
    EncoderConfig,
    MeshConfig,
    RunConfig,
    TokenClassification,
)
from jaxencoder.families import checkpoint, sentence
from jaxencoder.families.hub import resolve
from jaxencoder.families.tokenizer import published_tokenizer
from jaxencoder.inference.adapter import base_of, is_adapter
from jaxencoder.kernels.choice import chosen_backend
from jaxencoder.model.flops import forward_flops
from jaxencoder.objectives.objective import Params
from jaxencoder.parameters import path_of
from jaxencoder.sharding import abstract_mesh, shardings
from jaxencoder.text.tokenizer import Tokenizer
from jaxencoder.training.layerwise import learning
from jaxencoder.training.optim import make_optimizer
from jaxencoder.training.start import TOKENIZER_FOLDER, saved_config, with_architecture

Kind = Literal["recipe", "run", "transformers", "sentence-transformers"]
_ROLES = ("pad", "unk", "cls", "sep", "mask")


@dataclass(frozen=True)
class Bytes:
    """Of an array or of many: all of it, and what one device of the mesh holds."""

    total: int
    device: int


@dataclass(frozen=True)
class Parameter:
    """One array.

    Attributes:
        path: among the parameters.
        shape: of the whole array.
        number: of its elements.
        bytes: in float32.
        spec: the axis or axes of the mesh that split each of its axes.
    """

    path: str
    shape: tuple[int, ...]
    number: int
    bytes: Bytes
    spec: tuple[str | tuple[str, ...] | None, ...]


@dataclass(frozen=True)
class LayerKind:
    """Layers that attend alike.

    Attributes:
        window: how many tokens to either side a token sees; 0: its whole text.
        layers: how many of this kind there are.
        backend: of attention, for rows of the length that is asked about.
    """

    window: int
    layers: int
    backend: str


@dataclass(frozen=True)
class Inspection:
    """A model or a recipe.

    Attributes:
        name: what was asked for.
        kind: what it is.
        family: the model_type that it is published under, or could be; None: no family has this architecture.
        settings: of its EncoderConfig.
        changed: names of the settings that are not the default.
        heads: name -> settings; the masked-language-model head's are the encoder's.
        tokenizer: name -> value; empty if there is none.
        sentence: how a vector is made of a text; empty unless the folder says it.
        parameters: every array, the encoder's first.
        parts: numbers of parameters: embeddings, layers, adapters, and each head.
        mesh: axis -> devices.
        memory: parameters, gradients, and the optimiser's state, in float32.
        optimizer: its name.
        length: tokens in a row, for what follows.
        flops: of a forward pass for each token of the encoder, and for each token that `mlm_head` predicts.
        attention: the kinds of layers.
        notes: what could not be known, in words.
    """

    name: str
    kind: Kind
    family: str | None
    settings: Mapping[str, Any]
    changed: tuple[str, ...]
    heads: Mapping[str, Mapping[str, Any]]
    tokenizer: Mapping[str, Any]
    sentence: Mapping[str, Any]
    parameters: tuple[Parameter, ...]
    parts: Mapping[str, int]
    mesh: Mapping[str, int]
    memory: Mapping[str, Bytes]
    optimizer: str
    length: int
    flops: Mapping[str, float]
    attention: tuple[LayerKind, ...]
    notes: tuple[str, ...]


def inspect(
    target: str | Path, mesh: Mapping[str, int] | None = None, length: int | None = None, overrides: Sequence[str] = ()
) -> Inspection:
    """Look into a model or a recipe.

    Args:
        target: folder of a run, of transformers or of sentence-transformers, a name of the hub (whose weights are not
            fetched), or a recipe as `train` takes it.
        mesh: devices on each axis, which need not be there; an axis that is not given is the recipe's or run's, or 1.
        length: tokens in a row; None: the recipe's or run's, or the model's longest.
        overrides: command-line words for a recipe.

    Raises:
        ValueError: none of these, a setting that cannot be read, or a length that the model does not have.
        OSError: a file is missing or cannot be read.
    """
    found = _open(str(target), overrides)
    model, length = found.config.model, found.config.data.row_length if length is None else length
    if length < 1 or (model.positions == "learned" and length > model.max_length):
        raise ValueError(f"length is {length}; {target} takes rows of 1 to {model.max_length} tokens")
    axes = abstract_mesh(MeshConfig(**dataclasses.asdict(found.config.mesh) | dict(mesh or {})))
    parameters = tuple(_parameters(found.shapes, axes))
    parts: Counter[str] = Counter()
    for parameter in parameters:
        parts[_part(parameter.path)] += parameter.number
    encoder = forward_flops(model, length)
    flops = {"encoder": encoder}
    if "mlm_head" in found.shapes:
        flops["mlm_head"] = forward_flops(model, length, predicted=1) - encoder
    windows = Counter(model.windows[layer % len(model.windows)] for layer in range(model.num_layers))
    defaults = EncoderConfig()
    return Inspection(
        name=str(target),
        kind=found.kind,
        family=found.family or _family(model),
        settings=dataclasses.asdict(model),
        changed=tuple(name for name, value in vars(model).items() if value != getattr(defaults, name)),
        heads=found.heads,
        tokenizer=found.tokenizer,
        sentence=found.sentence,
        parameters=parameters,
        parts=dict(parts),
        mesh=dict(axes.shape),
        memory=_memory(found, axes),
        optimizer=found.config.optimizer.name,
        length=length,
        flops=flops,
        attention=tuple(
            LayerKind(window, layers, _backend(found.config, length, window)) for window, layers in windows.items()
        ),
        notes=found.notes,
    )


@dataclass(frozen=True)
class _Found:
    """What a target holds: its configuration, the shapes of its parameters, and what is shown as it is."""

    kind: Kind
    config: RunConfig
    shapes: Params
    heads: Mapping[str, Mapping[str, Any]]
    tokenizer: Mapping[str, Any]
    sentence: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None
    notes: tuple[str, ...] = ()


def _open(target: str, overrides: Sequence[str]) -> _Found:
    path, recipes = Path(target), configs.recipes()
    if path.suffix == ".py" or (target in recipes and not path.is_dir()):
        return _recipe(configs.load(target, overrides, prog="jaxencoder inspect"))
    if overrides:
        raise ValueError(f"{target} is no recipe, so its settings cannot be changed: {' '.join(overrides)}")
    if not path.exists() and "/" not in target:
        known = ", ".join(recipes)
        raise ValueError(f"{target} is neither a folder nor a recipe ({known}); a name of the hub has a slash")
    folder = resolve(target, weights=False)
    if (folder / sentence.MODULES_FILE).is_file():
        return _sentence_folder(folder)
    if is_adapter(folder):
        raise ValueError(f"{folder} is an adapter without its base; inspect {base_of(folder)}")
    if "model_type" in checkpoint.read_settings(folder):
        return _published(folder)
    return _run(folder)


def _recipe(config: RunConfig) -> _Found:
    notes = []
    if config.init_from:
        source = _open(config.init_from, ())
        config, tokenizer = with_architecture(config, source.config.model), source.tokenizer
    elif config.tokenizer.path:
        tokenizer = _described(Tokenizer.load(config.tokenizer.path))
    else:
        tokenizer = {"kind": config.tokenizer.kind, "vocab_size": config.tokenizer.vocab_size}
        notes.append("the tokenizer is not trained yet; it may get fewer tokens")
    if not config.model.vocab_size:
        model = dataclasses.replace(config.model, vocab_size=tokenizer["vocab_size"])
        config = dataclasses.replace(config, model=model)
    if isinstance(config.objective, Classification) and not config.objective.labels:
        labels = len(config.data.labels) or 2
        config = dataclasses.replace(config, objective=dataclasses.replace(config.objective, labels=labels))
        if not config.data.labels:
            notes.append("the data will tell how many classes there are; two are counted here")
    if isinstance(config.objective, TokenClassification) and not config.objective.tags:
        tags = config.data.labels or ("O", "B")
        config = dataclasses.replace(config, objective=dataclasses.replace(config.objective, tags=tags))
        if not config.data.labels:
            notes.append("the data will tell how many tags there are; two are counted here")
    return _trained(config, "recipe", tokenizer, tuple(notes))


def _run(folder: Path) -> _Found:
    config = saved_config(folder)
    return _trained(config, "run", _described(Tokenizer.load(folder / TOKENIZER_FOLDER)))


def _trained(config: RunConfig, kind: Kind, tokenizer: Mapping[str, Any], notes: tuple[str, ...] = ()) -> _Found:
    vocabulary = _Vocabulary(config.model.vocab_size)
    shapes = jax.eval_shape(config.build(vocabulary).init, jax.random.key(0))
    settings = dataclasses.asdict(config.objective)
    heads = {name: {} if name == "mlm_head" else settings for name in shapes if name not in ("encoder", LORA)}
    return _Found(kind, config, shapes, heads, tokenizer, notes=notes)


class _Vocabulary(NamedTuple):
    """Stands for a tokenizer where an objective is built and never computed."""

    vocab_size: int
    mask_id: int = 0
    special_ids: tuple[int, ...] = ()

    def word_starts(self) -> np.ndarray:
        return np.ones(self.vocab_size, bool)


def _published(folder: Path, max_length: int = 0) -> _Found:
    found = checkpoint.outline(folder)
    length = min(max_length or found.config.max_length, found.config.max_length)
    config = RunConfig(model=found.config, data=DataConfig(row_length=length))
    tokenizer = published_tokenizer(folder, found.config.vocab_size)
    heads = {name: dataclasses.asdict(head) for name, head in found.published.heads.items()}
    heads = {"mlm_head": {}} | heads if "mlm_head" in found.shapes else heads
    notes = () if found.weights else ("no weights are here: its heads are those that config.json names",)
    described = {} if tokenizer is None else _described(tokenizer)
    family = found.published.family.model_type
    return _Found("transformers", config, found.shapes, heads, described, family=family, notes=notes)


def _sentence_folder(folder: Path) -> _Found:
    found = sentence.read(folder, weights=False)
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


def _backend(config: RunConfig, length: int, window: int) -> str:
    """The backend of a layer of the config's model in training, on devices such as this process has."""
    model = config.model
    relative = bool(model.disentangled or model.relative_buckets) or model.positions == "alibi"
    options = {"relative": relative, "dropout": model.attention_dropout, "global_tokens": model.global_tokens}
    return chosen_backend(config.compute.attention, length, window, **options)


def _family(model: EncoderConfig) -> str | None:
    try:
        return checkpoint.family_of(model).model_type
    except ValueError:
        return None


def _parameters(shapes: Params, mesh: AbstractMesh) -> Iterator[Parameter]:
    for part in sorted(shapes, key=lambda name: name != "encoder"):
        tree = {part: shapes[part]}
        placed = jax.tree.leaves(shardings(tree, mesh))
        for (path, leaf), place in zip(jax.tree.leaves_with_path(tree), placed, strict=True):
            yield Parameter(path_of(path), leaf.shape, leaf.size, _bytes([leaf], [place]), tuple(place.spec))


def _part(path: str) -> str:
    first, second, *_ = path.split("/")
    if first != "encoder":
        return first
    if "_bottleneck/" in path:
        return "bottleneck"
    return "embeddings" if second == "embeddings" else "layers"


def _memory(found: _Found, mesh: AbstractMesh) -> dict[str, Bytes]:
    training, trainable = found.config.training, found.config.learning
    optimizer = make_optimizer(found.config.optimizer, max(training.steps, 1), trainable=trainable)
    state = jax.eval_shape(optimizer.init, found.shapes)
    learns = jax.tree.leaves(learning(trainable)(found.shapes)) if trainable else itertools.repeat(True)
    shapes, places = (jax.tree.leaves(tree) for tree in (found.shapes, shardings(found.shapes, mesh)))
    memory = {
        "parameters": (parameters := _bytes(shapes, places)),
        "gradients": _bytes(*(list(itertools.compress(leaves, learns)) for leaves in (shapes, places))),
        "optimizer": _bytes(jax.tree.leaves(state), jax.tree.leaves(shardings(state, mesh))),
    }
    return memory | ({"average": parameters} if training.ema_decay else {})


def _bytes(leaves: Sequence[Any], placed: Sequence[Any]) -> Bytes:
    total = sum(x.size * x.dtype.itemsize for x in leaves)
    device = sum(
        int(np.prod(place.shard_shape(x.shape))) * x.dtype.itemsize for x, place in zip(leaves, placed, strict=True)
    )
    return Bytes(total, device)
