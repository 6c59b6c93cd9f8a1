"""The record of text classification and regression."""

from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.classification.predict import evaluate_classes, predict_classes
from jaxencoder.tasks.task import Task
from jaxencoder.text.schema import TEXTS

TASK = Task(
    name="text classification",
    schema=TEXTS,
    objective=Classification,
    head="classifier",
    predict=predict_classes,
    evaluate=evaluate_classes,
    published_head="sequence_head",
    scores_classes=True,
    list_items={"probability": 0.0},
)
