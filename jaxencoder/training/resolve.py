"""Open choices of a configuration, resolved from the data: vocabulary size, classes, steps and batch size."""

import dataclasses
import logging
from typing import Any

import jax

from jaxencoder.config import RunConfig
from jaxencoder.sharding import make_mesh
from jaxencoder.tasks.task import TaskObjective, TrainingLabels
from jaxencoder.text.store import Store
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_RARE = 0.1  # warn of a class with less than this fraction of the average number of examples


def resolve_from_data(
    config: RunConfig, tokenizer: Tokenizer, train: tuple[tuple[Store, ...], ...], saved: RunConfig | None
) -> RunConfig:
    """The configuration with every choice made that was left open.

    Args:
        config: the configuration of the command.
        train: the prepared rows of each phase.
        saved: the configuration of the run that is continued; its choices stay.

    Raises:
        ValueError: a choice of the configuration contradicts the tokenizer or the data.
    """
    size = config.model.vocab_size or tokenizer.vocab_size
    if size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size is {size}, but the tokenizer has {tokenizer.vocab_size} tokens; "
            "set it to 0 to take the tokenizer's size, or name another tokenizer.path."
        )
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))
    if isinstance(objective := config.objective, TaskObjective):
        if saved and isinstance(saved.objective, TaskObjective):
            objective = objective.resumed(saved.objective)
        config = dataclasses.replace(config, objective=objective.with_labels(_training_labels(config, train)))
    metric, mode = config.best
    config = with_training(config, best_metric=metric, best_mode=mode)
    return _resolve_counts(config, train[0], is_continued=saved is not None)


def labeled_examples(config: RunConfig, stores: tuple[Store, ...]) -> int:
    """The number of labeled examples in the rows; 0 for unlabeled text."""
    return sum(store.meta["pieces"] for store in stores) if config.is_supervised else 0


def unique_stores(stores: tuple[tuple[Store, ...], ...]) -> tuple[Store, ...]:
    """The stores of all phases, each once."""
    return tuple(dict.fromkeys(store for phase in stores for store in phase))


def with_training(config: RunConfig, **settings: Any) -> RunConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **settings))


def _resolve_counts(config: RunConfig, stores: tuple[Store, ...], is_continued: bool) -> RunConfig:
    """The configuration with steps for epochs, and with a batch size for examples."""
    settings, shards = config.training, 1
    if is_continued:  # the run already has its batch size
        settings = dataclasses.replace(settings, batch_examples=0)
    elif settings.batch_examples:
        shape = make_mesh(config.mesh).shape
        shards = shape["data"] * shape["fsdp"] * config.objective.batch_multiple
    settings = settings.resolve(sum(map(len, stores)), labeled_examples(config, stores), shards)
    settings = dataclasses.replace(settings, batch_examples=config.training.batch_examples)
    return dataclasses.replace(config, training=settings)


def _training_labels(config: RunConfig, train: tuple[tuple[Store, ...], ...]) -> TrainingLabels:
    names, *later = (tuple(store.meta["labels"]) for store in unique_stores(train))
    if config.schema.by_source:  # some have no classes
        names, *later = [classes for classes in (names, *later) if classes] or [()]
    if different := [x for x in later if x != names]:
        parts = "sources" if config.schema.by_source else "phases"
        raise ValueError(
            f"the {parts} have the classes {list(names)} and {list(different[0])}; name those of all in data.labels."
        )
    if len(names) == 1:
        raise ValueError(
            f"field {config.data.label_field!r} of the training data holds no class but {names[0]!r}; "
            "there is nothing to classify, name another data.label_field."
        )
    kind, counts = train[0][0].meta["label_kind"], ()
    if names and kind in ("class", "classes"):
        counts = tuple(map(sum, zip(*(store.label_counts().tolist() for store in train[0]), strict=True)))
        _check_unlabeled(names, counts, sum(store.meta.get("unlabeled", 0) for store in train[0]))
        _warn_of_rare(names, counts, labeled_examples(config, train[0]))
    texts, source_texts = (
        [store.meta.get("tuples", (1, 1))[1] for store in stores] for stores in (unique_stores(train), train[0])
    )
    return TrainingLabels(config.data.label_field, kind, names, counts, max(texts), tuple(source_texts))


def _check_unlabeled(names: tuple[str, ...], counts: tuple[int, ...], unlabeled: int) -> None:
    """ValueError if a class has no example because its label may have been read as a mark of no label."""
    if unlabeled and 0 in counts:
        raise ValueError(
            f"class {names[counts.index(0)]!r} has no example, but {unlabeled} records marked as unlabeled, such as by "
            "-1, were left out; if -1 is a class, give it that name in data.labels, else drop these records."
        )


def _warn_of_rare(labels: tuple[str, ...], counts: tuple[int, ...], examples: int) -> None:
    rare = [(n, label) for label, n in zip(labels, counts, strict=True) if n * len(counts) < _RARE * sum(counts)]
    if rare and jax.process_index() == 0:
        names = ", ".join(f"{label!r} ({n})" for n, label in sorted(rare, key=lambda pair: pair[0])[:8])
        log.warning(
            "Rare among %d training examples: %s. Accuracy will not show them: watch macro_f1 and auprc, and see "
            "objective.loss and objective.class_weights.", examples, names,
        )  # fmt: skip
