"""The record of token classification."""

from jaxencoder.tasks.task import Task
from jaxencoder.tasks.token_classification.data import SCHEMA
from jaxencoder.tasks.token_classification.objective import HEAD, TokenClassification
from jaxencoder.tasks.token_classification.predict import evaluate_tags, predict_tags

TASK = Task(
    name="token classification",
    schema=SCHEMA,
    objective=TokenClassification,
    head=HEAD,
    predict=predict_tags,
    evaluate=evaluate_tags,
    published_head=HEAD,
    list_items={"entities": {"type": "", "text": "", "start": 0, "end": 0, "probability": 0.0}},
)
