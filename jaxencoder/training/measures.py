"""Evaluations of a model during training, on sets that `training.evaluations` names."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxencoder.checkpoints.run import as_checkpoint
from jaxencoder.config import RunConfig
from jaxencoder.evaluation.bitext import evaluate_bitext, read_translations
from jaxencoder.evaluation.pair_classification import LABEL_NAMES, evaluate_pair_classification, read_labeled_pairs
from jaxencoder.evaluation.retrieval import evaluate_retrieval, judged_queries, read_corpus
from jaxencoder.evaluation.similarity import SCORE_NAMES, evaluate_similarity, read_pairs
from jaxencoder.evaluation.text_pairs import source_fields
from jaxencoder.evaluation.triplets import evaluate_triplets, read_triplets
from jaxencoder.inference.load import opened_checkpoint
from jaxencoder.inference.model import OpenedModel
from jaxencoder.objectives.objective import ObjectiveConfig
from jaxencoder.tasks.multi_vector.objective import MultiVectors
from jaxencoder.tasks.reranking.objective import Reranking
from jaxencoder.tasks.reranking.predict import evaluate_lists, read_lists
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.training.agreement import of_first_process
from jaxencoder.training.held_out import METRICS, HeldOutSet, parse
from jaxencoder.training.step import TrainState

Measure = Callable[[OpenedModel, HeldOutSet], dict[str, Any]]


def _on_folder(model: OpenedModel, held_out: HeldOutSet) -> dict[str, Any]:
    folder, split = held_out.folder_and_split
    return evaluate_retrieval(model, folder, split)


def _on_sources(evaluate: Callable[..., dict[str, Any]]) -> Measure:
    return lambda model, held_out: evaluate(model, held_out.source.split(","))


_MEASURES: dict[str, Measure] = {
    "similarity": _on_sources(evaluate_similarity),
    "pair-classification": _on_sources(evaluate_pair_classification),
    "triplets": _on_sources(evaluate_triplets),
    "bitext": _on_sources(evaluate_bitext),
    "retrieval": _on_folder,
    "reranking": lambda model, held_out: evaluate_lists(model, held_out.source).metrics,
}


def measures(config: RunConfig, tokenizer: Tokenizer) -> Callable[[TrainState], dict[str, float]]:
    """A function from the state to the results on the sets of `training.evaluations`, by names of `HeldOutSet.metrics`.

    Every process computes them, on its own devices, and all take those of the first one.
    """
    sets = parse(config.training.evaluations)

    def measure(state: TrainState) -> dict[str, float]:
        if not sets:
            return {}
        model, result = _current_model(config, tokenizer, state), {}
        with jax.set_mesh(model.mesh):
            for held_out in sets:
                values = _MEASURES[held_out.task](model, held_out)
                names = zip(held_out.metrics, METRICS[held_out.task], strict=True)
                result |= {name: float(values[metric]) for name, metric in names if metric in values}
        if (best := config.training.best_metric) in config.training.evaluation_metrics and best not in result:
            problem = f"training.best_metric is {best}, but the labels of the set give only {', '.join(result)}"
            raise ValueError(f"{problem}; choose one of them.")
        return of_first_process(result)

    return measure


def _current_model(config: RunConfig, tokenizer: Tokenizer, state: TrainState) -> OpenedModel:
    """The model as it would be opened from a checkpoint of this state."""
    step, params = int(state.step), state.params if state.ema is None else state.ema
    if jax.process_count() > 1:
        params = multihost_utils.process_allgather(params, tiled=True)
    return opened_checkpoint(as_checkpoint(config, tokenizer, params, step))


def check_sets(config: RunConfig) -> None:
    """Raise ValueError or OSError if a set cannot be read, or if the objective's model is not evaluated on it."""
    for held_out in parse(config.training.evaluations):
        _check_objective(config.objective, held_out.task)
        _check_readable(config, held_out)


def _check_objective(objective: ObjectiveConfig, task: str) -> None:
    if isinstance(objective, Reranking) != (task == "reranking"):
        usable = "reranking" if isinstance(objective, Reranking) else "other tasks"
        problem = f"training.evaluations has {task}, but the objective is {type(objective).__name__}"
        raise ValueError(f"{problem}, which is evaluated by {usable}.")
    if isinstance(objective, MultiVectors) and task != "retrieval":
        problem = f"training.evaluations has {task}, but the objective MultiVectors gives a vector for each token"
        raise ValueError(f"{problem}; evaluate it by retrieval.")


def _check_readable(config: RunConfig, held_out: HeldOutSet) -> None:
    sources = held_out.source.split(",")
    match held_out.task:
        case "similarity":
            read_pairs(sources, source_fields(sources, "", "", "", label_names=SCORE_NAMES))
        case "pair-classification":
            read_labeled_pairs(sources, source_fields(sources, "", "", "", label_names=LABEL_NAMES))
        case "triplets":
            read_triplets(sources)
        case "bitext":
            read_translations(sources)
        case "retrieval":
            folder, split = held_out.folder_and_split
            judged_queries(folder, split)
            next(read_corpus(folder))  # the rest, which may be large, is read by the evaluation
        case "reranking":
            read_lists(config, held_out.source)
