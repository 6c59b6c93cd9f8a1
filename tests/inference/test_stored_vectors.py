"""The digest of a model changes with everything that its vectors depend on."""

import dataclasses

import numpy as np

from jaxencoder.adapters.lora import LoraConfig, TaskAdapter
from jaxencoder.inference.stored_vectors import model_digest
from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.model.sentence import SentenceConfig


def adapter(alpha: int) -> TaskAdapter:
    """Of equal arrays, which `alpha` scales."""
    return TaskAdapter("query", LoraConfig(rank=4, alpha=alpha), {"encoder": np.ones(2)})


def test_settings_are_part_of_the_digest(make_model) -> None:
    model = make_model()
    tokens = MultiVectorConfig(is_only=True)
    models = [
        model,
        dataclasses.replace(model, sentence=SentenceConfig(normalize=True)),
        *(dataclasses.replace(model, tasks={"query": adapter(alpha)}) for alpha in (8, 16)),
        dataclasses.replace(model, multi_vector=tokens),
        dataclasses.replace(model, multi_vector=dataclasses.replace(tokens, normalize=not tokens.normalize)),
    ]
    assert len({model_digest(x) for x in models}) == len(models)
    assert model_digest(dataclasses.replace(model)) == model_digest(model)
