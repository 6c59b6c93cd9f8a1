"""The record of multiple choice."""

from jaxencoder.tasks.multiple_choice.data import SCHEMA
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.multiple_choice.predict import evaluate_choices, predict_choices
from jaxencoder.tasks.task import Task

TASK = Task(
    name="multiple choice",
    schema=SCHEMA,
    objective=MultipleChoice,
    head="classifier",
    predict=predict_choices,
    evaluate=evaluate_choices,
)
