"""The model that a run starts from: another run, a published folder, or a name of the Hugging Face hub."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.adapters.bottleneck import add_missing_bottlenecks
from jaxencoder.adapters.lora import merge_lora
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.kind import PEFT_CONFIG, kind_of
from jaxencoder.checkpoints.multi_vector import token_settings
from jaxencoder.checkpoints.run import TOKENIZER_FOLDER, read_params, saved_config, separate_models
from jaxencoder.checkpoints.sentence_transformers import (
    embedding_params,
    embedding_settings,
    encoder_folder,
    query_tower,
)
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.config import RunConfig, check_positions
from jaxencoder.families import FAMILIES, classifier
from jaxencoder.families.family import Family
from jaxencoder.families.published import Published, can_hold, family_of, form_in
from jaxencoder.families.roberta import PAD
from jaxencoder.families.tables import parameter_shapes
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig
from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.model.sentence import QUERY_TOWER, SentenceConfig
from jaxencoder.objectives.objective import ObjectiveConfig, Params
from jaxencoder.parameters import flatten
from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.training.layerwise import layer_heights


class InitialModel(NamedTuple):
    """The architecture and tokenizer of a model to start from."""

    model: EncoderConfig
    tokenizer: Tokenizer
    tokenizer_config: TokenizerConfig  # names the tokenizer
    sentence: SentenceConfig  # of its embeddings
    heads: Mapping[str, HeadConfig]  # by which it would score texts, of `scoring_heads`
    multi_vector: MultiVectorConfig | None  # of its vectors of tokens, if it gives any


def open_initial_model(init_from: str) -> InitialModel:
    """Open the model at `init_from`, without its weights; ValueError if training cannot start from it."""
    folder = resolve(init_from)
    match kind_of(folder):
        case "run":
            config, path = saved_config(folder), folder / TOKENIZER_FOLDER
            tokenizer_config = dataclasses.replace(config.tokenizer, path=str(path))
            settings = config.objective.sentence, _run_heads(config), config.objective.multi_vector(config.model)
            return InitialModel(config.model, Tokenizer.load(path), tokenizer_config, *settings)
        case "adapter" | "peft":
            raise ValueError(f"{folder} is an adapter without its base; write both with convert --to run first")
    encoder, lowercase = encoder_folder(folder)
    if (encoder / PEFT_CONFIG).is_file():
        raise ValueError(f"{encoder} holds an adapter without its base; write both with convert --to run first")
    checkpoint = open_transformers(encoder, weights=False)
    if checkpoint.tokenizer is None:
        raise ValueError(f"{encoder} has no tokenizer, and training needs one; add one to the folder")
    multi_vector, _, markers = token_settings(folder, checkpoint.max_length, weights=False)
    tokenizer = (checkpoint.tokenizer.lowercased() if lowercase else checkpoint.tokenizer).with_markers(markers)
    model, published = checkpoint.config.model, checkpoint.published
    heads = classifier.scoring_heads(published and published.family, model, published and published.settings)
    settings = embedding_settings(folder), heads, multi_vector
    return InitialModel(model, tokenizer, TokenizerConfig(path=str(encoder)), *settings)


def _run_heads(config: RunConfig) -> Mapping[str, HeadConfig]:
    """The heads by which a run scores texts, or would in the family in which it can be published."""
    if config.objective.cross_encoder is not None:
        return config.objective.heads(config.model)
    try:
        family, model = published_form(config, ("pooler", "sequence_head"))
    except ValueError:  # no family has this architecture
        return classifier.scoring_heads(None, config.model)
    return classifier.scoring_heads(family, model)


def read_published(folder: Path) -> tuple[Path, Published] | None:
    """The folder of a published model's encoder, and its published form; None for other kinds."""
    if kind_of(folder) not in ("transformers", "sentence_transformers"):
        return None
    encoder, _ = encoder_folder(folder)
    if (encoder / PEFT_CONFIG).is_file():  # it names a base
        return None
    published = open_transformers(encoder, weights=False).published
    return published and (encoder, published)


def published_origin(config: RunConfig) -> Published | None:
    """The published model that a run started from, perhaps through other runs; None if there is none on disk."""
    seen = set()
    while config.init_from and config.init_from not in seen:
        seen.add(config.init_from)
        try:
            folder = resolve(config.init_from, weights=False)
            if origin := read_published(folder):
                return origin[1]
            config = saved_config(folder)
        except (OSError, ValueError):
            return None
    return None


