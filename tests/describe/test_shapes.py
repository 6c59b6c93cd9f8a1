"""Shapes of what a run computes with: every objective accepts them."""

import dataclasses

import jax
import pytest

from jaxencoder.config import RunConfig
from jaxencoder.describe.shapes import batch_shapes, build_objective
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.embeddings.objective import Embeddings
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from jaxencoder.tasks.token_classification.objective import TokenClassification
from tests.model.examples import BERT


@pytest.mark.parametrize(
    "objective",
    [
        Classification(labels=3, pooling="cls"),
        Classification(labels=1),
        Classification(labels=3, multi_label=True),
        TokenClassification(tags=("O", "B")),
        QuestionAnswering(),
        MultipleChoice(),
        Embeddings(),
        Embeddings(loss="triplet", query_prompt="a: ", include_prompt=False),
        Embeddings(losses=("ranking", "softmax"), class_names=("a", "b")),
        ReplacedToken(),
    ],
)
def test_every_objective_finds_its_batch(objective) -> None:
    data = RunConfig().data
    if not isinstance(objective, ReplacedToken):
        pair = "other" if isinstance(objective, QuestionAnswering | MultipleChoice | Embeddings) else ""
        data = dataclasses.replace(data, label_field="label", pair_field=pair)
    if getattr(objective, "losses", ()):
        data = dataclasses.replace(data, train=("a", "b"), batch_sources="one")
    config = RunConfig(model=dataclasses.replace(BERT, max_length=512), objective=objective, data=data)
    built = build_objective(config)
    params, batch = jax.eval_shape(built.init, jax.random.key(0)), batch_shapes(config, 2, 16)
    loss, _ = jax.eval_shape(lambda *given: built.loss(*given, True), params, batch, jax.random.key(0))
    assert loss.shape == ()
