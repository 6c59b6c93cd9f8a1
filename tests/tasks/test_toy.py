"""A task of its own in one file: which of two fields is longer. It is trained, predicts and is evaluated."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.config import ComputeConfig, DataConfig, EncoderConfig, RunConfig, TokenizerConfig, TrainingConfig
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.inference.predict import predict
from jaxencoder.tasks import table
from jaxencoder.tasks.records import chunks, labeled_records, numbered
from jaxencoder.tasks.running import objective_scores, row_length, score_texts
from jaxencoder.tasks.scores import text_scores
from jaxencoder.tasks.task import Evaluation, Task, TaskObjective
from jaxencoder.text.labels import Labels
from jaxencoder.text.schema import Schema
from jaxencoder.training.loop import train
from jaxencoder.training.optimizers import OptimizerConfig
from tests.tasks.conftest import write_records


class LongerSchema(Schema):
    name = "longer"

    def find_labels(self, data):
        return Labels("value", ())

    def encode_label(self, label, texts, labels, where):
        return float({"first": 1, "second": -1}[label])


@dataclass(frozen=True)
class Longer(TaskObjective):
    """Settings of the task."""

    margin: float = 1.0
    """Score from which an example has no loss."""

    def network(self, encoder, compute):
        return text_scores(encoder, compute, 1, "mean", 0.0)

    def metrics(self, scores, batch):
        labels = jnp.nan_to_num(batch["labels"])  # [B, E], 1 or -1, 0 at padding
        losses = jnp.where(labels == 0, 0, jnp.maximum(self.margin - scores[..., 0] * labels, 0))
        return {"loss": (losses.sum(), jnp.abs(labels).sum())}


def predict_longer(model, source):
    data = model.config.data
    for chunk in chunks((record for _, record in numbered(source, data.text_field)), lambda record: 1):
        pairs = model.tokenizer.encode_batch(*([record[name] for record in chunk] for name in ("a", "b")))
        ids, types = ([getattr(x, name) for x in pairs] for name in ("ids", "type_ids"))
        scores = score_texts(model, objective_scores(model), 1, ids, types, limit=row_length(model))[:, 0]
        yield [record | {"longer": "first" if x > 0 else "second"} for record, x in zip(chunk, scores, strict=True)]


def evaluate_longer(model, source=None):
    records = [record for _, record in labeled_records(TOY.schema, model.config.data, source)]
    predicted = [record["longer"] for chunk in predict_longer(model, records) for record in chunk]
    return Evaluation({"accuracy": float(np.mean([x == r["label"] for x, r in zip(predicted, records, strict=True)]))})


TOY = Task("longer text", LongerSchema(), Longer, "classifier", predict_longer, evaluate_longer)


def test_a_task_in_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "TASKS", (*table.TASKS, TOY))
    random, sources = np.random.default_rng(0), []
    for name in ("train", "held_out"):
        lengths = [(m, n) for m, n in random.integers(1, 12, (150, 2)) if abs(m - n) > 2]
        labels = ("first" if m > n else "second" for m, n in lengths)
        records = [{"a": "a " * m, "b": "b " * n, "label": x} for (m, n), x in zip(lengths, labels, strict=True)]
        sources.append((write_records(tmp_path / f"{name}.jsonl", records),))
    data = DataConfig(*sources[:1], validation=sources[1], text_field="a", pair_field="b", label_field="label",
                      row_length=32, workers=1, cache=str(tmp_path))  # fmt: skip
    model = EncoderConfig(num_layers=1, hidden_size=16, mlp_size=16, num_heads=2, max_length=32, dropout=0.0)
    config = RunConfig(
        model=model, compute=ComputeConfig(dtype="float32"), objective=Longer(margin=2.0), data=data,
        tokenizer=TokenizerConfig(vocab_size=20), optimizer=OptimizerConfig(name="adamw", learning_rate=1e-2),
        training=TrainingConfig(steps=40, batch_size=8, eval_batches=0, tensorboard=False),
    )  # fmt: skip
    assert train(config, tmp_path / "run")["loss"] < 1.5
    assert evaluate(tmp_path / "run")["accuracy"] > 0.9
    records = [{"a": "a a a a a a a", "b": "b"}, {"a": "a", "b": "b b b b b b"}]
    assert [record["longer"] for record in predict(tmp_path / "run", records)] == ["first", "second"]
    with pytest.raises(ValueError, match="k is 2, which is no option of longer text"):
        list(predict(tmp_path / "run", records, k=2))