def published_form(config: RunConfig, parts: Iterable[str] = (), pad_id: int = PAD) -> tuple[Family, EncoderConfig]:
    """The family in which a run can be published, and its architecture there; see `form_in`.

    It is the family of the published model that the run started from, if that can hold the architecture.

    Args:
        parts: names of parameters, for which another family should have heads.
        pad_id: of the tokenizer.

    Raises:
        ValueError: no family can hold the architecture.
    """
    origin, model = published_origin(config), config.model
    if origin is not None and (form := form_in(origin.family, model, pad_id)):
        return origin.family, form
    if not any(can_hold(family, model) for family in FAMILIES):
        forms = (form_in(family, model, pad_id) for family in FAMILIES)
        model = next((form for form in forms if form), model)
    return family_of(model, parts), model


def initial_params(init_from: str, params: Params, objective: ObjectiveConfig, reinitialize: int = 0) -> Params:
    """The parameters of a new run: from `init_from` where the shapes match, else fresh. Prints which.

    A classifier of texts reuses the parts of the family's classification head that match: BERT's pooler, and its
    projection if it has as many classes. Of a run of replaced-token detection, it is the discriminator that is used;
    both models if the new run trains such a generator and shares embeddings in the same way.

    Args:
        init_from: a folder, or a name on the Hugging Face hub.
        params: the new run's parameters, freshly initialized.
        objective: the new run's.
        reinitialize: how many layers, from the top, to keep as in `params`.

    Raises:
        ValueError: the encoders differ in shape, or have fewer layers than `reinitialize`.
    """
    source, heads = _source(init_from, params, objective)
    if QUERY_TOWER in params:
        source = source | {QUERY_TOWER: _tower(source.get(QUERY_TOWER, source), params[QUERY_TOWER])}
    encoder = add_missing_bottlenecks(source["encoder"], params["encoder"])
    has_new_adapters = len(jax.tree.leaves(encoder)) > len(jax.tree.leaves(source["encoder"]))
    source = source | {"encoder": encoder}
    matched = [name for name in params if name in source and _shapes(source[name]) == _shapes(params[name])]
    if "encoder" not in matched:
        raise ValueError(f"the encoder of init_from {init_from} has other shapes than this model's; start a new run.")
    result = params | {name: source[name] for name in matched}
    new = [*["adapters"] * has_new_adapters, *(name for name in params if name not in matched)]
    fresh = params.get(classifier.NAME, {})
    parts = classifier.from_heads(source, getattr(objective, "pooling", ""), heads, "dense" in fresh)
    parts = {part: x for part, x in parts.items() if part in fresh and _shapes(x[1]) == _shapes(fresh[part])}
    if classifier.NAME in new and parts:
        result[classifier.NAME] = fresh | {part: arrays for part, (_, arrays) in parts.items()}
        matched += [f"{path} as {classifier.NAME}/{part}" for part, (path, _) in parts.items()]
        position = new.index(classifier.NAME)
        new[position : position + 1] = [f"{classifier.NAME}/{part}" for part in fresh if part not in parts]
    if jax.process_index() == 0:
        top = f", and {reinitialize} layers from the top" if reinitialize else ""
        print(f"Starting from {init_from}: {', '.join(matched)}; new: {', '.join(new) or 'nothing'}{top}", flush=True)
    return reinitialize_top(result, params, reinitialize) if reinitialize else result


def _tower(source: Params, params: Params) -> Params:
    """The parameters of a tower for queries: copies from `source` where the shapes match, else those in `params`."""
    matched = {name: x for name, x in source.items() if name in params and _shapes(x) == _shapes(params[name])}
    return params | jax.tree.map(np.array, matched)


