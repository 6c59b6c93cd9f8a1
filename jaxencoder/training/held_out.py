"""Sets on which a model is evaluated during training: their names and those of their metrics, without jax."""

import re
from pathlib import Path
from typing import NamedTuple

# Task -> its metrics, of all of which more is better; the first chooses the best checkpoint unless another is named.
METRICS = {
    "similarity": ("spearman", "pearson"),
    "pair-classification": ("ap", "f1", "accuracy"),
    "triplets": ("accuracy",),
    "bitext": ("f1", "accuracy"),
    "retrieval": ("ndcg@10", "map@10", "mrr@10", "recall@10", "recall@100"),
    "reranking": ("ndcg@10", "mrr@10", "map", "pair_accuracy"),
}


class HeldOutSet(NamedTuple):
    """A set to evaluate on."""

    task: str  # of METRICS
    source: str  # as in `jaxencoder evaluate TASK MODEL SOURCE`, or the relevances in a BEIR folder

    @property
    def name(self) -> str:
        """Task and short name of the set: "similarity/sts-dev" for sts/dev.jsonl, "retrieval/scifact" for a folder."""
        return f"{self.task}/{'-'.join(map(_short_name, self.source.split(',')))}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics in the results of the run."""
        return tuple(f"{self.name}/{metric}" for metric in METRICS[self.task])

    @property
    def folder_and_split(self) -> tuple[Path, str]:
        """The BEIR folder and the split of a source FOLDER, which means test, or FOLDER/qrels/SPLIT.tsv."""
        path = Path(self.source)
        return (path.parents[1], path.stem) if path.suffix == ".tsv" and path.parent.name == "qrels" else (path, "test")


def _short_name(source: str) -> str:
    """The file and its folder, without the words that name no set."""
    path = Path(source)
    parts = (path.parent.name, path.name.partition(".")[0]) if path.suffix else (path.name,)
    if path.suffix == ".tsv" and path.parent.name == "qrels":
        parts = path.parents[1].name, path.stem
    return re.sub(r"[^\w.]+", "-", "-".join(filter(None, parts))).strip("-") or "set"


def parse(texts: tuple[str, ...]) -> tuple[HeldOutSet, ...]:
    """The sets of training.evaluations, TASK:SOURCE each; ValueError for another form or two of the same name."""
    sets = []
    for text in texts:
        task, colon, source = text.partition(":")
        task = task.replace("_", "-")
        if task not in METRICS or not source:
            problem = f"training.evaluations holds {text!r}" + ("" if colon else ", which names no set")
            raise ValueError(f"{problem}; give TASK:SET, where TASK is one of {', '.join(METRICS)}.")
        sets.append(HeldOutSet(task, source))
    names = [x.name for x in sets]
    if doubled := [text for text, name in zip(texts, names, strict=True) if names.count(name) > 1]:
        listed = " and ".join(map(repr, doubled))
        raise ValueError(f"training.evaluations holds {listed}, whose results have one name; move or rename a set.")
    return tuple(sets)
