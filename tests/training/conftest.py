"""Tiny runs: text, configuration, interruption, and reading of their losses."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from jaxencoder.config import RunConfig
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.training.config import OptimizerConfig, TrainingConfig
from jaxencoder.training.loop import train
from jaxencoder.training.preemption import Interrupted
from jaxencoder.training.telemetry import Telemetry

CLOCK = ("tokens_per_second", "mfu", "seconds_left", "compiles")


def losses(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCK} for line in lines]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefgh"), random.integers(2, 6))) for _ in range(60)]
    with (folder / "text.jsonl").open("w") as file:
        for i in range(150):
            text = " ".join(random.choice(words, random.integers(3, 20)))
            file.write(json.dumps({"text": text, "label": ["no", "yes"][i % 2]}) + "\n")
    return folder


@pytest.fixture(scope="module")
def config(home: Path) -> RunConfig:
    """Everything that a step may depend on: dropout, moving average, accumulation."""
    return RunConfig(
        name="tiny",
        model=EncoderConfig(num_layers=2, hidden_size=16, mlp_size=32, num_heads=2, max_length=16, dropout=0.1),
        compute=ComputeConfig(dtype="float32"),
        tokenizer=TokenizerConfig(vocab_size=64),
        data=DataConfig(
            (str(home / "text.jsonl"),), validation_fraction=0.1, row_length=16, cache=str(home / "cache"), workers=1
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        training=TrainingConfig(
            steps=12, batch_size=8, accumulation=2, ema_decay=0.9,
            log_every=1, eval_every=4, eval_batches=2, checkpoint_every=3, tensorboard=False,
        ),
    )  # fmt: skip


@pytest.fixture
def sigterm(monkeypatch):
    """Send this process SIGTERM twice while the given steps run."""
    waiting: list[int] = []
    before = Telemetry.step

    def step(self, number, metrics):
        before(self, number, metrics)
        if number in waiting:
            waiting.remove(number)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Telemetry, "step", step)
    return waiting.extend


def interrupted(config: RunConfig, folder: Path) -> None:
    with pytest.raises(Interrupted) as info:
        train(config, folder)
    assert info.value.code == 143