def _source(init_from: str, params: Params, objective: ObjectiveConfig) -> tuple[Params, Mapping[str, HeadConfig]]:
    """The parameters at `init_from`, and the heads that they may have."""
    folder = resolve(init_from)
    if kind_of(folder) != "run":
        extra = ("pooler",) if params.keys() & {classifier.NAME, "pooler"} else ()
        model = open_transformers(encoder_folder(folder)[0], extra_heads=extra)
        assert model.published is not None  # open_transformers sets it
        tables = model.published.family.heads(model.config.model, model.published.settings)
        heads = {name: table.config for name, table in tables.items()}
        if "sequence_head" in heads and classifier.texts_end_with(model.tokenizer, heads["sequence_head"].pad_id):
            del heads["sequence_head"]
        _, modules, _ = token_settings(folder, model.max_length)
        extra_params = {"multi_vector": modules} if modules else {}
        if QUERY_TOWER in params:
            extra_params |= query_tower(folder, model)
        return model.params | embedding_params(folder) | extra_params, heads
    config = saved_config(folder)
    source = merge_lora(config.adapter, read_params(folder, config)[1])
    same_generator = getattr(objective, "sharing", None) == getattr(config.objective, "sharing", None)
    same_generator &= _shapes(source.get("generator")) == _shapes(params.get("generator"))
    if "generator" in source and not same_generator:
        source = separate_models(config, Tokenizer.load(folder / TOKENIZER_FOLDER), source)["discriminator"]
    return source, config.objective.heads(config.model)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(np.shape, tree)


def reinitialize_top(params: Params, new: Params, layers: int) -> Params:
    """Take the top layers of every encoder from `new`; ValueError if one has fewer. Trees of the same shapes.

    References:
        Zhang et al. 2021, Revisiting few-sample BERT fine-tuning, arXiv:2006.05987, section 4.
    """
    height, counts = layer_heights(params)
    for encoder, count in counts.items():
        if layers > count:
            raise ValueError(f"reinitialize is {layers}, but {encoder} has only {count} layers with parameters")

    def choose(path: tuple[Any, ...], old: Any, fresh: Any) -> jax.Array:
        above = height(path, old)[1]
        return jnp.where((above > 0) & (above <= layers), fresh, old)

    # Compiled, because in a run on several hosts no host has all of `new`.
    return jax.jit(lambda old, fresh: jax.tree.map_with_path(choose, old, fresh))(params, new)


def with_architecture(config: RunConfig, model: EncoderConfig) -> RunConfig:
    """A configuration with the architecture of its initial model, but its own dropout and new bottleneck adapters.

    If it is supervised, its rows, or only the texts in them if the task can limit these, are shortened to the model's
    learned positions; see `row_length_note`.

    Raises:
        ValueError: bottleneck adapters that differ from the model's or would not be trained, or, for pretraining, rows
            longer than the learned positions.
    """
    bottleneck = ("bottleneck", "bottleneck_sublayers") if config.model.bottleneck else ()
    for name in bottleneck:
        value, existing = getattr(config.model, name), getattr(model, name)
        if model.bottleneck and value != existing:
            raise ValueError(
                f"model.{name} is {value}, but the model that the run starts from has adapters with {existing}; "
                "leave it out to train those"
            )
    kept = {name: getattr(config.model, name) for name in ("dropout", "attention_dropout", *bottleneck)}
    config = dataclasses.replace(config, model=dataclasses.replace(model, **kept))
    is_longer = model.positions == "learned" and _longest_text(config) > model.max_length
    if is_longer and config.schema.limits_texts:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, text_length=model.max_length))
    elif is_longer and config.is_supervised:
        data, *phases = (
            dataclasses.replace(part, row_length=min(part.row_length, model.max_length))
            for part in (config.data, *config.phases)
        )
        config = dataclasses.replace(config, data=data, phases=tuple(phases))
    for part in config.phase_configs:
        check_positions(part)
    patterns = config.optimizer.trainable
    if config.model.bottleneck > model.bottleneck and patterns:
        new = [path for path in flatten(parameter_shapes(config.model, False)) if "_bottleneck/" in path]
        if not any(re.search(pattern, path) for pattern in patterns for path in new):
            raise ValueError(
                f"optimizer.trainable {list(patterns)} leaves the new adapters out, so they would not be trained; "
                'add "_bottleneck/", or set model.bottleneck to 0'
            )
    return config


def row_length_note(requested: RunConfig, config: RunConfig) -> str:
    """One line on rows, or texts in them, that `with_architecture` has shortened; empty if it has not."""
    before, after = _longest_text(requested), _longest_text(config)
    if before == after:
        return ""
    kind = "Texts" if config.schema.limits_texts else "Rows"
    return f"{kind} of at most {after} tokens, not {before}: {config.init_from} has no more positions"


def _longest_text(config: RunConfig) -> int:
    """The limit on the tokens of a text, or of a pair of texts, in any phase."""
    return max(run.data.text_limit for run in (config, *config.phase_configs))
