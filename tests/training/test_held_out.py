"""Names of the sets of evaluations during training, and of their metrics."""

from pathlib import Path

import pytest

from jaxencoder.config import TrainingConfig
from jaxencoder.training.held_out import parse


@pytest.mark.parametrize(
    ("text", "name", "folder_and_split"),
    [
        ("similarity:/data/sts/dev.jsonl", "similarity/sts-dev", None),
        ("pair_classification:tfds:glue/qqp:validation", "pair-classification/qqp-validation", None),
        ("similarity:a/dev.jsonl,b/dev.jsonl.gz", "similarity/a-dev-b-dev", None),
        ("retrieval:data/scifact", "retrieval/scifact", (Path("data/scifact"), "test")),
        ("retrieval:scifact/qrels/dev.tsv", "retrieval/scifact-dev", (Path("scifact"), "dev")),
    ],
)
def test_names(text: str, name: str, folder_and_split: tuple | None) -> None:
    (held_out,) = parse((text,))
    assert held_out.name == name and held_out.metrics[0].startswith(f"{name}/")
    assert folder_and_split is None or held_out.folder_and_split == folder_and_split


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("sts/dev.jsonl",), "evaluations holds 'sts/dev.jsonl', which names no set; give TASK:SET, where TASK is one"),
        (("probing:facts.jsonl",), "holds 'probing:facts.jsonl'; give TASK:SET, where TASK is one of similarity, pair"),
        (("retrieval:",), "holds 'retrieval:'; give TASK:SET"),
        (("retrieval:a/x", "retrieval:b/x"), "holds 'retrieval:a/x' and 'retrieval:b/x', whose results have one name"),
    ],
)
def test_errors(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(evaluations=texts)
