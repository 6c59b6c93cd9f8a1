"""A small corpus, and settings with which its rows are prepared."""

import json

import numpy as np

from jaxencoder.text.config import DataConfig

WORDS = ["alpha", "beta", "gamma", "delta", "kappa", "omega", "sigma", "theta"]


def documents(count, longest=30, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) + f" {i}" for i in range(count)]


def write(path, records):
    path.write_text("".join(json.dumps(r if isinstance(r, dict) else {"text": r}) + "\n" for r in records))
    return str(path)


def config(path, **changes):
    settings = {"row_length": 16, "workers": 1, "validation_fraction": 0.0} | changes
    return DataConfig(train=(str(path),), **settings)


def content(stores):
    return [{k: str(v.tolist()) for k, v in store.read(np.arange(len(store))).items()} for store in stores]
