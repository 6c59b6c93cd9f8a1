"""Fine-tuning on packed rows has the losses of torch's BertForSequenceClassification on padded batches."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxencoder.checkpoints.orbax import CheckpointManager
from jaxencoder.config import RunConfig
from jaxencoder.objectives.objective import mean
from jaxencoder.sharding import make_mesh
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.phases import batches_after, compile_updates
from jaxencoder.training.setup import set_up

pytest.importorskip("torch", reason="needs torch (pip install -e '.[peers]')")
pytest.importorskip("transformers", reason="needs transformers (pip install -e '.[peers]')")

STEPS = 6


def labeled(config: RunConfig, folder, kind: str) -> RunConfig:
    """Pairs with classes, or single texts with values; every setting changes the losses."""
    random = np.random.default_rng(0)
    with open(config.data.train[0]) as source, (folder / "labeled.jsonl").open("w") as file:
        for record in map(json.loads, source):
            words = record["text"].split()
            middle = int(random.integers(1, len(words)))
            pair = {"text": " ".join(words[:middle][:4]), "second": " ".join(words[middle:][:4])}
            label = int(random.integers(3)) if kind == "class" else float(random.normal(1, 2))
            file.write(json.dumps(pair | {"label": label}) + "\n")
    data = dataclasses.replace(
        config.data,
        train=(str(folder / "labeled.jsonl"),),
        pair_field="second" if kind == "class" else "",
        label_field="label",
        validation_fraction=0.0,
        row_length=48,
    )
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dropout=0.0, attention_dropout=0.0, max_length=48, initializer_std=0.3),
        objective=Classification(dropout=0.0),
        data=data,
        optimizer=OptimizerConfig(
            learning_rate=0.02, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.3, clip_norm=0.5, warmup_ratio=0.4
        ),
        training=dataclasses.replace(config.training, steps=STEPS, batch_size=4, accumulation=1, ema_decay=0.0),
    )


@pytest.mark.parametrize("kind", ["class", "value"])
def test_losses_equal_torchs(config: RunConfig, kind: str, tmp_path) -> None:
    from benchmarks import finetune_torch as peer

    config = labeled(config, tmp_path, kind)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    setup = set_up(config, tmp_path / "run")
    ours, theirs, shared = [], [], []
    with jax.set_mesh(mesh), contextlib.closing(CheckpointManager(tmp_path / "run" / "checkpoints")) as checkpoints:
        (update,), state = compile_updates(setup, mesh, checkpoints)
        step = peer.make_update(peer.torch_model(setup, jax.device_get(state.params)), config.optimizer, STEPS)
        with contextlib.closing(batches_after(0, setup, mesh, lambda phase: None)) as feed:
            for _, batch in feed:
                examples = peer.unpack(jax.device_get(batch))
                state, metrics = update(state, batch)
                ours.append(float(mean(metrics)))
                theirs.append(step(peer.pad(examples)).item())
                shared.append(len(examples) / len(batch["token_ids"]))
                assert len(examples) == metrics["loss"][1]
                assert sum(len(example.token_ids) for example in examples) == metrics["filled"][0]
    assert len(ours) == STEPS and np.ptp(ours) > 0.05
    assert min(shared) > 1.5  # examples a row: packed
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)
